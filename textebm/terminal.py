"""What is printed: text from corpora, labels and file names is shown, and never steers the terminal."""

from __future__ import annotations

import re
import sys
from collections.abc import Iterable, Iterator
from typing import TextIO

from rich.console import Console, ConsoleOptions, RenderableType
from rich.segment import Segment

# Control characters but tab and line feed: C0, DEL and C1, which begin escape sequences.
CONTROLS = re.compile(r"[\x00-\x08\x0b-\x1f\x7f-\x9f]")


def plain(text: str) -> str:
    r"""*text* with control characters written out, as ``\u001b``: a form that JSON reads, too."""
    return CONTROLS.sub(lambda match: f"\\u{ord(match[0]):04x}", text)


class PlainStream:
    """A text stream that writes `plain` text to another, which is its `stream`."""

    def __init__(self, stream: TextIO) -> None:
        self.stream = stream

    def write(self, text: str) -> int:
        return self.stream.write(plain(text))

    def writelines(self, lines: Iterable[str]) -> None:
        self.stream.writelines(map(plain, lines))

    def __getattr__(self, name: str) -> object:
        return getattr(self.stream, name)


class PlainConsole(Console):
    """A rich console whose text is `plain`; its own colours and movements are not touched."""

    def render(self, renderable: RenderableType, options: ConsoleOptions | None = None) -> Iterator[Segment]:
        for text, style, control in super().render(renderable, options):
            yield Segment(text if control else plain(text), style, control)


def make_console(*, stderr: bool = False, width: int | None = None) -> PlainConsole:
    """A console on a standard stream. Colours and movements are for a terminal, whatever the environment says;
    *width* is for anything else, where None is the terminal's."""
    stream = sys.stderr if stderr else sys.stdout
    if stream.isatty():
        return PlainConsole(file=getattr(stream, "stream", stream))
    return PlainConsole(file=stream, width=width, force_terminal=False, no_color=True)
