"""textebm: text models with a latent space, an energy-based prior over it, and named symbols to steer by.

The names below are imported when first used, so that `import textebm` is instant and needs no torch.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from textebm.api import TextEBM
    from textebm.errors import TextEBMError
    from textebm.evaluation.suite import evaluate
    from textebm.inspection.report import inspect
    from textebm.notebook import show_progress
    from textebm.recipe.read import load_recipe
    from textebm.recipe.schema import Recipe
    from textebm.runs.train import Run, train
    from textebm.use.reading import Encoding
    from textebm.use.wording import Wanted

__version__ = "0.1.0"

__all__ = [
    "Encoding",
    "Recipe",
    "Run",
    "TextEBM",
    "TextEBMError",
    "Wanted",
    "evaluate",
    "inspect",
    "load_recipe",
    "show_progress",
    "train",
]

_HOME = {
    "Encoding": "textebm.use.reading",
    "inspect": "textebm.inspection.report",
    "Recipe": "textebm.recipe.schema",
    "Run": "textebm.runs.train",
    "TextEBM": "textebm.api",
    "TextEBMError": "textebm.errors",
    "Wanted": "textebm.use.wording",
    "evaluate": "textebm.evaluation.suite",
    "load_recipe": "textebm.recipe.read",
    "show_progress": "textebm.notebook",
    "train": "textebm.runs.train",
}


def __getattr__(name: str) -> Any:
    if name not in _HOME:
        raise AttributeError(f"module 'textebm' has no attribute {name!r}")
    value = getattr(import_module(_HOME[name]), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted([*globals(), *__all__])
