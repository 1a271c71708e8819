"""Feed caption files, recipes, pictures, sets of pictures and tables that were damaged at random.

A finding is whatever is no promised error: another exception, a case that takes longer than ``--seconds``, and anything
that is written outside of the case's own folder.

python bench/fuzz.py --cases 10000
"""

import argparse
import random
import runpy
import signal
import sys
import time
import traceback
from collections.abc import Callable
from pathlib import Path
from typing import Any

TARGETS = Path(__file__).parents[1] / "tests" / "fuzz_targets.py"


def finding(run: Callable[[bytes], None], content: bytes, confined: Any, seconds: int) -> str | None:
    """What is wrong with how one input was taken; None where nothing is."""
    signal.alarm(seconds)
    try:
        with confined() as outside:
            run(content)
    except KeyboardInterrupt:
        raise
    except BaseException:  # whatever it is, a panic of a library's Rust too, it is what we look for
        return traceback.format_exc(limit=-4)
    finally:
        signal.alarm(0)
    return f"written outside: {outside}" if outside else None


def give_up(number: int, frame: object) -> None:
    """A case took too long."""
    raise TimeoutError(f"not done in time: signal {number}, {frame}")


def main() -> int:
    """Print one line per target and every finding; 1 where there is one."""
    helpers = runpy.run_path(str(TARGETS))
    damaged, sound, targets = helpers["damaged"], helpers["sound"], helpers["TARGETS"]
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--cases", type=int, default=10_000, help="cases over all targets")
    parser.add_argument("--only", choices=list(targets), nargs="+", help="these targets alone")
    parser.add_argument("--seed", type=int, default=0, help="seed of the damage")
    parser.add_argument("--seconds", type=int, default=120, help="a case that takes longer hangs")
    arguments = parser.parse_args()
    signal.signal(signal.SIGALRM, give_up)
    findings = total = 0
    names = arguments.only or list(targets)
    for name in names:
        originals = sound(name)
        begin, num = time.process_time(), -(-arguments.cases // len(names))
        for case in range(num):
            draw = random.Random(f"{arguments.seed} {name} {case}")
            content = damaged(draw.choice(originals), draw)
            found = finding(targets[name], content, helpers["confined"], arguments.seconds)
            if found is not None:
                findings += 1
                print(f"{name}, case {case}: {content[:200]!r}\n{found}")
        total += num
        print(f"{name}: {num} cases in {time.process_time() - begin:.1f} CPU seconds", flush=True)
    print(f"{'PASSED' if not findings else 'FAILED'}: {total:,} cases, {findings} findings")
    return 0 if not findings else 1


if __name__ == "__main__":
    sys.exit(main())
