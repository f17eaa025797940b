"""All measurements side by side."""
