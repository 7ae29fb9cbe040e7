"""Commands whose result is sentences: generate, respond, reconstruct, interpolate, edit."""

from __future__ import annotations

import secrets
from collections.abc import Callable, Iterable
from typing import Annotated, Any

import typer

from textebm.cli.shared import (
    BeamsOption,
    DecodingOption,
    DeviceOption,
    JsonLinesOption,
    JsonOption,
    RefineOption,
    RunArgument,
    SeedOption,
    SentencesArgument,
    StrengthOption,
    SymbolOption,
    TemperatureOption,
    TextOption,
    TopKOption,
    TopPOption,
    as_read,
    batches,
    decoding_options,
    emit,
    given_sentences,
    load_model,
    note,
    parse_symbols,
    stdout_kept_clean,
)
from textebm.errors import TextEBMError


def generate(
    run: RunArgument,
    n: Annotated[int, typer.Option("-n", "--number", min=1, help="How many sentences.")] = 10,
    symbol: SymbolOption = None,
    strength: StrengthOption = None,
    like: Annotated[
        list[str] | None,
        typer.Option("--like", metavar="TEXT", help="An example that the sentences shall be like; may be repeated."),
    ] = None,
    like_strength: Annotated[
        float | None, typer.Option("--like-strength", min=0.0, help="How strongly; 1 is Bayes' rule.")
    ] = None,
    confidence: Annotated[
        float | None,
        typer.Option(
            "--confidence",
            help="Draw again (at most 8 times) what the encoder does not read as asked with this probability; with "
            "--strength auto the share of sentences that are read as asked.",
        ),
    ] = None,
    seed: Annotated[
        int | None, typer.Option("--seed", min=0, max=2**32 - 1, help="The same seed gives the same sentences.")
    ] = None,
    resample_from_layer: Annotated[
        int | None,
        typer.Option(
            "--resample-from-layer",
            min=1,
            metavar="L",
            help="All sentences share the latent layers above L (1 is the lowest); L and those below are drawn anew.",
        ),
    ] = None,
    decoding: DecodingOption = None,
    temperature: TemperatureOption = None,
    top_k: TopKOption = None,
    top_p: TopPOption = None,
    beams: BeamsOption = None,
    prompt: Annotated[str | None, typer.Option("--prompt", metavar="TEXT", help="How each sentence begins.")] = None,
    containing: Annotated[
        list[str] | None, typer.Option("--containing", metavar="WORD", help="A word that each has; may be repeated.")
    ] = None,
    without: Annotated[
        list[str] | None, typer.Option("--without", metavar="WORD", help="A word that is not written; may be repeated.")
    ] = None,
    length: Annotated[
        str | None, typer.Option("--length", metavar="LEAST-MOST", help="How many words, such as 5-9.")
    ] = None,
    device: DeviceOption = "cpu",
    as_json: JsonOption = False,
) -> None:
    """Write new sentences: freely, under chosen symbols, from a prompt, or like examples."""
    from textebm.use.wording import Wanted

    symbols = parse_symbols(symbol)
    options = decoding_options(decoding, temperature, top_k, top_p, beams)
    if strength is not None and not symbols:
        raise TextEBMError("--strength has no effect here; it needs --symbol HEAD=CLASS")
    if like_strength is not None and not like:
        raise TextEBMError("--like-strength has no effect here; it needs --like TEXT")
    if like:
        options.update(like=like, like_strength=like_strength)
    if confidence is not None:
        options["confidence"] = confidence
    if prompt is not None:
        options["prompt"] = prompt
    if containing:
        options["containing"] = containing
    if without:
        options["without"] = without
    if length is not None:
        options["length"] = _length(length)
    if resample_from_layer is not None:
        options["resample_from_layer"] = resample_from_layer
    model = load_model(run, device)
    told, seed = seed is not None, secrets.randbelow(2**32) if seed is None else seed
    with stdout_kept_clean():
        sentences = model.generate(n, symbols=symbols or None, strength=strength, seed=seed, **options)
    if not told:
        note(f"seed {seed}")
    if as_json:
        asked = {"symbols": symbols, "strength": strength, "seed": seed, **options}
        wanted = Wanted(prompt, tuple(containing or ()), tuple(without or ()), options.get("length"))
        unmet = {"unmet": [wanted.unmet(text) for text in sentences]} if wanted != Wanted() else {}
        emit({**asked, "sentences": sentences, **unmet}, indent=2)
    else:
        for sentence in sentences:
            print(sentence)


