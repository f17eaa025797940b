"""Configuration of the stages: dataclasses, and reading and writing them."""
