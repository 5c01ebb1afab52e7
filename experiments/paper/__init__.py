"""The distorted MNIST experiments of Jaderberg et al., "Spatial Transformer Networks" (2015), run by ``make paper``."""
