"""What the documents promise about themselves: short where they must be, and no link that leads nowhere."""

from __future__ import annotations

import ast
import re
import shlex
from dataclasses import fields
from pathlib import Path

import pytest
import typer.main

from textebm.cli import app
from textebm.text import grammar
from textebm.use.writing import Twin

ROOT = Path(__file__).resolve().parents[1]
PAGES = sorted([ROOT / "README.md", ROOT / "CONTRIBUTING.md", *(ROOT / "docs").rglob("*.md")])
RESULTS = sorted((ROOT / "recipes").glob("*.md"))
LINK = re.compile(r"\]\(([^)#\s]+)(?:#[^)]*)?\)")


@pytest.mark.parametrize("page", [*PAGES, *RESULTS], ids=lambda page: str(page.relative_to(ROOT)))
def test_every_link_leads_somewhere(page: Path) -> None:
    for target in LINK.findall(page.read_text(encoding="utf-8")):
        if "://" not in target and not target.startswith("mailto:"):
            assert (page.parent / target).exists(), f"{page.name}: {target}"


@pytest.mark.parametrize("page", RESULTS, ids=lambda page: page.stem)
def test_every_anchor_of_the_results_leads_somewhere(page: Path) -> None:
    """No menu holds these pages, so that mkdocs does not look at their links."""
    for target, anchor in re.findall(r"\]\(([^)#\s]*)#([^)\s]+)\)", page.read_text(encoding="utf-8")):
        text = ((page.parent / target) if target else page).read_text(encoding="utf-8")
        headings = re.findall(r"^#+ (.+)$", text, flags=re.MULTILINE)
        slugs = {re.sub(r"[^\w -]", "", heading.lower()).replace(" ", "-") for heading in headings}
        assert anchor in slugs, f"{target}#{anchor}"


def test_the_first_page_is_short() -> None:
    assert len((ROOT / "README.md").read_text(encoding="utf-8").split()) <= 900


def test_every_page_of_the_site_is_in_its_menu() -> None:
    menu = (ROOT / ".ci" / "mkdocs.yml").read_text(encoding="utf-8")
    missing = [page for page in PAGES if "docs" in page.parts and str(page.relative_to(ROOT / "docs")) not in menu]
    assert not missing


def test_the_sentences_of_the_first_page_are_in_the_embedded_grammar() -> None:
    """What a newcomer edits first is a sentence of the language that quickstart learns."""
    quoted = re.findall(r'\["([^"\]]+ \.)"\]', (ROOT / "README.md").read_text(encoding="utf-8"))
    assert quoted and all(grammar.parse(sentence) is not None for sentence in quoted)


def commands(page: Path) -> list[list[str]]:
    """The arguments of each textebm command that a page shows in a block of code, or in a line of text if it is long
    enough to be one."""
    text = page.read_text(encoding="utf-8")
    blocks = re.findall(r"```(?:sh|console|bash)\n(.*?)```", text, re.DOTALL) + re.findall(
        r"^    .+$", text, re.MULTILINE
    )
    lines = [line for block in blocks for line in block.replace("\\\n", " ").splitlines()]
    lines += re.findall(r"`(textebm [a-z]+ [^`]*?[A-Z.=/-][^`]*?)`", text.replace("\n", " "))
    shown = [part for line in lines for part in re.split(r" && | \| ", line.split(" # ")[0].removeprefix("$ ").strip())]
    chosen = [re.sub(r"^(?:\S*/)?textebm ", "", part) for part in shown if re.match(r"(?:\S*/)?textebm \S", part)]
    return [shlex.split(re.split(r" [<>] | …|;", part)[0], comments=True) for part in chosen]


ALL = [(page, arguments) for page in PAGES for arguments in commands(page)]


@pytest.mark.parametrize(
    ("page", "arguments"), ALL, ids=lambda each: each.stem if isinstance(each, Path) else " ".join(each)
)
def test_every_command_that_is_shown_is_one(page: Path, arguments: list[str]) -> None:
    """It is parsed, not run: its name, its options and how many arguments it takes are those of the program."""
    command, rest, name = typer.main.get_command(app), list(arguments), "textebm"
    while inner := getattr(command, "commands", None):
        if name == "codes" and rest[0] not in inner:  # `textebm codes RUN` is `textebm codes show RUN`
            rest = ["show", *rest]
        assert rest[0] in inner, f"{name} has no command {rest[0]}"
        name, *rest = rest
        command = inner[name]
    command.make_context(name, [each for each in rest if each != "--allow-code"])


def test_the_first_page_shows_what_is_printed() -> None:
    """Free sentences, sentences under symbols, an edit, twins and a number: as the calls above them give them."""
    page = (ROOT / "README.md").read_text(encoding="utf-8")
    (printed,) = re.findall(r"```text\n(.*?)```", page, re.DOTALL)
    free, asked, edited, twins, control = printed.strip().splitlines()
    for line in (free, asked, edited):
        sentences = [each for each in ast.literal_eval(line.replace("…", "")) if each]
        assert sentences and all(grammar.parse(sentence) is not None for sentence in sentences)
    for sentence in ast.literal_eval(asked.replace("…", "")):
        factors = grammar.parse(sentence)
        assert factors is not None and (factors["sentiment"], factors["tense"]) == ("positive", "past")
    names = [field.name for field in fields(Twin)]
    assert re.findall(r"(\w+)='", twins)[:2] == names[:2] and twins.startswith("[Twin(")
    assert all(grammar.parse(sentence) is not None for sentence in re.findall(r"='([^']+)'", twins))
    assert 0 <= float(control) <= 1
