"""Benchmarks of hallucination and critique: what each counts of an answer, and its formulas.

Prompts carry what is known of their picture in `metadata`, as the sources of `mmalign_lvlm.benchmarks` read it.
"""

from typing import Any

from mmalign.errors import UserError
from mmalign.records import Prompt


def told(prompt: Prompt, key: str, source: str) -> Any:
    """What a prompt's metadata says. Raises UserError where it says nothing, and names a source that would."""
    if key not in prompt.metadata:
        raise UserError(f"nothing tells the {key} of prompt '{prompt.text[:60]}': use prompts of {source}")
    return prompt.metadata[key]
