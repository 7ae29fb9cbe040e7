"""Corpora that may be downloaded, from where their authors put them; each file is checked against its SHA-256."""

from __future__ import annotations

import io
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from http.client import HTTPException
from pathlib import Path
from typing import IO
from zipfile import BadZipFile, ZipFile

from textebm.errors import CorpusError, did_you_mean
from textebm.files import digest, read_bytes, refuse, write_output
from textebm.text.corpora import SOURCES, corpus_places

LIMIT = 1 << 28  # bytes of a download or of a file in it: all known ones are far smaller


@dataclass(frozen=True)
class Download:
    """An address, and the files it gives: their names in the corpus's folder, and the SHA-256 of each. An address that
    ends in .zip gives an archive, in which, or in zips within it, each file has its own last name."""

    url: str
    files: Mapping[str, str]


DOWNLOADS: dict[str, tuple[Download, ...]] = {
    "dailydialog": (
        Download(
            "http://yanran.li/files/ijcnlp_dailydialog.zip",
            {
                "train/dialogues_train.txt": "71633bd5fdb0b09dd82215b131b56432cf7329a0fe50bc8adec168713d350d1a",
                "train/dialogues_act_train.txt": "e910d5cfedc500d03dbedd3bcf8661ae8cf0e44d029e56a291f49a7b67042adf",
                "train/dialogues_emotion_train.txt": "5c94e57c6e6c6641f4b1386513085f9d9b934229e732a556424ca7dfae4b6c77",
                "validation/dialogues_validation.txt": (
                    "2ad64701fe3a4449e7a6ee7cdc6c2a71c80f77b8a34f708ac0532395f499081c"
                ),
                "validation/dialogues_act_validation.txt": (
                    "fbeee7a1b2927c9cb33d6fdc384bb3ea55abf040928d2de4dcea57ab4a669682"
                ),
                "validation/dialogues_emotion_validation.txt": (
                    "3d4094299a995e998bbc3492ce1755c9abc1e7f56500c840e83b12dd16580596"
                ),
                "test/dialogues_test.txt": "3c323651cdfb09f7b529f850eddf96a638fc6cc9b43330b77956ab248484a1a8",
                "test/dialogues_act_test.txt": "566649e92babfa528a77757b161deeee91e9c91fe0db71760063747e132d3f4c",
                "test/dialogues_emotion_test.txt": "482b7235f91a1441055a09241b2d2709bb1702f4a08d7316c27fa807cba7d3c9",
            },
        ),
    ),
    "agnews": tuple(
        Download(f"https://s3-us-west-2.amazonaws.com/allennlp/datasets/ag-news/{name}", {name: sha256})
        for name, sha256 in (
            ("dev.jsonl", "bc13f5c90a4a996f71f851bdb95250138dabaf3ae6becf489696f0e2a66449f5"),
            ("test.jsonl", "56f26b5efa2fdd30f74888b06677101fb968da0b53dcd7aad92387160ce6c855"),
        )
    ),
    "smd": (
        Download(
            "http://nlp.stanford.edu/projects/kvret/kvret_dataset_public.zip",
            {
                "kvret_dev_public.json": "6dba98a6947c85ac01e384d45fdbd455f95203cd2f402031252177a5a62e4b26",
                "kvret_test_public.json": "9dfbd7b7c9763a67bfe3fc092a1b81449443186aa1e0dd2e98cd75918f5ae791",
            },
        ),
    ),
}
BY_HAND = {
    "ptb": "its text is licensed by the Linguistic Data Consortium",
    "yelp": "its training files are a re-split without a public address",
}


