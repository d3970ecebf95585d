"""`python -m shows`: run shows, print a table of each; exit code 1 if one of them went wrong."""

from __future__ import annotations

import argparse
import asyncio
import sys

from shows.acts import ACTS
from shows.review import table


def main() -> int:
    """Run what the command line asks for."""
    parser = argparse.ArgumentParser(prog="shows", description=__doc__)
    parser.add_argument("show", nargs="?", choices=[*ACTS, "all"], default="all", help="which one (default: all)")
    parser.add_argument("--tasks", type=int, metavar="N", help="streams in flight (default: the show's own number)")
    parser.add_argument("--times", type=int, metavar="N", default=1, help="how often each (default: 1)")
    options = parser.parse_args()
    wrong = False
    for name in ACTS if options.show == "all" else [options.show]:
        act = ACTS[name]
        for _ in range(options.times):
            figures, violations = asyncio.run(act.perform(options.tasks or act.tasks))
            print(table(name, figures, violations), flush=True)
            wrong = wrong or bool(violations)
    return 1 if wrong else 0


sys.exit(main())
