"""Data sets: images with labels, augmentation, styles, and the order of training."""
