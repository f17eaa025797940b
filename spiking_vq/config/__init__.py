"""Configuration: what can be set, read from YAML files, `key=value` overrides and trained models."""
