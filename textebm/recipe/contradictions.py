"""Options of a recipe that are fine alone but not together."""

from __future__ import annotations

from collections.abc import Iterator
from typing import NamedTuple

from textebm.errors import did_you_mean
from textebm.recipe.schema import LAYERS, Recipe, layer_sizes

# Label columns of the corpora that come with textebm (see text/corpora.py); files and hub name theirs in the recipe.
LABELS = {
    "grammar": ("sentiment", "topic", "tense"),
    "ptb": (),
    "dailydialog": ("act", "emotion"),
    "yelp": ("sentiment",),
    "agnews": ("topic",),
    "smd": ("domain", "speaker"),
}
CONTEXTS = ("dailydialog", "smd")  # corpora that come with the turns before each sentence; files and hub name a column


class Contradiction(NamedTuple):
    """A problem of *option*. *reads* are the options it was concluded from: if one of them is itself wrong, the
    conclusion is worth nothing and is not shown."""

    option: str
    reads: tuple[str, ...]
    message: str


def _problem(option: str, message: str, *reads: str) -> Contradiction:
    return Contradiction(option, reads, message)


def contradictions(recipe: Recipe) -> Iterator[Contradiction]:
    """Options of a schema-valid recipe that cannot stand together."""
    for check in (
        _data,
        _context,
        _heads,
        _networks,
        _pretrained,
        _layers,
        _decoder_layers,
        _bag_of_words,
        _implementations,
        _inference,
        _prior,
        _training,
    ):
        yield from check(recipe)


def _data(recipe: Recipe) -> Iterator[Contradiction]:
    data, tokenizer = recipe.data, recipe.tokenizer
    if data.corpus == "files" and not data.train:
        message = "is missing; corpus 'files' needs a txt, csv, tsv, jsonl or parquet file here"
        yield _problem("data.train", message, "data.corpus")
    if data.corpus == "hub" and not data.name:
        yield _problem("data.name", "is missing; corpus 'hub' needs the data set's name here", "data.corpus")
    if data.context_column and data.corpus in LABELS:
        message = f"is for corpora files and hub; {data.corpus!r} has its own columns: leave it out"
        yield _problem("data.context_column", message, "data.corpus")
    if data.group_column and data.corpus in LABELS:
        message = f"is for corpora files and hub; {data.corpus!r} has its own splits: leave it out"
        yield _problem("data.group_column", message, "data.corpus")
    if data.class_names and len(data.class_names) != len(data.label_columns):
        message = f"has {len(data.class_names)} lists for {len(data.label_columns)} label columns; give one for each"
        yield _problem("data.class_names", message, "data.label_columns")
    if tokenizer.kind == "pretrained" and (tokenizer.lowercase or tokenizer.html or tokenizer.punctuation != "keep"):
        message = "is pretrained and reads text in its own way; leave lowercase, html and punctuation out"
        yield _problem("tokenizer.kind", message, "tokenizer.lowercase", "tokenizer.html", "tokenizer.punctuation")
    named = tokenizer.name or recipe.decoder.pretrained or recipe.encoder.pretrained
    if tokenizer.kind == "pretrained" and not named:
        message = "is missing; kind 'pretrained' needs a directory or a Hub id here"
        yield _problem("tokenizer.name", message, "tokenizer.kind")


def _context(recipe: Recipe) -> Iterator[Contradiction]:
    """What needs the turns before each sentence."""
    data, turns = recipe.data, "data.context_turns"
    take = f"take {', '.join(CONTEXTS)}, or files or hub with data.context_column"
    if data.context_turns and data.corpus in LABELS and data.corpus not in CONTEXTS:
        message = f"corpus {data.corpus!r} has no turns before its sentences; set it to 0, or {take}"
        yield _problem(turns, message, "data.corpus")
    elif data.context_turns and data.corpus not in LABELS and not data.context_column:
        message = f"is missing; with context_turns {data.context_turns} it names the column of the turns before"
        yield _problem("data.context_column", message, turns, "data.corpus")
    dialogue = data.corpus in CONTEXTS or (data.corpus not in LABELS and data.context_column)
    for path, features in _features(recipe):
        if features == "answer" and not dialogue:
            message = f"'answer' needs the turns before each sentence; set it to latent, or {take}"
            yield _problem(path, message, "data.corpus", "data.context_column")
        if features in ("sentence", "mixed") and not (recipe.objective.sentence_encoder or recipe.encoder.pretrained):
            parts = recipe.objective.cluster_mix
            if features == "sentence" or not parts or any(part.startswith("sentence") for part in parts):
                message = f"is missing; features {features} need a transformers encoder here (directory or Hub id)"
                yield _problem("objective.sentence_encoder", message, path, "encoder.pretrained")
    if data.context_turns and recipe.inference.kind == "short_run":
        message = "a short run has no encoder to read the turns before in; set it to 0, or use amortized or refined"
        yield _problem(turns, message, "inference.kind")


