"""Vector-quantised spiking diffusion: spiking networks that generate images."""
