"""Networks as graphs of synapses and neurons."""
