"""The distorted MNIST of Jaderberg et al., "Spatial Transformer Networks" (2015): their table by one command."""