def _length(told: str) -> tuple[int, int]:
    least, _, most = told.partition("-")
    try:
        return int(least), int(most or least)
    except ValueError:
        raise TextEBMError(f"--length expects the fewest and the most words, such as 5-9; got {told!r}") from None


def infill(
    run: RunArgument,
    text: Annotated[str, typer.Argument(metavar="TEXT", help="With ___ where words are wanted.")],
    n: Annotated[int, typer.Option("-n", "--number", min=1, help="How many ways.")] = 3,
    symbol: SymbolOption = None,
    strength: Annotated[
        float | None, typer.Option("--strength", min=0, help="How strongly symbols steer; the recipe's unless given.")
    ] = None,
    seed: SeedOption = 0,
    device: DeviceOption = "cpu",
    as_json: JsonOption = False,
) -> None:
    """Fill the blanks of a sentence, freely or under chosen symbols; its own words stay."""
    symbols = parse_symbols(symbol)
    model = load_model(run, device)
    with stdout_kept_clean():
        sentences = model.infill(text, n, symbols=symbols or None, strength=strength, seed=seed)
    if as_json:
        emit({"text": text, "symbols": symbols, "seed": seed, "sentences": sentences}, indent=2)
    else:
        print("\n".join(sentences))


def respond(
    run: RunArgument,
    histories: Annotated[
        list[str] | None,
        typer.Argument(
            metavar="HISTORY|FILE|-",
            help="Turns with a tab or __eou__ between them; or one txt file of them; or - (as when none is given): "
            "stdin, one a line.",
        ),
    ] = None,
    n: Annotated[int, typer.Option("-n", "--number", min=1, help="How many answers to each.")] = 1,
    symbol: SymbolOption = None,
    strength: StrengthOption = None,
    seed: SeedOption = 0,
    decoding: DecodingOption = None,
    temperature: TemperatureOption = None,
    top_k: TopKOption = None,
    top_p: TopPOption = None,
    beams: BeamsOption = None,
    device: DeviceOption = "cpu",
    as_json: JsonLinesOption = False,
) -> None:
    """Answer dialogues, freely or under chosen symbols: N lines for each. An empty history begins one."""
    symbols = parse_symbols(symbol)
    options = decoding_options(decoding, temperature, top_k, top_p, beams)
    if strength is not None and not symbols:
        raise TextEBMError("--strength has no effect here; it needs --symbol HEAD=CLASS")
    model = load_model(run, device)
    if not model.reads_context:
        raise TextEBMError("this model reads no context: write with textebm generate, or train dailydialog-respond")
    for batch in batches(given_sentences(histories)):
        with stdout_kept_clean():
            answers = model.respond(batch, symbols=symbols or None, n=n, strength=strength, seed=seed, **options)
        for history, texts in zip(batch, answers, strict=True):
            if as_json:
                emit({"history": history, "symbols": symbols, "responses": texts})
            else:
                print("\n".join(texts))


def reconstruct(
    run: RunArgument,
    sentences: SentencesArgument = None,
    text: TextOption = "text",
    decoding: DecodingOption = None,
    beams: BeamsOption = None,
    seed: SeedOption = 0,
    refine: RefineOption = 0,
    device: DeviceOption = "cpu",
    as_json: JsonLinesOption = False,
) -> None:
    """Encode sentences and decode them again."""
    options = decoding_options(decoding, beams=beams)
    if refine:
        options["refine"] = refine
    model = load_model(run, device)
    lines = given_sentences(sentences, text)
    _rewrite(
        lines, lambda texts: model.reconstruct(as_read(model, texts), seed=seed, **options), "reconstruction", as_json
    )


