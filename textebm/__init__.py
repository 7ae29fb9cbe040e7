"""textebm: text models with a latent space, an energy-based prior over it, and named symbols to steer by.

The names below are imported when first used, so that `import textebm` is instant and needs no torch.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from textebm.errors import TextEBMError
    from textebm.evaluation.suite import evaluate
    from textebm.model import TextEBM
    from textebm.reading import Encoding
    from textebm.recipe import Recipe
    from textebm.recipe_io import load_recipe
    from textebm.training.run import Run, train

__version__ = "0.1.0"

__all__ = ["Encoding", "Recipe", "Run", "TextEBM", "TextEBMError", "evaluate", "load_recipe", "train"]

_HOME = {
    "Encoding": "textebm.reading",
    "Recipe": "textebm.recipe",
    "Run": "textebm.training.run",
    "TextEBM": "textebm.model",
    "TextEBMError": "textebm.errors",
    "evaluate": "textebm.evaluation.suite",
    "load_recipe": "textebm.recipe_io",
    "train": "textebm.training.run",
}


def __getattr__(name: str) -> Any:
    if name not in _HOME:
        raise AttributeError(f"module 'textebm' has no attribute {name!r}")
    value = getattr(import_module(_HOME[name]), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted([*globals(), *__all__])
