"""Recipe -> components: the only file that reads recipe values into constructors, and that asks for a kind."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import torch
from datasets import Dataset, DatasetDict
from transformers import PreTrainedTokenizerFast

from textebm.errors import RecipeError
from textebm.model.inference import Refinement, ShortRun
from textebm.model.latent_text_model import Decoder, Encoder, LatentTextModel, SymbolHead
from textebm.networks.decoder import RecurrentDecoder, TransformerDecoder
from textebm.networks.encoder import ContextEncoder, RecurrentEncoder, TransformerEncoder
from textebm.networks.energy import EnergyNet, LayeredEnergyNet
from textebm.networks.posterior import PosteriorHead, TopDownHead
from textebm.networks.pretrained import (
    ContextualEmbedding,
    PretrainedDecoder,
    Source,
    load_encoder,
    load_language_model,
    pretrained_parts,
)
from textebm.networks.view import ViewHead
from textebm.objective.contrastive import Contrastive
from textebm.objective.schedules import Weights, kl_weight
from textebm.prior.explicit import GaussianMixture, StandardNormal
from textebm.prior.noise import NoiseSchedule, log_snr_ladder, published_ladder
from textebm.prior.prior import ChainSettings, LatentPrior
from textebm.prior.transport import Identity, Ladder, Transport
from textebm.recipe.schema import LAYERS, Data, Inference, Objective, Recipe, layer_sizes
from textebm.recipe.schema import Encoder as EncoderOptions
from textebm.text import corpora, tokenizer
from textebm.text.leave_out import leave_out_class

# a prior of each kind where the recipe leaves it open
LEVELS = {
    "gaussian": 1,
    "gaussian_mixture": 1,
    "energy": 1,
    "diffusion_energy": 16,
    "joint_energy": 1,
    "hierarchical_diffusion_energy": 8,
}
STEPS = {
    "gaussian": 40,
    "gaussian_mixture": 40,
    "energy": 40,
    "diffusion_energy": 2,
    "joint_energy": 40,
    "hierarchical_diffusion_energy": 2,
}


# inference of each kind where the recipe leaves it open
INFERENCE_STEPS = {"refined": 5, "short_run": 10}
INFERENCE_STEP_SIZE = {"refined": 0.7, "short_run": 0.3}


def build_corpus(data: Data, *, data_dir: str | None = None, seed: int = 0) -> DatasetDict:
    """Splits train, validation, test. Raises CorpusError."""
    splits = corpora.load_corpus(
        data.corpus,
        data_dir=data_dir,
        size=data.size,
        seed=seed,
        train=data.train,
        validation=data.validation,
        test=data.test,
        name=data.name,
        text_column=data.text_column,
        label_columns=data.label_columns,
        class_names=data.class_names,
        context_column=data.context_column,
        group_column=data.group_column,
        limit=data.limit,
    )
    return leave_out_class(splits, data.leave_out) if data.leave_out else splits


def build_judge_corpus(data: Data, *, data_dir: str | None = None) -> Dataset | None:
    """Sentences that only the independent classifier sees, where the corpus has some."""
    return corpora.load_judge_corpus(data.corpus, data_dir)


def build_tokenizer(recipe: Recipe, texts: Iterable[str]) -> PreTrainedTokenizerFast:
    options = recipe.tokenizer
    if options.kind == "pretrained":
        return tokenizer.load_pretrained(str(options.name))
    kind = options.kind or ("bpe" if recipe.data.corpus in ("files", "hub") else "word")
    train = {"word": tokenizer.train_word, "bpe": tokenizer.train_bpe}[kind]
    apart = options.punctuation == "apart"
    normalization = tokenizer.Normalization(options.lowercase, options.html, apart)
    return train(texts, options.vocabulary_size, normalization)


def build_heads(recipe: Recipe, label_names: Mapping[str, Sequence[str]]) -> dict[str, SymbolHead]:
    """The symbol heads; label_names: the classes of each label column of the corpus."""
    heads = {}
    for head in recipe.heads:
        classes = [str(i) for i in range(head.classes or 0)] if head.labels is None else label_names[head.labels]
        heads[head.name] = SymbolHead(head.name, tuple(classes), head.labels)
    return heads


def build_model(
    recipe: Recipe,
    tokenizer: PreTrainedTokenizerFast,
    heads: dict[str, SymbolHead],
    pretrained: Mapping[str, Any] | None = None,
) -> LatentTextModel:
    """The whole model, freshly initialised from torch's global random state.

    pretrained: the configurations of `encoder.pretrained` and `decoder.pretrained`, which are then built without their
    weights. Raises RecipeError where one cannot be had.
    """
    layers = layer_sizes(recipe.latent.layers, recipe.latent.dim, recipe.prior.kind)
    width = recipe.encoder.context_size if recipe.data.context_turns else 0
    encoder = _encoder(recipe, len(tokenizer), layers, width)
    sources = pretrained or {"encoder": recipe.encoder.pretrained, "decoder": recipe.decoder.pretrained}
    if recipe.encoder.pretrained:
        _read_in_context(encoder, recipe, tokenizer, sources["encoder"])
    if recipe.decoder.pretrained:
        decoder: Decoder = _language_model(recipe, len(tokenizer), layers, width, sources["decoder"])
    else:
        decoder = _decoder(recipe, len(tokenizer), layers, width)
    if recipe.encoder.tie_embedding and not isinstance(encoder, ShortRun):
        encoder.embedding, size = decoder.embedding, decoder.embedding.embedding_dim
        if size != recipe.encoder.embedding_size:
            raise RecipeError(f"encoder.embedding_size: must be {size}, the width of the words of decoder.pretrained")
    return LatentTextModel(
        encoder,
        decoder,
        _prior(recipe, layers, heads, width),
        tokenizer,
        heads,
        max_tokens=recipe.data.max_tokens,
        word_dropout=recipe.decoder.word_dropout,
        encoder_word_dropout=recipe.encoder.word_dropout,
        learning=recipe.prior.learning,
        contrastive=_contrastive(recipe),
        refinement=_refinement(recipe.inference),
        recipe=recipe.model_dump(mode="json"),
        context_encoder=_context_encoder(recipe) if width else None,
    )


def _refinement(options: Inference) -> Refinement | None:
    if options.kind != "refined":
        return None
    weight = 1.0 if options.elbo_weight is None else options.elbo_weight
    return Refinement(
        options.steps or INFERENCE_STEPS["refined"], options.step_size or INFERENCE_STEP_SIZE["refined"], weight
    )


def _encoder(recipe: Recipe, vocabulary_size: int, layers: Sequence[int], context_size: int) -> Encoder:
    latent, inference = recipe.latent, recipe.inference
    if inference.kind == "short_run":
        steps = inference.steps or INFERENCE_STEPS["short_run"]
        return ShortRun(latent.dim, steps, inference.step_size or INFERENCE_STEP_SIZE["short_run"])
    encoder = _body(recipe.encoder, 0 if recipe.encoder.pretrained else vocabulary_size, latent.segments)
    features = encoder.num_features + context_size
    options: dict[str, Any] = {
        "standardize": latent.standardize,
        "max_stddev": latent.max_stddev,
        "segments": latent.segments,
        "context": context_size,
    }
    encoder.head = (
        PosteriorHead(features, latent.dim, **options) if len(layers) == 1 else TopDownHead(features, layers, **options)
    )
    if recipe.objective.contrastive_weight > 0:
        encoder.view = ViewHead(encoder.num_features, recipe.prior.view_size)
    return encoder


def _context_encoder(recipe: Recipe) -> ContextEncoder:
    """A body like the encoder's, which reads in the encoder's embedding."""
    data = recipe.data
    return ContextEncoder(
        _body(recipe.encoder, 0), recipe.encoder.context_size, turns=data.context_turns, max_tokens=data.context_tokens
    )


def _body(options: EncoderOptions, vocabulary_size: int, segments: int = 1) -> RecurrentEncoder | TransformerEncoder:
    if options.kind == "transformer":
        return TransformerEncoder(
            vocabulary_size,
            options.embedding_size,
            options.hidden_size,
            num_layers=options.num_layers,
            num_heads=options.num_attention_heads,
            dropout=options.dropout,
            segments=segments,
        )
    return RecurrentEncoder(
        options.kind,
        vocabulary_size,
        options.embedding_size,
        options.hidden_size,
        num_layers=options.num_layers,
        bidirectional=options.bidirectional,
        dropout=options.dropout,
        segments=segments,
    )


def _decoder(recipe: Recipe, vocabulary_size: int, layers: Sequence[int], context_size: int) -> Decoder:
    """A decoder of [z, c]: the context stands behind the latent, in a ladder with its lowest layer."""
    options, dim, segmented = recipe.decoder, recipe.latent.dim + context_size, tuple(layers)
    layers = (*layers[:-1], layers[-1] + context_size)
    if options.kind == "transformer":
        return TransformerDecoder(
            vocabulary_size,
            options.embedding_size,
            options.hidden_size,
            dim,
            num_layers=options.num_layers,
            num_heads=options.num_attention_heads,
            dropout=options.dropout,
            segments=recipe.latent.segments,
            segmented=segmented,
        )
    return RecurrentDecoder(
        options.kind,
        vocabulary_size,
        options.embedding_size,
        options.hidden_size,
        dim,
        num_layers=options.num_layers,
        dropout=options.dropout,
        latent_layers=layers if options.ladder else (),
        skip=options.skip,
        segments=recipe.latent.segments,
        segmented=segmented,
        num_heads=options.num_attention_heads,
    )


def _read_in_context(encoder: Encoder, recipe: Recipe, tokenizer: PreTrainedTokenizerFast, source: Source) -> None:
    """Give the encoder the words of `encoder.pretrained`."""
    history = recipe.data.context_tokens if recipe.data.context_turns else 0
    network = load_encoder(
        source,
        vocabulary_size=len(tokenizer),
        positions=max(recipe.data.max_tokens, history) + 2,
        option="encoder.pretrained",
    )
    encoder.embedding = ContextualEmbedding(
        network, recipe.encoder.embedding_size, pad=tokenizer.pad_token_id, tune=recipe.encoder.tune
    )


def _language_model(
    recipe: Recipe, vocabulary_size: int, layers: Sequence[int], context_size: int, source: Source
) -> PretrainedDecoder:
    segments = recipe.latent.segments
    network, head = load_language_model(
        source,
        vocabulary_size=vocabulary_size,
        positions=recipe.data.max_tokens + 1 + segments,
        option="decoder.pretrained",
    )
    return PretrainedDecoder(
        network,
        head,
        recipe.latent.dim + context_size,
        tune=recipe.decoder.tune,
        segments=segments,
        segmented=tuple(layers),
    )


def _contrastive(recipe: Recipe) -> Contrastive | None:
    objective = recipe.objective
    if objective.contrastive_weight == 0:
        return None
    return Contrastive(
        objective.contrastive_weight,
        objective.contrastive_temperature,
        objective.contrastive_word_dropout,
        objective.contrastive_negatives,
    )


def _prior(recipe: Recipe, layers: Sequence[int], heads: Mapping[str, SymbolHead], context_size: int) -> LatentPrior:
    options, dim = recipe.prior, sum(layers)
    view_size = options.view_size if recipe.objective.contrastive_weight > 0 else 0
    levels = options.num_levels or LEVELS[options.kind]
    ladder = (
        published_ladder(levels)
        if options.schedule == "published"
        else log_snr_ladder(levels, options.log_snr_max, options.log_snr_min)
    )
    explicit: StandardNormal | GaussianMixture | None = None
    if options.kind == "gaussian":
        explicit = StandardNormal()
    elif options.kind == "gaussian_mixture":
        explicit = GaussianMixture(options.components, dim)
    sizes = {name: len(head.classes) for name, head in heads.items()}
    energy: EnergyNet | LayeredEnergyNet
    if options.kind in LAYERS:
        places = {head.name: len(layers) - head.layer for head in recipe.heads if head.layer is not None}
        energy = LayeredEnergyNet(
            layers,
            levels,
            sizes,
            head_layers=places,
            hidden_size=options.hidden_size,
            num_blocks=options.num_blocks,
            spectral_norm=options.spectral_norm,
            view_size=view_size,
            context_size=context_size,
        )
    else:
        energy = EnergyNet(
            dim,
            levels,
            sizes,
            hidden_size=options.hidden_size,
            num_blocks=options.num_blocks,
            spectral_norm=options.spectral_norm,
            view_size=view_size,
            context_size=context_size,
        )
    chosen = options.transport or ("ladder" if options.kind in LAYERS else "identity")
    transport: Transport = Ladder(layers, options.hidden_size) if chosen == "ladder" else Identity()
    chain = ChainSettings(
        options.sampler,
        options.steps or STEPS[options.kind],
        options.step_size,
        options.acceptance,
        options.learning == "score_matching" if options.metropolis is None else options.metropolis,
        options.start,
        {"float32": torch.float32, "bf16": torch.bfloat16}[options.chain_precision],
    )
    return LatentPrior(
        dim,
        energy,
        NoiseSchedule(ladder, options.reference),
        transport=transport,
        layers=layers,
        explicit=explicit,
        chain=chain,
        symbol_levels=options.symbol_levels,
        strength=options.strength,
        potential_penalty=options.potential_penalty,
        encoder_gradient=options.encoder_gradient,
        like_strength=options.like_strength,
    )


def build_weights(objective: Objective, progress: float) -> Weights:
    """The terms' weights at *progress* (0 … 1) through a stage."""
    kl = kl_weight(
        objective.kl_schedule,
        progress,
        weight=objective.kl_weight,
        warmup=objective.kl_warmup,
        cycles=objective.kl_cycles,
    )
    return Weights(
        kl,
        objective.free_bits,
        objective.supervised_weight,
        objective.cluster_weight,
        objective.mutual_information_weight,
    )


def model_config(model: LatentTextModel) -> dict[str, Any]:
    """What `rebuild_model` needs beside the weights and the tokenizer."""
    heads = [{"name": h.name, "classes": list(h.classes), "column": h.column} for h in model.heads.values()]
    pretrained = {name.partition(".")[0]: part.settings for name, part in pretrained_parts(model)}
    return {"recipe": model.recipe, "heads": heads, **({"pretrained": pretrained} if pretrained else {})}


def rebuild_model(config: Mapping[str, Any], tokenizer: PreTrainedTokenizerFast) -> LatentTextModel:
    heads = {h["name"]: SymbolHead(h["name"], tuple(h["classes"]), h["column"]) for h in config["heads"]}
    return build_model(Recipe.model_validate(config["recipe"]), tokenizer, heads, config.get("pretrained"))
