"""The report as a story: its order, its menu, its map in use, on paper and in a picture, and two runs side by side."""

from __future__ import annotations

import base64
import json
import re
import zlib
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from browser import Browser, started
from tiny import RECIPE, recipe, trained
from typer.testing import CliRunner

from textebm.api import TextEBM
from textebm.cli import app
from textebm.errors import TextEBMError
from textebm.evaluation.metric import Evaluation, MetricValue
from textebm.inspection.comparison import ComparedRun, comparison_data
from textebm.inspection.frames import Inspection
from textebm.inspection.measured import headline, judged, measured
from textebm.inspection.names import by_shown_names, shown_name
from textebm.inspection.page import render
from textebm.inspection.page_data import RunFacts, page_data
from textebm.inspection.projection import nearest
from textebm.inspection.report import inspect_rows
from textebm.inspection.rows import choose_rows
from textebm.recipe.read import dump_recipe
from textebm.runs.evaluate import evaluate_runs
from textebm.text.grammar import corpus

VALUES = {"control_accuracy_sentiment": 0.9, "judge_accuracy_sentiment": 0.95, "ppl": 12.345, "bigram_ppl": 20.0}
VALUES |= {"unigram_ppl": 80.0, "control_accuracy_sentiment_negative": 0.8, "control_accuracy_sentiment_positive": 1.0}
MEASURED = Evaluation(seed=0, metrics={name: MetricValue.named(name, value, 50) for name, value in VALUES.items()})
VERDICT = {"findings": [], "references": [{"name": "perplexity", "value": "3", "beside": "bigrams 7"}]}


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    yield from started()


@pytest.fixture(scope="module")
def inspection() -> Inspection:
    """With an attribute that was added to the finished model."""
    rows = choose_rows(corpus(300)["test"], limit=60)
    model = TextEBM(trained().network)
    longest = sorted(rows.texts, key=len)[30:]
    labels = ["long" if text in longest else "short" for text in rows.texts]
    model.add_attribute("size", rows.texts, labels)
    try:
        return inspect_rows(model, rows)
    finally:
        model.attributes.clear()


@pytest.fixture(scope="module")
def data(inspection: Inspection) -> dict[str, Any]:
    history = [{"step": 10 * k, "stage": "s", "kl": 2.0 + k, "acceptance": 0.998 + k / 1000} for k in range(3)]
    facts = RunFacts("a run", "0", "test", {"train": 300}, MEASURED, history, VERDICT)
    return json.loads(json.dumps(page_data(inspection, facts, RECIPE)))


