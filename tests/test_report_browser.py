"""The page in use, in a headless browser: what is shown is compared with the data, and odd corpora are opened."""

from __future__ import annotations

import base64
import json
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from browser import Browser, started
from tiny import RECIPE, sentences, trained, untrained

from textebm.inspection.frames import Inspection
from textebm.inspection.measured import judged
from textebm.inspection.page import render
from textebm.inspection.page_data import RunFacts, page_data
from textebm.inspection.report import inspect_rows
from textebm.inspection.rows import LabelColumn, Rows, choose_rows
from textebm.text.grammar import corpus

FACTS = RunFacts("a run", "0", "test", {"train": 300})
CHINESE = ("我爱北京天安门。", "今天的天气很好！", "你好吗？", "这家餐厅的服务太差了。", "我们明天去看电影。")
ARABIC = ("مرحبا بالعالم .", "الطعام لذيذ جدا !", "كيف حالك اليوم ؟", "الخدمة سيئة ( للأسف ) .")
SHOWN = "new Promise(done => setTimeout(done, 220))"


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    yield from started()


def write(data: dict[str, Any], path: Path) -> Path:
    path.write_text(render(data, "a report"), encoding="utf-8")
    return path


def data_of(found: Inspection, recipe: dict[str, Any] | None = None) -> dict[str, Any]:
    return json.loads(json.dumps(page_data(found, FACTS, RECIPE if recipe is None else recipe)))


@pytest.fixture(scope="module")
def data() -> dict[str, Any]:
    return data_of(inspect_rows(trained(), choose_rows(corpus(300)["test"], limit=60)))


