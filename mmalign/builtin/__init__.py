"""mmalign's own behaviour, through the hooks that every plugin has. Importing it imports nothing heavy."""

from mmalign.builtin import (
    accountability,
    checkpoints,
    evaluation,
    finite,
    held_out,
    parts,
    progress,
    queries,
    reporting,
    trackers,
)

PLUGINS = (parts, progress, trackers, evaluation, held_out, queries, accountability, finite, checkpoints, reporting)
"""Modules with hook implementations, registered before any other plugin, so that others are asked first.

Of those that want to be first at the end of a run, the later one is: checkpoints before evaluation.
"""
