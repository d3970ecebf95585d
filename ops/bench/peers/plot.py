"""Plots of a run's results, a picture for each scenario. Runs in the environment `plot`, the only one with matplotlib.

python plot.py results.json folder          prints the names of the scenarios that were plotted
"""

import json
import sys
from pathlib import Path
from statistics import median
from typing import Any

import matplotlib as mpl

mpl.use("Agg")
import matplotlib.pyplot as plt  # the backend is chosen first

OURS, THEIRS = "#d1495b", "#8d99ae"


def plot(scenario: str, rows: list[dict[str, Any]], folder: Path) -> None:
    """A bar for each contender and case, a panel for each figure; lines show the least and the most."""
    names = list(dict.fromkeys(name for row in rows for name in row["figures"]))
    figure, panels = plt.subplots(1, len(names), figsize=(5.2 * len(names), 0.8 + 0.3 * height(rows)), squeeze=False)
    for panel, name in zip(panels[0], names, strict=True):
        found: dict[tuple[str, str], list[float]] = {}
        for row in rows:
            if name in row["figures"]:
                found.setdefault((row["case"], row["contender"]), []).append(row["figures"][name])
        bars = sorted(found.items(), key=lambda item: list(found).index(item[0]), reverse=True)
        middle = [median(values) for _, values in bars]
        reach = [
            [value - min(values) for value, (_, values) in zip(middle, bars, strict=True)],
            [max(values) - value for value, (_, values) in zip(middle, bars, strict=True)],
        ]
        labels = [f"{contender}\n{case}" for (case, contender), _ in bars]
        colours = [OURS if contender == "deltabus" else THEIRS for (_, contender), _ in bars]
        panel.barh(range(len(bars)), middle, xerr=reach, color=colours, ecolor="#333333", capsize=2)
        panel.set_yticks(range(len(bars)), labels, fontsize=6)
        panel.set_title(name, fontsize=9)
        panel.tick_params(axis="x", labelsize=7)
    figure.tight_layout()
    figure.savefig(folder / f"{scenario}.png", dpi=110)
    plt.close(figure)


def height(rows: list[dict[str, Any]]) -> int:
    return max(3, len({(row["case"], row["contender"]) for row in rows}))


def main() -> None:
    samples = json.loads(Path(sys.argv[1]).read_text(encoding="utf-8"))["samples"]
    folder = Path(sys.argv[2])
    folder.mkdir(parents=True, exist_ok=True)
    for scenario in dict.fromkeys(row["scenario"] for row in samples):
        plot(scenario, [row for row in samples if row["scenario"] == scenario], folder)
        print(scenario)


if __name__ == "__main__":
    main()
