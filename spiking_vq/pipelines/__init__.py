"""Pipelines: trained networks that generate images."""
