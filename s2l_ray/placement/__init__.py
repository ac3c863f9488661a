"""What a run carries out: the inventory, the plan, and its binding to Ray."""
