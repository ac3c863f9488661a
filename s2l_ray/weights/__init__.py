"""Weight swaps: trainer rank 0 broadcasts into the learner engines' workers, in vLLM's weight-transfer lifecycle."""
