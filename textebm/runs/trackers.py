"""Health lines in the experiment trackers that Accelerate knows: TensorBoard, Weights & Biases, MLflow, Trackio."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from accelerate import tracking

from textebm.errors import TextEBMError
from textebm.files import finite
from textebm.recipe.schema import Recipe
from textebm.recipe.stated import stated_options

Log = Callable[[int, Mapping[str, Any]], None]


@contextmanager
def trackers(names: Sequence[str], recipe: Recipe, directory: Path) -> Iterator[Log]:
    """A function that sends a step's numbers to the trackers of these names, whose files lie in the run directory where
    they have some. Raises TextEBMError for one whose package is not installed."""
    known = {str(each) for each in tracking.get_available_trackers()}
    if missing := [name for name in names if name not in known]:
        raise TextEBMError(
            f"training.trackers: {missing[0]} is not installed here: pip install {missing[0]}, or leave it out"
        )
    options = stated_options(recipe.model_dump(mode="json"))
    plain = {
        name: value if isinstance(value, bool | int | float | str) else str(value) for name, value in options.items()
    }
    made = []
    for name in names:
        kind = tracking.LOGGER_TYPE_TO_CLASS[name]
        place = {"logging_dir": str(directory)} if kind.requires_logging_directory else {}
        made.append(kind(recipe.name, **place))
        getattr(made[-1], "start", lambda: None)()  # later versions of Accelerate open it here
        made[-1].store_init_configuration({"recipe": recipe.name, **plain})

    def log(step: int, values: Mapping[str, Any]) -> None:
        numbers = {name: value for name, value in values.items() if isinstance(finite(value), int | float)}
        for tracker in made:
            tracker.log(numbers, step=step)

    try:
        yield log
    finally:
        for tracker in made:
            tracker.finish()
