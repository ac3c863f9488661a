"""The inventory of nodes, the records of a plan, and their binding to Ray."""
