"""What is measured of trained models on the test images."""
