"""Speed and memory, ours against the plain way: `python -m stages.bench`."""
