"""Feed caption files, recipes and pictures that were damaged at random; whatever is no promised error is a finding.

python bench/fuzz.py --cases 10000
"""

import argparse
import random
import runpy
import sys
import time
import traceback
from pathlib import Path

TARGETS = Path(__file__).parents[1] / "tests" / "fuzz_targets.py"


def main() -> int:
    """Print one line per target and every finding; 1 where there is one."""
    helpers = runpy.run_path(str(TARGETS))
    damaged, sound = helpers["damaged"], helpers["sound"]
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--cases", type=int, default=10_000, help="cases over all targets")
    parser.add_argument("--seed", type=int, default=0, help="seed of the damage")
    arguments = parser.parse_args()
    findings = 0
    for target, run in helpers["TARGETS"].items():
        originals = sound(target)
        begin, num = time.monotonic(), arguments.cases // len(helpers["TARGETS"]) + 1
        for case in range(num):
            draw = random.Random(f"{arguments.seed} {target} {case}")
            content = damaged(draw.choice(originals), draw)
            try:
                run(content)
            except Exception:  # whatever it is, it is what we look for
                findings += 1
                print(f"{target}, case {case}: {content[:200]!r}\n{traceback.format_exc(limit=-4)}")
        print(f"{target}: {num} cases in {time.monotonic() - begin:.1f} s")
    print(f"{'PASSED' if not findings else 'FAILED'}: {findings} findings")
    return 0 if not findings else 1


if __name__ == "__main__":
    sys.exit(main())
