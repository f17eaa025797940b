"""How networks run: compiled or not, in which precision, on how many devices."""
