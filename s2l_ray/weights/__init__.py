"""Weight swaps: trainer rank 0 broadcasts into the learner engines' workers, through vLLM's weight-transfer lifecycle."""
