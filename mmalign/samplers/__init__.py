"""Samplers: plain functions of a prediction, a path and a grid of times."""
