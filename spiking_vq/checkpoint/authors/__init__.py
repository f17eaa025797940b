"""The published authors' checkpoints as models of this package, with the same outputs.

One module for each system: `sddpm`, `fsddim`, `spiking_diffusion`. Each has a table of the authors' keys and ours, and
functions that convert a state dict. `reading` reads the authors' files, `tables` holds the parts of the tables.
"""
