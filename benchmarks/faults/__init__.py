"""Faults made for real, and what they do to commands and their stores: ``python -m benchmarks.faults``."""
