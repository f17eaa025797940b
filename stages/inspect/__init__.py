"""Inspection of a network at work: firing rates, purity, energy, pictures."""
