"""The page: what it holds, that it is inert whatever the corpus says, and that it works in a browser."""

from __future__ import annotations

import json
import re
import shutil
from collections.abc import Iterator
from dataclasses import replace
from functools import cache
from html.parser import HTMLParser
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from browser import Browser, started
from tiny import RECIPE, recipe, save_trained, trained, untrained
from typer.testing import CliRunner

import textebm
from textebm.cli import app
from textebm.errors import TextEBMError
from textebm.evaluation.metric import Evaluation, MetricValue
from textebm.inspection.page import embed, render
from textebm.inspection.page_data import RunFacts, page_data, recipe_options
from textebm.inspection.paths import layers
from textebm.inspection.report import inspect_rows
from textebm.inspection.rows import LabelColumn, Rows, choose_rows
from textebm.recipe.stated import stated_networks, stated_prior
from textebm.runs import report as reports
from textebm.runs import train as runs
from textebm.runs.interrupt import GracefulStop
from textebm.runs.progress import Progress
from textebm.text.grammar import corpus

SCRIPT = "fetch('http://127.0.0.1:9/x');alert(1)"
SHAPES = (
    "<script>{}</script>",
    "</script><script>{}</script>",
    "<img src=x onerror={}>",
    "<svg onload={}>",
    '"><b onclick={}>',
    "'-{}-'",
    "javascript:{}",
    "<iframe srcdoc='<script>{}</script>'>",
    "</title><script>{}</script>",
    "</style><img src=http://127.0.0.1:9>{}",
    "<!--<script>{}",
    "]]><script>{}</script>",
    "\u2028{}\u2029",
    "{{{{constructor.constructor('{}')()}}}}",
    "${{{}}}",
    "\\u003cscript\\u003e{}",
    "<math><mtext></form><form><mglyph><style></math><img src onerror={}>",
    "%%script%%{}",
    "<base href=http://127.0.0.1:9/>{}",
    "<meta http-equiv=refresh content='0;url=http://127.0.0.1:9'>{}",
    "<link rel=stylesheet href=http://127.0.0.1:9>{}",
    "<a href=javascript:{}>x</a>",
    "<object data=http://127.0.0.1:9>{}",
    "<details open ontoggle={}>",
    "__proto__{}",
)
CODES = (
    SCRIPT,
    "throw Error(1)",
    "window.open('http://127.0.0.1:9')",
    "document.location='http://127.0.0.1:9'",
    "console.log('hurt')",
    "alert`1`",
    "prompt(1)",
    "confirm(1)",
    "print()",
    "import('http://127.0.0.1:9/x.js')",
    "new Image().src='http://127.0.0.1:9'",
    "navigator.sendBeacon('http://127.0.0.1:9')",
    "new WebSocket('ws://127.0.0.1:9')",
    "new Worker('data:,alert(1)')",
    "document.write('<p>hurt')",
    "setTimeout('alert(1)')",
    "document.body.innerHTML=''",
    "history.pushState(0,0,'x')",
    "self['al'+'ert'](1)",
    "document.title='hurt'",
)
FOREIGN = "main script, main img, main iframe, main object, main base, main meta, main link, main math, main form"
PAYLOADS = [shape.format(code) for shape in SHAPES for code in CODES]


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    yield from started()


