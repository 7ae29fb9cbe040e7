"""What can be wrong with a recipe, said in lines a person can act on.

``explain`` words what the schema refuses, ``contradictions`` finds options that are fine alone but not together.
"""

from __future__ import annotations

import types
from collections.abc import Iterator
from typing import Annotated, Any, Literal, NamedTuple, Union, get_args, get_origin

from pydantic import ValidationError
from pydantic_core import ErrorDetails

from textebm.errors import did_you_mean
from textebm.recipe.removed import removal
from textebm.recipe.schema import LAYERS, NAME_PATTERN, Part, Recipe, layer_sizes

Path = tuple[str | int, ...]

# Label columns of the corpora that come with textebm (see text/corpora.py); files and hub name theirs in the recipe.
LABELS = {
    "grammar": ("sentiment", "topic", "tense"),
    "ptb": (),
    "dailydialog": ("act", "emotion"),
    "yelp": ("sentiment",),
}
CONTEXTS = ("dailydialog",)  # corpora that come with the turns before each sentence; files and hub name a column
_KINDS = {int: "a whole number", float: "a number", bool: "true or false", str: "text"}
_LISTED = {int: "whole numbers", str: "text"}
_BOUNDS = {
    "greater_than_equal": ("ge", "at least"),
    "greater_than": ("gt", "greater than"),
    "less_than_equal": ("le", "at most"),
    "less_than": ("lt", "less than"),
}


# --- the schema, seen as a tree ---------------------------------------------------------------------------------------


def without_none(annotation: Any) -> Any:
    """``int`` of ``int | None``."""
    if get_origin(annotation) in (Union, types.UnionType):
        rest = [each for each in get_args(annotation) if each is not type(None)]
        return rest[0] if len(rest) == 1 else annotation
    return annotation


def section_of(annotation: Any) -> type[Part] | None:
    """The section class of an annotation, or None where it is a plain option."""
    kind = without_none(annotation)
    return kind if isinstance(kind, type) and issubclass(kind, Part) else None


def item_of(annotation: Any) -> Any:
    """``X`` of ``tuple[X, ...]`` (also of ``tuple[Annotated[X, …], ...]``), else None."""
    kind = without_none(annotation)
    item = get_args(kind)[0] if get_origin(kind) is tuple else None
    return get_args(item)[0] if get_origin(item) is Annotated else item


def annotation_at(path: Path) -> Any:
    """The annotation of the option at *path*; None when the schema has no such place."""
    kind: Any = Recipe
    for key in path:
        if isinstance(key, int):
            kind = item_of(kind)
        else:
            section = section_of(kind)
            field = section.model_fields.get(key) if section else None
            kind = field.annotation if field else None
        if kind is None:
            return None
    return kind


def option_paths(section: type[Part] = Recipe, prefix: str = "") -> Iterator[tuple[str, Any]]:
    """(dotted path, pydantic field) of every option below *section*; items of a list are written ``heads.0.name``."""
    for name, field in section.model_fields.items():
        item = item_of(field.annotation)
        inner = section_of(field.annotation) or section_of(item)
        if inner is None:
            yield prefix + name, field
        else:
            yield from option_paths(inner, f"{prefix}{name}." + ("0." if item else ""))


def kind_in_words(annotation: Any) -> str:
    """What an option takes, for people: ``a whole number or null``."""
    kind = without_none(annotation)
    if section_of(kind):
        words = "a section (option: value)"
    elif item := item_of(kind):
        words = "a list" if section_of(item) else f"a list of {_LISTED.get(item, item)}"
    elif get_origin(kind) is Literal:
        words = " | ".join(str(choice) for choice in get_args(kind))
    else:
        words = _KINDS.get(kind, str(kind))
    return words if kind is annotation else f"{words} or null"


# --- what the schema refuses ------------------------------------------------------------------------------------------


def dotted(path: Path) -> str:
    return ".".join(str(key) for key in path)


def _shown(value: Any) -> str:
    """A value as an error message quotes it: short, with its kind."""
    if value is None:
        return "null"
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, str):
        return f"text {value if len(value) <= 40 else value[:40] + '…'!r}"
    if isinstance(value, dict):
        return "a section"
    if isinstance(value, list | tuple):
        return "a list"
    return str(value)[:40]


def _unknown(path: Path) -> str:
    """The option does not exist; where is one of that name, or of nearly that name?"""
    if message := removal(path):
        return message
    *parent, name = path
    section = section_of(annotation_at(tuple(parent)))
    known = section.model_fields if section else ()
    elsewhere = [option for option, _ in option_paths() if option.rpartition(".")[2] == name]
    if elsewhere and len(elsewhere) <= 3:
        return f"unknown option; did you mean {' or '.join(map(repr, elsewhere))}? Known: {', '.join(sorted(known))}"
    return f"unknown option{did_you_mean(str(name), known)}"


