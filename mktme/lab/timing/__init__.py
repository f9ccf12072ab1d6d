"""Experiments with the timing model: replays, and how far to believe it."""
