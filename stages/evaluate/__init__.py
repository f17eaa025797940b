"""Measuring trained models, and folders of images that anyone made, under named protocols."""
