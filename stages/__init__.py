"""The commands: train a stage, sample, measure. Thin; all that is tensor maths lives in `spiking_vq`."""
