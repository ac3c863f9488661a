"""A training run: what it consists of, its steps, and what it leaves on disk."""
