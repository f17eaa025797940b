"""Weights that ship, and their model cards."""
