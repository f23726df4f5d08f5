"""The built-in model and its pictures: a model of a few million weights that reads pages like those it was trained on.

`tools/train` makes it; it knows printed forms, words at places of a page and short texts, nothing else of the world.
"""

import json
from dataclasses import dataclass
from pathlib import Path

from ..errors import FileError
from ..model import Model

FOLDER = Path(__file__).resolve().parent
ROWS = 440  # rows per picture: the pages of its training have 400 to 440


@dataclass(frozen=True)
class Question:
    """A question about a built-in picture and what stands there."""

    picture: Path
    text: str
    answer: str


def model(threads: int | None = None) -> Model:
    """The built-in model. FileError when the package was installed without it."""
    return Model(FOLDER / "model.gguf", FOLDER / "mmproj.gguf", threads=threads, image_max_tokens=ROWS)


def questions() -> list[Question]:
    """The built-in questions, picture by picture."""
    path = FOLDER / "demo.json"
    try:
        items = json.loads(path.read_text(encoding="utf-8"))
    except OSError as e:
        raise FileError(f"{path}: {e.strerror}; the package was installed without the demo's pictures") from None
    return [Question(FOLDER / item["image"], item["question"], item["answer"]) for item in items]
