"""What is trained on and how it is judged: problems, prompts, model-pair checks and verifiers."""
