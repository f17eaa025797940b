"""Reports as JSON, and tables of them."""
