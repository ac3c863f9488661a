"""What keeps a run going when one of its processes dies, as far as it needs no Ray."""
