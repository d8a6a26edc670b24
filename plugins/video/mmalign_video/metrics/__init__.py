"""Benchmarks of videos: what each counts of one, and its formulas."""
