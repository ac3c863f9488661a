"""Where the actors of a run live."""
