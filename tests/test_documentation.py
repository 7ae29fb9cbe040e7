"""What the documents promise about themselves: short where they must be, and no link that leads nowhere."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from textebm.text import grammar

ROOT = Path(__file__).resolve().parents[1]
PAGES = sorted(
    [ROOT / "README.md", ROOT / "CONTRIBUTING.md", *(ROOT / "docs").rglob("*.md"), *(ROOT / "recipes").glob("*.md")]
)
LINK = re.compile(r"\]\(([^)#\s]+)(?:#[^)]*)?\)")


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_every_link_leads_somewhere(page: Path) -> None:
    for target in LINK.findall(page.read_text(encoding="utf-8")):
        if "://" not in target and not target.startswith("mailto:"):
            assert (page.parent / target).exists(), f"{page.name}: {target}"


@pytest.mark.parametrize("name", ["README.md", "history.md"])
def test_every_anchor_of_the_results_leads_somewhere(name: str) -> None:
    """No menu holds these pages, so that mkdocs does not look at their links."""
    page = ROOT / "recipes" / name
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
