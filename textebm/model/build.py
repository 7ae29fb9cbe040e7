"""Recipe -> components: the only file that reads recipe values into constructors, and that asks for a kind."""

from __future__ import annotations

import logging
from collections.abc import Iterable, Mapping, Sequence
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, Any

from textebm.model import own
from textebm.model.bases import base_of, kept_of, locate, own_tokenizer, split_revision
from textebm.model.build_prior import VIEW_SIZE, build_prior
from textebm.model.inference import Refinement, ShortRun
from textebm.model.latent_text_model import Decoder, Encoder, LatentTextModel, SymbolHead
from textebm.networks.bag_of_words import BagOfWordsDecoder, BagOfWordsEncoder
from textebm.networks.decoder import RecurrentDecoder, TransformerDecoder
from textebm.networks.encoder import ContextEncoder, OwnEncoder, RecurrentEncoder, SentenceEncoder, TransformerEncoder
from textebm.networks.language_model import PretrainedDecoder
from textebm.networks.posterior import PosteriorHead, TopDownHead
from textebm.networks.pretrained import check_layers, load_encoder, load_language_model
from textebm.networks.reader import ContextualEmbedding, Reader, WidthMatched
from textebm.networks.view import ViewHead
from textebm.networks.whole_words import WholeWordsEncoder
from textebm.objective.contrastive import Contrastive
from textebm.objective.schedules import Weights, kl_weight
from textebm.recipe.schema import Data, Inference, Objective, Recipe, layer_sizes
from textebm.recipe.schema import Encoder as EncoderOptions
from textebm.text import tokenizer
from textebm.text.retokenize import Retokenizer
from textebm.text.tokenizer import pieces_of

if TYPE_CHECKING:
    from datasets import Dataset, DatasetDict
    from transformers import PreTrainedTokenizerFast

log = logging.getLogger(__name__)
CHECKED, LOST = 300, 0.03  # training sentences that a tokenizer is tried on, and the share that may be lost

# inference of each kind where the recipe leaves it open
INFERENCE_STEPS = {"refined": 5, "short_run": 10}
INFERENCE_STEP_SIZE = {"refined": 0.7, "short_run": 0.3}


def build_corpus(data: Data, *, data_dir: str | None = None, seed: int = 0) -> DatasetDict:
    """Splits train, validation, test. Raises CorpusError."""
    from textebm.text import corpora  # with the datasets library and pandas, which a model that is read does not need
    from textebm.text.leave_out import leave_out_class

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
    from textebm.text import corpora

    return corpora.load_judge_corpus(data.corpus, data_dir)


def build_tokenizer(recipe: Recipe, texts: Iterable[str]) -> PreTrainedTokenizerFast:
    options = recipe.tokenizer
    if options.kind == "pretrained":
        name = _tokenizer_name(recipe)
        made = tokenizer.load_pretrained(*split_revision(name), natural=recipe.data.detokenize)
        _check_tokenizer(made, list(islice(texts, CHECKED)), name)
        return made
    kind = options.kind or ("bpe" if recipe.data.corpus in ("files", "hub") else "word")
    train = {"word": tokenizer.train_word, "bpe": tokenizer.train_bpe}[kind]
    apart = options.punctuation == "apart"
    normalization = tokenizer.Normalization(options.lowercase, options.html, apart)
    return train(texts, options.vocabulary_size, normalization)


def _tokenizer_name(recipe: Recipe) -> str:
    """Whose tokenizer writes; a name of no network where it is trained here."""
    options = recipe.tokenizer
    named = options.name or recipe.decoder.pretrained or recipe.encoder.pretrained
    return str(named) if options.kind == "pretrained" else ""


