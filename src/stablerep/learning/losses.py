"""One formula for all contrastive methods: softmax over similarities, and a target spread over the positives.

    loss = mean over rows i of  - sum_j target_ij log softmax_j(scale q_i . k_j)
    target_ij in proportion to  weight_j [label_i = label_j],  a row's own sample excluded from both

As a target sums to one, a row's loss is ``logsumexp_j - scale q_i . t_i`` with its mean positive ``t_i``,
which sums per label give. So neither targets nor similarities are ever held as a whole: the log-sum-exp and
its gradient go block by block. All of it is float32 (float64 for float64 features), whatever precision is
around.

Shapes: M queries (rows), P keys (columns), D features. In a process group every rank has its own M queries,
all ranks the same M. A rank's loss is the sum over its rows by the global number of rows that have positives:
values and gradients *summed* over the ranks are those of one process that holds all rows.
"""

import contextlib
import itertools
import math
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.autograd.function import once_differentiable

from stablerep import runtime
from stablerep.learning.positives import find_positives, mean_similarity

_KEPT_BYTES = 124 * 2**20  # of exponentials, from forward to backward; all those of a batch of 7,800 samples
_LOG2_E = 1 / math.log(2)
_LARGEST_PLAIN_LOGIT = 60.0  # exp(60) times a million columns is far inside float32, exp(-60) is no denormal


@dataclass(frozen=True, kw_only=True)
class Samples:
    """One side of a similarity matrix."""

    features: Tensor
    """(M, D), already normalised where the similarity is a cosine."""
    labels: Tensor
    """(M,) int64 identities: equal labels are positives of each other, never a position in the batch."""
    valid: Tensor | None = None
    """(M,) bool; the others count neither as rows nor as columns."""
    weight: Tensor | None = None
    """(M,) not negative: a key's share in the targets of its positives; to others it is a plain negative."""

    def gathered(self) -> "Samples":
        """The samples of all ranks in rank order, with gradient; every rank gives the same fields."""
        return Samples(
            features=runtime.gather(self.features),
            labels=runtime.gather(self.labels),
            valid=None if self.valid is None else runtime.gather(self.valid.to(torch.uint8)).bool(),
            weight=None if self.weight is None else runtime.gather(self.weight),
        )

    def kept(self) -> "Samples":
        """The valid samples alone."""
        if self.valid is None:
            return self
        return Samples(
            features=self.features[self.valid],
            labels=self.labels[self.valid],
            weight=None if self.weight is None else self.weight[self.valid],
        )


def multi_positive_contrastive(
    features: Tensor,
    labels: Tensor,
    temperature: float,
    *,
    valid: Tensor | None = None,
    weight: Tensor | None = None,
    block_size: int | None = None,
) -> Tensor:
    """The loss of StableRep (labels are captions) and SimCLR (labels are images): this rank's part, a scalar.

    ``features (M, D)`` of any length are normalised here; ``labels``, ``valid`` and ``weight``, each (M,),
    are as in ``Samples``. Positives of a row are the samples with its label in the global batch, except the
    row itself; a row that has none contributes nothing. No more than ``block_size`` squared similarities
    exist at a time. Source: the multi-positive contrastive loss of Tian et al., StableRep, 2023.
    """
    with _full_precision(features):
        mine = Samples(
            features=F.normalize(_full(features), dim=1), labels=labels, valid=valid, weight=weight
        )
        everything, scale = mine.gathered(), 1 / temperature
        own = runtime.rank() * len(labels) + torch.arange(len(labels), device=labels.device)
        if scale > _LARGEST_PLAIN_LOGIT:
            return soft_cross_entropy(mine, everything, scale, own=own, block_size=block_size)
        rows, columns, own = mine.kept(), everything.kept(), _kept_columns(mine, everything, own)
        # Before the sums, so that its gradient comes after theirs, which let go of their exponentials.
        similarity, present = _similarity_of_positives(rows, columns, own)
        log_total = _SymmetricLogSumExp.apply(
            rows.features,
            columns.features.detach(),
            _Layout(first=int(own[0]) if len(own) else 0, valid=valid, all_valid=everything.valid),
            scale,
            _size(block_size, features),
        )
        return _mean_over_rows(log_total - scale * similarity, present)


def soft_cross_entropy(
    queries: Samples,
    keys: Samples,
    scale: float | Tensor,
    *,
    own: Tensor | None = None,
    block_size: int | None = None,
) -> Tensor:
    """Cross-entropy of this rank's queries over keys (of all ranks): image-text losses call it twice.

    Logits are ``scale``, a number or a scalar tensor (with gradient), times the inner products. ``own
    (M,)`` is the column of each row's own sample, which is excluded; None where rows and columns are
    different things.
    """
    with _full_precision(queries.features):
        own = None if own is None else _kept_columns(queries, keys, own)
        rows, columns = queries.kept(), keys.kept()
        q, k = _full(rows.features), _full(columns.features)
        factor = torch.as_tensor(scale, dtype=q.dtype, device=q.device)
        similarity, present = _similarity_of_positives(rows, columns, own)
        log_total = _LogSumExp.apply(q, k, factor, own, _size(block_size, q))
        return _mean_over_rows(log_total - factor * similarity, present)


