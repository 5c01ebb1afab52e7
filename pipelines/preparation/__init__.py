"""From any source of images to splits of one form."""