def _features(recipe: Recipe) -> Iterator[tuple[str, str]]:
    """What codes are found in, and the option that says so."""
    yield "objective.cluster_features", recipe.objective.cluster_features
    for index, head in enumerate(recipe.heads):
        if head.features is not None:
            yield f"heads.{index}.features", head.features


def _heads(recipe: Recipe) -> Iterator[Contradiction]:
    first: dict[str, int] = {}
    for index, head in enumerate(recipe.heads):
        here = f"heads.{index}"
        either = (f"{here}.classes", f"{here}.labels", f"{here}.seeds")
        other = first.setdefault(head.name, index)
        if other != index:
            message = f"{head.name!r} is also the name of heads.{other}; rename one"
            yield _problem(f"{here}.name", message, f"heads.{other}.name")
        given = [name for name in ("classes", "labels", "seeds") if getattr(head, name) not in (None, ())]
        if len(given) != 1:
            message = "give one of classes (codes to be found), labels (a column) and seeds (phrases)"
            yield _problem(here, f"{message}, got {('none', '', 'two', 'three')[len(given)]}", *either)
        if head.features is not None and head.classes is None:
            yield _problem(f"{here}.features", "has no effect without classes; leave it out", *either)
        if head.label_limit is not None and head.labels is None:
            message = "needs labels; a head with classes has no labels to limit"
            yield _problem(f"{here}.label_limit", message, *either)
        if head.estimate_labels and head.labels is None:
            yield _problem(f"{here}.estimate_labels", "needs labels; a head with classes has none to fill in", *either)
        if head.labels is not None and (missing := _no_column(head.labels, recipe)):
            yield _problem(f"{here}.labels", missing, "data.corpus", "data.label_columns")


def _no_column(column: str, recipe: Recipe) -> str | None:
    """What is wrong with a head's label column, if the corpus does not have it."""
    corpus = recipe.data.corpus
    columns = LABELS.get(corpus, recipe.data.label_columns)
    if column in columns:
        return None
    hint = did_you_mean(column, columns)
    if corpus not in LABELS:
        return f"column {column!r} is not in data.label_columns{hint if columns else '; add it there'}"
    if columns:
        return f"corpus {corpus!r} has no label column {column!r}{hint}"
    return f"corpus {corpus!r} has no labels; give classes instead, or take another corpus"


def _networks(recipe: Recipe) -> Iterator[Contradiction]:
    for name, network in (("encoder", recipe.encoder), ("decoder", recipe.decoder)):
        size, heads = network.hidden_size, network.num_attention_heads
        if network.kind == "transformer" and size % heads:
            message = f"must be a multiple of num_attention_heads ({heads}), got {size}"
            yield _problem(f"{name}.hidden_size", message, f"{name}.kind", f"{name}.num_attention_heads")
    sizes = recipe.encoder.embedding_size, recipe.decoder.embedding_size
    own_sizes = recipe.inference.kind != "short_run" and not recipe.decoder.pretrained  # else `build_model` compares
    if recipe.encoder.tie_embedding and own_sizes and sizes[0] != sizes[1]:
        names = ("encoder.embedding_size", "decoder.embedding_size")
        message = f"needs {' and '.join(names)} to be the same, got {sizes[0]} and {sizes[1]}"
        yield _problem("encoder.tie_embedding", message, *names)