def positive_similarity(samples: Samples) -> Tensor:
    """Mean cosine of a sample and its positives among those of its rank, detached, over the rows of all ranks.

    NaN where no row has any.
    """
    with torch.no_grad(), _full_precision(samples.features):
        kept = samples.kept()
        x = F.normalize(_full(kept.features), dim=1)
        kept = Samples(features=x, labels=kept.labels, weight=kept.weight)
        similarity, present = _similarity_of_positives(kept, kept, torch.arange(len(x), device=x.device))
        number = runtime.all_reduce_sum(present.sum())
        return runtime.all_reduce_sum(similarity[present].sum()) / number


def _kept_columns(queries: Samples, keys: Samples, own: Tensor) -> Tensor:
    """The columns ``own (M,)`` of the kept queries, counted among the kept keys."""
    if queries.valid is not None:
        own = own[queries.valid]
    return own if keys.valid is None else (keys.valid.cumsum(0) - 1)[own]


def _similarity_of_positives(queries: Samples, keys: Samples, own: Tensor | None) -> tuple[Tensor, Tensor]:
    """Each row's similarity to its mean positive (M,), and (M,) whether it has any."""
    q, k = _full(queries.features), _full(keys.features)
    positives = find_positives(queries.labels, keys.labels, weight=keys.weight, own=own, precision=k.dtype)
    return mean_similarity(q, k, positives), positives.present


def _mean_over_rows(losses: Tensor, present: Tensor) -> Tensor:
    """This rank's part of the mean over all rows that have positives."""
    num_rows = runtime.all_reduce_sum(present.sum())
    return torch.where(present, losses, 0.0).sum() / num_rows.clamp(min=1)


class _LogSumExp(torch.autograd.Function):
    """log sum_j exp(scale q_i . k_j) over the columns but ``own``, (M,); -inf where none is left."""

    @staticmethod
    def forward(ctx: Any, q: Tensor, k: Tensor, scale: Tensor, own: Tensor | None, size: int) -> Tensor:
        log_total = q.new_full((len(q),), -torch.inf)
        for top, left in _blocks(len(q), len(k), size):
            rows, columns = slice(top, top + size), slice(left, left + size)
            logits = _logits(q[rows], k[columns], scale, own, top, left)
            log_total[rows] = torch.logaddexp(log_total[rows], logits.logsumexp(1))
        ctx.save_for_backward(q, k, scale, own, log_total)
        ctx.size = size
        return log_total

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, ...]:
        q, k, scale, own, log_total = ctx.saved_tensors
        size = ctx.size
        log_total = log_total.masked_fill(log_total == -torch.inf, 0)  # no columns: probabilities 0, not NaN
        grad_q, grad_k = torch.zeros_like(q), torch.zeros_like(k)
        with _full_precision(q):
            for top, left in _blocks(len(q), len(k), size):
                rows, columns = slice(top, top + size), slice(left, left + size)
                logits = _logits(q[rows], k[columns], scale, own, top, left)
                flow = logits.sub_(log_total[rows, None]).exp_().mul_(grads[0][rows, None])
                grad_q[rows].addmm_(flow, k[columns])
                grad_k[columns].addmm_(flow.T, q[rows])
            return grad_q * scale, grad_k * scale, (grad_q * q).sum(), None, None


def _logits(q: Tensor, k: Tensor, scale: Tensor, own: Tensor | None, top: int, left: int) -> Tensor:
    logits = (q * scale) @ k.T
    if own is not None:
        column = own[top : top + len(q)] - left
        inside = ((column >= 0) & (column < len(k))).nonzero()[:, 0]
        logits[inside, column[inside]] = -torch.inf
    return logits


@dataclass(frozen=True, kw_only=True)
class _Layout:
    """Where this rank's rows stand among the columns of all ranks."""

    first: int
    """Column of the first row; the other rows follow."""
    valid: Tensor | None
    """(M,) which of this rank's samples are rows."""
    all_valid: Tensor | None
    """(P,) which of all ranks' samples are columns."""

    def gathered(self, values: Tensor) -> Tensor:
        """A number per row of this rank -> a number per column, those of the other ranks included."""
        if self.valid is None or self.all_valid is None:
            return runtime.gather(values)
        spread = values.new_zeros(len(self.valid))
        spread[self.valid] = values
        return runtime.gather(spread)[self.all_valid]


