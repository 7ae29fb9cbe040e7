"""What a person at a notebook or a terminal sees: the progress of long work, and values as short tables.

Progress is a line with the share done and the time left. It comes after a second, where stderr is a terminal or a
notebook's; `show_progress(False)`, or TEXTEBM_PROGRESS=0 in the environment, turns it off, and `progress_to` hands the
lines to another display.
"""

from __future__ import annotations

import html
import os
import sys
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from contextvars import ContextVar
from typing import TypeVar

T = TypeVar("T")
Display = Callable[[str], None]
PATIENCE, INTERVAL = 1.0, 0.25  # seconds before the first line, and between two
_display: ContextVar[Display | None] = ContextVar("display", default=lambda text: _default(text))
_settings = {"shown": True}


def show_progress(shown: bool = True) -> None:
    """Whether methods that compute for long say how far they are; for the whole process."""
    _settings["shown"] = shown


@contextmanager
def progress_to(display: Display | None) -> Iterator[None]:
    """Within, progress goes to *display*, which gets a line now and then and "" when one piece of work ends; None:
    nowhere."""
    before = _display.set(display)
    try:
        yield
    finally:
        _display.reset(before)


def track(items: Sequence[T], what: str) -> Iterator[T]:
    """The items, one by one, while what is done of them is shown as ``encoding: 40%, 3 s left``."""
    display = _display.get()
    if display is None or not _settings["shown"] or os.environ.get("TEXTEBM_PROGRESS") == "0":
        yield from items
        return
    begun = time.monotonic()
    told = 0.0
    try:
        for done, item in enumerate(items, 1):
            yield item
            now = time.monotonic()
            if done < len(items) and now - begun > PATIENCE and now - told > INTERVAL:
                told = now
                left = (now - begun) / done * (len(items) - done)
                display(f"{what}: {done / len(items):.0%}, {duration(left)} left")
    finally:
        if told:
            display("")


def tell(text: str) -> None:
    """What begins now, where progress is shown; "" ends it."""
    display = _display.get()
    if display is not None and _settings["shown"] and os.environ.get("TEXTEBM_PROGRESS") != "0":
        display(text)


def duration(seconds: float) -> str:
    """``8 s``, ``3 min``, ``2 h 5 min``."""
    whole = max(1, round(seconds))
    if whole < 60:
        return f"{whole} s"
    minutes = round(whole / 60)
    return f"{minutes} min" if minutes < 60 else f"{minutes // 60} h {minutes % 60} min"


def _default(text: str) -> None:
    if sys.stderr.isatty():
        sys.stderr.write(f"\r\x1b[K{text}")
    elif type(sys.stderr).__module__.startswith("ipykernel"):
        sys.stderr.write(f"\r{text:<60}" + "\r" * (not text))
    sys.stderr.flush()


def html_table(title: str, rows: Iterable[Sequence[object]], header: Sequence[str] = ()) -> str:
    """A small table for a notebook; everything is escaped."""
    cells = "".join(f"<tr>{''.join(_cell('td', each) for each in row)}</tr>" for row in rows)
    head = f"<thead><tr>{''.join(_cell('th', each) for each in header)}</tr></thead>" if header else ""
    return f"<div><b>{html.escape(title)}</b><table>{head}<tbody>{cells}</tbody></table></div>"


def _cell(tag: str, value: object) -> str:
    return f'<{tag} style="text-align:left">{html.escape(str(value))}</{tag}>'
