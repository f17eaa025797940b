"""Export of trained networks for neuromorphic tool chains and other run times."""
