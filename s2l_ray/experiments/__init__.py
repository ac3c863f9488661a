"""Experiments: a declared set of arms and seeds, run as one study and compared with intervals and tests."""