def interpolate(
    run: RunArgument,
    a: Annotated[str, typer.Argument(metavar="A", help="The sentence to start from.")],
    b: Annotated[str, typer.Argument(metavar="B", help="The sentence to end at.")],
    steps: Annotated[int, typer.Option("--steps", min=2, help="Sentences on the way, both ends included.")] = 8,
    device: DeviceOption = "cpu",
    as_json: JsonOption = False,
) -> None:
    """Walk through the latent space from one sentence to another."""
    for name, text in (("A", a), ("B", b)):
        if not text.strip():
            raise TextEBMError(f"sentence {name} is empty")
    model = load_model(run, device)
    with stdout_kept_clean():
        first, last = as_read(model, [a, b])
        sentences = model.interpolate(first, last, steps=steps)
    if as_json:
        emit({"a": a, "b": b, "sentences": sentences}, indent=2)
    else:
        for sentence in sentences:
            print(sentence)


def edit(
    run: RunArgument,
    sentences: SentencesArgument = None,
    symbol: SymbolOption = None,
    keep: Annotated[
        float | None,
        typer.Option("--keep", min=0, help="Nats that a word replaced, inserted or deleted must gain; default 6."),
    ] = None,
    confidence: Annotated[
        float | None,
        typer.Option("--confidence", help="How surely the new sentence must be read as asked; default 0.99."),
    ] = None,
    level: Annotated[
        int | None,
        typer.Option(
            "--level", min=1, help="Write anew from the input's latent, diffused to this level: 1 little, higher more."
        ),
    ] = None,
    strength: Annotated[
        float | None, typer.Option("--strength", min=0, help="With --level: how strongly the symbols are asked for.")
    ] = None,
    text: TextOption = "text",
    seed: SeedOption = 0,
    device: DeviceOption = "cpu",
    as_json: JsonLinesOption = False,
) -> None:
    """Rewrite sentences towards chosen symbols: by the least change, or with --level anew."""
    symbols = parse_symbols(symbol)
    if not symbols:
        raise TextEBMError("nothing to edit towards: give --symbol HEAD=CLASS, such as --symbol sentiment=positive")
    model = load_model(run, device)
    _rewrite(
        given_sentences(sentences, text),
        lambda texts: model.edit(
            as_read(model, texts), symbols, keep=keep, confidence=confidence, level=level, strength=strength, seed=seed
        ),
        "edited",
        as_json,
    )


def _rewrite(lines: Iterable[str], rewrite: Callable[[list[str]], list[str]], name: str, as_json: bool) -> None:
    """One line out for each line in, batch by batch; an empty line stays empty and never reaches the model."""
    for batch in batches(lines):
        texts = [line for line in batch if line.strip()]
        with stdout_kept_clean():
            rewritten = iter(rewrite(texts) if texts else [])
        for line in batch:
            result = next(rewritten) if line.strip() else ""
            if as_json:
                emit({"text": line, name: result})
            else:
                print(result)


def register(app: Any) -> None:
    app.command(epilog="Example: textebm generate runs/quickstart -n 5 --symbol sentiment=positive")(generate)
    app.command(epilog="Example: textebm infill runs/yelp 'the ___ was great .' --symbol sentiment=positive")(infill)
    app.command(epilog="Example: textebm respond runs/dailydialog-respond 'where is it ?' --symbol act=inform -n 3")(
        respond
    )
    app.command(epilog="Example: textebm reconstruct runs/quickstart 'the soup was cold .'")(reconstruct)
    app.command(epilog="Example: textebm interpolate runs/yelp 'the food was great .' 'we will not return .'")(
        interpolate
    )
    app.command(epilog="Example: textebm edit runs/yelp reviews.txt --symbol sentiment=positive --keep 4")(edit)