class _SymmetricLogSumExp(torch.autograd.Function):
    """``_LogSumExp`` of unit vectors among themselves, own sample excluded, at half the cost or less.

    What a row adds to the loss pulls at its columns, which lie on other ranks too. But similarities are symmetric: an
    exponential that row i has computed for column j is also what row j has for column i, and the two differ by the sums
    they are divided by. So every rank computes the *whole* gradient of its own rows from blocks that it has, once it
    is told those sums; no gradient of a column is computed or sent, and among its own samples a rank needs only the
    blocks on and above the diagonal. ``scale`` is small enough that no exponential leaves the range of float32: none
    is shifted. The first blocks, up to a fixed amount of memory, are kept for the backward pass; the others are
    computed again there.
    """

    @staticmethod
    def forward(ctx: Any, x: Tensor, columns: Tensor, layout: _Layout, scale: float, size: int) -> Tensor:
        total = x.new_zeros(len(x))
        blocks = list(_symmetric_blocks(len(x), len(columns), layout.first, size))
        most = _KEPT_BYTES // (size * size * x.element_size()) if ctx.needs_input_grad[0] else 0
        kept, again = [], _place_of_rest(x, blocks[most:], size)
        for number, block in enumerate(blocks):
            terms = block.terms(x, columns, scale, out=None if number < most else again)
            if number < most:
                kept.append(terms)
            total[block.rows] += terms.sum(1)
            if block.mirror is not None:
                total[block.mirror] += terms.sum(0)
        ctx.save_for_backward(x, columns, total)
        ctx.layout, ctx.scale, ctx.size, ctx.blocks, ctx.kept = layout, scale, size, blocks, kept
        return total.log()

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, ...]:
        x, columns, total = ctx.saved_tensors
        share = torch.where(total > 0, ctx.scale * grads[0] / total, 0)
        shares, grad = ctx.layout.gathered(share), torch.zeros_like(x)
        kept, ctx.kept = ctx.kept, []  # changed below: a second backward pass computes them again
        again = _place_of_rest(x, ctx.blocks[len(kept) :], ctx.size)
        with _full_precision(x):
            for number, block in enumerate(ctx.blocks):
                is_kept = number < len(kept)
                terms = kept[number] if is_kept else block.terms(x, columns, ctx.scale, out=again)
                flow = terms.mul_(share[block.rows, None] + shares[None, block.columns])
                grad[block.rows].addmm_(flow, columns[block.columns])
                if block.mirror is not None:
                    grad[block.mirror].addmm_(flow.T, x[block.rows])
        return grad, None, None, None, None


@dataclass(frozen=True)
class _Block:
    """Some rows of a rank beside some columns of all ranks."""

    rows: slice
    columns: slice
    diagonal: bool = False
    """The columns are the rows themselves."""
    mirror: slice | None = None
    """The rows that the columns are, where these come later among the same rank's samples."""

    def terms(self, x: Tensor, columns: Tensor, scale: float, *, out: Tensor | None) -> Tensor:
        """Exponentials of the scaled similarities, 0 for a sample and itself; in ``out``, or in new memory."""
        rows, columns = x[self.rows], columns[self.columns]
        terms = x.new_empty(len(rows), len(columns)) if out is None else out[: len(rows), : len(columns)]
        torch.addmm(terms, rows, columns.T, beta=0, alpha=scale * _LOG2_E, out=terms)
        terms.exp2_()  # half the time of exp
        return terms.fill_diagonal_(0) if self.diagonal else terms


def _place_of_rest(x: Tensor, blocks: list[_Block], size: int) -> Tensor | None:
    """One place for all blocks that are not kept, so that no memory is asked for again and again."""
    return x.new_empty(size, size) if blocks else None


def _symmetric_blocks(num_rows: int, num_columns: int, first: int, size: int) -> Iterator[_Block]:
    """The blocks that a rank needs whose rows are the columns from ``first`` on."""
    for rows in _slices(0, num_rows, size):
        for own in _slices(rows.start, num_rows, size):
            columns, diagonal = slice(first + own.start, first + own.stop), own == rows
            yield _Block(rows, columns, diagonal, None if diagonal else own)
        for start, stop in ((0, first), (first + num_rows, num_columns)):
            for columns in _slices(start, stop, size):
                yield _Block(rows, columns)


def _slices(start: int, stop: int, size: int) -> Iterator[slice]:
    for begin in range(start, stop, size):
        yield slice(begin, min(begin + size, stop))


def _blocks(num_rows: int, num_columns: int, size: int) -> Iterator[tuple[int, int]]:
    """First row and column of every block."""
    return itertools.product(range(0, num_rows, size), range(0, num_columns, size))


def _size(block_size: int | None, x: Tensor) -> int:
    """The side asked for, or one whose block fits the cache of a CPU core and fills a GPU."""
    # Slower by 3 to 16 %: 512, and 384, presumably as their rows crowd into a few sets of the cache.
    return block_size or (376 if x.device.type == "cpu" else 4096)


def _full(x: Tensor) -> Tensor:
    return x if x.dtype is torch.float64 else x.float()


def _full_precision(x: Tensor) -> contextlib.AbstractContextManager[Any]:
    return torch.autocast(x.device.type, enabled=False)
