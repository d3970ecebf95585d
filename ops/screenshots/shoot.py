"""`deltabus top` as a picture."""

from __future__ import annotations

import io
import re
import time
from pathlib import Path
from typing import Final

from rich.console import Console
from rich.terminal_theme import TerminalTheme

from deltabus.cli.onlooker import Onlooker
from deltabus.cli.server import connect
from deltabus.cli.top import View
from deltabus.overview import Overview
from deltabus.settings import Settings
from screenshots.load import loaded

#: Columns and lines.
SIZE: Final = (128, 40)

#: Seconds after which it is drawn as it is.
PATIENCE: Final = 60.0

#: Legible on white and on black pages.
THEME: Final = TerminalTheme(
    (22, 27, 34),
    (201, 209, 217),
    [
        *((72, 79, 88), (255, 123, 114), (63, 185, 80), (210, 153, 34)),
        *((88, 166, 255), (188, 140, 255), (57, 197, 207), (177, 186, 196)),
    ],
)

#: What a picture need not fetch from elsewhere: whoever looks at it has a font of fixed width.
_FONTS: Final = re.compile(r"\s*@font-face \{.*?\}\n", re.DOTALL)


def shoot(path: Path, *, seconds: float, workers: int = 3, slots: int = 45, streams: int = 170) -> str:
    """Look at a loaded bus for so long, and until all slots are taken, draw it as `deltabus top` does, and write that.

    Returns:
        the same as text.
    """
    with loaded(workers, slots, streams) as settings:
        view = _watch(settings, seconds)
    console = Console(
        record=True, file=io.StringIO(), width=SIZE[0], height=SIZE[1], force_terminal=True, color_system="truecolor"
    )
    console.print(view.drawn(SIZE))
    svg = console.export_svg(title="deltabus top", theme=THEME, clear=False, unique_id="top")
    path.write_text(_FONTS.sub("", svg).replace("Fira Code", "ui-monospace, Menlo, Consolas"), encoding="utf-8")
    return console.export_text()


def _watch(settings: Settings, seconds: float) -> View:
    # Where Redis really is, is of no interest, and differs from time to time.
    view = View("redis://redis.internal:6379/0")
    begun, looks, busy = time.monotonic(), 0, False
    with Onlooker(connect(settings), settings.rq_key_prefix, every=1) as onlooker:
        # Rates take two looks.
        while time.monotonic() < begun + seconds or looks < 2 or not (busy or time.monotonic() > begun + PATIENCE):
            view.see(sight := onlooker.next())
            if isinstance(sight.found, Overview):
                looks += 1
                busy = bool(sight.found.workers) and all(
                    worker.running == worker.slots for worker in sight.found.workers
                )
    return view
