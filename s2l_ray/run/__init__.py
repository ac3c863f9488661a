"""A training run on disk and in words: its directory, checkpoints, step log, inputs and notices."""
