"""Runs as trials of Ray Tune."""
