"""What the gradient of a single layer tells of what the layer read."""
