"""Build icons.parquet: `python -m tools.build_icons --npm DIR --clipart DIR --out FILE`."""

import argparse
import json
from pathlib import Path

from .assemble import build


def main() -> None:
    """Parse, build, report."""
    parser = argparse.ArgumentParser(prog="tools.build_icons", description=__doc__)
    parser.add_argument("--npm", type=Path, required=True, help="folder with the unpacked npm packages")
    parser.add_argument(
        "--clipart", type=Path, required=True, help="folder svg of the Debian package openclipart-svg"
    )
    parser.add_argument("--out", type=Path, required=True, help="Parquet file to write")
    parser.add_argument("--cache", type=Path, help="folder for rendered SVGs, to build again faster")
    arguments = parser.parse_args()
    report = build(arguments.npm, arguments.clipart, arguments.out, arguments.cache)
    print(json.dumps({"dropped": dict(sorted(report.dropped.items())), **report.facts}, indent=2))


if __name__ == "__main__":
    main()
