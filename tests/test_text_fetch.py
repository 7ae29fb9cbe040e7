"""Corpora are downloaded from a server on this machine: whole, checked, and from where they broke off."""

from __future__ import annotations

import io
import threading
from collections.abc import Iterator
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from zipfile import ZipFile

import pytest

from tests.tiny import run
from textebm.errors import CorpusError
from textebm.files import digest
from textebm.text import fetch as module
from textebm.text.fetch import Download, fetch

TEXT = b"a line .\n" * 2000
TURNS = b"hello . __eou__\n"


def zipped(**files: bytes) -> bytes:
    buffer = io.BytesIO()
    with ZipFile(buffer, "w") as archive:
        for name, data in files.items():
            archive.writestr(f"inner/{name.replace('__', '.')}", data)
    return buffer.getvalue()


@dataclass
class Server:
    """What it gives, and what it was asked for; it breaks off after *cut* bytes, once."""

    url: str
    contents: dict[str, bytes]
    asked: list[str | None] = field(default_factory=list)
    cut: int | None = None


@pytest.fixture
def server(monkeypatch: pytest.MonkeyPatch) -> Iterator[Server]:
    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            wanted, content = self.headers.get("Range"), given.contents.get(self.path)
            given.asked.append(wanted)
            if content is None:
                return self.send_error(404)
            start = int(wanted.removeprefix("bytes=").removesuffix("-")) if wanted else 0
            if wanted and start >= len(content):
                return self.send_error(416)
            self.send_response(206 if wanted else 200)
            self.send_header("Content-Length", str(len(content) - start))
            self.end_headers()
            self.wfile.write(content[start:][: given.cut])
            given.cut = None

        def log_message(self, *_: object) -> None:
            pass

    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as served:
        thread = threading.Thread(target=served.serve_forever, args=(0.01,), daemon=True)
        thread.start()
        contents = {"/plain.txt": TEXT, "/all.zip": zipped(split__zip=zipped(turns__txt=TURNS), readme__txt=b"no")}
        given = Server(f"http://127.0.0.1:{served.server_port}", contents)
        downloads = (
            Download(f"{given.url}/plain.txt", {"plain.txt": digest(TEXT)}),
            Download(f"{given.url}/all.zip", {"train/turns.txt": digest(TURNS)}),
        )
        monkeypatch.setitem(module.DOWNLOADS, "agnews", downloads)
        yield given
        served.shutdown()


def test_files_and_files_of_nested_zips_are_placed_once(server: Server, tmp_path: Path) -> None:
    folder = fetch("agnews", tmp_path)
    assert folder == tmp_path / "agnews"
    assert (folder / "plain.txt").read_bytes() == TEXT
    assert (folder / "train" / "turns.txt").read_bytes() == TURNS
    assert sorted(path.name for path in folder.iterdir()) == ["plain.txt", "train"]
    fetch("agnews", tmp_path)
    assert server.asked == [None, None]


def test_what_broke_off_goes_on(server: Server, tmp_path: Path) -> None:
    server.cut = 7000
    with pytest.raises(CorpusError, match=r"broke off after 7,000 of 18,000 bytes; the same command goes on"):
        fetch("agnews", tmp_path)
    assert not (tmp_path / "agnews" / "plain.txt").exists()
    fetch("agnews", tmp_path)
    assert server.asked == [None, "bytes=7000-", None]
    assert (tmp_path / "agnews" / "plain.txt").read_bytes() == TEXT


def test_a_finished_download_that_was_not_placed_is_placed(server: Server, tmp_path: Path) -> None:
    (tmp_path / "agnews").mkdir()
    (tmp_path / "agnews" / ".plain.txt.unfinished").write_bytes(TEXT)
    fetch("agnews", tmp_path)
    assert server.asked[0] == "bytes=18000-" and (tmp_path / "agnews" / "plain.txt").read_bytes() == TEXT


@pytest.mark.parametrize(
    ("path", "content", "message"),
    [
        ("/plain.txt", TEXT[:-1] + b"!", "plain.txt has another SHA-256"),
        ("/all.zip", zipped(other__txt=TURNS), "train/turns.txt is not in it"),
        ("/all.zip", b"<html>moved</html>", "no readable zip"),
        ("/plain.txt", None, "404"),
    ],
)
def test_what_is_not_the_published_file_is_not_placed(
    server: Server, tmp_path: Path, path: str, content: bytes | None, message: str
) -> None:
    right = server.contents.pop(path)
    if content is not None:
        server.contents[path] = content
    with pytest.raises(CorpusError, match=message):
        fetch("agnews", tmp_path)
    assert not (tmp_path / "agnews" / ("plain.txt" if path == "/plain.txt" else "train/turns.txt")).exists()
    server.contents[path] = right
    assert (fetch("agnews", tmp_path) / "plain.txt").is_file()


def test_a_file_of_ones_own_is_not_written_over(server: Server, tmp_path: Path) -> None:
    (tmp_path / "agnews").mkdir()
    (tmp_path / "agnews" / "plain.txt").write_bytes(b"mine")
    with pytest.raises(CorpusError, match="move it away"):
        fetch("agnews", tmp_path)
    assert (tmp_path / "agnews" / "plain.txt").read_bytes() == b"mine" and not server.asked


def test_no_connection_and_no_address_are_one_line(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    nowhere = Download("http://127.0.0.1:9/plain.txt", {"plain.txt": digest(TEXT)})
    monkeypatch.setitem(module.DOWNLOADS, "agnews", (nowhere,))
    with pytest.raises(CorpusError, match="cannot be downloaded: .*the same command goes on"):
        fetch("agnews", tmp_path)
    with pytest.raises(CorpusError, match="did you mean 'agnews'"):
        fetch("agnew", tmp_path)
    refused = run("data", "fetch", "ptb", "--data", tmp_path)
    assert refused.returncode == 2 and "placed by hand" in refused.stderr and "Traceback" not in refused.stderr


def test_each_file_that_is_read_is_fetched_or_placed_by_hand() -> None:
    from textebm.text.corpora import FILES

    assert set(FILES) == {*module.DOWNLOADS, *module.BY_HAND}
    listed = (Path(__file__).parents[1] / "data" / "README.md").read_text(encoding="utf-8")
    for corpus, downloads in module.DOWNLOADS.items():
        files = {name: sha for download in downloads for name, sha in download.files.items()}
        assert set(files) == set(FILES[corpus])
        assert all(f"{sha}  {corpus}/{name}" in listed for name, sha in files.items())
