"""A plan for people (terminal, picture) and for programs (JSON)."""
