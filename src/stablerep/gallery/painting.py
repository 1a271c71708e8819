"""Paint from a prompt that is in no table: a teacher, opened when it is first asked, one request at a time."""

import io
import threading
from dataclasses import dataclass

from PIL import Image

from stablerep import runtime
from stablerep.errors import UserError
from stablerep.generation.settings import PaintConfig
from stablerep.generation.teacher import Teacher, load_teacher
from stablerep.store import in_style, normalise_text

MOST_PICTURES = 16
_MOST_LETTERS = 1000


@dataclass(frozen=True)
class Painting:
    """One picture, as PNG, or the reason why there is none."""

    prompt: str
    seed: int
    png: bytes | None
    reason: str | None
    is_cut: bool = False
    """Whether the teacher reads only the beginning of so long a prompt."""


class Painter:
    """A teacher behind a lock."""

    def __init__(self, name: str, *, download: bool = False) -> None:
        self.name = name
        self._config = PaintConfig(download=download)
        self._lock = threading.Lock()
        self._teacher: Teacher | None = None

    def paint(self, prompt: str, num_pictures: int, seed: int) -> list[Painting]:
        """Pictures of a prompt; a picture's noise depends on the seed, the prompt and its place alone.

        A teacher that paints in styles is asked for each in turn, as ``generate`` does. Raises ``UserError`` for an
        empty or endless prompt, a number of pictures out of reach, and where the teacher cannot be opened.
        """
        text = normalise_text(prompt)
        if not text or len(text) > _MOST_LETTERS:
            raise UserError(f"the prompt has {len(text)} letters; write 1 to {_MOST_LETTERS}")
        if not 1 <= num_pictures <= MOST_PICTURES:
            raise UserError(
                f"{num_pictures} pictures cannot be asked for at once; ask for 1 to {MOST_PICTURES}"
            )
        with self._lock:
            if self._teacher is None:
                self._teacher = load_teacher(self.name, self._config)
            return _paint(self._teacher, text, num_pictures, seed)


def _paint(teacher: Teacher, text: str, num_pictures: int, seed: int) -> list[Painting]:
    styles = teacher.styles or (None,)
    prompts = [in_style(text, styles[number % len(styles)]) for number in range(num_pictures)]
    seeds = [runtime.seed_for(seed, text, number) for number in range(num_pictures)]
    before = teacher.num_truncated
    conditionings = teacher.encode(prompts)
    is_cut = teacher.num_truncated > before
    done: list[Painting] = []
    for start in range(0, num_pictures, teacher.batch_size):
        batch = slice(start, start + teacher.batch_size)
        painted = teacher.paint(conditionings[batch], seeds[batch])
        for prompt, drawn, picture, reason in zip(
            prompts[batch], seeds[batch], painted.pictures, painted.reasons, strict=True
        ):
            png = _png(picture.movedim(0, -1).contiguous().numpy()) if reason is None else None
            done.append(Painting(prompt, drawn, png, reason, is_cut))
    return done


def _png(pixels: object) -> bytes:
    buffer = io.BytesIO()
    Image.fromarray(pixels).save(buffer, "PNG")  # type: ignore[arg-type]
    return buffer.getvalue()
