"""Guidance that is video's own."""
