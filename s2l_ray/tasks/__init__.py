"""Problems, prompts, checks of the pair of models, and verifiers."""