def _pretrained(recipe: Recipe) -> Iterator[Contradiction]:
    encoder, decoder, tokenizer = recipe.encoder, recipe.decoder, recipe.tokenizer
    if decoder.pretrained and (tokenizer.kind != "pretrained" or tokenizer.name not in (None, decoder.pretrained)):
        message = "writes in its own tokens; set tokenizer.kind=pretrained and tokenizer.name=null"
        yield _problem("decoder.pretrained", message, "tokenizer.kind", "tokenizer.name")
    idle = [
        ("encoder", "tune", not encoder.pretrained and encoder.tune != "lora"),
        ("encoder", "layer", not encoder.pretrained and encoder.layer != (-1,)),
        ("decoder", "tune", not decoder.pretrained and decoder.tune != "lora"),
    ]
    for name, option, given in idle:
        if given:
            message = f"has no effect without {name}.pretrained; leave it out"
            yield _problem(f"{name}.{option}", message, f"{name}.pretrained")
    if encoder.pretrained and encoder.tie_embedding:
        message = "the encoder reads by encoder.pretrained, not in an embedding; set it to false"
        yield _problem("encoder.tie_embedding", message, "encoder.pretrained")
    if encoder.pretrained and recipe.inference.kind == "short_run":
        message = "inference.kind 'short_run' has no encoder; leave it out"
        yield _problem("encoder.pretrained", message, "inference.kind")
    if encoder.pooling and not encoder.pretrained:
        message = "pools the states of encoder.pretrained; name one, or set it to null"
        yield _problem("encoder.pooling", message, "encoder.pretrained")
    if encoder.pooling and recipe.latent.segments > 1:
        message = "gives one vector, where latent.segments reads several places; set it to null"
        yield _problem("encoder.pooling", message, "latent.segments")
    for option in ("ladder", "skip"):
        if decoder.pretrained and getattr(decoder, option):
            message = "needs a recurrent decoder; a pretrained one reads the latent in every layer: set it to false"
            yield _problem(f"decoder.{option}", message, "decoder.pretrained")
    if recipe.data.detokenize and tokenizer.kind != "pretrained":
        message = "the networks trained here know no other English than the corpus; set it to false"
        yield _problem("data.detokenize", message, "tokenizer.kind")
    if recipe.data.detokenize and recipe.data.corpus == "ptb":
        message = "ptb has no signs to set and N for its numbers; set it to false"
        yield _problem("data.detokenize", message, "data.corpus")


def _layers(recipe: Recipe) -> Iterator[Contradiction]:
    latent, kind = recipe.latent, recipe.prior.kind
    dim, layers, kinds = "latent.dim", "latent.layers", "prior.kind"
    count = len(latent.layers) or LAYERS.get(kind, 1)
    if latent.layers and sum(latent.layers) != latent.dim:
        total = f"{' + '.join(map(str, latent.layers))} = {sum(latent.layers)}"
        yield _problem(layers, f"must sum to latent.dim ({latent.dim}), got {total}", dim)
    elif not latent.layers and latent.dim < count:
        message = f"kind {kind!r} has {count} layers, so it must be at least {count}, got {latent.dim}"
        yield _problem(dim, message, layers, kinds)
    sizes = layer_sizes(latent.layers, latent.dim, kind)
    if any(size % latent.segments for size in sizes):
        several = f"each of latent.layers ({', '.join(map(str, sizes))})"
        message = f"must divide {several if count > 1 else f'latent.dim ({latent.dim})'}, got {latent.segments}"
        yield _problem("latent.segments", message, dim, *((layers, kinds) if count > 1 else ()))
    for index, head in enumerate(recipe.heads):
        if head.layer is not None and kind not in LAYERS:
            message = f"kind {kind!r} has one potential for all layers; set it to null, or use {' or '.join(LAYERS)}"
            yield _problem(f"heads.{index}.layer", message, kinds)
        elif head.layer is not None and head.layer > count:
            message = f"must be at most {count}, the number of the latent's layers, got {head.layer}"
            yield _problem(f"heads.{index}.layer", message, layers, kinds)
    if recipe.prior.transport == "ladder" and count == 1:
        message = "a ladder needs several layers; give latent.layers, such as [16, 16], or set it to null"
        yield _problem("prior.transport", message, layers, kinds)


def _decoder_layers(recipe: Recipe) -> Iterator[Contradiction]:
    decoder, count = recipe.decoder, len(recipe.latent.layers) or LAYERS.get(recipe.prior.kind, 1)
    if decoder.ladder and decoder.kind == "transformer":
        message = "needs decoder.kind gru or lstm; a transformer reads the whole latent at every block"
        yield _problem("decoder.ladder", message, "decoder.kind")
    if decoder.skip and decoder.kind == "transformer":
        message = "needs decoder.kind gru or lstm; a transformer adds the latent to what every block passes on"
        yield _problem("decoder.skip", message, "decoder.kind")
    if decoder.ladder and (count == 1 or decoder.num_layers == 1):
        message = (
            f"needs several latent.layers and decoder.num_layers, got {count} and {decoder.num_layers}: "
            "with one of either the whole latent enters the one layer anyway"
        )
        yield _problem("decoder.ladder", message, "latent.layers", "prior.kind", "decoder.num_layers")


