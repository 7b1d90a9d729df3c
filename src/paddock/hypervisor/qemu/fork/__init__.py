"""Forks: machines that begin from the memory, the devices and the disk of another one that runs, as of one instant."""
