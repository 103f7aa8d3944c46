"""Benchmarks: medians of repeated runs, with the raw engine or command beside ours in the same run."""
