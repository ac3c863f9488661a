"""A run as a discrete-event simulation: with the cost model's constants, or with those measured from a run."""
