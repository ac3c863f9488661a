"""Sampling rollouts with vLLM, without Ray: the explorer's frozen engine and the learner's hot-swapped one."""
