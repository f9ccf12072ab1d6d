"""Experiments: they run, and give plain data."""
