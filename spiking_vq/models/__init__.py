"""The networks: stage 1 (VQ-SVAE) and the token denoisers of stage 2."""