def _line(error: ErrorDetails) -> str:
    """One pydantic error as a line: what was expected, what came."""
    path, kind, value, context = error["loc"], error["type"], error["input"], error.get("ctx", {})
    annotation = annotation_at(path)
    came = f"got {_shown(value)}"
    if kind == "extra_forbidden":
        return _unknown(path)
    if kind == "missing":
        return f"is missing; expected {kind_in_words(annotation)}"
    if kind == "literal_error":
        choices = [str(choice) for choice in get_args(without_none(annotation))]
        if isinstance(value, str):
            return f"unknown value {value[:40]!r}{did_you_mean(value, choices)}"
        return f"expected one of {', '.join(choices)}; {came}"
    if kind in _BOUNDS:
        key, words = _BOUNDS[kind]
        return f"must be {words} {context[key]:g}, {came}"
    if kind == "finite_number":
        return f"must be a finite number, {came}"
    if kind == "too_short":
        return f"needs at least {context['min_length']} item(s), got {context['actual_length']}"
    if kind == "string_pattern_mismatch" and context.get("pattern") == NAME_PATTERN:
        return f"must be a plain name (letters, digits, '_', '-' and '.', starting with a letter or digit), {came}"
    if annotation is not None and kind.endswith(("_type", "_parsing", "_from_float", "_size")):
        hint = ""
        if without_none(annotation) is str and isinstance(value, int | float):
            hint = "; put it in quotes"
        elif item_of(annotation) is str and isinstance(value, str):
            hint = f"; write [{value[:40]}]"
        return f"expected {kind_in_words(annotation)}, {came}{hint}"
    return f"{error['msg'][:1].lower()}{error['msg'][1:]}, {came}"


def explain(error: ValidationError) -> list[str]:
    """A line for each thing that the schema refuses."""
    return [f"{dotted(each['loc']) or 'recipe'}: {_line(each)}" for each in error.errors(include_url=False)]


# --- what does not go together ----------------------------------------------------------------------------------------


class Contradiction(NamedTuple):
    """A problem between options. *reads* are the options it was concluded from: if one of them is itself wrong, the
    conclusion is worth nothing and is not shown."""

    path: Path
    reads: tuple[Path, ...]
    message: str


def contradictions(recipe: Recipe) -> Iterator[Contradiction]:
    """Options of a schema-valid recipe that cannot stand together."""
    yield from _data(recipe)
    yield from _heads(recipe)
    yield from _networks(recipe)
    yield from _pretrained(recipe)
    yield from _layers(recipe)
    yield from _inference(recipe)
    yield from _prior(recipe)
    yield from _training(recipe)


def _data(recipe: Recipe) -> Iterator[Contradiction]:
    data, tokenizer = recipe.data, recipe.tokenizer
    if data.corpus == "files" and not data.train:
        message = "is missing; corpus 'files' needs a txt, csv, tsv, jsonl or parquet file here"
        yield Contradiction(("data", "train"), (("data", "corpus"),), message)
    if data.corpus == "hub" and not data.name:
        message = "is missing; corpus 'hub' needs the data set's name here"
        yield Contradiction(("data", "name"), (("data", "corpus"),), message)
    turns, corpus, column = ("data", "context_turns"), ("data", "corpus"), ("data", "context_column")
    if data.context_turns and data.corpus in LABELS and data.corpus not in CONTEXTS:
        message = (
            f"corpus {data.corpus!r} has no turns before its sentences; set it to 0, or take {', '.join(CONTEXTS)}, "
            "or files or hub with data.context_column"
        )
        yield Contradiction(turns, (turns, corpus), message)
    elif data.context_turns and data.corpus not in LABELS and not data.context_column:
        message = f"is missing; with context_turns {data.context_turns} it names the column of the turns before"
        yield Contradiction(column, (turns, corpus), message)
    features = ("objective", "cluster_features")
    dialogue = data.corpus in CONTEXTS or (data.corpus not in LABELS and data.context_column)
    if recipe.objective.cluster_features == "answer" and not dialogue:
        message = (
            f"'answer' needs the turns before each sentence; set it to latent, or take {', '.join(CONTEXTS)}, "
            "or files or hub with data.context_column"
        )
        yield Contradiction(features, (features, corpus, column), message)
    inference = ("inference", "kind")
    if data.context_turns and recipe.inference.kind == "short_run":
        message = "a short run has no encoder to read the turns before in; set it to 0, or use amortized or refined"
        yield Contradiction(turns, (turns, inference), message)
    if data.context_column and data.corpus in LABELS:
        message = f"is for corpora files and hub; {data.corpus!r} has its own columns: leave it out"
        yield Contradiction(column, (column, corpus), message)
    if tokenizer.kind == "pretrained" and not tokenizer.name:
        message = "is missing; kind 'pretrained' needs a directory or a Hub id here"
        yield Contradiction(("tokenizer", "name"), (("tokenizer", "kind"),), message)