def fetch(corpus: str, data_dir: str | Path | None = None, say: Callable[[str], None] = lambda text: None) -> Path:
    """Place *corpus* in its folder of *data_dir* (else $TEXTEBM_DATA, else data) and return that folder.

    A file that is there and right is not downloaded again; a download that was broken off goes on where it stopped.
    Raises CorpusError for a corpus that has no public address, no connection, and files that are not the expected ones.
    """
    if corpus in BY_HAND:
        raise CorpusError(f"{corpus} is placed by hand: {BY_HAND[corpus]}. {SOURCES[corpus]}; data/README.md has more.")
    if corpus not in DOWNLOADS:
        raise CorpusError(f"no corpus is called {corpus[:80]!r}{did_you_mean(corpus[:80], DOWNLOADS)}")
    folder = corpus_places(corpus, data_dir)[0]
    for download in DOWNLOADS[corpus]:
        missing = {name: sha for name, sha in download.files.items() if not _is_here(folder / name, sha)}
        if not missing:
            continue
        say(f"{download.url} → {folder}")
        unfinished = folder / f".{download.url.rpartition('/')[2]}.unfinished"
        try:
            folder.mkdir(parents=True, exist_ok=True)
            _download(download.url, unfinished)
            _place(download, missing, unfinished, folder)
        except OSError as error:
            refuse(folder, error)
        unfinished.unlink()
    return folder


def _is_here(path: Path, sha256: str) -> bool:
    if not path.exists():
        return False
    if path.is_file() and digest(read_bytes(path)) == sha256:
        return True
    raise CorpusError(f"{path} is there and is not the published file; move it away and fetch again")


def _download(url: str, target: Path) -> None:
    """Append to *target* what it lacks of *url*."""
    done = target.stat().st_size if target.exists() else 0
    request = urllib.request.Request(url, headers={"Range": f"bytes={done}-"} if done else {})
    again = "; the same command goes on where it stopped"
    try:
        with urllib.request.urlopen(request, timeout=60) as answer:
            goes_on = answer.status == 206
            expected = (done if goes_on else 0) + int(answer.headers.get("Content-Length") or 0)
            if expected > LIMIT:
                raise CorpusError(f"{url} has {expected:,} bytes, more than any known corpus")
            with target.open("ab" if goes_on else "wb") as file:
                while file.tell() <= LIMIT and (block := answer.read(1 << 16)):
                    file.write(block)
    except urllib.error.HTTPError as error:
        if error.code != 416:  # nothing is lacking
            raise CorpusError(f"{url} cannot be downloaded: {error}") from error
        return
    except (urllib.error.URLError, HTTPException, TimeoutError, ConnectionError, ValueError) as error:
        raise CorpusError(f"{url} cannot be downloaded: {getattr(error, 'reason', error)}{again}") from error
    if target.stat().st_size < expected:
        raise CorpusError(f"{url} broke off after {target.stat().st_size:,} of {expected:,} bytes{again}")


def _place(download: Download, missing: Mapping[str, str], unfinished: Path, folder: Path) -> None:
    """Write the *missing* files that were downloaded, all of them or none."""
    if download.url.endswith(".zip"):
        names = {name.rpartition("/")[2]: name for name in missing}
        try:
            with unfinished.open("rb") as file:
                contents = {names[name]: data for name, data in _members(file, set(names))}
        except (BadZipFile, RuntimeError, EOFError) as error:  # RuntimeError: encrypted, or packed in a new way
            unfinished.unlink()
            raise CorpusError(f"{download.url} gave no readable zip ({error}); fetch again") from error
    else:
        contents = {name: unfinished.read_bytes() for name in missing}
    for name, sha256 in missing.items():
        if name not in contents or digest(contents[name]) != sha256:
            unfinished.unlink()
            wrong = "has another SHA-256 than the published file" if name in contents else "is not in it"
            raise CorpusError(f"{download.url}: {name} {wrong}; nothing was placed. By hand: data/README.md")
    for name, data in contents.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        write_output(folder / name, data)


def _members(file: IO[bytes], wanted: set[str], depth: int = 1) -> Iterator[tuple[str, bytes]]:
    """The files called as *wanted*, of a zip and of those within it."""
    with ZipFile(file) as archive:
        for info in archive.infolist():
            name = info.filename.rpartition("/")[2]
            if info.filename.startswith("__MACOSX") or info.file_size > LIMIT:
                continue
            if name in wanted:
                yield name, archive.read(info)
            elif name.endswith(".zip") and depth:
                yield from _members(io.BytesIO(archive.read(info)), wanted, depth - 1)