@pytest.fixture(scope="module")
def page(data: dict[str, Any], tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write(data, tmp_path_factory.mktemp("page") / "report.html")


def choose(browser: Browser, label: str, value: str) -> None:
    browser.js(
        "((label, value) => { const s = [...document.querySelectorAll('.field')].find(f => "
        "f.firstChild.textContent === label).querySelector('select'); s.value = value; "
        f"s.dispatchEvent(new Event('change')); }})({json.dumps(label)}, {json.dumps(value)})"
    )


def test_cards_are_sorted(browser: Browser, page: Path, data: dict[str, Any]) -> None:
    browser.open(page)
    cards = data["cards"]["code"]
    keys = {
        "size": lambda card: -card["size"],
        "name": lambda card: card["code"],
        "confidence": lambda card: -(-1 if card["confidence"] is None else card["confidence"]),
        "unsure": lambda card: 2 if card["confidence"] is None else card["confidence"],
        "lift": lambda card: -max([0, *(s["share"] * np.log(s["lift"]) for s in card["labels"])]),
    }
    for order, key in keys.items():
        choose(browser, "Sort by", order)
        shown = browser.js("[...document.querySelectorAll('.card h3')].map(h => h.textContent)")
        assert shown == [card["name"] for card in sorted(cards, key=lambda card: (key(card), card["code"]))], order
    said = browser.js("document.querySelector('#codes').textContent")
    assert all(card["words"][0]["text"] in said for card in cards if card["words"])
    assert browser.problems() == []


def test_the_heat_map_counts(browser: Browser, page: Path, data: dict[str, Any]) -> None:
    browser.open(page)
    pairs = [(head["name"], label["name"]) for head in data["heads"] for label in data["labels"]]
    for number, (head, label) in enumerate(pairs):
        choose(browser, "Show", str(number))
        rows = browser.js(
            "[...document.querySelectorAll('.heat tbody tr')].map(r => [...r.children].map(c => c.textContent))"
        )
        names = next(each["classes"] for each in data["heads"] if each["name"] == head)
        expected = {name: [*row, sum(row)] for name, row in zip(names, data["tables"][head][label], strict=True)}
        assert {name: list(map(int, counts)) for name, *counts in rows} == expected


def test_colours_maps_and_the_overlay(browser: Browser, page: Path, data: dict[str, Any]) -> None:
    browser.open(page)
    picture = "document.querySelector('.plot canvas').toDataURL()"
    seen = set()
    for place in range(2):
        choose(browser, "Map", str(place))
        for colour in range(browser.js("document.querySelector('#map select').options.length")):
            choose(browser, "Colour by", str(colour))
            seen.add(browser.js(picture))
    # two maps; the three heads, two label columns, energy, loss and three confidences, each with a look of its own
    assert len(seen) >= 2 * (len(data["heads"]) + len(data["labels"]) + 2)
    before = browser.js(picture)
    browser.js("document.querySelector('.check input').click()")
    assert browser.js(picture) != before
    browser.js("document.querySelector('.check input').click()")
    assert browser.js(picture) == before and browser.problems() == []


def test_hover_reads_the_sentence_and_search_marks_it(browser: Browser, page: Path, data: dict[str, Any]) -> None:
    browser.open(page)
    browser.js("document.querySelector('.plot').scrollIntoView({block: 'center'})")
    plot = "document.querySelector('.plot').getBoundingClientRect()"
    box = browser.js(f"(b => [b.left, b.top, b.width, b.height])({plot})")
    told = set()
    for x in range(20, int(box[2]), 40):
        for y in range(20, int(box[3]), 40):
            browser.mouse("mouseMoved", box[0] + x, box[1] + y)
            if not browser.js("document.getElementById('tip').hidden"):
                told.add(browser.js("document.querySelector('#tip .text').textContent"))
    assert len(told) >= 10 and told <= set(data["points"]["text"])
    word = data["points"]["text"][0].split()[1]
    browser.js(
        f"(i => {{ i.value = {word.upper()!r}; i.dispatchEvent(new Event('input')); }})"
        "(document.querySelector('[type=search]'))"
    )
    browser.js(SHOWN)
    marked = browser.js("[...document.querySelectorAll('.list mark')].map(m => m.textContent)")
    assert set(marked) == {word} and len(marked) == sum(text.count(word) for text in data["points"]["text"])


def test_the_sampler_and_its_numbers(browser: Browser, page: Path, data: dict[str, Any]) -> None:
    browser.open(page)
    rows = browser.js(
        "[...document.querySelectorAll('#sampler tbody tr')].map(r => [...r.children].map(c => Number(c.textContent)))"
    )
    assert [row[0] for row in rows] == [0, 1, 2, 3]
    for row, chain in zip(rows, data["chains"], strict=True):
        assert row[3:] == pytest.approx([chain["ess_position"], chain["ess_energy"]], rel=0.01)
    assert browser.js("document.querySelectorAll('#sampler .hist1').length") == len(data["energyLevels"]) == 4


def test_nothing_moves_while_it_opens_and_all_is_reached_by_keys(browser: Browser, page: Path) -> None:
    browser.open(page, width=390, height=844)
    moved = browser.js(
        "new Promise(done => { let sum = 0; new PerformanceObserver(list => { for (const e of list.getEntries()) "
        "sum += e.value; }).observe({type: 'layout-shift', buffered: true}); setTimeout(() => done(sum), 300); })"
    )
    assert moved < 0.01
    unnamed = browser.js(
        "[...document.querySelectorAll('button, select, input, canvas[tabindex], [role=region]')].filter(e => "
        "!(e.textContent.trim() || e.ariaLabel || e.closest('label'))).length"
    )
    assert unnamed == 0
    assert browser.js("[...document.querySelectorAll('[tabindex]')].every(e => e.tabIndex <= 0)")
    scrolled = "[...document.querySelectorAll('.scroll')].every(e => e.tabIndex === 0)"
    assert browser.js(scrolled)  # a table that is wider than the page scrolls by keys
    reached = set()
    for _ in range(14):
        for kind in ("rawKeyDown", "keyUp"):
            browser.call("Input.dispatchKeyEvent", type=kind, key="Tab", code="Tab", windowsVirtualKeyCode=9)
        reached.add(browser.js("document.activeElement.tagName + document.activeElement.className"))
    assert {"Askip", "A", "BUTTONquiet", "SELECT", "INPUT"} <= reached


def test_it_prints(browser: Browser, page: Path) -> None:
    browser.open(page, dark=True)
    printed = base64.b64decode(browser.call("Page.printToPDF", printBackground=True)["data"])
    assert printed.startswith(b"%PDF") and len(printed) > 20_000
    assert browser.js("document.documentElement.dataset.theme ?? ''") == ""  # printed light, then dark again
    assert browser.problems() == []


# -- odd corpora and every prior ---------------------------------------------------------------------------------------


def opened(browser: Browser, data: dict[str, Any], path: Path) -> str:
    """The text of the page, after looking at it as narrow as a phone and as wide as a desk."""
    for width in (390, 1280):
        browser.open(write(data, path), width=width)
        assert browser.js("document.documentElement.scrollWidth") == width
        assert browser.problems() == [] and browser.requests() == {path.as_uri()}
    return browser.js("document.getElementById('main').innerText")


KINDS = "gaussian gaussian_mixture energy diffusion_energy joint_energy hierarchical_diffusion_energy".split()


@pytest.mark.parametrize("kind", KINDS)
def test_every_prior(browser: Browser, tmp_path: Path, kind: str) -> None:
    model = untrained(f"prior.kind={kind}")
    said = opened(browser, data_of(inspect_rows(model, Rows(list(sentences(25)), {}, 25))), tmp_path / "page.html")
    closed = model.prior.num_levels == 0
    assert ("closed form" in said) == closed and ("Effective sample size" in said) == (not closed)
    assert ("layers 1–2" in said) == (len(model.layers) > 1)
    assert browser.js("document.getElementById('labels')") is None  # a corpus without labels has no such section


def test_one_code(browser: Browser, tmp_path: Path) -> None:
    model = untrained("heads=[{name: code, classes: 1}]")
    said = opened(
        browser, data_of(inspect_rows(model, choose_rows(corpus(300)["test"], limit=20))), tmp_path / "page.html"
    )
    assert "1 code." in said and browser.js("document.querySelectorAll('.card').length") == 1


def test_no_heads_and_one_sentence(browser: Browser, tmp_path: Path) -> None:
    model = untrained("heads=[]")
    said = opened(browser, data_of(inspect_rows(model, Rows(["one ."], {}, 1)), {}), tmp_path / "page.html")
    assert "one ." not in browser.js("document.getElementById('tip').innerText") and "Latent map" in said


@pytest.mark.parametrize("texts", [CHINESE, ARABIC])
def test_other_scripts(browser: Browser, tmp_path: Path, texts: tuple[str, ...]) -> None:
    words = [text.split()[0] for text in texts]
    column = LabelColumn(tuple(words[:2]), np.array([0, 1, -1] * 10))
    rows = Rows([texts[i % len(texts)] for i in range(30)], {words[0]: column}, 30)
    found = inspect_rows(trained(), rows)
    written = {
        head: [replace(card, name=f"{words[0]}{card.code}", generated=tuple(texts)) for card in own]
        for head, own in found.cards.items()
    }
    said = opened(browser, data_of(replace(found, cards=written)), tmp_path / "page.html")
    assert all(text in said for text in texts)
    direction = "getComputedStyle(document.querySelector('#codes .sentences .text')).direction"
    assert browser.js(direction) == ("rtl" if texts is ARABIC else "ltr")


def test_empty_sentences(browser: Browser, tmp_path: Path) -> None:
    found = inspect_rows(trained(), Rows(["", *sentences(20)], {}, 21))
    empty = {head: [replace(card, generated=("", "a word")) for card in own] for head, own in found.cards.items()}
    said = opened(browser, data_of(replace(found, cards=empty, walks=[("", "", "")])), tmp_path / "page.html")
    assert "(empty)" in said


# -- size --------------------------------------------------------------------------------------------------------------


def many(data: dict[str, Any], n: int, codes: int) -> dict[str, Any]:
    """The data of a page with n sentences and so many codes."""
    rng = np.random.default_rng(0)
    words = np.array([f"word{i}" for i in range(8000)])
    middles = rng.normal(size=(codes, 2)) * 10
    code = rng.integers(codes, size=n)
    place = (middles[code] + rng.normal(size=(n, 2))).round(3)
    card = data["cards"]["code"][0]
    sizes = np.bincount(code, minlength=codes).tolist()
    cards = [{**card, "code": k, "name": str(k), "size": sizes[k], "duplicates": []} for k in range(codes)]
    samples = (rng.normal(size=(400, 2)) * 10).round(3).ravel().tolist()
    return {
        **data,
        "heads": [{"name": "code", "classes": [str(k) for k in range(codes)], "found": True}],
        "labels": [{"name": "act", "classes": ["a", "b", "c"]}],
        "points": {
            "text": [" ".join(rng.choice(words, size=14)) for _ in range(n)],
            "code": {"code": code.tolist()},
            "confidence": {"code": rng.random(n).round(3).tolist()},
            "label": {"act": rng.integers(3, size=n).tolist()},
            "energy": rng.normal(size=n).round(3).tolist(),
            "loss": (rng.random(n) * 50).round(2).tolist(),
            "near": rng.integers(n, size=(n, 8)).tolist(),
        },
        "maps": [
            {"name": name, "note": "", "points": place.ravel().tolist(), "samples": samples}
            for name in ("pca", "tsne", "umap")
        ],
        "cards": {"code": cards},
        "tables": {"code": {"act": np.bincount(3 * code, minlength=3 * codes).reshape(codes, 3).tolist()}},
        "control": [
            {"head": "code", "agreement": [0.5] * codes, "sweep": [], "judged": judged(None, "code", [""] * codes)}
        ],
        "composition": None,
        "edits": [],
    }


def test_twenty_thousand_sentences(browser: Browser, data: dict[str, Any], tmp_path: Path) -> None:
    """Under 15 MB. Measured: ready 2.0 s after it is opened, hover 4 ms, on two cores that others kept busy (load 16);
    the bounds leave room for worse."""
    path = write(many(data, 20_000, 125), tmp_path / "large.html")
    assert path.stat().st_size < 15e6
    browser.open(path)
    ready = browser.js("performance.getEntriesByName('ready')[0].startTime")
    lag = browser.js("""(() => {
        const over = document.querySelector('.plot canvas + canvas'), times = [];
        over.scrollIntoView({block: 'center'});
        const box = over.getBoundingClientRect();
        for (let i = 0; i < 200; i++) {
            const begin = performance.now();
            over.dispatchEvent(new PointerEvent('pointermove', {clientX: box.left + (i * 97) % box.width,
                clientY: box.top + (i * 61) % box.height}));
            document.getElementById('tip').getBoundingClientRect();
            times.push(performance.now() - begin);
        }
        return times.sort((a, b) => a - b)[190];
    })()""")
    print(f"{path.stat().st_size / 1e6:.1f} MB, ready after {ready:.0f} ms, hover {lag:.1f} ms (95%)")
    assert ready < 10_000 and lag < 80
    assert browser.js("document.querySelectorAll('.card').length") == 125 and browser.problems() == []
