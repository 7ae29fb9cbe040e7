"""What tells whether a run is well: a few numbers on a fixed validation sample, and named warnings."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch

from textebm.evaluation.latent import USED_NATS, codes_in_use, kl_per_unit, mutual_information_xz, mutual_information_zy
from textebm.model.latent_text_model import LatentTextModel
from textebm.model.objective import StageName
from textebm.prior.condition import Condition
from textebm.prior.sampling import sample as sample_prior
from textebm.text.batches import collate, special_ids
from textebm.training.data import Split

COLLAPSED = (
    0.02  # nats a word of reliance below which the decoder ignores the latent; a trained one relies on .1 and more
)


@dataclass(frozen=True)
class Health:
    """values: nats a sentence, reliance nats a word. warnings: "name: what was seen; what to change"."""

    values: dict[str, float]
    warnings: list[str]


@torch.no_grad()
def measure_health(model: LatentTextModel, split: Split, *, stage: StageName, sentences: int = 512) -> Health:
    """Reconstruction, KL to N(0, I) in all and of single units, I(x;z), I(z;y), codes in use, |F| and acceptance.

    reliance: how many nats a word the reconstruction loses when the latents of the sample are shuffled. A decoder that
    ignores z loses nothing: that, not a small KL, is posterior collapse, and standardised means cannot hide it.
    context_reliance: the same for the context that the decoder sees.
    """
    model.eval()
    generator = torch.Generator(model.device).manual_seed(0)
    n = min(sentences, len(split))
    rows = np.random.default_rng(0).permutation(len(split))[:n]  # a sentence's neighbour is any other one
    ids = special_ids(model.tokenizer)
    means, stddevs, nll, shuffled, kls, contexts, misplaced, words = [], [], [], [], [], [], [], 0
    for start in range(0, n, 128):
        chosen = rows[start : start + 128]
        batch = collate(split.store, chosen, {}, **ids, contexts=split.contexts).to(model.device)
        c = model.read_context(batch)
        posterior = model.posterior(batch, learned_prior=stage != "autoencoder", context=c)
        draw = posterior.draw(generator)
        words += len(batch.places)
        nll.append(model.reconstruction_nll(batch, draw.u, context=c))
        shuffled.append(model.reconstruction_nll(batch, draw.u.roll(1, 0), context=c))
        if c is not None:
            contexts.append(c)
            misplaced.append(model.reconstruction_nll(batch, draw.u, context=c.roll(1, 0)))
        kls.append(draw.given.kl_to_standard_normal().sum(-1))
        means.append(posterior.mean)
        stddevs.append(posterior.stddev)
    mean, stddev = torch.cat(means), torch.cat(stddevs)
    per_unit = kl_per_unit(mean.cpu(), stddev.cpu())
    values = {
        "reconstruction_nll": float(torch.cat(nll).mean()),
        "kl": float(torch.cat(kls).mean()),
        "kl_per_unit_used": float((per_unit > USED_NATS).sum()),
        "kl_per_unit_largest": float(per_unit.max()),
        "kl_per_unit_smallest": float(per_unit.min()),
        "mutual_information_xz": mutual_information_xz(mean.cpu(), stddev.cpu(), seed=0),
        "reliance": float((torch.cat(shuffled) - torch.cat(nll)).sum()) / words,
    }
    if contexts:
        values["context_reliance"] = float((torch.cat(misplaced) - torch.cat(nll)).sum()) / words
    condition = Condition(context=torch.cat(contexts) if contexts else None)
    logits = model.prior.symbol_logits(mean, context=condition.context)
    for name, head in model.heads.items():
        probabilities = logits[name].softmax(-1).cpu()
        if head.column is None:
            values["mutual_information_zy"] = mutual_information_zy(probabilities)
            values["codes_in_use"] = float(len(codes_in_use(probabilities.argmax(-1))))
        elif head.column in split.labels:
            truth = torch.from_numpy(split.labels[head.column][rows])
            known = truth >= 0
            if known.any():
                values[f"accuracy_{name}"] = float((probabilities.argmax(-1) == truth)[known].float().mean())
    if model.prior.num_levels > 0 and stage != "autoencoder":
        level = torch.zeros(n, dtype=torch.long, device=model.device)
        values["energy_magnitude"] = float(model.prior.potential(mean, level, condition).abs().mean())
        draws = min(128, n) if contexts else 128  # each in the context of a sentence
        sample = sample_prior(model.prior, draws, condition=condition.rows(slice(draws)), generator=generator)
        values["acceptance"] = float(sample.acceptance.nanmean())
        values["sample_stddev"] = float(sample.z.std(0).mean())
        values["posterior_stddev"] = float((mean.var(0) + stddev.square().mean(0)).sqrt().mean())
    return Health(values, _warnings(model, values, stage))


def _warnings(model: LatentTextModel, values: dict[str, float], stage: StageName) -> list[str]:
    found = []
    if values["reliance"] < COLLAPSED:
        found.append(
            f"posterior collapse: shuffling costs {values['reliance']:.3f} nats a word: the decoder ignores them; "
            "raise decoder.word_dropout, lower objective.kl_weight, or set latent.standardize=true"
        )
    if values["kl_per_unit_used"] < 0.25 * model.prior.dim:
        found.append(
            f"few active units: {values['kl_per_unit_used']:.0f} of {model.prior.dim}; raise objective.free_bits, "
            "lower objective.kl_weight, or set latent.standardize=true"
        )
    codes = [len(head.classes) for head in model.heads.values() if head.column is None]
    if codes and stage != "autoencoder" and values["codes_in_use"] < 0.25 * codes[-1]:
        found.append(
            f"code collapse: {values['codes_in_use']:.0f} of {codes[-1]} codes in use; raise objective.cluster_weight "
            "or objective.mutual_information_weight"
        )
    if values.get("energy_magnitude", 0.0) > 1000:
        found.append(
            f"energy divergence: |F| is {values['energy_magnitude']:.0f}; raise prior.potential_penalty, "
            "lower training.prior_learning_rate, or set prior.learning=score_matching"
        )
    if values.get("acceptance", 1.0) < 0.3:
        found.append(
            f"chain stuck: acceptance {values['acceptance']:.2f}; raise prior.acceptance or prior.steps, "
            "or use more levels (prior.num_levels)"
        )
    if "sample_stddev" in values and not 0.5 < values["sample_stddev"] / values["posterior_stddev"] < 1.6:
        found.append(
            f"prior off the posterior: samples have standard deviation {values['sample_stddev']:.2f}, posteriors "
            f"{values['posterior_stddev']:.2f}; train the prior longer or use more levels"
        )
    return found
