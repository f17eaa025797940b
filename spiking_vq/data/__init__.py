"""Data sets, users' images, augmentation, styles, and the order of training batches."""