def _heads(recipe: Recipe) -> Iterator[Contradiction]:
    first: dict[str, int] = {}
    for index, head in enumerate(recipe.heads):
        here: Path = ("heads", index)
        classes, labels = (*here, "classes"), (*here, "labels")
        other = first.setdefault(head.name, index)
        if other != index:
            path, message = (*here, "name"), f"{head.name!r} is also the name of heads.{other}; rename one"
            yield Contradiction(path, (("heads", other, "name"),), message)
        if (head.classes is None) == (head.labels is None):
            came = "neither" if head.labels is None else "both"
            message = f"give either classes (codes to be found) or labels (a label column), got {came}"
            yield Contradiction(here, (classes, labels), message)
        if head.label_limit is not None and head.labels is None:
            message = "needs labels; a head with classes has no labels to limit"
            yield Contradiction((*here, "label_limit"), (classes, labels), message)
        if head.labels is not None and (missing := _no_column(head.labels, recipe)):
            yield Contradiction(labels, (("data", "corpus"), ("data", "label_columns")), missing)


def _no_column(column: str, recipe: Recipe) -> str | None:
    """What is wrong with a head's label column, given the corpus."""
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
            path: Path = (name, "hidden_size")
            reads = (path, (name, "kind"), (name, "num_attention_heads"))
            yield Contradiction(path, reads, f"must be a multiple of num_attention_heads ({heads}), got {size}")
    sizes = recipe.encoder.embedding_size, recipe.decoder.embedding_size
    own_sizes = recipe.inference.kind != "short_run" and not recipe.decoder.pretrained  # else `build_model` compares
    if recipe.encoder.tie_embedding and own_sizes and sizes[0] != sizes[1]:
        tied, own = ("encoder", "tie_embedding"), ("encoder", "embedding_size")
        message = (
            f"needs encoder.embedding_size and decoder.embedding_size to be the same, got {sizes[0]} and {sizes[1]}"
        )
        yield Contradiction(tied, (tied, own, ("decoder", "embedding_size")), message)


def _pretrained(recipe: Recipe) -> Iterator[Contradiction]:
    for name, network in (("encoder", recipe.encoder), ("decoder", recipe.decoder)):
        here: Path = (name, "pretrained")
        tokenizer, kind = ("tokenizer", "name"), ("tokenizer", "kind")
        if network.pretrained and (
            recipe.tokenizer.kind != "pretrained" or recipe.tokenizer.name != network.pretrained
        ):
            message = f"reads its own tokens; set tokenizer.kind=pretrained and tokenizer.name={network.pretrained}"
            yield Contradiction(here, (here, kind, tokenizer), message)
        if not network.pretrained and not network.tune:
            message = f"has no effect without {name}.pretrained; leave it out"
            yield Contradiction((name, "tune"), (here, (name, "tune")), message)
    own, tied, kind = ("encoder", "pretrained"), ("encoder", "tie_embedding"), ("inference", "kind")
    if recipe.encoder.pretrained and recipe.encoder.tie_embedding:
        message = "the encoder reads by encoder.pretrained, not in an embedding; set it to false"
        yield Contradiction(tied, (own, tied), message)
    if recipe.encoder.pretrained and recipe.inference.kind == "short_run":
        message = "inference.kind 'short_run' has no encoder; leave it out"
        yield Contradiction(own, (own, kind), message)
    for option in ("ladder", "skip"):
        path: Path = ("decoder", option)
        if recipe.decoder.pretrained and getattr(recipe.decoder, option):
            message = "needs a recurrent decoder; a pretrained one adds the latent to every word: set it to false"
            yield Contradiction(path, (path, ("decoder", "pretrained")), message)


