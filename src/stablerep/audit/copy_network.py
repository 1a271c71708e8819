"""Copy descriptors of a network that the user names: SSCD as TorchScript, or any encoder of the package.

TorchScript runs code that its file holds, so a file is loaded only where it is named. The score of a pair is the
cosine of its descriptors less the mean cosine of the query with its nearest strangers among the real pictures: score
normalisation, as in copy detection (Pizzi et al. 2022, section 5.3), with the reference itself as background.

Shapes: Q painted pictures, N real ones, D width of a descriptor.
"""

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from stablerep.audit.copy_finder import Matches
from stablerep.audit.copy_index import CopyIndex
from stablerep.audit.copy_search import exact_neighbours
from stablerep.audit.copy_views import Explanation
from stablerep.console import Console
from stablerep.errors import UserError
from stablerep.features import FrozenEncoder, extract
from stablerep.models.encoder import load_encoder

# Scores are cosines less their background: what pixels score says nothing of the least that copies do.
NETWORK = Explanation(name="by the network", usual_threshold=0.35, least_threshold=0.0)
_SIDE = 288
_MEAN, _STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
_BACKGROUND = 8


class TorchScriptDescriptor:
    """A TorchScript file that maps ImageNet-normalised (N, 3, 288, 288) to (N, D), as those of SSCD do."""

    def __init__(self, path: Path) -> None:
        try:
            self._module = torch.jit.load(str(path), map_location="cpu").eval()  # type: ignore[no-untyped-call]
        except (RuntimeError, ValueError) as error:
            reason = str(error).splitlines()[0]
            raise UserError(f"{path} is no TorchScript file ({reason}); give one such as SSCD's") from error
        self.fingerprint = hashlib.blake2b(path.read_bytes(), digest_size=16).hexdigest()

    def __call__(self, images: Tensor, /) -> Tensor:
        resized = F.interpolate(images, size=(_SIDE, _SIDE), mode="bilinear", antialias=True)
        mean, std = (torch.tensor(values)[:, None, None] for values in (_MEAN, _STD))
        descriptors: Tensor = self._module((resized - mean) / std)
        return descriptors


def load_network(sscd: Path | None, encoder: str | None, *, download: bool = False) -> FrozenEncoder | None:
    """The network that is named, if any; ``UserError`` where two are or the file cannot be loaded."""
    if sscd is not None and encoder is not None:
        raise UserError("give either --sscd or --encoder, one network describes the pictures")
    if sscd is not None:
        if not sscd.is_file():
            raise UserError(f"{sscd} is no file; give the TorchScript file of a copy descriptor")
        return TorchScriptDescriptor(sscd)
    return None if encoder is None else load_encoder(encoder, download=download)


def describe(network: FrozenEncoder, images: Sequence[bytes], console: Console) -> Tensor:
    """Unit vectors (M, D) of encoded pictures."""
    return F.normalize(torch.from_numpy(extract(network, images, batch_size=64, console=console)), dim=1)


@dataclass(frozen=True)
class Described:
    """Descriptors of painted (Q, D) and real pictures (N, D), and the groups (N,) of the latter."""

    painted: Tensor
    real: Tensor
    groups: np.ndarray
    index: CopyIndex | None = None
    """Where the real ones are searched approximately."""

    @classmethod
    def build(
        cls, painted: Tensor, real: Tensor, groups: np.ndarray, *, exact_up_to: int | None = None
    ) -> "Described":
        """Of unit vectors; with an index beyond ``exact_up_to`` real pictures."""
        is_large = exact_up_to is not None and len(real) > exact_up_to
        return cls(painted, real, groups, CopyIndex.build(real) if is_large else None)

    def matches(self) -> Matches:
        """Of the painted pictures."""
        return network_matches(self.painted, self.real, self.groups, index=self.index)

    def genuine(self, some: np.ndarray) -> Matches:
        """Of real pictures among those of other groups, exactly: an index cannot leave out a group."""
        return network_matches(self.real[some], self.real, self.groups, excluded=self.groups[some])


def network_matches(
    painted: Tensor,
    real: Tensor,
    groups: np.ndarray,
    *,
    excluded: np.ndarray | None = None,
    index: CopyIndex | None = None,
) -> Matches:
    """The nearest of the real descriptors (N, D) of each painted one (Q, D), as ``find_matches`` with E = 1.

    ``index``, of the real descriptors, searches where nothing is excluded.
    """

    def barred(rows: slice) -> Tensor:
        assert excluded is not None
        return torch.from_numpy(excluded[rows][:, None] == groups)

    views, k = painted[:, None], 4 * _BACKGROUND
    if index is not None and excluded is None:
        near = index.neighbours(views, k)
    else:
        near = exact_neighbours(views, real, k, excluded=None if excluded is None else barred)
    similarity, nearest = near.similarity.numpy(), near.index.numpy()
    strangers = (groups[nearest] != groups[nearest[:, :1]]) & np.isfinite(similarity)
    strangers &= strangers.cumsum(1) <= _BACKGROUND
    background = np.where(strangers, similarity, 0).sum(1) / np.maximum(strangers.sum(1), 1)
    return Matches((similarity[:, 0] - background)[:, None], nearest[:, :1])
