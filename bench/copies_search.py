"""Exact search of descriptors by blocks and the approximate index, as the number of pictures grows.

    python bench/copies_search.py [--sizes 10000 30000 100000] [--views 2] [--threads 2] [--plain]

Every size searches as many queries as references, each with --views views (2: plain and mirrored), descriptors of
width 64, the 8 nearest. Each query is a reference plus noise, so that its nearest is known. Printed are seconds, CPU
seconds, pairs per second, the peak memory of the process, and whether the planted neighbour was found first.
"""

import argparse
import resource
import time

import torch
import torch.nn.functional as F

from stablerep.audit.copy_index import CopyIndex
from stablerep.audit.copy_search import exact_neighbours

WIDTH, NEIGHBOURS, NOISE = 64, 8, 0.06


def main() -> None:
    """Search every size."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--sizes", type=int, nargs="+", default=[10_000, 30_000, 100_000])
    parser.add_argument("--views", type=int, default=2)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--plain", action="store_true", help="also scikit-learn's brute force, up to 30,000")
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    for size in options.sizes:
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
            f"{size:7,}: {seconds:7.1f} s ({cpu:.1f} s of CPU), {rate:.2e} pairs/s, peak {peak:.2f} GiB, "
            f"first {first:.4f}"
        )
        begin, begin_cpu = time.perf_counter(), time.process_time()
        index = CopyIndex.build(references)
        built = time.perf_counter() - begin
        near = index.neighbours(queries, NEIGHBOURS)
        seconds, cpu = time.perf_counter() - begin - built, time.process_time() - begin_cpu
        recall = (near.index[:, 0] == found.index[:, 0]).float().mean()
        print(
            f"         index: built in {built:.1f} s, searched in {seconds:.1f} s ({cpu:.1f} s of CPU in all), "
            f"recall of the nearest {recall:.4f}"
        )
        if options.plain and size <= 30_000:
            from sklearn.neighbors import NearestNeighbors

            begin = time.perf_counter()
            plain = NearestNeighbors(n_neighbors=NEIGHBOURS, algorithm="brute").fit(references.numpy())
            for view in range(options.views):
                plain.kneighbors(queries[:, view].numpy())
            print(f"         scikit-learn: {time.perf_counter() - begin:.1f} s")


if __name__ == "__main__":
    main()
