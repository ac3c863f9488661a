"""Faults in real runs: any process killed, stopped, made to exit or cut off, at any point of a step."""
