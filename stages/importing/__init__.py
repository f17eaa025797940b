"""Turn the checkpoint of a published system into a model file."""
