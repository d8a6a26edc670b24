"""Prompts of benchmarks, read from their official files, which are not downloaded. What is known of a picture is in `metadata`.

pope              coco_pope_random.json and alike: a line an object {"image", "text", "label"}
pope-questions    made from COCO's instances_val2014.json, for any pictures annotated like it
coco-images       the same file, and captions_val2014.json: for CHAIR
object-halbench   obj_halbench_300_with_image.jsonl {"image_id", "question", "image"}, and both files of COCO
mmhal             response_template.json {"question", "gt_answer", "image_content", "question_type", "image_src"}
amber             query_all.json {"id", "image", "query"} and annotations.json {"id", "type", "truth", "hallu"}

Those of VISCO are in `mmalign_lvlm.visco`.
"""

import base64
import binascii
import json
import random
from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path, PurePosixPath
from typing import Any

from pydantic import PositiveInt

from mmalign.data.sources import PLAIN, conditioned
from mmalign.errors import BadRow, UserError
from mmalign.parts import Row
from mmalign.records import Media, Prompt
from mmalign_lvlm.metrics.pope import Split, questions

DESCRIBE = "Describe this image in detail."


class Prompts:
    """Prompts, read when the source is made."""

    def __init__(self, prompts: Iterable[Prompt]):
        self._prompts = list(prompts)

    def __len__(self) -> int:
        return len(self._prompts)

    def __getitem__(self, index: int) -> Row:
        return {"prompt": self._prompts[index]}


class PopePrompts(Prompts):
    """POPE's questions.

    path: a file, or several. The split of each is what its name ends with: `coco_pope_adversarial.json`.
    images: the folder of the pictures. template: what the model is asked; `{prompt}` is the question.
    """

    def __init__(self, path: str | list[str], images: str, template: str = PLAIN):
        paths = [path] if isinstance(path, str) else path
        super().__init__(one for file in paths for one in read(file, self._read, Path(images), template))

    @staticmethod
    def _read(row: "Line", images: Path, template: str) -> Prompt:
        label, split = row["label"], Path(row.path).stem.rpartition("_")[2]
        if label not in ("yes", "no"):
            raise row.bad(f"label must be yes or no, not {label!r}")
        return conditioned(
            Prompt(row["text"], {"label": label, "split": split}, (images / row["image"],)), template, row.cells
        )


class PopeQuestions(Prompts):
    """Questions as POPE's, made from the annotations of pictures.

    instances: a file like COCO's `instances_val2014.json`. images: the folder of the pictures. splits: which negatives.
    size: how many pictures, of those with three objects or more. seed: which ones, and which objects are asked about.
    template: what the model is asked; `{prompt}` is the question.
    """

    def __init__(
        self,
        instances: str,
        images: str,
        splits: list[Split] = ["random", "popular", "adversarial"],  # noqa: B006 - never changed
        size: PositiveInt = 500,
        seed: int = 0,
        template: str = PLAIN,
    ):
        everything = Annotations(instances).objects
        many = {name: frozenset(objects) for name, objects in sorted(everything.items()) if len(objects) >= 3}
        chosen = random.Random(seed).sample(sorted(many), min(size, len(many)))
        pictures = {name: many[name] for name in chosen}
        super().__init__(
            conditioned(
                Prompt(_is_there(q.object), {"label": q.label, "split": split}, (Path(images) / q.picture,)),
                template,
                {},
            )
            for split in splits
            for q in questions(pictures, split, seed=seed)
        )


class CocoImages(Prompts):
    """Pictures to describe, with the `objects` that are in them and `references` that people wrote.

    instances: COCO's `instances_val2014.json`. captions: its `captions_val2014.json`. images: the folder of the pictures.
    size: how many, all by default. seed: which ones. ask: what the model is asked.
    """

    def __init__(
        self,
        instances: str,
        images: str,
        captions: str | None = None,
        size: PositiveInt | None = None,
        seed: int = 0,
        ask: str = DESCRIBE,
    ):
        known = Annotations(instances, captions)
        names = sorted(known.objects)
        chosen = random.Random(seed).sample(names, min(size, len(names))) if size else names
        super().__init__(Prompt(ask, known.metadata(name), (Path(images) / name,)) for name in chosen)


class ObjectHalBenchPrompts(Prompts):
    """The prompts of Object HalBench, with the `objects` that are in their pictures and `references` that people wrote.

    path: `obj_halbench_300_with_image.jsonl`. instances, captions: files of COCO.
    """

    def __init__(self, path: str, instances: str, captions: str | None = None):
        known = Annotations(instances, captions)
        super().__init__(read(path, self._read, known))

    @staticmethod
    def _read(row: "Line", known: "Annotations") -> Prompt:
        return Prompt(row["question"], known.metadata(known.file(row)), (picture(row),))


class MmhalPrompts(Prompts):
    """MMHal-Bench's questions.

    path: `response_template.json`. images: the folder of the pictures, called as at the end of their `image_src`.
    """

    def __init__(self, path: str, images: str):
        super().__init__(read(path, self._read, Path(images)))

    @staticmethod
    def _read(row: "Line", images: Path) -> Prompt:
        metadata = {key: row[key] for key in ("gt_answer", "image_content", "question_type")}
        return Prompt(row["question"], metadata, (images / PurePosixPath(row["image_src"]).name,))


