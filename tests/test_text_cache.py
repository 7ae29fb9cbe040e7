"""The cache gives back what was written, or builds it again and says so."""

from __future__ import annotations

import logging
import os
import random
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from textebm.errors import CorpusError
from textebm.text.cache import cached_as
from textebm.text.corpora import load_corpus
from textebm.text.tokenizer import TokenStore, encode_chunks, train_word
from textebm.training.data import read_split

TEXTS = [f"a sentence with the number {n} in it ." for n in range(300)]
TOKENIZER = train_word(TEXTS, 500)
BUILT: list[Path] = []


def build(folder: Path) -> None:
    BUILT.append(folder)
    TokenStore.write(folder / "tokens", encode_chunks(TEXTS, TOKENIZER, 20))


def load(root: Path) -> TokenStore:
    return cached_as("tokens", "key", build, root, lambda folder: TokenStore.open(folder / "tokens"), ("tokenizer",))


def damages(folder: Path, rng: random.Random) -> None:
    """One flipped bit, a cut, a growth, a missing or an additional file."""
    path = rng.choice([path for path in folder.rglob("*") if path.is_file()])
    data = bytearray(path.read_bytes())
    kind = rng.choice(["flip", "cut", "grow", "remove", "add", "empty"])
    if kind == "flip":
        data[rng.randrange(len(data))] ^= 1 << rng.randrange(8)
    elif kind == "cut":
        del data[rng.randrange(len(data)) :]
    elif kind == "grow":
        data += b"\0\0\0\0"
    elif kind == "remove":
        path.unlink()
        return
    elif kind == "add":
        path = path.with_name("additional.i32")
    else:
        data.clear()
    path.write_bytes(data)


def test_every_damage_is_seen_and_mended(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    expected, rng = load(tmp_path).tokens.tolist(), random.Random(0)
    (folder,) = tmp_path.glob("tokens-*")
    for _ in range(60):
        damages(folder, rng)
        BUILT.clear(), caplog.clear()
        with caplog.at_level(logging.WARNING):
            assert load(tmp_path).tokens.tolist() == expected
        # the file of checksums may have lost white space alone; everything else is built again, and said
        assert len(BUILT) == 1 and "damaged, and built again" in caplog.text
    BUILT.clear()
    load(tmp_path)
    assert not BUILT and not [path for path in tmp_path.iterdir() if path.name.startswith(".tokens") and path.is_dir()]


def test_the_tokens_of_a_large_corpus_are_verified(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TEXTEBM_CACHE", str(tmp_path / "cache"))
    (tmp_path / "a.txt").write_text("\n".join(TEXTS))
    rows = load_corpus("files", train=tmp_path / "a.txt")["train"]
    store = read_split(rows, TOKENIZER, 20, large=10).store
    (path,) = (tmp_path / "cache").glob("tokens-*/tokens/tokens.i32")
    expected = store.tokens.copy()
    values = np.frombuffer(path.read_bytes(), dtype=np.int32).copy()
    values[7] += 1  # a valid token, and the wrong one
    path.unlink()
    path.write_bytes(values.tobytes())
    assert np.array_equal(read_split(rows, TOKENIZER, 20, large=10).store.tokens, expected)


def test_a_full_disk_is_one_line(tmp_path: Path) -> None:
    def full(folder: Path) -> None:
        raise OSError(28, "No space left on device")

    with pytest.raises(CorpusError, match=r"cannot be written \(No space left on device\); set TEXTEBM_CACHE"):
        cached_as("tokens", "key", full, tmp_path, lambda folder: None, ())
    assert [path.name for path in tmp_path.iterdir() if not path.name.endswith(".lock")] == []


@pytest.mark.skipif(os.name != "posix", reason="permissions of POSIX")
def test_a_read_only_cache_is_read_and_not_written(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    expected = load(tmp_path).tokens.tolist()

    def refuse(*arguments: Any, **options: Any) -> Any:
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr("textebm.text.cache.tempfile.mkdtemp", refuse)  # root may write anywhere, so no chmod
    monkeypatch.setattr("textebm.text.cache.FileLock", refuse)
    assert load(tmp_path).tokens.tolist() == expected
    with pytest.raises(CorpusError, match=r"cannot be written \(Permission denied\)"):
        load(tmp_path / "other")
