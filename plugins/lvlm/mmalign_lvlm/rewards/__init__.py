"""Rewards of answers: what trained models of segments and of critiques say, and rules where the truth is known."""
