"""Sampling rollouts, without Ray: the explorer's frozen engine and the learner's, whose weights are synced."""
