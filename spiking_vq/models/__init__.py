"""The networks: stage 1 and its critics, the denoisers of stage 2, the U-Nets of pixel space, a classifier."""
