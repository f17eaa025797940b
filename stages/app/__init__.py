"""A page to play with: what it does in `models`, `generate`, `spikes` and `complete`; how gradio shows it in `page`."""
