"""Rewards for pictures: callables on samples that give `[B]`, higher is better."""
