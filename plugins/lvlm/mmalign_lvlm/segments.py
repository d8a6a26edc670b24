"""Answers cut into sub-sentences, the pieces that feedback and rewards are about.

As in Fine-Grained RLHF (Wu et al. 2023, arXiv:2306.01693), whose splitter FGAIF reuses. In a sentence of words w_0 ... w_{n-1}

    w_k begins a sub-sentence   iff   w_{k-1} ends with , ; ! or ?   and   at least 6 words are left, w_k included

and one of fewer than 5 words joins the one before it or, if it is the first, the one after it.

Where it differs: sentences end by the rules below and not by a parser that would have to be downloaded, and a segment ends
with its last word and not with the space behind it, which belongs to the token of the next.
"""

import re

Span = tuple[int, int]
"""Where a segment stands: `text[start:end]`."""

LEFT, SHORT = 6, 5
PAUSES = (",", ";", "!", "?")

_WORD = re.compile(r"\S+")
_STOP = re.compile(r"""[.!?…]["'”’)\]*_]*$""")
_ABBREVIATION = re.compile(r"\W*(?:(?:[a-z]\.)+|(?:mrs?|ms|dr|prof|st|jr|sr|vs|no|fig|approx|etc|al)\.)", re.IGNORECASE)
_BEHIND = re.compile(r"\W+$")
_NUMBERED = re.compile(r"(?:\d+|[a-zA-Z])[.)]")


def split(text: str) -> list[Span]:
    """The segments of a text, in its order: each word is in exactly one. None of a text without words."""
    return [span for words in _sentences(text) for span in _sub_sentences(text, words)]


def last_word(text: str, end: int) -> int:
    """Where the last word of `text[:end]` ends, without the punctuation behind it; `end` where there is no word."""
    return len(_BEHIND.sub("", text[:end])) or end


def _sentences(text: str) -> list[list[Span]]:
    """The words of each sentence."""
    words = [match.span() for match in _WORD.finditer(text)]
    sentences: list[list[Span]] = [[]]
    for i, word in enumerate(words):
        sentences[-1].append(word)
        if i + 1 < len(words) and _parted(text, word, words[i + 1], first=len(sentences[-1]) == 1):
            sentences.append([])
    return sentences if words else []


def _parted(text: str, word: Span, following: Span, first: bool) -> bool:
    """Whether a sentence ends between two words: at a new line, or at a stop that is no abbreviation's or list item's."""
    if "\n" in text[word[1] : following[0]]:
        return True
    said, then = text[slice(*word)], text[slice(*following)]
    if not _STOP.search(said) or _ABBREVIATION.fullmatch(said) or (first and _NUMBERED.fullmatch(said)):
        return False
    # What goes on in small letters was not over: "... etc. and so on".
    return not next(filter(str.isalnum, then), "A").islower()


def _sub_sentences(text: str, words: list[Span]) -> list[Span]:
    """The sub-sentences of a sentence."""
    starts = [0]
    for k in range(1, len(words)):
        if not text[: words[k - 1][1]].endswith(PAUSES) or len(words) - k < LEFT:
            continue
        if k - starts[-1] >= SHORT:
            starts.append(k)
        elif len(starts) > 1:
            starts[-1] = k
    return [(words[a][0], words[b - 1][1]) for a, b in zip(starts, [*starts[1:], len(words)], strict=True)]
