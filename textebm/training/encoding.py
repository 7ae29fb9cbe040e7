"""What a resting encoder says of the training sentences: on latents alone the prior is learned."""

from __future__ import annotations

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from textebm.model.inference import ShortRun
from textebm.model.latent_text_model import LatentTextModel
from textebm.model.objective import LatentBatch
from textebm.networks.posterior import Posterior
from textebm.text.batches import collate, special_ids
from textebm.training.data import Split

ROWS, TOKENS = 512, 10_000  # at most, of a batch


@torch.no_grad()
def encode(model: LatentTextModel, split: Split, rows: NDArray[np.int64], *, learned_prior: bool) -> LatentBatch:
    """Posteriors, contexts and views of the sentences *rows* (at least one), in their order, on the model's device.
    learned_prior: whether inference that asks the prior may. The model is left in evaluation mode."""
    model.eval()
    encoder, device, view_size = model.encoder, model.prior.rho.device, model.prior.energy.view_size
    lengths = split.store.lengths[rows]
    order = np.argsort(lengths, kind="stable")
    packed = torch.empty(len(rows), 2 * model.prior.dim, device=device)
    views = torch.empty(len(rows), view_size, device=device) if view_size else None
    posterior: Posterior | None = None
    contexts: Tensor | None = None
    ids = special_ids(model.tokenizer)
    start = 0
    while start < len(rows):
        chosen = order[start : start + ROWS]  # ascending: the last of these is the longest
        chosen = chosen[: max(1, TOKENS // (int(lengths[chosen[-1]]) + 2))]
        start += len(chosen)
        for store in (split.store, split.contexts):
            if store is not None:
                store.release()
        batch = collate(split.store, rows[chosen], {}, **ids, contexts=split.contexts).to(device)
        features, context = None, model.read_context(batch)
        if views is not None and not isinstance(encoder, ShortRun):
            features = encoder.features(batch.tokens, batch.lengths)
            views[chosen] = encoder.views(features)
        posterior = model.posterior(batch, learned_prior=learned_prior, features=features, context=context)
        packed[chosen] = posterior.packed
        if context is not None:
            contexts = context.new_empty(len(rows), context.shape[1]) if contexts is None else contexts
            contexts[chosen] = context
    assert posterior is not None  # a split has sentences
    return LatentBatch(posterior.unpacked(packed), {}, views, contexts)
