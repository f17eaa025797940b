"""What runs graphs: our own receiver, in real numbers and in integers, and other libraries."""
