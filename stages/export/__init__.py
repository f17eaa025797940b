"""Export of models to neuromorphic tool chains and other run times, and the check of what was exported."""
