"""What the machine has and allows: CPU, device memory, disk, temporary directories, processes."""
