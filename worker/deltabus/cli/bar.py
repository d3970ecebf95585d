"""A progress bar of bytes on a terminal."""

from __future__ import annotations

from rich.console import Console
from rich.progress import BarColumn, DownloadColumn, Progress, TextColumn, TimeRemainingColumn, TransferSpeedColumn


class Bar:
    """One transfer, or several after each other: each text has a line of its own."""

    def __init__(self, console: Console) -> None:
        self._progress = Progress(
            TextColumn("{task.description}", markup=False),
            BarColumn(),
            DownloadColumn(binary_units=True),
            TransferSpeedColumn(),
            TimeRemainingColumn(),
            console=console,
        )
        self._lines: dict[str, int] = {}
        self._progress.start()

    def show(self, text: str, done: int, total: int | None) -> None:
        """So many bytes are through."""
        if text not in self._lines:
            self._lines[text] = self._progress.add_task(text, total=total)
        self._progress.update(self._lines[text], completed=done, total=total)  # type: ignore[arg-type] # its own type

    def stop(self) -> None:
        """The last state stays on the screen."""
        self._progress.stop()
