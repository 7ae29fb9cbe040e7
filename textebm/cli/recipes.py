"""Commands about recipes: list, show, copy, new, validate, options."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from textebm.cli.shared import JsonOption, emit, print_rows, stdout_kept_clean
from textebm.errors import RecipeError, did_you_mean

app = typer.Typer(no_args_is_help=True, help="List, show, copy and check recipes.")
NameArgument = Annotated[str, typer.Argument(metavar="NAME", help="A shipped recipe's name.")]


@app.command("list", epilog="Example: textebm recipes list")
def list_(as_json: JsonOption = False) -> None:
    """List the shipped recipes."""
    from textebm.recipe.read import list_recipes

    found = list_recipes()
    if as_json:
        emit([{"name": each.name, "description": each.description, "path": str(each.path)} for each in found], indent=2)
    else:
        print_rows(("recipe", "description"), [(each.name, each.description) for each in found])


@app.command(epilog="Example: textebm recipes show ptb --resolved")
def show(
    name: NameArgument,
    resolved: Annotated[
        bool, typer.Option("--resolved", help="With every default and what it extends filled in.")
    ] = False,
    as_json: JsonOption = False,
) -> None:
    """Print a shipped recipe."""
    from textebm.recipe.read import dump_recipe, load_recipe, recipe_path, recipe_text

    if as_json:
        emit(load_recipe(recipe_path(name)).model_dump(mode="json"), indent=2)
    else:
        print((dump_recipe(load_recipe(recipe_path(name))) if resolved else recipe_text(name)).rstrip("\n"))


@app.command(epilog="Example: textebm recipes copy yelp my-yelp.yaml")
def copy(
    name: NameArgument,
    to: Annotated[Path | None, typer.Argument(metavar="FILE", help="NAME.yaml unless given.")] = None,
) -> None:
    """Copy a shipped recipe to a file of your own, to be changed."""
    from textebm.recipe.read import recipe_text

    print(f"{_write(recipe_text(name), _target(name, to))}\nChange it, then: textebm train {_target(name, to)}")


def _target(name: str, to: Path | None) -> Path:
    target = to or Path(f"{name}.yaml")
    return target / f"{name}.yaml" if target.is_dir() else target


def _write(text: str, target: Path) -> Path:
    try:
        with target.open("x", encoding="utf-8") as file:
            file.write(text)
    except FileExistsError:
        raise RecipeError(f"{str(target)!r} exists already; remove it, or name another file") from None
    except OSError as error:
        raise RecipeError(f"cannot write {str(target)!r}: {error.strerror}") from None
    return target


@app.command(epilog="Example: textebm recipes new --from reviews.csv --text review --label stars")
def new(
    source: Annotated[Path, typer.Option("--from", metavar="FILE", help="A txt, csv, tsv, jsonl or parquet file.")],
    to: Annotated[
        Path | None, typer.Argument(metavar="RECIPE", help="The file to write; else as FILE is called.")
    ] = None,
    text: Annotated[str, typer.Option("--text", metavar="COLUMN", help="The column with the sentence.")] = "text",
    label: Annotated[
        list[str] | None, typer.Option("--label", metavar="COLUMN", help="A column with a label; may be repeated.")
    ] = None,
    context: Annotated[
        str | None, typer.Option("--context", metavar="COLUMN", help="The turns before each sentence.")
    ] = None,
    group: Annotated[
        str | None, typer.Option("--group", metavar="COLUMN", help="Rows alike here stay in one split.")
    ] = None,
    measure: Annotated[bool, typer.Option(help="Time a few steps, for the estimate.")] = True,
) -> None:
    """Propose a recipe for a file of your own, with a reason for each choice and an estimate of time and memory."""
    import os

    target = _target(source.stem, to)
    if target.exists():
        raise RecipeError(f"{str(target)!r} exists already; remove it, or name another file")
    with stdout_kept_clean():
        from textebm.runs.propose import propose

        try:
            beside = os.path.relpath(source.resolve(), target.resolve().parent)
        except ValueError:  # on another drive
            beside = str(source.resolve())
        proposal = propose(
            source,
            text_column=text,
            label_columns=label or (),
            context_column=context,
            group_column=group,
            name=target.stem,
            written_as=beside if not beside.startswith("..") else str(source.resolve()),
            measure=measure,
        )
    print(f"{_write(proposal.text, target)}\nRead it, then: textebm train {target}")


@app.command(epilog="Example: textebm recipes validate my-yelp.yaml prior.kind=gaussian")
def validate(
    recipe: Annotated[str, typer.Argument(metavar="FILE", help="A YAML file, or a shipped recipe's name.")],
    overrides: Annotated[list[str] | None, typer.Argument(metavar="OPTION=VALUE", help="Checked with it.")] = None,
    as_json: JsonOption = False,
) -> None:
    """Check a recipe, and the files that it names; every problem is named at once."""
    from textebm.recipe.read import load_recipe

    checked = load_recipe(recipe, overrides or ())
    findings: list[str] = []
    if checked.data.corpus == "files":
        with stdout_kept_clean():
            from textebm.runs.files_of_recipe import check_files

            findings = check_files(checked)
    if as_json:
        emit({"valid": True, "recipe": checked.model_dump(mode="json"), "findings": findings}, indent=2)
        return
    heads = ", ".join(head.name for head in checked.heads) or "none"
    print(f"{recipe} is valid: {checked.name}; corpus {checked.data.corpus}, prior {checked.prior.kind}, heads {heads}")
    for finding in findings:
        print(f"note: {finding}")


@app.command(epilog="Example: textebm recipes options prior")
def options(
    section: Annotated[str | None, typer.Argument(metavar="SECTION", help="Only this section, such as prior.")] = None,
    markdown: Annotated[bool, typer.Option("--markdown", help="The reference page of all options.")] = False,
    as_json: JsonOption = False,
) -> None:
    """List every option of a recipe: its range, its default, what it does and when to touch it."""
    from textebm.recipe.options import describe, options_page

    if markdown:
        print(options_page(), end="")
        return

    found = describe()
    if section is not None:
        known = list(dict.fromkeys(each.name.partition(".")[0] for each in found))
        if section not in known:
            raise RecipeError(f"no section {section!r}{did_you_mean(section, known)}")
        found = [each for each in found if each.name.partition(".")[0] == section]
    if as_json:
        emit([each._asdict() for each in found], indent=2)
    else:
        print_rows(("option", "takes", "default", "what it does", "touch it when"), found)
