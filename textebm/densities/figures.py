"""A figure a prior: its samples over the true density, in the first two dimensions. Needs matplotlib."""

from __future__ import annotations

from importlib.util import find_spec
from pathlib import Path

import torch
from torch import Tensor

from textebm.densities.bench import Row
from textebm.densities.targets import Target
from textebm.errors import TextEBMError

LIMIT = 3.2  # of both axes: all targets lie within


def require_matplotlib() -> None:
    """Raises TextEBMError where it is not installed."""
    if find_spec("matplotlib") is None:
        raise TextEBMError(
            "figures need matplotlib, which is not installed: pip install 'textebm[figures]', or leave --out away"
        )


def draw_figure(target: Target, samples: Tensor, row: Row, path: Path, *, shown: int = 2000) -> None:
    """Write *path* (.png, .svg or .pdf). The density's plane lies through the origin of any other dimensions."""
    require_matplotlib()
    from matplotlib.figure import Figure

    axis = torch.linspace(-LIMIT, LIMIT, 300)
    x, y = torch.meshgrid(axis, axis, indexing="xy")
    points = torch.zeros(x.numel(), target.dim)
    points[:, 0], points[:, 1] = x.reshape(-1), y.reshape(-1)
    density = target.log_prob(points).reshape(x.shape)
    density = (density - density.max()).exp()
    figure = Figure(figsize=(5.2, 5.4), dpi=120, layout="constrained")
    axes = figure.add_subplot()
    axes.imshow(density.numpy(), origin="lower", extent=(-LIMIT, LIMIT, -LIMIT, LIMIT), cmap="Greys", vmax=1.2)
    axes.scatter(samples[:shown, 0].numpy(), samples[:shown, 1].numpy(), s=2, color="#c2410c", alpha=0.5, linewidths=0)
    axes.set(xlim=(-LIMIT, LIMIT), ylim=(-LIMIT, LIMIT), xlabel="first dimension", ylabel="second dimension")
    least, most = row.masses()
    axes.set_title(
        f"{row.prior} on {row.target}\nmasses {least:.2f} to {most:.2f}, variance {row.mean('variance'):.2f} of the "
        f"true one, {row.mean('evaluations'):.0f} evaluations",
        fontsize=9,
    )
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path)
