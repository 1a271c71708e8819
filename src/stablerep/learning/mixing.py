"""Which images of a caption a batch holds: drawn without replacement, from one pool or from sources in a ratio."""

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray


def draw_images(
    sources: NDArray[np.int64], num_wanted: int, mix: Sequence[float] | None, generator: np.random.Generator
) -> list[int]:
    """Positions of at most ``num_wanted`` of K images, no position twice; ``sources (K,)`` says where each comes from.

    Without a mix every image is equally likely. With one, each slot first draws a source, with probabilities in the
    ratio of the mix among the sources that still have an image, and then an image of that source.
    """
    order = generator.permutation(len(sources))
    if mix is None:
        return [int(position) for position in order[:num_wanted]]
    left = [order[sources[order] == number].tolist() for number in range(len(mix))]
    chosen: list[int] = []
    for u in generator.random(min(num_wanted, len(sources))):
        shares = np.cumsum([share if images else 0.0 for share, images in zip(mix, left, strict=True)])
        source = int(np.searchsorted(shares / shares[-1], u, side="right"))
        chosen.append(left[source].pop(0))
    return chosen
