"""Pages as one HTML file that needs nothing else, asks nobody and runs no code but its own: the report.

All text of the corpus, the labels and the run is untrusted. It travels as JSON in a script element that browsers do
not run, and the page's script puts it in place as text nodes only. The Content-Security-Policy allows that script and
that style sheet by their hashes, and nothing else.
"""

from __future__ import annotations

import base64
import hashlib
import html
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

ASSETS = Path(__file__).parent / "assets"
SCRIPTS = ("base.js", "theme.js", "map.js", "sections.js", "details.js", "compare.js", "page.js")
# What could end the element early, open a comment in it, or end a line of script in an old browser.
_ESCAPES = {ord(c): f"\\u{ord(c):04x}" for c in "<>&\u2028\u2029"}


def render(
    data: Mapping[str, Any],
    title: str,
    *,
    scripts: Sequence[str] = SCRIPTS,
    styles: Sequence[str] = ("report.css",),
    asks: bool = False,
) -> str:
    """The page that shows *data*: of `report.page_data`, unless other scripts draw it. asks: whether it may ask the
    server that it comes from, and nobody else."""
    style = "\n".join((ASSETS / name).read_text(encoding="utf-8") for name in styles)
    script = "\n".join((ASSETS / name).read_text(encoding="utf-8") for name in scripts)
    script = f'"use strict";\n(() => {{\n{script}}})();\n'
    policy = (
        f"default-src 'none'; script-src {_hash(script)}; style-src {_hash(style)}; img-src data:; "
        f"{'connect-src ' + repr('self') + '; ' if asks else ''}base-uri 'none'; form-action 'none'"
    )
    parts = {
        "policy": html.escape(policy, quote=True),
        "title": html.escape(clean(title)),
        "style": style,
        "data": embed(data),
        "script": script,
    }
    # One pass over the template: what is put in is never looked at again, whatever it contains.
    pieces = (ASSETS / "report.html").read_text(encoding="utf-8").split("%%")
    return "".join(piece if number % 2 == 0 else parts[piece] for number, piece in enumerate(pieces))


def embed(data: Any) -> str:
    """JSON that stays inside a script element, whatever strings it holds."""
    return clean(json.dumps(data, ensure_ascii=False, allow_nan=False, separators=(",", ":"))).translate(_ESCAPES)


def clean(text: str) -> str:
    """Lone surrogates, which no file can hold, replaced."""
    return text.encode("utf-8", "replace").decode("utf-8")


def _hash(content: str) -> str:
    return f"'sha256-{base64.b64encode(hashlib.sha256(content.encode()).digest()).decode()}'"
