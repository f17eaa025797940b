"""What a network does while it generates: spikes, energy, purity, pictures."""
