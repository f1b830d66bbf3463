"""Ratios against named tools, each a program of its own: `python -m benchmarks.NAME`."""