def _layers(recipe: Recipe) -> Iterator[Contradiction]:
    latent, kind = recipe.latent, recipe.prior.kind
    dim, layers, kinds = ("latent", "dim"), ("latent", "layers"), ("prior", "kind")
    count = len(latent.layers) or LAYERS.get(kind, 1)
    if latent.layers and sum(latent.layers) != latent.dim:
        total = f"{' + '.join(map(str, latent.layers))} = {sum(latent.layers)}"
        yield Contradiction(layers, (dim, layers), f"must sum to latent.dim ({latent.dim}), got {total}")
    elif not latent.layers and latent.dim < count:
        message = f"kind {kind!r} has {count} layers, so it must be at least {count}, got {latent.dim}"
        yield Contradiction(dim, (dim, layers, kinds), message)
    segments = ("latent", "segments")
    sizes = layer_sizes(latent.layers, latent.dim, kind)
    if any(size % latent.segments for size in sizes):
        told = f"each of latent.layers ({', '.join(map(str, sizes))})" if count > 1 else f"latent.dim ({latent.dim})"
        reads = (segments, dim, layers, kinds) if count > 1 else (segments, dim)
        yield Contradiction(segments, reads, f"must divide {told}, got {latent.segments}")
    for index, head in enumerate(recipe.heads):
        here: Path = ("heads", index, "layer")
        if head.layer is not None and kind not in LAYERS:
            message = f"kind {kind!r} has one potential for all layers; set it to null, or use {' or '.join(LAYERS)}"
            yield Contradiction(here, (here, kinds), message)
        elif head.layer is not None and head.layer > count:
            message = f"must be at most {count}, the number of the latent's layers, got {head.layer}"
            yield Contradiction(here, (here, layers, kinds), message)
    transport = ("prior", "transport")
    if recipe.prior.transport == "ladder" and count == 1:
        message = "a ladder needs several layers; give latent.layers, such as [16, 16], or set it to null"
        yield Contradiction(transport, (transport, layers, kinds), message)
    ladder = ("decoder", "ladder")
    if recipe.decoder.ladder and recipe.decoder.kind == "transformer":
        message = "needs decoder.kind gru or lstm; a transformer reads the whole latent at every block"
        yield Contradiction(ladder, (ladder, ("decoder", "kind")), message)
    skip: Path = ("decoder", "skip")
    if recipe.decoder.skip and recipe.decoder.kind == "transformer":
        message = "needs decoder.kind gru or lstm; a transformer adds the latent to what every block passes on"
        yield Contradiction(skip, (skip, ("decoder", "kind")), message)
    if recipe.decoder.ladder and (count == 1 or recipe.decoder.num_layers == 1):
        message = (
            f"needs several latent.layers and decoder.num_layers, got {count} and {recipe.decoder.num_layers}: "
            "with one of either the whole latent enters the one layer anyway"
        )
        yield Contradiction(ladder, (ladder, layers, kinds, ("decoder", "num_layers")), message)


def _inference(recipe: Recipe) -> Iterator[Contradiction]:
    inference = recipe.inference
    kind: Path = ("inference", "kind")
    read = {"amortized": (), "refined": ("steps", "step_size", "elbo_weight"), "short_run": ("steps", "step_size")}
    for name in ("steps", "step_size", "elbo_weight"):
        if getattr(inference, name) is not None and name not in read[inference.kind]:
            others = " or ".join(other for other, names in read.items() if name in names)
            message = f"has no effect with kind {inference.kind!r}; set it to null, or use kind: {others}"
            yield Contradiction(("inference", name), (kind, ("inference", name)), message)
    if inference.kind == "short_run" and recipe.objective.contrastive_weight > 0:
        weight: Path = ("objective", "contrastive_weight")
        message = "views are read off an encoder, and inference.kind 'short_run' has none; set it to 0"
        yield Contradiction(weight, (kind, weight), message)
    if inference.kind != "amortized" and all(stage.name == "prior" for stage in recipe.training.stages):
        message = f"kind {inference.kind!r} is how text stages train: add an autoencoder or joint stage"
        yield Contradiction(kind, (kind, ("training", "stages")), message)


def _prior(recipe: Recipe) -> Iterator[Contradiction]:
    prior = recipe.prior
    kind, levels = ("prior", "kind"), ("prior", "num_levels")
    several = {"energy": "diffusion_energy", "joint_energy": "hierarchical_diffusion_energy"}
    if prior.kind in several and prior.num_levels not in (None, 1):
        message = (
            f"kind {prior.kind!r} has one level, got {prior.num_levels}; set it to null, "
            f"or use kind: {several[prior.kind]}"
        )
        yield Contradiction(levels, (kind, levels), message)
    high, low = ("prior", "log_snr_max"), ("prior", "log_snr_min")
    if prior.log_snr_max <= prior.log_snr_min:
        message = f"must be greater than log_snr_min ({prior.log_snr_min:g}), got {prior.log_snr_max:g}"
        yield Contradiction(high, (high, low), message)


def _training(recipe: Recipe) -> Iterator[Contradiction]:
    for index, stage in enumerate(recipe.training.stages):
        here: Path = ("training", "stages", index)
        epochs, steps = (*here, "epochs"), (*here, "steps")
        if (stage.epochs is None) == (stage.steps is None):
            came = "neither" if stage.epochs is None else "both (set one to null)"
            yield Contradiction(here, (epochs, steps), f"give either epochs or steps, got {came}")
        if stage.name == "prior" and recipe.prior.kind == "gaussian" and not recipe.heads:
            name, heads = (*here, "name"), ("heads",)
            message = "a gaussian prior without heads has nothing to learn: leave the stage out, or add a head"
            yield Contradiction(here, (name, ("prior", "kind"), heads), message)
