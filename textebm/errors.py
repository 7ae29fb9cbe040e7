"""The one family of errors a user can mend. Everything else is a bug in textebm."""

from __future__ import annotations

from collections.abc import Iterable
from difflib import get_close_matches


class TextEBMError(Exception):
    """Something the user can put right; the message says what is wrong and what to do (exit code 2)."""


class RecipeError(TextEBMError):
    """A recipe or an override that cannot be used."""


class CodeNotAllowedError(RecipeError):
    """A class outside textebm that a recipe names, and that nobody allowed to run."""


class CorpusError(TextEBMError):
    """A corpus that is missing, empty, unreadable or lacks a column."""


class CheckpointError(TextEBMError):
    """A checkpoint or model directory that is missing, damaged or of another kind."""


class FileError(TextEBMError):
    """A file that cannot be written (disk full, no permission) or that does not hold what it should."""


class RunInUseError(TextEBMError):
    """A run directory that another process is writing."""


class DivergenceError(TextEBMError):
    """Training produced a number that is not finite, or ran away."""


def did_you_mean(word: str, known: Iterable[str]) -> str:
    """``'; did you mean 'x'? Known: …'`` for a misspelt *word*."""
    names = sorted(known)
    close = get_close_matches(word, names, n=1, cutoff=0.5)
    hint = f"; did you mean {close[0]!r}?" if close else "."
    return f"{hint} Known: {', '.join(names)}"


LIBRARIES = ("huggingface_hub", "safetensors", "tokenizers", "datasets", "pyarrow", "httpx", "httpcore", "requests")


def refused_by_library(error: Exception) -> bool:
    """Whether *error* is how the libraries that load published files say what is wrong with one, or with the way to it:
    their own kinds, what Python says of files and values, and the plain Exception of tokenizers. Other kinds are bugs.
    """
    usual = (OSError, ValueError, KeyError, TypeError, ImportError, RuntimeError)
    return type(error) is Exception or isinstance(error, usual) or type(error).__module__.split(".")[0] in LIBRARIES
