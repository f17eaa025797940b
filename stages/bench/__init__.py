"""Speed and memory, ours against the plain way: `spiking-vq bench`."""
