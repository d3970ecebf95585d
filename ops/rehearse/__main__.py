"""`python -m rehearse`: replace all workers under load, print what came of it; exit code 1 if anything was lost."""

from __future__ import annotations

import argparse
import asyncio
import sys

from rehearse.report import Rehearsal, table
from shows.acts import ACTS, rolling
from shows.review import violations


def main() -> int:
    """Run what the command line asks for."""
    parser = argparse.ArgumentParser(prog="rehearse", description=__doc__)
    parser.add_argument("--workers", type=int, metavar="N", default=4, help="processes to replace (default: 4)")
    parser.add_argument("--streams", type=int, metavar="N", default=500, help="kept in flight (default: 500)")
    parser.add_argument("--after", action="store_true", help="old ones leave before new ones start")
    options = parser.parse_args()
    figures = asyncio.run(rolling(options.streams, processes=options.workers, surge=not options.after))
    wrong = violations(figures, ACTS["rolling"].limits)
    print(table(Rehearsal.of(figures), wrong))
    return 1 if wrong else 0


sys.exit(main())
