"""Training with Lightning: the loop, the run folder, moving averages, fine-tuning."""
