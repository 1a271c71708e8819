"""The arms of painter_claims.py: what a painter learns from, what it is aligned to, and who reads its captions."""

import dataclasses
import itertools
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from painter_scores import BOTH, PAINTED, REAL
from stablerep.errors import UserError


@dataclass(frozen=True, kw_only=True)
class Arm:
    """What a painter learns from, how, and the arms that it is held against."""

    source: str
    against: tuple[str, ...] = ()
    best_half: bool = False
    """Of the painted pictures of each caption only the half that matches it best."""
    align: str | None = None
    """Encoder that it is aligned to: stablerep, simclr or untrained."""
    block: int = 3
    weight: float = 0.5
    """After which block, and how strongly."""
    text: str | None = None
    """Whose text tower reads the captions: clip or stablerep-plus; a new one where None."""


ARMS: dict[str, Arm] = {
    REAL: Arm(source=REAL),
    PAINTED: Arm(source=PAINTED, against=(REAL,)),
    "painted, best half": Arm(source=PAINTED, against=(REAL, PAINTED), best_half=True),
    BOTH: Arm(source=BOTH, against=(REAL, PAINTED)),
    "painted + StableRep": Arm(source=PAINTED, against=(PAINTED,), align="stablerep"),
    "painted + SimCLR": Arm(source=PAINTED, against=(PAINTED,), align="simclr"),
    "painted + untrained": Arm(source=PAINTED, against=(PAINTED,), align="untrained"),
    "both + StableRep": Arm(source=BOTH, against=(BOTH,), align="stablerep"),
    "both + SimCLR": Arm(source=BOTH, against=(BOTH,), align="simclr"),
    "both + untrained": Arm(source=BOTH, against=(BOTH,), align="untrained"),
    "painted + CLIP text": Arm(source=PAINTED, against=(PAINTED,), text="clip"),
    "painted + StableRep+ text": Arm(source=PAINTED, against=(PAINTED,), text="stablerep-plus"),
}


def chosen_arms(names: Sequence[str], blocks: Sequence[int], weights: Sequence[float]) -> dict[str, Arm]:
    """The arms of these names; those that are aligned with every block and weight, named where these are several.

    Raises ``UserError`` where there is no such arm.
    """
    unknown = sorted(set(names) - ARMS.keys())
    if unknown:
        raise UserError(f"unknown arm {unknown[0]!r}; there are: {', '.join(ARMS)} (--arms)")
    return dict(named for name in names for named in _swept(name, ARMS[name], blocks, weights))


def _swept(name: str, arm: Arm, blocks: Sequence[int], weights: Sequence[float]) -> Iterator[tuple[str, Arm]]:
    if arm.align is None:
        yield name, arm
        return
    is_sweep = len(blocks) * len(weights) > 1
    for block, weight in itertools.product(blocks, weights):
        said = f"{name}, block {block}, weight {weight:g}" if is_sweep else name
        yield said, dataclasses.replace(arm, block=block, weight=weight)