def _implementations(recipe: Recipe) -> Iterator[Contradiction]:
    """What a class of the user's own stands in place of."""
    for name, network in (("encoder", recipe.encoder), ("decoder", recipe.decoder)):
        if network.implementation and network.pretrained:
            message = f"stands in place of the network that {name}.pretrained names; leave one out"
            yield _problem(f"{name}.implementation", message, f"{name}.pretrained")
    if recipe.encoder.implementation and recipe.data.context_turns:
        message = "an encoder of your own has no embedding to read the turns before in; set data.context_turns to 0"
        yield _problem("encoder.implementation", message, "data.context_turns")
    if recipe.encoder.implementation and recipe.encoder.tie_embedding:
        yield _problem(
            "encoder.tie_embedding", "an encoder of your own has its own; set it to false", "encoder.implementation"
        )
    if recipe.encoder.implementation and recipe.inference.kind == "short_run":
        message = "inference.kind 'short_run' has no encoder; leave it out"
        yield _problem("encoder.implementation", message, "inference.kind")


def _bag_of_words(recipe: Recipe) -> Iterator[Contradiction]:
    """What needs the order of words, or none of it."""
    encoder, decoder = recipe.encoder, recipe.decoder
    if encoder.kind == "bag_of_words" and encoder.pretrained:
        message = "a bag of words has an embedding of its own; set encoder.kind=gru, or leave it out"
        yield _problem("encoder.pretrained", message, "encoder.kind")
    if decoder.kind == "bag_of_words":
        for option in ("ladder", "skip"):
            if getattr(decoder, option):
                yield _problem(f"decoder.{option}", "needs decoder.kind gru or lstm; set it to false", "decoder.kind")
    if encoder.kind == "whole_words":
        wrong = {
            "encoder.pretrained": encoder.pretrained,
            "encoder.tie_embedding": encoder.tie_embedding,
            "data.context_turns": recipe.data.context_turns,
            "latent.segments": recipe.latent.segments > 1,
            "prior.kind": recipe.prior.kind in LAYERS,
        }
        for name in (name for name, value in wrong.items() if value):
            yield _problem(name, "does not go with encoder.kind whole_words; set encoder.kind=gru", "encoder.kind")
    elif recipe.latent.segments > 1 and "bag_of_words" in (encoder.kind, decoder.kind):
        message = f"a bag of words has no stretches; set it to 1, got {recipe.latent.segments}"
        yield _problem("latent.segments", message, "encoder.kind", "decoder.kind")


def _inference(recipe: Recipe) -> Iterator[Contradiction]:
    inference, kind = recipe.inference, "inference.kind"
    read = {"amortized": (), "refined": ("steps", "step_size", "elbo_weight"), "short_run": ("steps", "step_size")}
    for name in read["refined"]:
        if getattr(inference, name) is not None and name not in read[inference.kind]:
            others = " or ".join(other for other, names in read.items() if name in names)
            message = f"has no effect with kind {inference.kind!r}; set it to null, or use kind: {others}"
            yield _problem(f"inference.{name}", message, kind)
    if inference.kind == "short_run" and recipe.objective.contrastive_weight > 0:
        message = "views are read off an encoder, and inference.kind 'short_run' has none; set it to 0"
        yield _problem("objective.contrastive_weight", message, kind)
    if inference.kind != "amortized" and all(stage.name == "prior" for stage in recipe.training.stages):
        message = f"kind {inference.kind!r} is how text stages train: add an autoencoder or joint stage"
        yield _problem(kind, message, "training.stages")


def _prior(recipe: Recipe) -> Iterator[Contradiction]:
    prior = recipe.prior
    several = {"energy": "diffusion_energy", "joint_energy": "hierarchical_diffusion_energy"}
    if prior.kind in several and prior.num_levels not in (None, 1):
        change = f"set it to null, or use kind: {several[prior.kind]}"
        message = f"kind {prior.kind!r} has one level, got {prior.num_levels}; {change}"
        yield _problem("prior.num_levels", message, "prior.kind")
    if prior.log_snr_max <= prior.log_snr_min:
        message = f"must be greater than log_snr_min ({prior.log_snr_min:g}), got {prior.log_snr_max:g}"
        yield _problem("prior.log_snr_max", message, "prior.log_snr_min")


def _training(recipe: Recipe) -> Iterator[Contradiction]:
    for index, stage in enumerate(recipe.training.stages):
        here = f"training.stages.{index}"
        if (stage.epochs is None) == (stage.steps is None):
            came = "neither" if stage.epochs is None else "both (set one to null)"
            yield _problem(here, f"give either epochs or steps, got {came}", f"{here}.epochs", f"{here}.steps")
        if stage.name == "prior" and recipe.prior.kind == "gaussian" and not recipe.heads:
            message = "a gaussian prior without heads has nothing to learn: leave the stage out, or add a head"
            yield _problem(here, message, "prior.kind", "heads")
