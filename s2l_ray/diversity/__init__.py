"""Measures of diversity: what smaller models and higher temperatures add to the learner's rollouts, how coherently."""
