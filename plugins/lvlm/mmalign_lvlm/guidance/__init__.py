"""Guidance of answers in words: nothing is trained, and no reward is followed."""
