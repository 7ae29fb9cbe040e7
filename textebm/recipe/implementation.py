"""Networks of the user's own: classes that a recipe names as ``package.module:Class``.

Naming code in a recipe or a saved model runs it, so it is imported only inside `code_allowed` (``--allow-code``), and
only as an installed module, never from a file that a recipe or a model brings along.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from importlib import import_module
from typing import Any

from textebm.errors import CodeNotAllowedError, RecipeError, did_you_mean

PATTERN = r"^[A-Za-z_][A-Za-z0-9_]*(\.[A-Za-z_][A-Za-z0-9_]*)*:[A-Za-z_][A-Za-z0-9_]*$"

_allowed: ContextVar[bool] = ContextVar("textebm_code_allowed", default=False)


@contextmanager
def code_allowed(allow: bool = True) -> Iterator[None]:
    """Within it the classes that recipes name may be imported (allow False: leaves things as they are)."""
    token = _allowed.set(allow or _allowed.get())
    try:
        yield
    finally:
        _allowed.reset(token)


def import_class(option: str, name: str) -> Any:
    """The class that *option* names. Raises RecipeError without permission, and where there is no such class."""
    if not _allowed.get():
        raise CodeNotAllowedError(
            f"{option}: {name!r} is code outside textebm, which would be run; if you trust it, allow it with "
            "--allow-code (in Python: allow_code=True)"
        )
    module_name, _, class_name = name.partition(":")
    try:
        module = import_module(module_name)
    except ImportError as error:
        message = f"cannot be imported ({error}); it must be installed, or lie in PYTHONPATH"
        raise RecipeError(f"{option}: {module_name!r} {message}") from error
    found = getattr(module, class_name, None)
    if not callable(found):
        known = [each for each in vars(module) if isinstance(getattr(module, each), type)]
        raise RecipeError(f"{option}: {module_name!r} has no class {class_name!r}{did_you_mean(class_name, known)}")
    return found