@pytest.fixture(scope="module")
def run_directory(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A tiny trained run with metrics and an evaluation."""
    directory = save_trained(tmp_path_factory.mktemp("runs") / "tiny")
    lines = [
        {"step": 7, "stage": "autoencoder", "reconstruction_nll": 9.0, "kl": 1.0, "warnings": ["collapse: 1; x"]},
        {"step": 26, "stage": "autoencoder", "reconstruction_nll": 5.0, "kl": float("nan"), "warnings": []},
        {"step": 38, "stage": "prior", "reconstruction_nll": 4.5, "kl": 2.0, "acceptance": 0.8, "warnings": ["s: y"]},
    ]
    (directory / "metrics.jsonl").write_text("\n".join(map(json.dumps, lines)) + '\n{"step": 4')
    evaluation = Evaluation(seed=0, metrics={"kl": MetricValue(1.25, "nats/sentence", None, 30)}, notes=["a note"])
    evaluation.add("control_accuracy_sentiment", 0.9, 50)
    evaluation.save(directory / "evaluation.json")
    return directory


@pytest.fixture(scope="module")
def page(run_directory: Path) -> Path:
    return reports.report_run(run_directory, limit=60)


class Reader(HTMLParser):
    """The elements of a page, and the text of its script and title elements."""

    def __init__(self) -> None:
        super().__init__()
        self.elements: list[tuple[str, dict[str, str | None]]] = []
        self.inside = ""
        self.texts: dict[str, str] = {}

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.elements.append((tag, dict(attrs)))
        self.inside = dict(attrs).get("id") or tag

    def handle_endtag(self, tag: str) -> None:
        self.inside = ""

    def handle_data(self, data: str) -> None:
        self.texts[self.inside] = self.texts.get(self.inside, "") + data


def read(page: str) -> Reader:
    reader = Reader()
    reader.feed(page)
    return reader


@cache
def inspected() -> dict[str, Any]:
    """The page data of the tiny model, with everything in it that a page may show."""
    rows = choose_rows(corpus(300)["test"])
    found = inspect_rows(
        trained(), Rows(rows.texts[:40], {k: LabelColumn(v.classes, v.values[:40]) for k, v in rows.labels.items()}, 1)
    )
    found = replace(found, layers=layers(untrained("prior.kind=joint_energy"), found.rows))
    evaluation = Evaluation(seed=0, notes=["a note"], metrics={"kl": MetricValue(1.0, "nats", True, 3)})
    history = [{"step": 1, "stage": "s", "kl": 2.0, "warnings": ["w: x"], "accuracy_x": 0.5}]
    facts = RunFacts("name", "version", "split", {"train": 1}, evaluation, history)
    return page_data(found, facts, {**RECIPE, "description": "words", "option": "value"})


def hostile(turn: int = 0) -> tuple[dict[str, Any], str]:
    """Payloads in place of every string of the page: all that a person or a corpus could name, and more. From one turn
    to the next each field gets the payload five further on, so a hundred turns try a hundred in each."""
    clean, known = inspected(), dict[str, str]()

    def poison(value: Any) -> Any:
        if isinstance(value, dict):
            return {key: poison(item) for key, item in value.items()}
        if isinstance(value, list | tuple):
            return [poison(item) for item in value]
        if isinstance(value, str):  # the same payload wherever the same name stands
            number = len(known)
            return known.setdefault(value, f"{PAYLOADS[(number + 5 * turn) % len(PAYLOADS)]} {number}")
        return value

    data = poison(clean)
    for number, head in enumerate(clean["heads"]):  # names of heads and labels are keys too; one is no ordinary key
        new = "__proto__" if number == turn % 3 else data["heads"][number]["name"]
        data["heads"][number]["name"] = data["control"][number]["head"] = new
        for part in (data["points"]["code"], data["points"]["confidence"], data["cards"], data["tables"]):
            part[new] = part.pop(head["name"])
        for label in clean["labels"]:
            data["tables"][new][known[label["name"]]] = data["tables"][new].pop(label["name"])
        for layer in data["layers"]["layers"] if data["layers"] else ():
            layer["kept"][known[head["name"]]] = layer["kept"].pop(head["name"])
    for label in clean["labels"]:
        data["points"]["label"][known[label["name"]]] = data["points"]["label"].pop(label["name"])
    if turn == 0:
        data["points"]["text"] = (PAYLOADS * 2)[: max(len(PAYLOADS), len(data["points"]["text"]))]
        extra = len(data["points"]["text"]) - len(clean["points"]["text"])
        for part in (data["points"]["code"], data["points"]["confidence"], data["points"]["label"]):
            for values in part.values():
                values += [0] * extra
        data["points"]["loss"] += [1.0] * extra
        data["points"]["near"] += [[0, 1]] * extra
        for added in data["attributes"]:
            added["codes"] += [0] * extra
            added["confidence"] += [1.0] * extra
        data["points"]["energy"] += [1.0] * extra
        for layout in data["maps"]:
            layout["points"] += [i / 7 % 13 for i in range(2 * extra)]
    return data, PAYLOADS[(1 + 5 * turn) % len(PAYLOADS)]


def test_there_are_enough_payloads() -> None:
    assert len(set(PAYLOADS)) >= 500


def test_json_stays_in_its_element() -> None:
    for value in [*PAYLOADS, "\ud800", "\0", "é中\u2028"]:
        embedded = embed({value: [value]})
        assert not re.search("[<>&\u2028\u2029]", embedded)
        cleaned = value.replace("\ud800", "?")
        assert json.loads(embedded) == {cleaned: [cleaned]}
        embedded.encode()


def test_hostile_text_adds_no_element(page: Path) -> None:
    data, title = hostile()
    plain, poisoned = read(page.read_text(encoding="utf-8")), read(render(data, title))
    policy = ("http-equiv", "Content-Security-Policy")
    assert [e for e in plain.elements] == [e for e in poisoned.elements]  # the policy too: the script is the same
    assert poisoned.texts["title"] == title
    assert json.loads(poisoned.texts["data"])["points"]["text"][: len(PAYLOADS)] == PAYLOADS
    (meta,) = [attributes for tag, attributes in plain.elements if tag == "meta" and policy in attributes.items()]
    assert str(meta["content"]).startswith("default-src 'none'; script-src 'sha256-")
    assert "unsafe" not in str(meta["content"])


def test_the_page_needs_nothing_else(page: Path) -> None:
    text = page.read_text(encoding="utf-8")
    without_names = text.replace("http://www.w3.org/2000/svg", "")
    assert "http" not in without_names.replace("http-equiv", "")
    assert not re.search(r"innerHTML|outerHTML|insertAdjacentHTML|document\.write|eval\(|Function\(", text)
    assert len(text) < 400_000


def test_the_data_are_those_of_the_run(run_directory: Path, page: Path) -> None:
    data = json.loads(read(page.read_text(encoding="utf-8")).texts["data"])
    assert data["run"]["name"] == "tiny" and len(data["points"]["text"]) == len(data["points"]["loss"]) == 60
    assert [head["name"] for head in data["heads"]] == ["sentiment", "topic", "code"]
    assert [head["found"] for head in data["heads"]] == [False, False, True]
    assert {map_["name"] for map_ in data["maps"]} == {"pca", "tsne"}
    assert all(len(map_["points"]) == len(map_["samples"]) == 120 for map_ in data["maps"])
    assert [panel["name"] for panel in data["curves"]["panels"]] == ["reconstruction_nll", "kl", "acceptance"]
    assert [stage["end"] for stage in data["curves"]["stages"]] == [26, 38]
    assert [(each["times"], each["at_end"]) for each in data["warnings"]] == [(1, False), (1, True)]
    assert data["evaluation"]["rows"][1]["higher_is_better"] is True
    for head, cards in data["cards"].items():
        assert sum(card["size"] for card in cards) == 60
        codes = data["points"]["code"][head]
        table = data["tables"][head]["topic"]
        assert [sum(row) for row in table] == [codes.count(code) for code in range(len(cards))]


def test_the_prior_is_stated_in_a_few_words(page: Path) -> None:
    data = json.loads(read(page.read_text(encoding="utf-8")).texts["data"])
    assert dict(data["run"]["facts"])["Prior"] == "diffusion energy, 4 levels"
    assert (
        stated_prior({"kind": "hierarchical_diffusion_energy", "num_levels": None}) == "hierarchical diffusion energy"
    )
    assert stated_prior({"kind": "gaussian_mixture", "num_levels": 1}) == "gaussian mixture"


def test_the_networks_are_stated_without_anyones_paths(page: Path) -> None:
    data = json.loads(read(page.read_text(encoding="utf-8")).texts["data"])
    assert dict(data["run"]["facts"])["Text"] == "gru encoder, gru decoder"
    recipe = {
        "encoder": {"kind": "gru", "pretrained": "/home/me/bert"},
        "decoder": {"kind": "gru", "pretrained": "a/gpt"},
        "objective": {"sentence_encoder": "/home/me/minilm"},
    }
    assert stated_networks(recipe) == "gru encoder on bert, a/gpt decoder"
    assert dict(recipe_options(recipe))["encoder.pretrained"] == "bert"
    assert dict(recipe_options(recipe))["objective.sentence_encoder"] == "minilm"
    pooled = {**recipe, "encoder": {**recipe["encoder"], "pooling": "mean"}}
    assert stated_networks(pooled) == "bert encoder, a/gpt decoder", "no network of its own reads"


def test_the_map_never_moves(run_directory: Path, page: Path, tmp_path: Path) -> None:
    stored = (run_directory / "projection.json").read_bytes()
    first = page.read_bytes()
    again = reports.report_run(run_directory, out=tmp_path / "again.html", limit=60)
    assert again.read_bytes() == first and (run_directory / "projection.json").read_bytes() == stored
    (run_directory / "projection.json").write_text("{damaged")
    reports.report_run(run_directory, out=again, limit=60)
    assert (run_directory / "projection.json").read_bytes() == stored and again.read_bytes() == first


@pytest.mark.parametrize(
    ("options", "n"),
    [({}, 3000), ({"limit": 50}, 50), ({"limit": 9000}, 3000), ({"limit": 50, "report_sentences": 4000}, 4000)],
)
def test_a_report_shows_as_many_sentences_as_the_recipe_says(options: dict[str, int], n: int) -> None:
    model: Any = SimpleNamespace(recipe={"evaluation": options})
    assert reports.sentences_of(model) == n and reports.sentences_of(SimpleNamespace(recipe=None)) == 3000


def test_what_cannot_be_reported_is_said(run_directory: Path, tmp_path: Path) -> None:
    with pytest.raises(TextEBMError, match="its folder does not exist"):
        reports.report_run(run_directory, out=tmp_path / "no" / "x.html")
    with pytest.raises(TextEBMError, match="no split 'tets'; did you mean 'test'"):
        reports.report_run(run_directory, split="tets")
    damaged = tmp_path / "damaged"
    shutil.copytree(run_directory, damaged)
    (damaged / "evaluation.json").write_text('{"metrics": 3}')
    with pytest.raises(TextEBMError, match="textebm evaluate"):
        reports.report_run(damaged)


def test_a_failing_report_costs_no_run(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def fail(*arguments: Any, **options: Any) -> Path:
        raise TextEBMError("no ink")

    monkeypatch.setattr(runs, "write_report", fail)
    with Progress() as progress, GracefulStop() as stop:
        runs._report(trained(), recipe(), corpus(300), tmp_path / "my run", None, progress, stop)
    said = " ".join("".join(capsys.readouterr()).split())
    assert "no report: no ink" in said and f"textebm report '{tmp_path / 'my run'}'" in said


def test_train_makes_the_report_and_the_command_makes_it_again(tmp_path: Path) -> None:
    chosen = recipe("training.stages=[{name: autoencoder, steps: 8}]", "heads=[]", "prior.kind=gaussian")
    directory = textebm.train(chosen, out=tmp_path / "run", quiet=True).directory
    data = json.loads(read((directory / "report.html").read_text(encoding="utf-8")).texts["data"])
    assert data["heads"] == [] and data["points"]["energy"] is None and data["evaluation"]["rows"]
    assert len(data["points"]["text"]) == chosen.evaluation.limit == 20
    again = CliRunner().invoke(app, ["report", str(directory), "--out", str(tmp_path / "again.html"), "--limit", "5"])
    assert again.exit_code == 0 and again.stdout == f"{tmp_path / 'again.html'}\n", again.stderr
    none = CliRunner().invoke(app, ["codes", str(directory)])
    assert none.exit_code == 2 and "no symbol heads" in none.stderr


# -- in a browser ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("width", "dark"), [(1280, False), (390, True)])
def test_the_page_in_a_browser(browser: Browser, page: Path, width: int, dark: bool) -> None:
    browser.open(page, width=width, dark=dark)
    data = json.loads(read(page.read_text(encoding="utf-8")).texts["data"])
    assert browser.js("document.documentElement.scrollWidth") == width  # nothing sticks out
    assert browser.js("[...document.querySelectorAll('#nav a')].map(a => a.textContent).join()") == (
        "Overview,Map,Codes,Control,Paths,Labels,Training,Sampler,Measured"
    )
    assert browser.js("document.querySelectorAll('.card').length") == 5
    sizes = [card["size"] for card in data["cards"]["code"]]
    shown = browser.js("[...document.querySelectorAll('.card .measure')].map(p => parseInt(p.textContent))")
    assert shown == sorted(sizes, reverse=True)
    if dark:
        assert browser.js("getComputedStyle(document.body).backgroundColor") == "rgb(20, 23, 26)"
    assert browser.problems() == [] and browser.requests() == {page.as_uri()}


def test_search_select_and_keys(browser: Browser, page: Path) -> None:
    data = json.loads(read(page.read_text(encoding="utf-8")).texts["data"])
    word = data["points"]["text"][0].split()[0]
    browser.open(page)
    listed = "parseInt(document.querySelector('.listhead b').textContent)"
    browser.js(
        f"(i => {{ i.value = {word!r}; i.dispatchEvent(new Event('input')); }})"
        "(document.querySelector('[type=search]'))"
    )
    browser.js("new Promise(done => setTimeout(done, 250))")
    assert browser.js(listed) == sum(word in text for text in data["points"]["text"])
    browser.js("document.querySelector('.listhead .quiet').click()")
    # a name in the legend
    browser.js("document.querySelector('.legend .chip').click()")
    assert browser.js(listed) == data["points"]["code"]["code"].count(0)
    browser.js("document.querySelector('.listhead .quiet').click()")
    # around everything
    browser.js("document.querySelector('.plot').scrollIntoView({block: 'center'})")
    left, top, right, bottom = browser.js(
        "(b => [b.left, b.top, b.right, b.bottom])(document.querySelector('.plot').getBoundingClientRect())"
    )
    left, top, right, bottom = left + 8, top + 8, right - 8, bottom - 8  # the corners are round
    corners = [(left, top), (right, top), (right, bottom), (left, bottom)]
    browser.mouse("mousePressed", *corners[0])
    for corner in [*corners[1:], corners[0]]:
        browser.mouse("mouseMoved", *corner)
    browser.mouse("mouseReleased", *corners[0])
    assert browser.js(listed) == 60
    # by keys alone
    browser.js("document.querySelector('.plot canvas + canvas').focus()")
    browser.key("Escape")
    browser.key("ArrowRight")
    told = browser.js("document.querySelector('#tip .text').textContent")
    assert told in data["points"]["text"] and browser.js("document.getElementById('tip').hidden") is False
    browser.key("Enter")
    assert browser.js("document.querySelector('.list li .text').textContent") == told
    # a card leads to the map
    browser.js("document.querySelector('.card .quiet').click()")
    assert browser.js(listed) == max(card["size"] for card in data["cards"]["code"])
    assert browser.problems() == []


def shown_title(title: str) -> str:
    return re.sub("[ \t\n\f\r]+", " ", title).strip(" ")


def use_everything(browser: Browser, *, buttons: bool = True) -> None:
    """Each part that draws later draws now."""
    browser.js(
        "document.querySelectorAll('select').forEach(s => [...s.options].forEach(o => {"
        " s.value = o.value; s.dispatchEvent(new Event('change')); }))"
    )
    if buttons:
        browser.js("document.querySelectorAll('main button, #theme').forEach(b => b.click())")
    browser.js("document.querySelectorAll('.legend .chip, .tabs button').forEach(b => b.click())")
    browser.js("document.querySelectorAll('details').forEach(d => d.open = true)")
    search = "document.querySelector('[type=search]')"
    browser.js(f"(i => {{ i.value = '<'; i.dispatchEvent(new Event('input')); }})({search})")
    browser.js("document.querySelector('.plot canvas + canvas').focus()")
    for key in ("Escape", "ArrowRight", "ArrowUp", "Enter"):
        browser.key(key)


def test_payloads_do_nothing(browser: Browser, tmp_path: Path) -> None:
    data, title = hostile()
    path = tmp_path / "hostile.html"
    path.write_text(render(data, title), encoding="utf-8")
    browser.open(path)
    use_everything(browser)
    browser.js("new Promise(done => setTimeout(done, 300))")
    assert browser.js("document.title") == shown_title(title)
    shown = browser.js("document.body.textContent")
    assert sum(payload.strip() in shown for payload in PAYLOADS) >= 250  # the list is cut at a hundred
    assert browser.js(f"document.querySelectorAll('{FOREIGN}').length") == 0
    assert browser.problems() == [] and browser.requests() == {path.as_uri()}


@pytest.mark.slow
def test_a_hundred_payloads_in_every_field(browser: Browser, tmp_path: Path) -> None:
    """A hundred turns, each in a fresh page: each field meets a hundred of the 500 payloads."""
    tried: dict[str, set[str]] = {}
    for turn in range(1, 101):
        data, title = hostile(turn)
        tried.setdefault("title", set()).add(title)
        tried.setdefault("run name", set()).add(data["run"]["name"].rsplit(" ", 1)[0])
        tried.setdefault("text", set()).add(data["points"]["text"][0].rsplit(" ", 1)[0])
        path = tmp_path / f"{turn}.html"
        path.write_text(render(data, title), encoding="utf-8")
        browser.open(path)
        use_everything(browser, buttons=False)
        assert browser.js(f"document.querySelectorAll('{FOREIGN}').length") == 0
        assert browser.js("document.title") == shown_title(title)
        assert browser.problems() == [] and browser.requests() == {path.as_uri()}, turn
        path.unlink()
    assert {name: len(each) for name, each in tried.items()} == dict.fromkeys(tried, 100)


def test_the_policy_stops_what_the_page_does_not_do(browser: Browser, page: Path, tmp_path: Path) -> None:
    """The second wall, tried by hand: a script put in by force does not run."""
    browser.open(page)
    browser.js("document.body.insertAdjacentHTML('beforeend', '<img src=x onerror=\"window.hurt=1\">')")
    browser.js("(s => { s.textContent = 'window.hurt=1'; document.body.append(s); })(document.createElement('script'))")
    browser.js("new Promise(done => setTimeout(done, 200))")
    assert browser.js("window.hurt === undefined")
    assert any("Content Security Policy" in problem for problem in browser.problems())