@pytest.fixture(scope="module")
def page(data: dict[str, Any], tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("story") / "report.html"
    path.write_text(render(data, "a report"), encoding="utf-8")
    return path


# -- what it says ------------------------------------------------------------------------------------------------------


def test_codes_are_named_wherever_they_stand(inspection: Inspection, data: dict[str, Any]) -> None:
    found = inspection
    card = next(card for card in found.cards["code"] if card.words)
    words = " ".join(word.text for word in card.words[:3])
    assert shown_name(card) == f"{card.code} · {words}"
    assert shown_name(replace(card, name=f"{card.code} dogs cats")) == f"{card.code} · dogs cats"
    assert shown_name(replace(card, name="animals")) == "animals"
    assert shown_name(replace(card, words=())) == str(card.code)
    shown = by_shown_names(found, ["code"])
    names = {each.name for each in shown.cards["code"]}
    assert {near.name for each in shown.cards["code"] for near in each.nearest} <= names
    assert shown.cards["sentiment"] == found.cards["sentiment"]
    head = next(head for head in data["heads"] if head["name"] == "code")
    assert head["classes"] == [each["name"] for each in data["cards"]["code"]]


def test_figures_stand_beside_their_references() -> None:
    first, second = headline(MEASURED, ["sentiment"], [])
    assert (first["value"], first["beside"]) == ("90.0%", "judge on real text 95.0%, guessing 50%")
    assert (second["value"], second["beside"]) == ("12.3", "bigrams 20, unigrams 80")
    assert headline(None, [], []) == []
    control = judged(MEASURED, "sentiment", ["negative", "positive"])
    assert control["classes"] == [0.8, 1.0] and (control["judge"], control["chance"]) == (0.95, 0.5)
    assert judged(MEASURED, "sentiment", ["negative", "neutral", "positive"])["chance"] == 0.5  # two were asked for
    assert judged(None, "code", ["a", "b", "c", "d"])["chance"] == 0.25
    table = measured(MEASURED)
    assert table is not None
    assert {row["group"] for row in table["rows"]} == {"Control", "Reconstruction and bound"}


def test_neighbours_are_the_nearest_rows() -> None:
    points = np.random.default_rng(0).normal(size=(40, 3))
    far = np.linalg.norm(points[:, None] - points[None], axis=-1)
    np.fill_diagonal(far, np.inf)
    assert (nearest(points, 4) == np.argsort(far, axis=1)[:, :4]).all()
    assert nearest(points[:3], 8).shape == (3, 2) and nearest(points[:1], 8).shape == (1, 0)


def test_an_added_attribute_is_reported_with_its_accuracy(browser: Browser, page: Path, data: dict[str, Any]) -> None:
    (added,) = data["attributes"]
    assert added["name"] == "size" and len(added["codes"]) == 60 and len(added["generated"][0]) == 4
    browser.open(page)
    said = browser.js("document.querySelector('#control').innerText")
    assert "held-out accuracy" in said and f"{100 * added['facts']['accuracy']:.1f}%" in said
    assert "Added: size" in browser.js("document.querySelector('#map select').textContent")


def test_twins_are_shown_with_what_changed_and_its_reference(
    browser: Browser, page: Path, data: dict[str, Any]
) -> None:
    browser.open(page)
    said = browser.js("document.querySelector('#control').innerText")
    assert "Twins" in said
    for twins in data["twins"]:
        assert f"{round(100 * twins['changed'])}% ({round(100 * twins['changed_chance'])}%)" in said
    shown = browser.js("[...document.querySelectorAll('#control ins')].map(node => node.textContent)")
    assert shown == [w for t in data["twins"] for changes in t["changes"] for kind, w in changes if kind == "in"]


# -- its order, menu, paper and pictures -------------------------------------------------------------------------------


@pytest.mark.parametrize("width", [1280, 390])
def test_it_tells_a_story_and_the_menu_leads_to_its_places(browser: Browser, page: Path, width: int) -> None:
    browser.open(page, width=width, height=844)
    said = browser.js("document.body.innerText")
    order = ["Verdict: nothing found wrong", "What it writes", "Latent map", "What each code stands for"]
    order += ["An independent judge", "From noise to sentence", "Codes and labels", "All that was measured"]
    assert [said.index(text) for text in order] == sorted(said.index(text) for text in order)
    assert browser.js("document.querySelectorAll('#overview .drawn li').length") == 10
    assert not browser.js("[...document.querySelectorAll('#measured details')].some(d => d.open)")
    for name in browser.js("[...document.querySelectorAll('#nav a')].map(a => a.getAttribute('href'))"):
        top, least = browser.js(
            f"(async () => {{ document.querySelector('#nav a[href=\"{name}\"]').click(); "
            "await new Promise(done => requestAnimationFrame(() => requestAnimationFrame(done))); "
            f"return [document.querySelector('{name}').getBoundingClientRect().top, "
            "document.documentElement.scrollHeight - innerHeight - scrollY]; })()"
        )
        assert abs(top - (64 if width > 560 else 82)) < 30 or (least < 2 and top > 0), (name, top)


def test_paper_has_the_map_as_a_drawing_and_nothing_folded(browser: Browser, page: Path) -> None:
    browser.open(page, dark=True)
    printed = base64.b64decode(browser.call("Page.printToPDF", printBackground=True)["data"])
    streams = re.findall(rb"stream\r?\n(.*?)endstream", printed, re.S)
    curves = 0
    for stream in streams:
        try:
            curves = max(curves, zlib.decompress(stream.strip(b"\r\n")).count(b" c\n"))
        except zlib.error:
            continue  # a font
    assert curves > 4 * 60 * 0.8, "each of the 60 points is a circle of four curves"
    assert browser.js("document.querySelector('.printed')") is None
    assert not browser.js("[...document.querySelectorAll('details')].some(d => d.open)")
    browser.js("dispatchEvent(new Event('beforeprint'))")
    drawn = browser.js("document.querySelector('.printed').textContent")
    assert "· " in drawn and browser.js("[...document.querySelectorAll('details')].every(d => d.open)")
    browser.js("dispatchEvent(new Event('afterprint'))")


def test_a_picture_of_the_full_page_shows_every_card(browser: Browser, page: Path) -> None:
    browser.open(page)
    size = browser.js("[document.documentElement.scrollWidth, document.documentElement.scrollHeight]")
    clip = {"x": 0, "y": 0, "width": size[0], "height": size[1], "scale": 1}
    shot = browser.call("Page.captureScreenshot", format="png", captureBeyondViewport=True, clip=clip)["data"]
    colours = browser.js(f"""(async () => {{
        const image = new Image(); image.src = "data:image/png;base64,{shot}"; await image.decode();
        const canvas = document.createElement("canvas"); [canvas.width, canvas.height] = [image.width, image.height];
        const ctx = canvas.getContext("2d"); ctx.drawImage(image, 0, 0);
        return [...document.querySelectorAll(".card, .plot, .chart")].map(node => {{
            const box = node.getBoundingClientRect();
            const {{ data }} = ctx.getImageData(box.left, box.top + scrollY, box.width, box.height);
            return new Set(new Uint32Array(data.buffer)).size;
        }});
    }})()""")
    assert len(colours) > 8 and min(colours) > 5


def test_curves_state_their_scales(browser: Browser, page: Path) -> None:
    browser.open(page)
    charts = browser.js(
        "[...document.querySelectorAll('#training .chart')].map(c => [c.querySelector('b').textContent, "
        "[...c.querySelectorAll('svg text')].map(t => t.textContent)])"
    )
    ticks = dict(charts)
    assert ticks["Acceptance"][:3] == ["0", "0.5", "1"]  # a share has the scale of shares, however little it changes
    assert ticks["KL to N(0, I)"][:3] == ["0", "2", "4"] and "step" in ticks["KL to N(0, I)"]


# -- the map in use ----------------------------------------------------------------------------------------------------


def points_of(browser: Browser) -> list[float]:
    """The corners of the map in the window."""
    browser.js("document.querySelector('.plot').scrollIntoView({block: 'center'})")
    box = "(b => [b.left, b.top, b.right, b.bottom])(document.querySelector('.plot').getBoundingClientRect())"
    return browser.js(f"new Promise(done => setTimeout(() => done({box}), 50))")


def test_the_wheel_zooms_and_fit_undoes_it(browser: Browser, page: Path) -> None:
    browser.open(page)
    left, top, right, bottom = points_of(browser)
    x, y = (left + right) / 2, (top + bottom) / 2
    note = "document.querySelector('.under p').textContent"
    wheel = {"type": "mouseWheel", "x": x, "y": y, "deltaX": 0, "deltaY": -400, "pointerType": "mouse"}
    browser.mouse("mouseMoved", x, y)
    browser.call("Input.dispatchMouseEvent", **wheel)
    browser.js("new Promise(done => setTimeout(done, 100))")
    assert "Zoomed 1.9×" in browser.js(note)
    browser.js("[...document.querySelectorAll('.tools button')].find(b => b.textContent === 'Fit').click()")
    assert "Zoomed" not in browser.js(note)
    fingers = lambda gap: [{"x": x - gap, "y": y, "id": 0}, {"x": x + gap, "y": y, "id": 1}]  # noqa: E731
    browser.call("Input.dispatchTouchEvent", type="touchStart", touchPoints=fingers(40))
    browser.call("Input.dispatchTouchEvent", type="touchMove", touchPoints=fingers(80))
    browser.call("Input.dispatchTouchEvent", type="touchMove", touchPoints=fingers(120))
    browser.call("Input.dispatchTouchEvent", type="touchEnd", touchPoints=[])
    assert "Zoomed" in browser.js(note) and browser.problems() == []


def test_an_address_opens_a_code_or_a_sentence_and_shows_its_neighbours(
    browser: Browser, page: Path, data: dict[str, Any]
) -> None:
    sizes = [card["size"] for card in data["cards"]["code"]]
    code = int(np.argmax(sizes))
    browser.open(page, address=f"#code={code}")
    assert browser.js("parseInt(document.querySelector('.listhead b').textContent)") == sizes[code]
    browser.js("document.querySelector('.listhead .quiet').click()")
    assert browser.js("location.hash") == ""
    browser.js("document.querySelector('.legend .chip').click()")
    assert browser.js("location.hash") == "#code=0"
    browser.open(page, address="#sentence=5")
    listed = browser.js("[...document.querySelectorAll('.list .text')].map(t => t.textContent)")
    near = [data["points"]["text"][i] for i in data["points"]["near"][5]]
    assert listed[0] == data["points"]["text"][5] and listed[1:]
    assert listed[1:] == [text for text in dict.fromkeys(near) if text != listed[0]][:5]
    assert browser.problems() == []


def test_a_selection_is_searched_and_exported_and_the_map_saved(
    browser: Browser, page: Path, data: dict[str, Any]
) -> None:
    browser.open(page)
    left, top, right, bottom = points_of(browser)
    corners = [(left + 9, top + 60), (right - 9, top + 60), (right - 9, bottom - 9), (left + 9, bottom - 9)]
    browser.mouse("mousePressed", *corners[0])
    for corner in [*corners[1:], corners[0]]:
        browser.mouse("mouseMoved", *corner)
    browser.mouse("mouseReleased", *corners[0])
    drawn = browser.js("parseInt(document.querySelector('.listhead b').textContent)")
    word = data["points"]["text"][0].split()[0]
    browser.js(
        f"(i => {{ i.value = {word!r}; i.dispatchEvent(new Event('input')); }})"
        "(document.querySelector('[type=search]'))"
    )
    browser.js("new Promise(done => setTimeout(done, 220))")
    assert f"of the {drawn} drawn around" in browser.js("document.querySelector('.listhead').textContent")
    assert f"among the {drawn}" in browser.js("document.querySelector('[type=search]').placeholder")
    buttons = "[...document.querySelectorAll('.listhead .quiet, .under button')]"
    press = f"(name => {buttons}.find(b => b.textContent === name).click())"
    browser.js(f"{press}('Search all')")
    rows = sum(word in text for text in data["points"]["text"])
    browser.js(f"{press}('Export CSV')")
    lines = browser.downloaded("a-run-selection.csv").decode("utf-8-sig").splitlines()
    assert len(lines) == rows + 1 and lines[0].startswith('"text","predicted sentiment"')
    browser.js(f"{press}('SVG')")
    picture = browser.downloaded("a-run-map.svg").decode()
    assert picture.startswith("<svg") and "· " in picture and picture.count("xmlns=") == 1
    browser.js(f"{press}('Save PNG')")
    assert browser.downloaded("a-run-map.png").startswith(b"\x89PNG")
    assert browser.problems() == [] and browser.requests() - {page.as_uri()} == {
        url for url in browser.requests() if url.startswith("blob:")
    }


# -- two runs ----------------------------------------------------------------------------------------------------------


def test_two_runs_side_by_side(browser: Browser, tmp_path: Path) -> None:
    other = Evaluation(seed=0, metrics={**MEASURED.metrics, "ppl": MetricValue.named("ppl", 9.0, 50)})
    recipes = [recipe(change).model_dump(mode="json") for change in ("seed=0", "seed=1")]
    runs = [
        ComparedRun("a", recipes[0], MEASURED, [f"sentence {i} ." for i in range(12)], VERDICT),
        ComparedRun("b", recipes[1], other, ["<b>bold</b>"], {}),
    ]
    data = comparison_data(runs)["compared"]
    assert [row["name"] for row in data["options"]] == ["seed"] and data["notes"] == []
    (row,) = [row for group in data["groups"] for row in group["rows"] if row["name"] == "ppl"]
    assert row["values"] == [12.345, 9.0] and len(data["runs"][0]["samples"]) == 10
    elsewhere = {**recipes[1], "data": {**recipes[1]["data"], "corpus": "yelp"}}
    (note,) = comparison_data([runs[0], replace(runs[1], recipe=elsewhere)])["compared"]["notes"]
    assert note.startswith("data.corpus differ") and "not to be compared" in note
    path = tmp_path / "both.html"
    path.write_text(render({"compared": data}, "both"), encoding="utf-8")
    for width in (390, 1280):
        browser.open(path, width=width)
        assert browser.js("document.documentElement.scrollWidth") == width
    said = browser.js("document.body.innerText")
    assert "Nothing found wrong" in said and "<b>bold</b>" in said and "bigrams 20" in said
    assert browser.js("document.querySelectorAll('.compared td.strong').length") == 1  # the lower perplexity
    assert browser.problems() == [] and browser.requests() == {path.as_uri()}


def test_runs_of_different_recipes_are_compared_and_not_averaged(tmp_path: Path) -> None:
    for name, change in (("a", "seed=0"), ("b", "seed=1"), ("c", "latent.dim=5")):
        (tmp_path / name).mkdir()
        (tmp_path / name / "recipe.yaml").write_text(dump_recipe(recipe(change)))
        MEASURED.save(tmp_path / name / "evaluation.json")
        (tmp_path / name / "config.json").write_text("{}")
        (tmp_path / name / "samples.txt").write_text("# real\nreal .\n\n# free\none .\ntwo .\n")
    a, b, c = (str(tmp_path / name) for name in "abc")
    assert evaluate_runs([a, b], saved=True).metrics["ppl"].mean == pytest.approx(12.345)
    with pytest.raises(TextEBMError, match=r"different recipes \(latent differ\).*textebm report"):
        evaluate_runs([a, c], saved=True)
    made = CliRunner().invoke(app, ["report", a, c, "--out", str(tmp_path / "both.html")])
    assert made.exit_code == 0, made.stderr
    text = (tmp_path / "both.html").read_text()
    assert '"samples":["one .","two ."]' in text and '"name":"latent.dim"' in text
    refused = CliRunner().invoke(app, ["report", a, c, "--umap"])
    assert refused.exit_code == 2 and "leave --limit and --umap out" in refused.stderr
