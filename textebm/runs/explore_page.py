"""The page of `textebm explore`, served to this machine alone: an address with a secret in it, and no other."""

from __future__ import annotations

import json
import secrets
import sys
import threading
from collections.abc import Callable
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from inspect import signature
from typing import Any

from textebm.errors import TextEBMError
from textebm.files import finite
from textebm.inspection.page import render
from textebm.runs.explore import Explorer

HOST = "127.0.0.1"
MOST = 1 << 20  # bytes of a question
QUESTIONS = ("read", "write", "edit", "walk", "rename")  # methods of Explorer


class ExplorePage(ThreadingHTTPServer):
    """Serves the page of *explorer* and answers its questions, one at a time.

    address: where it is. Its path is a secret, as other people and other pages can reach the port. port: 0 for any
    that is free. Raises TextEBMError where the port cannot be used.
    """

    def __init__(self, explorer: Explorer, port: int) -> None:
        try:
            super().__init__((HOST, port), _Handler)
        except OSError as error:
            raise TextEBMError(
                f"cannot serve at port {port}: {error.strerror}; choose another with --port, or --port 0 for a free one"
            ) from None
        self.explorer, self.lock, self.key = explorer, threading.Lock(), secrets.token_urlsafe(12)
        self.address = f"http://{HOST}:{self.server_port}/{self.key}/"

    def page(self) -> str:
        with self.lock:
            facts = self.explorer.facts()
        return render(
            facts,
            f"{facts['name']} · textebm explore",
            scripts=("base.js", "theme.js", "explore.js"),
            styles=("report.css", "explore.css"),
            asks=True,
        )

    def answer(self, method: Callable[..., Any], arguments: dict[str, Any]) -> dict[str, Any]:
        """``{"answer": …}``, or ``{"error": …}`` for what a person can mend."""
        try:
            with self.lock:
                return {"answer": finite(method(**arguments))}
        except TextEBMError as error:
            return {"error": str(error)}

    def handle_error(self, request: Any, client_address: Any) -> None:
        """A page that was closed before its answer came is no fault."""
        if not isinstance(sys.exception(), ConnectionError):
            super().handle_error(request, client_address)


class _Handler(BaseHTTPRequestHandler):
    server: ExplorePage

    def do_GET(self) -> None:
        if self.path == f"/{self.server.key}/":
            self._send(self.server.page(), "text/html")
        else:
            self.send_error(404)

    def do_POST(self) -> None:
        question = self.path.removeprefix(f"/{self.server.key}/")
        if question not in QUESTIONS:
            self.send_error(404)
            return
        method = getattr(self.server.explorer, question)
        try:
            arguments = json.loads(self.rfile.read(min(MOST, int(self.headers["Content-Length"]))))
            signature(method).bind(**arguments)
        except (TypeError, ValueError):
            self.send_error(400)
            return
        answer = self.server.answer(method, arguments)
        self._send(json.dumps(answer, ensure_ascii=False, allow_nan=False), "application/json")

    def _send(self, text: str, kind: str) -> None:
        content = text.encode("utf-8", "replace")
        self.send_response(200)
        self.send_header("Content-Type", f"{kind}; charset=utf-8")
        self.send_header("Content-Length", str(len(content)))
        self.send_header("Cache-Control", "no-store")
        self.send_header("X-Frame-Options", "DENY")
        self.end_headers()
        self.wfile.write(content)

    def log_message(self, format: str, *args: Any) -> None:
        """Nothing is said about each answer."""
