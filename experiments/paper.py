"""What is published of the curves that claims.py draws: another data set, other sizes, and the same questions."""

from dataclasses import dataclass

_README = "README of the official code, without batch norm"
_LAION = f"LAION subset, {_README}"
_SYNCLR = "SynCLR, arXiv 2312.17742"
_RESTATED = "StableRep, arXiv 2306.00984, as reviews of it restate"


@dataclass(frozen=True)
class Published:
    """One number, in percent: ImageNet, linear probe, ViT-B/16, where its source says nothing else."""

    part: str
    """Of claims.py, the one that asks the same."""
    value: str
    arm: str
    percent: float
    source: str
    """Table or page; of what is restated the table itself was not seen."""
    place: float | None = None
    """Where it lies on the axis of the part, where that counts the same."""


PAPER: tuple[Published, ...] = (
    Published("matrix", "CC12M", "simclr:real", 61.5, _RESTATED),
    Published("matrix", "CC12M", "clip:real", 70.3, _RESTATED),
    Published("matrix", "CC12M", "simclr:painted", 63.7, _RESTATED),
    Published("matrix", "CC12M", "clip:painted", 67.8, _RESTATED),
    Published("matrix", "CC12M", "stablerep:painted", 73.5, f"{_SYNCLR}, page 6"),
    Published("matrix", "CC12M", "stablerep:painted", 72.8, _README),
    Published("matrix", "CC12M", "stablerep-plus:painted", 74.4, _README),
    *(
        Published("sizes", f"{captions} million captions", arm, percent, _LAION)
        for arm, found in (
            ("stablerep-plus:painted", {1: 63.2, 3: 69.6, 10: 73.5, 20: 73.9, 50: 74.1}),
            ("clip:real", {3: 60.6, 10: 69.9, 20: 71.5, 50: 72.9}),
        )
        for captions, percent in found.items()
    ),
    Published(
        "headline", "20 million painted, of 10 million captions", "stablerep-plus:painted", 73.5, _LAION
    ),
    Published("headline", "50 million real", "clip:real", 72.9, _LAION),
    Published("images", "4 of each caption, CC12M", "stablerep:painted", 73.0, f"{_SYNCLR}, page 6", 4),
    Published("images", "10 of each caption, CC12M", "stablerep:painted", 73.5, f"{_SYNCLR}, page 6", 10),
    Published("images", "1 of each caption, fixed number painted", "stablerep:painted", 61.2, _RESTATED),
    Published(
        "images",
        "8 of each caption, fixed number painted",
        "stablerep:painted",
        66.2,
        f"{_RESTATED}; the gain that stands beside it, 4.8, does not fit",
    ),
    *(
        Published("guidance", f"{scale}", "stablerep:painted", percent, f"{_SYNCLR}, table 3", scale)
        for scale, percent in {2: 72.8, 3: 72.6, 4: 72.6}.items()
    ),
    Published("guidance", "real pictures, CC3M", "simclr:real", 60.4, _RESTATED),
    Published("guidance", "8 (the best), CC3M", "simclr:painted", 62.0, f"{_RESTATED}: 1.6 over real", 8),
    Published("guidance", "2 (the best), zero-shot", "clip:painted", 34.9, f"{_RESTATED}; real: 40.2"),
)
"""Of the other parts no number is known."""
