"""Commands and training stages. Thin: tensor maths lives in `spiking_vq`."""
