"""How long a painting takes, what it costs, and what it waits for: workers, commits or the line into the committer.

Every table has one committing process with its share of the workers. Time goes on commit by commit: the workers paint
for ``--commit-seconds`` (less what failures cost), the commit then takes a fixed time, a time per row that the table
holds (its keys are read) and a time per new row. Meanwhile each worker has one more batch in hand; a commit that takes
longer than that batch is waited for.

    python experiments/scale_simulation.py --num-pictures 1e7 --num-workers 64
    python experiments/scale_simulation.py --num-pictures 1e9 --num-workers 1000 --num-tables 100
"""

import argparse
from dataclasses import dataclass


@dataclass(frozen=True, kw_only=True)
class Outcome:
    """What a painting comes to."""

    hours: float
    worker_hours: float
    share_waiting: float
    """Share of the time in which workers wait for commits."""
    last_commit_seconds: float
    megabytes_per_second: float
    """Into each committing process."""

    @property
    def bottleneck(self) -> str:
        """What to change first."""
        if self.share_waiting > 0.05:
            return "commits: more tables"
        if self.megabytes_per_second > 200:
            return "the line into the committing process: more tables"
        return "painting: more workers"


def simulate(options: argparse.Namespace) -> Outcome:
    """Follow one table from its first commit to its last; the others do the same beside it."""
    wanted = options.num_pictures / options.num_tables
    workers = options.num_workers / options.num_tables
    lost = options.restart_minutes / 60 / options.hours_between_failures  # of a worker's time
    rate = workers / options.seconds_per_picture * max(0.0, 1 - lost)
    rows = seconds = waiting = commit = 0.0
    in_hand = options.batch_size * options.seconds_per_picture
    while rows < wanted:
        painting = options.commit_seconds + min(commit, in_hand)
        new = min(rate * painting, wanted - rows)
        painting = new / rate
        commit = options.commit_fixed + options.commit_per_row * rows + options.commit_per_new * new
        waited = max(0.0, commit - in_hand)
        rows, seconds, waiting = rows + new, seconds + painting + waited, waiting + waited
    return Outcome(
        hours=seconds / 3600,
        worker_hours=seconds / 3600 * options.num_workers,
        share_waiting=waiting / seconds,
        last_commit_seconds=commit,
        megabytes_per_second=rate * options.bytes_per_picture / 1e6,
    )


def main() -> None:
    """Print the outcome in a few lines."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--num-pictures", type=float, default=1e7)
    parser.add_argument("--num-workers", type=int, default=64)
    parser.add_argument("--num-tables", type=int, default=1)
    parser.add_argument("--seconds-per-picture", type=float, default=0.8, help="published for an A100")
    parser.add_argument("--batch-size", type=int, default=8)
    parser.add_argument(
        "--bytes-per-picture", type=float, default=40e3, help="assumed: 256 px, JPEG quality 95"
    )
    parser.add_argument("--commit-seconds", type=float, default=10.0)
    parser.add_argument("--commit-fixed", type=float, default=0.05)
    parser.add_argument(
        "--commit-per-row", type=float, default=1.5e-7, help="measured with bench/resume_scale.py"
    )
    parser.add_argument("--commit-per-new", type=float, default=1e-4)
    parser.add_argument("--hours-between-failures", type=float, default=24.0, help="of one worker")
    parser.add_argument("--restart-minutes", type=float, default=5.0)
    parser.add_argument("--price", type=float, default=2.0, help="assumed, per worker and hour")
    options = parser.parse_args()
    outcome = simulate(options)
    print(
        f"{options.num_pictures:,.0f} pictures on {options.num_workers} workers into {options.num_tables} tables: "
        f"{outcome.hours:,.1f} h, {outcome.worker_hours:,.0f} worker hours, "
        f"{outcome.worker_hours * options.price:,.0f} at {options.price:g} each, "
        f"{options.num_pictures * options.bytes_per_picture / 1e12:,.3f} TB"
    )
    print(
        f"waiting for commits {outcome.share_waiting:.1%}, the last commit {outcome.last_commit_seconds:.1f} s, "
        f"{outcome.megabytes_per_second:,.1f} MB/s into each committing process -> {outcome.bottleneck}"
    )


if __name__ == "__main__":
    main()
