"""What a run achieved: pass@k with intervals, the summary of a run, and its figures."""
