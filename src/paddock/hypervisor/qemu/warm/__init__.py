"""Warm starts: machines that begin from the memory of a guest that has booted already."""
