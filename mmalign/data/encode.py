"""Before a run trains: encode all that it will ask for, once, and let the encoders go."""

from pathlib import Path
from typing import TYPE_CHECKING

from mmalign.console import say, track
from mmalign.data.cache import Store
from mmalign.parts import Row
from mmalign.records import Masked, Media, Prompt

if TYPE_CHECKING:
    from mmalign.run import Run


def fill(run: "Run") -> None:
    """Let the policy keep encodings, and make now all that the rest of the run reads."""
    folder, encodings = folder_of(run), run.parts.policy.encodings
    store = encodings.keep(lambda fingerprint: Store(folder / fingerprint))
    encodings.fill([""], [])  # what is told where a prompt is dropped
    encodings.fill(*encoded_of({f"prompt {i}": prompt for i, prompt in enumerate(run.parts.evaluation_prompts)}))
    held_out = run.parts.held_out or []
    asked = [(run.feed.rows, i) for i in run.feed.ahead(batches_left(run))]
    asked += [(held_out, i) for i in range(len(held_out))]
    for rows, i in track(asked, "encoding"):
        encodings.fill(*encoded_of(rows[i]))
    encodings.release()
    if run.is_main:
        say(f"encodings: {store.made} made, all others found in {store.folder}")


def folder_of(run: "Run") -> Path:
    """Where the encodings of all models are kept."""
    given = run.config.data.cache
    return Path(given) if isinstance(given, str) else Path(run.config.folder) / ".encodings"


def batches_left(run: "Run") -> int:
    """How many batches the run will still take from its feed."""
    return (run.steps - run.step) * run.config.trainer.gradient_accumulation


def encoded_of(row: Row) -> tuple[list[str], list[Media], list[Media]]:
    """The texts, the media and the prompts' pictures of a row that a model is shown."""
    prompts = [cell for cell in row.values() if isinstance(cell, Prompt)]
    media = [cell.media if isinstance(cell, Masked) else cell for cell in row.values()]
    pictures = [picture for prompt in prompts for picture in prompt.images]
    return [prompt.text for prompt in prompts], [one for one in media if isinstance(one, Path | bytes)], pictures
