"""Paddock turns Linux machines into a cloud of KVM virtual machines."""

__version__ = "0.1.0"
