"""In which units two sequences differ."""

from collections.abc import Sequence
from difflib import SequenceMatcher


def changed(one: Sequence[int], other: Sequence[int], shortest: int = 3) -> tuple[list[bool], list[bool]]:
    """Which units of either sequence were replaced; as in RLHF-V's code (RLHF-V/RLHF-V).

    Runs that agree over fewer than `shortest` units count as different. What only one of the two has (an insertion) is
    not a replacement. Where it differs: long sequences are compared as carefully as short ones.
    """
    flags = [False] * len(one), [False] * len(other)
    blocks = SequenceMatcher(None, one, other, autojunk=False).get_matching_blocks()
    i = j = 0
    for block in blocks:
        last = block.size == 0  # the matcher ends with an empty block at both ends
        if block.size < shortest and not last:
            continue
        if i < block.a and j < block.b:
            flags[0][i : block.a] = [True] * (block.a - i)
            flags[1][j : block.b] = [True] * (block.b - j)
        i, j = block.a + block.size, block.b + block.size
    return flags
