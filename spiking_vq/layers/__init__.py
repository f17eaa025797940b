"""Building blocks of spiking networks: synapses, residual blocks, mixing over positions, labels, read-outs."""
