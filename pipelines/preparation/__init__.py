"""Read images from any source and write them as splits of uint8 tensors."""
