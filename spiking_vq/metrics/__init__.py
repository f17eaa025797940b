"""Measures of reconstructions, codebooks and samples."""
