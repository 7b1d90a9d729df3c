"""Tests of the command line, against a small API server over real HTTP on loopback."""
