"""The embedded model family and its task: two tiny sibling models that are pretrained on this machine's CPU in minutes."""