def _check_tokenizer(made: PreTrainedTokenizerFast, texts: list[str], name: str) -> None:
    """Say what a tokenizer that writes cannot give back: no model can then write it."""
    lost = tokenizer.not_given_back(made, texts)
    if len(lost) > LOST * len(texts):
        text, spelt = lost[0]
        log.warning(
            "tokenizer %s gives %d of %d training sentences back otherwise, such as %r as %r: measures count that as "
            "errors; %s",
            *(name, len(lost), len(texts), text[:80], spelt[:80]),
            "data.detokenize=false keeps them"
            if made.init_kwargs["natural"]
            else "choose another tokenizer to write with (encoder.pretrained reads in its own)",
        )


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
    directory: Path | None = None,
) -> LatentTextModel:
    """The whole model, freshly initialised from torch's global random state.

    pretrained: what a saved model in *directory* keeps of the networks that `encoder.pretrained` and
    `decoder.pretrained` name (`textebm.model.bases`). Raises RecipeError where one cannot be had, or has changed.
    """
    layers = layer_sizes(recipe.latent.layers, recipe.latent.dim, recipe.prior.kind)
    width = recipe.encoder.context_size if recipe.data.context_turns else 0
    kept = pretrained or {}
    reader = _reader(recipe, tokenizer, kept.get("encoder"), directory) if recipe.encoder.pretrained else None
    encoder = _encoder(recipe, tokenizer, layers, width, reader)
    if recipe.decoder.pretrained:
        decoder: Decoder = _language_model(recipe, tokenizer, layers, width, kept.get("decoder"), directory)
    else:
        decoder = _decoder(recipe, tokenizer, layers, width)
    if recipe.encoder.tie_embedding and not isinstance(encoder, ShortRun):
        words, size = decoder.embedding, recipe.encoder.embedding_size
        encoder.embedding = words if words.embedding_dim == size else WidthMatched(words, size)
    return LatentTextModel(
        encoder,
        decoder,
        build_prior(recipe, layers, {name: len(head.classes) for name, head in heads.items()}, width),
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


def _encoder(
    recipe: Recipe, tokenizer: PreTrainedTokenizerFast, layers: Sequence[int], context_size: int, reader: Reader | None
) -> Encoder:
    latent, inference = recipe.latent, recipe.inference
    if inference.kind == "short_run":
        steps = inference.steps or INFERENCE_STEPS["short_run"]
        return ShortRun(latent.dim, steps, inference.step_size or INFERENCE_STEP_SIZE["short_run"])
    encoder: Encoder
    if name := recipe.encoder.implementation:
        sizes = own.sizes_of(recipe.encoder, len(tokenizer))
        encoder = OwnEncoder(own.own_network("encoder.implementation", name, sizes, own.ENCODER))
    elif reader is not None and reader.pooling:
        encoder = SentenceEncoder(reader)
    elif recipe.encoder.kind == "whole_words":
        encoder = WholeWordsEncoder(pieces_of(tokenizer), latent.dim, dropout=recipe.encoder.dropout)
    else:
        vocabulary_size = 0 if reader else len(tokenizer)
        encoder = _body(recipe.encoder, vocabulary_size, latent.segments, _no_words(tokenizer))
    if reader is not None and (context_size or not reader.pooling):
        encoder.embedding = ContextualEmbedding(reader, recipe.encoder.embedding_size)
    features = encoder.num_features + context_size
    options: dict[str, Any] = {
        "standardize": latent.standardize,
        "max_stddev": latent.max_stddev,
        "segments": latent.segments,
        "context": context_size,
    }
    encoder.head = (
        PosteriorHead(features, latent.dim, **options, direct=isinstance(encoder, WholeWordsEncoder))
        if len(layers) == 1
        else TopDownHead(features, layers, **options)
    )
    if recipe.objective.contrastive_weight > 0:
        encoder.view = ViewHead(encoder.num_features, VIEW_SIZE)
    return encoder


def _context_encoder(recipe: Recipe) -> ContextEncoder:
    """A body like the encoder's, which reads in the encoder's embedding."""
    data = recipe.data
    return ContextEncoder(
        _body(recipe.encoder, 0), recipe.encoder.context_size, turns=data.context_turns, max_tokens=data.context_tokens
    )


def _no_words(tokenizer: PreTrainedTokenizerFast) -> list[int]:
    """The token ids that are no words of a text."""
    return [tokenizer.pad_token_id, tokenizer.bos_token_id, tokenizer.eos_token_id, tokenizer.unk_token_id]


def _body(
    options: EncoderOptions, vocabulary_size: int, segments: int = 1, special: Sequence[int] = ()
) -> RecurrentEncoder | TransformerEncoder | BagOfWordsEncoder:
    if options.kind == "bag_of_words":
        return BagOfWordsEncoder(
            vocabulary_size,
            options.embedding_size,
            options.hidden_size,
            special=special if vocabulary_size else (),
            num_layers=options.num_layers,
            dropout=options.dropout,
        )
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
    assert options.kind != "whole_words"  # it has no part in contexts
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


def _decoder(recipe: Recipe, tokenizer: PreTrainedTokenizerFast, layers: Sequence[int], context_size: int) -> Decoder:
    """A decoder of [z, c]: the context stands behind the latent, in a ladder with its lowest layer."""
    options, dim, segmented = recipe.decoder, recipe.latent.dim + context_size, tuple(layers)
    vocabulary_size = len(tokenizer)
    if name := options.implementation:
        sizes = {**own.sizes_of(options, vocabulary_size), "latent_dim": dim}
        decoder: Decoder = own.own_network("decoder.implementation", name, sizes, own.DECODER)
        return decoder
    if options.kind == "bag_of_words":
        end, special = tokenizer.eos_token_id, _no_words(tokenizer)
        return BagOfWordsDecoder(
            vocabulary_size, options.embedding_size, dim, end=end, special=special, dropout=options.dropout
        )
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


def _reader(
    recipe: Recipe, writer: PreTrainedTokenizerFast, kept: Mapping[str, Any] | None, directory: Path | None
) -> Reader:
    options, data = recipe.encoder, recipe.data
    option, name = "encoder.pretrained", str(options.pretrained)
    history = data.context_tokens if data.context_turns else 0
    positions, size, pad, retokenize = max(data.max_tokens, history) + 2, len(writer), writer.pad_token_id, None
    if name != _tokenizer_name(recipe):
        own = own_tokenizer(name, kept, directory, option)
        retokenize, size, pad = Retokenizer(writer, own, 2 * positions), len(own), own.pad_token_id or 0
    source, revision = locate(name, kept, directory, option)
    network = load_encoder(source, vocabulary_size=size, positions=positions, option=option, revision=revision)
    layers = check_layers(network, options.layer, source=source, option="encoder.layer")
    reader = Reader(
        network,
        pad=pad,
        tune=options.tune,
        rank=options.lora_rank,
        layer=layers,
        retokenize=retokenize,
        pooling=options.pooling,
    )
    reader.base = base_of(source, reader)
    return reader


def _language_model(
    recipe: Recipe,
    tokens: PreTrainedTokenizerFast,
    layers: Sequence[int],
    context_size: int,
    kept: Mapping[str, Any] | None,
    directory: Path | None,
) -> PretrainedDecoder:
    options, segments, option = recipe.decoder, recipe.latent.segments, "decoder.pretrained"
    source, revision = locate(str(options.pretrained), kept, directory, option)
    positions = recipe.data.max_tokens + 1 + segments
    network, head = load_language_model(
        source, vocabulary_size=len(tokens), positions=positions, option=option, revision=revision
    )
    decoder = PretrainedDecoder(
        network,
        head,
        recipe.latent.dim + context_size,
        bos=tokens.bos_token_id,
        first=tokenizer.first_token(tokens),
        tune=options.tune,
        rank=options.lora_rank,
        segments=segments,
        segmented=tuple(layers),
    )
    decoder.base = base_of(source, decoder)
    return decoder


def _contrastive(recipe: Recipe) -> Contrastive | None:
    objective = recipe.objective
    if objective.contrastive_weight == 0:
        return None
    return Contrastive(objective.contrastive_weight, objective.contrastive_temperature)


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
    heads = [
        {"name": h.name, "classes": list(h.classes), "column": h.column} | ({"shares": h.shares} if h.shares else {})
        for h in model.heads.values()
    ]
    full = bool(model.recipe and model.recipe["training"].get("save_full"))
    pretrained = kept_of(model, full=full)
    return {"recipe": model.recipe, "heads": heads, **({"pretrained": pretrained} if pretrained else {})}


def rebuild_model(
    config: Mapping[str, Any], tokenizer: PreTrainedTokenizerFast, directory: Path | None = None
) -> LatentTextModel:
    """The model of a `model_config`, without its own weights. directory: where it is saved."""
    heads = {
        h["name"]: SymbolHead(h["name"], tuple(h["classes"]), h["column"], tuple(h.get("shares", ())))
        for h in config["heads"]
    }
    return build_model(Recipe.model_validate(config["recipe"]), tokenizer, heads, config.get("pretrained"), directory)
