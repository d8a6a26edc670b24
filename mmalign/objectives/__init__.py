"""Objectives, one short file each: the formula, `loss` that computes it, `terms` that gather its arguments.

`loss` is a pure function of named tensors. Keyword-only parameters of both functions are the objective's options.
"""