class AmberPrompts(Prompts):
    """AMBER's requests for a description and questions.

    path: `query_all.json`, or one of its parts. annotations: `annotations.json`. images: the folder of the pictures.
    """

    def __init__(self, path: str, annotations: str, images: str):
        known = {row["id"]: row for row in rows(annotations)}
        super().__init__(read(path, self._read, known, Path(images)))

    @staticmethod
    def _read(row: "Line", known: Mapping[Any, "Line"], images: Path) -> Prompt:
        if row["id"] not in known:
            raise row.bad(f"the annotations have no id {row['id']}")
        metadata = {key: value for key, value in known[row["id"]].cells.items() if key in ("type", "truth", "hallu")}
        return Prompt(row["query"], metadata, (images / row["image"],))


class Annotations:
    """What COCO's files say of pictures. objects: by file name, the classes that are in it."""

    def __init__(self, instances: str, captions: str | None = None):
        self._files: dict[Any, str] = {}
        self.objects: dict[str, set[str]] = {}
        self._references: dict[Any, list[str]] = defaultdict(list)
        with _in_layout(instances):
            self._read(document(instances, "images", "annotations", "categories"))
        if captions:
            with _in_layout(captions):
                for one in document(captions, "annotations")["annotations"]:
                    self._references[self._files.get(one["image_id"])].append(one["caption"])

    def _read(self, known: Mapping[str, Any]) -> None:
        names = {category["id"]: category["name"] for category in known["categories"]}
        self._files = {image["id"]: image["file_name"] for image in known["images"]}
        self.objects = {file: set() for file in self._files.values()}
        for one in known["annotations"]:
            self.objects[self._files[one["image_id"]]].add(names[one["category_id"]])

    def metadata(self, file: str) -> dict[str, Any]:
        """What the prompt of a picture carries."""
        return {"objects": sorted(self.objects[file]), "references": self._references[file]}

    def file(self, row: "Line") -> str:
        """The file name of a row's picture. Raises BadRow for a picture that is not annotated."""
        image = int(row["image_id"])
        if image not in self._files:
            raise row.bad(f"the annotations have no image {image}")
        return str(self._files[image])


class Line:
    """A row of a file, which knows where it stands."""

    def __init__(self, path: str, number: int, cells: Mapping[str, Any]):
        self.path, self.number, self.cells = path, number, cells

    def __getitem__(self, name: str) -> Any:
        if name not in self.cells:
            raise self.bad(f"no '{name}'; it has {', '.join(self.cells)}")
        return self.cells[name]

    def bad(self, reason: str) -> BadRow:
        """What is wrong with the row."""
        return BadRow(f"{self.path}: row {self.number}: {reason}")


def rows(path: str) -> Sequence[Line]:
    """The objects of a file: one long list, or one a line, whatever it is called. Raises UserError for anything else."""
    text = _text(path).strip()
    try:
        found = json.loads(text if text.startswith("[") else f"[{','.join(filter(str.strip, text.splitlines()))}]")
    except json.JSONDecodeError as error:
        raise UserError(f"{path}: not JSON ({error.msg}, {error.doc[error.pos : error.pos + 20]!r})") from None
    lines = [Line(path, i, row) for i, row in enumerate(found, start=1) if isinstance(row, dict)]
    if len(lines) != len(found) or not lines:
        raise UserError(f"{path}: must hold objects, in a list or one a line")
    return lines


def read(path: str, made: Callable[..., Prompt], *known: Any) -> Iterator[Prompt]:
    """What `made(row, *known)` makes of each row of a file. Raises BadRow for one whose cells are something else."""
    for row in rows(path):
        with _in_layout(f"{path}: row {row.number}"):
            yield made(row, *known)


@contextmanager
def _in_layout(place: str) -> Iterator[None]:
    """Where a cell is missing or of another kind, it is the user's file that is another one."""
    try:
        yield
    except (KeyError, IndexError, TypeError, ValueError, AttributeError) as error:
        what = f"no {error}" if isinstance(error, KeyError) else str(error)
        raise BadRow(f"{place}: not in the layout of the benchmark's file ({what}): is it the right file?") from None


def document(path: str, *keys: str) -> Mapping[str, Any]:
    """A file that is one object with these keys. Raises UserError where it is not."""
    try:
        found = json.loads(_text(path))
    except json.JSONDecodeError as error:
        raise UserError(f"{path}: not JSON ({error.msg})") from None
    if not isinstance(found, dict) or (missing := set(keys) - set(found)):
        raise UserError(f"{path}: has no {', '.join(sorted(missing if isinstance(found, dict) else keys))}")
    return found


def _text(path: str) -> str:
    try:
        return Path(path).read_text(encoding="utf-8-sig")
    except OSError as error:
        raise UserError(f"cannot read {path}: {error.strerror}") from None
    except UnicodeDecodeError as error:
        raise UserError(f"{path}: not UTF-8 text ({error.reason} at byte {error.start})") from None


def picture(row: Line) -> Media:
    """A picture that stands in the row itself."""
    try:
        return base64.b64decode(row["image"], validate=True)
    except (binascii.Error, TypeError, ValueError):
        raise row.bad("`image` is no picture in base64") from None


def filled(template: str, parts: Mapping[str, Any]) -> str:
    """A template with its parts. Raises UserError where it has a place for anything else."""
    try:
        return template.format(**parts)
    except (KeyError, IndexError, ValueError, AttributeError) as error:
        raise UserError(
            f"template: {{{'}, {'.join(parts)}}} have a place in it; write other braces twice ({error!r})"
        ) from None


def _is_there(name: str) -> str:
    return f"Is there {'an' if name[0] in 'aeiou' else 'a'} {name} in the image?"
