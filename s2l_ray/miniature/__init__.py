"""The embedded model family and its task: two tiny sibling models, pretrained on this machine's CPU in minutes."""
