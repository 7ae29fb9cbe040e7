"""What the report shows, gathered as typed values."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import torch
from datasets import Dataset

from textebm.inspection import paths, sampler
from textebm.inspection.codes import CodeCard, explain_cards, inspect_codes
from textebm.inspection.frames import Control, Inspection
from textebm.inspection.projection import Projection, project, projection_key
from textebm.inspection.rows import Rows, choose_rows
from textebm.use.inputs import as_texts

if TYPE_CHECKING:
    from textebm.api import TextEBM
    from textebm.use.reading import Encoding

MOST_SAMPLES, LEAST_SAMPLES = 400, 40  # of the prior, as many as there are sentences
SWEEP_CLASSES = 20  # heads with more classes would need more sentences than a page is worth


def inspect_rows(
    model: TextEBM,
    rows: Rows,
    *,
    seed: int = 0,
    umap: bool = False,
    identity: str = "",
    stored: Projection | None = None,
) -> Inspection:
    """Look at *model* through *rows*. umap: with a UMAP map too. stored: an earlier projection, used if it was made
    from the same model (*identity*, its checksum), sentences and seed. Raises TextEBMError where UMAP is not there.
    """
    encoding = model.encode(rows.texts)
    drawn = model.sample_path(number_of_samples(rows), seed=seed)
    samples, path = drawn.z.cpu(), drawn.path
    assert path is not None
    projection = projection_of(
        model, rows, encoding, samples=samples, seed=seed, umap=umap, identity=identity, stored=stored
    )
    cards = {
        head.name: explain_cards(model, inspect_codes(model, rows, head.name, seed=seed, encoding=encoding))
        for head in paths.sorted_heads(model)
    }
    acceptance = paths.shares_of(drawn.acceptance)
    draws = model.posterior_draws(rows.texts, seed=seed)
    return Inspection(
        rows=rows,
        encoding=encoding,
        energies=model.energies(encoding.mean).tolist(),
        losses=model.reconstruction_losses(rows.texts).tolist(),
        cards=cards,
        projection=projection,
        sample_texts=model.decode(samples),
        sample_energies=model.energies(samples).tolist(),
        control=[_control(model, own, seed) for own in cards.values()],
        composition=paths.compose(model, seed=seed),
        walks=paths.walks(model, rows, seed=seed),
        edits=paths.edits(model, rows, seed=seed),
        layers=paths.layers(model, rows, seed=seed),
        diffusions=paths.of_path(model, path),
        acceptance=acceptance,
        chains=sampler.chains(model, acceptance, seed=seed),
        energy_levels=sampler.energies(model, encoding.mean, draws, path, seed=seed),
        attributes=paths.added(model, encoding.mean, seed=seed),
        twins=paths.twins(model, seed=seed),
    )


def inspect(
    model: TextEBM, data: Dataset | Sequence[str], *, limit: int | None = 3000, seed: int = 0, umap: bool = False
) -> Inspection:
    """What `textebm report` shows of these sentences, as typed values; ``.frames()`` gives pandas tables.

    data: texts, or a data set with a column ``text`` and label columns (ClassLabel).

    limit: at most so many sentences, a seeded choice; None for all. Raises CorpusError where there is no sentence.
    """
    dataset = data if isinstance(data, Dataset) else Dataset.from_dict({"text": as_texts(data)})
    return inspect_rows(model, choose_rows(dataset, limit=limit, seed=seed), seed=seed, umap=umap)


def projection_of(
    model: TextEBM,
    rows: Rows,
    encoding: Encoding,
    *,
    samples: torch.Tensor | None = None,
    seed: int = 0,
    umap: bool = False,
    identity: str = "",
    stored: Projection | None = None,
) -> Projection:
    """The stored maps if they fit, else new ones; arguments as in `inspect`. samples: of the prior, if they are there
    already."""
    count = number_of_samples(rows)
    key = projection_key(identity, rows.texts, count, seed)
    known = stored if stored is not None and stored.key == key and _fits(stored, len(rows), count) else None
    if known is not None and not (umap and "umap" not in known.layouts):
        return known
    if samples is None:
        samples = model.sample_latents(count, seed=seed)
    return project(encoding.mean.numpy(), samples.numpy(), key=key, seed=seed, umap=umap, known=known)


def number_of_samples(rows: Rows) -> int:
    """Prior samples that are drawn beside so many sentences."""
    return min(MOST_SAMPLES, max(LEAST_SAMPLES, len(rows)))


def _fits(stored: Projection, n: int, samples: int) -> bool:
    sizes = {(len(each.points), len(each.samples)) for each in stored.layouts.values()}
    return sizes == {(n, samples)}


def _control(model: TextEBM, cards: Sequence[CodeCard], seed: int) -> Control:
    head = cards[0].head
    texts = [text for card in cards for text in card.generated]
    agreed = iter(paths.own_agreement(model, head, texts, [card.name for card in cards for _ in card.generated]))
    shares = []
    for card in cards:
        own = [next(agreed) for _ in card.generated]
        shares.append(sum(own) / len(own) if own else None)
    sweep = paths.strength_sweep(model, head, seed=seed) if 1 < len(cards) <= SWEEP_CLASSES else []
    return Control(head, tuple(shares), tuple(sweep))
