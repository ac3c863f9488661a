"""Studies: many runs as trials of Ray Tune, which share one bank of explorer rollouts."""
