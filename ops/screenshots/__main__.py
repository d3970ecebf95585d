"""`python -m screenshots`: make the pictures, and print them as text."""

from __future__ import annotations

import argparse
from pathlib import Path

from screenshots.shoot import shoot

parser = argparse.ArgumentParser(prog="screenshots", description=__doc__)
parser.add_argument("--seconds", type=float, default=40.0, help="how long to look on (default: 40)")
parser.add_argument("--out", type=Path, default=Path(__file__).parent, help="folder (default: that of this module)")
options = parser.parse_args()
print(shoot(options.out / "top.svg", seconds=options.seconds))
