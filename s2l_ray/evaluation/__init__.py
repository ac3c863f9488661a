"""What a run achieved: its held-out evaluations, its summary and its figures."""
