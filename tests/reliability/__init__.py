"""What textebm promises, tried by breaking things. `python -m tests.reliability` runs it at the stated counts."""

from . import files, fuzz, hostile, models, runs
from .promise import PROMISES, Outcome, Promise, table, tried

__all__ = ["PROMISES", "Outcome", "Promise", "files", "fuzz", "hostile", "models", "runs", "table", "tried"]
