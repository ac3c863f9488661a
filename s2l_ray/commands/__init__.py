"""The `s2l` commands, one file each."""
