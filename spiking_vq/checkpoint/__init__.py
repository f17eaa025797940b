"""Trained models: building networks, reading and writing their files."""
