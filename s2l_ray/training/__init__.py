"""The policy's trainer: FSDP2, packed sequences, chunked log-probs. Needs torch and transformers, nothing else."""
