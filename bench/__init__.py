"""What `make bench` runs: Paddock against raw QEMU on the same machine, in the same minutes."""
