"""Exact search of descriptors by blocks and the approximate index, as the number of pictures grows.

    python bench/copies_search.py [--sizes 10000 30000 100000] [--views 2] [--threads 2] [--plain]

Every size searches as many queries as references, each with --views views (2: plain and mirrored), descriptors of
width 64, the 8 nearest. Each query is a reference plus noise, so that its nearest is known. Printed are seconds, CPU
seconds, pairs per second, the peak memory of the process, and whether the planted neighbour was found first. Up to
100,000 in 100,000 the exact search should take at most two minutes and 2 GiB; at every size the index should find at
least 99 % of the nearest.
"""

import argparse
import resource
import sys
import time
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from stablerep.audit.copy_index import CopyIndex
from stablerep.audit.copy_search import exact_neighbours

WIDTH, NEIGHBOURS, NOISE = 64, 8, 0.06
JUDGED_SIZE = 100_000  # time and memory of more pictures have no bar
MOST_SECONDS, MOST_GIGABYTES, LEAST_RECALL = 120, 2, 0.99


@dataclass(frozen=True, kw_only=True)
class Found:
    """Wall seconds of the exact search, peak of memory in GiB until its end, recall of the index."""

    size: int
    seconds: float
    gigabytes: float
    recall: float


def main() -> int:
    """Search every size; 1 where a bar is missed."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--sizes", type=int, nargs="+", default=[10_000, 30_000, 100_000])
    parser.add_argument("--views", type=int, default=2)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--plain", action="store_true", help="also scikit-learn's brute force, up to 30,000")
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    reached = [report(search(size, options)) for size in options.sizes]
    return 0 if all(reached) else 1


def search(size: int, options: argparse.Namespace) -> Found:
    """Search one size in every way, and print what it took."""
    generator = torch.Generator().manual_seed(0)
    references = F.normalize(torch.randn(size, WIDTH, generator=generator), dim=1)
    queries = references[:, None] + NOISE * torch.randn(size, options.views, WIDTH, generator=generator)
    queries = F.normalize(queries, dim=2)
    begin, begin_cpu = time.perf_counter(), time.process_time()
    found = exact_neighbours(queries, references, NEIGHBOURS)
    seconds, cpu = time.perf_counter() - begin, time.process_time() - begin_cpu
    first = (found.index[:, 0] == torch.arange(size)).float().mean()
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20
    rate = size * size * options.views / seconds
    print(
        f"{size:7,}: {seconds:7.1f} s ({cpu:.1f} s of CPU), {rate:.2e} pairs/s, peak {peak:.2f} GiB, first {first:.4f}"
    )
    recall = _through_index(queries, references, found.index)
    if options.plain and size <= 30_000:
        _through_sklearn(queries, references)
    return Found(size=size, seconds=seconds, gigabytes=peak, recall=recall)


def report(found: Found) -> bool:
    """Print whether the bars are kept."""
    is_judged = found.size <= JUDGED_SIZE
    passed = found.recall >= LEAST_RECALL and (
        not is_judged or (found.seconds <= MOST_SECONDS and found.gigabytes <= MOST_GIGABYTES)
    )
    exact = (
        f"{found.seconds:.1f} s (bar {MOST_SECONDS}), {found.gigabytes:.2f} GiB (bar {MOST_GIGABYTES}), "
        if is_judged
        else ""
    )
    print(
        f"{'PASSED' if passed else 'FAILED'}: {found.size:,} in {found.size:,}: {exact}"
        f"recall of the index {found.recall:.4f} (bar {LEAST_RECALL})"
    )
    return passed


def _through_index(queries: Tensor, references: Tensor, nearest: Tensor) -> float:
    """The share of queries whose nearest reference is found by the index."""
    begin, begin_cpu = time.perf_counter(), time.process_time()
    index = CopyIndex.build(references)
    built = time.perf_counter() - begin
    near = index.neighbours(queries, NEIGHBOURS)
    seconds, cpu = time.perf_counter() - begin - built, time.process_time() - begin_cpu
    recall = float((near.index[:, 0] == nearest[:, 0]).float().mean())
    print(
        f"         index: built in {built:.1f} s, searched in {seconds:.1f} s ({cpu:.1f} s of CPU in all), "
        f"recall of the nearest {recall:.4f}"
    )
    return recall


def _through_sklearn(queries: Tensor, references: Tensor) -> None:
    from sklearn.neighbors import NearestNeighbors

    begin = time.perf_counter()
    plain = NearestNeighbors(n_neighbors=NEIGHBOURS, algorithm="brute").fit(references.numpy())
    for view in range(queries.shape[1]):
        plain.kneighbors(queries[:, view].numpy())
    print(f"         scikit-learn: {time.perf_counter() - begin:.1f} s")


if __name__ == "__main__":
    sys.exit(main())
