"""`textebm explore`: what the page asks of a model, the server, and the page in a browser."""

from __future__ import annotations

import json
import re
import shutil
import threading
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from browser import Browser, started
from test_context import fresh as model_of_dialogues
from tiny import trained
from typer.testing import CliRunner

from textebm.api import TextEBM
from textebm.cli import app
from textebm.errors import TextEBMError
from textebm.runs.explore import Explorer
from textebm.runs.explore_page import ExplorePage
from textebm.text.words import share_changed, word_changes
from textebm.use.codebook import Codebook, HeadBook, load_codebook

POSITIVE = {"head": "sentiment", "class": 1, "weight": 3.0}
SAID = "then let us go . 3"
FOOD = "the pizza was great ."


@pytest.fixture(scope="module")
def saved(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A tiny model with an attribute, whose codes are described but not named; two of them are one."""
    directory = tmp_path_factory.mktemp("run")
    trained().save_pretrained(directory)
    model = TextEBM.from_pretrained(directory)
    model.add_attribute("long", model.generate(10, seed=1), ["yes", "no"] * 5)
    words = tuple((f"word{k}", "other") for k in range(5))
    model.codes = Codebook(heads={"code": HeadBook(words=words, merged={4: 3})})
    model.save_pretrained(directory)
    return directory


@pytest.fixture(scope="module")
def explorer(saved: Path) -> Explorer:
    """Shared: let no test change it."""
    return Explorer(TextEBM.from_pretrained(saved), saved)


@pytest.fixture
def own(saved: Path, tmp_path: Path) -> Explorer:
    """One that a test may change."""
    shutil.copytree(saved, tmp_path / "run")
    return Explorer(TextEBM.from_pretrained(tmp_path / "run"), tmp_path / "run")


def test_changes_of_words_spell_both_sentences() -> None:
    changes = word_changes("i hated the old car .", "i loved the car , too .")
    assert [words for kind, words in changes if kind == "same"] == ["i", "the", "car", "."]
    assert [(kind, words) for kind, words in changes if kind != "same"] == [
        ("out", "hated"),
        ("in", "loved"),
        ("out", "old"),
        ("in", ", too"),
    ]
    assert share_changed("a b c", "a x c") == pytest.approx(1 / 3) and share_changed("a", "a") == 0
    assert word_changes("", "") == [] and word_changes("", "a b") == [("in", "a b")]


def test_reading_adds_up_and_shows_merged_codes_as_one(explorer: Explorer) -> None:
    told = explorer.read(FOOD)
    heads = {head["name"]: head for head in told["heads"]}
    assert list(heads) == ["sentiment", "topic", "code", "long"]
    encoding = explorer.model.encode([FOOD])
    p = encoding.probabilities["code"][0]
    shown = {number: value for number, _, value in heads["code"]["classes"]}
    assert set(shown) == {0, 1, 2, 3} and shown[3] == pytest.approx(float(p[3] + p[4]), abs=1e-6)
    for name, head in heads.items():
        (why,) = explorer.model.attribute([FOOD], name)
        assert head["words"] == FOOD.split() and head["parts"] == list(why.parts)
        assert why.baseline is not None
        assert sum(head["parts"]) == pytest.approx(why.log_probability - why.baseline, abs=0.02)
    assert heads["code"]["classes"][0][1].startswith(f"{heads['code']['number']} · word")
    assert told["back"] == explorer.model.reconstruct([FOOD])[0] and told["lost"] == ""
    assert "<unk>" in explorer.read("the zebra was great .")["lost"]


def test_writing_is_what_the_api_writes(explorer: Explorer) -> None:
    model, asked = explorer.model, [POSITIVE, {"head": "code", "class": 2, "not": True, "weight": 2.0}]
    rows = explorer.write(asked, n=5, seed=3)
    direction = 3.0 * model.symbol("sentiment", "positive") + 2.0 * -model.symbol("code", 2)
    assert [row["text"] for row in rows] == model.generate(5, direction=direction, seed=3)
    assert [row["free"] for row in rows] == model.generate(5, seed=3)
    for row in rows:
        labels = model.encode([row["text"]]).codes
        assert [each["as_asked"] for each in row["read"]] == [int(labels["sentiment"]) == 1, int(labels["code"]) != 2]
        new = " ".join(words for kind, words in row["changes"] if kind != "out")
        assert new == " ".join(row["text"].split())
    free = explorer.write([], n=2)
    assert all(row["text"] == row["free"] and row["read"] == [] for row in free)
    with pytest.raises(TextEBMError, match="unknown symbol"):
        explorer.write([{**POSITIVE, "head": "mood"}])


def test_editing_and_walking_are_what_the_api_does(explorer: Explorer) -> None:
    told = explorer.edit(FOOD, [{**POSITIVE, "class": 0}], keep=2.0)
    assert told["text"] == explorer.model.edit([FOOD], {"sentiment": "negative"}, keep=2.0)[0]
    assert told["before"][0]["name"] in ("positive", "negative") and len(told["after"]) == 1
    assert explorer.edit(FOOD, [])["text"] == FOOD
    rows = explorer.walk(FOOD, "we hated this hotel .", steps=4)
    assert [row["text"] for row in rows] == explorer.model.interpolate(FOOD, "we hated this hotel .", 4)
    assert set(rows[0]["labels"]) == {"sentiment", "topic", "code", "long"}


def test_a_name_is_kept_in_the_run_and_seen_at_once(own: Explorer) -> None:
    heads = {head["name"]: head for head in own.rename("code", 2, " good  food ")}
    assert {c["number"]: c["name"] for c in heads["code"]["classes"]}[2] == "good food"
    book = load_codebook(own.directory)
    assert book is not None and book.heads["code"].names == {2: "good food"}
    assert own.model.generate(2, symbols={"code": "good food"}, seed=0)
    with pytest.raises(TextEBMError, match="both called"):
        own.rename("code", 1, "Good food")
    heads = {head["name"]: head for head in own.rename("code", 2, "")}
    assert {c["number"]: c["name"] for c in heads["code"]["classes"]}[2] == "2 · word2 other"


def test_a_model_of_dialogues_answers_what_was_said(tmp_path: Path) -> None:
    explorer, turns = Explorer(model_of_dialogues(), tmp_path), ["are you tired ?", "no , i am not ."]
    assert explorer.facts()["dialogue"] and explorer.read(SAID, turns)["heads"]
    rows = explorer.write([], n=2, seed=5, context=turns)
    assert [row["text"] for row in rows] == explorer.model.respond([turns], n=2, seed=5)[0]
    question = [{"head": "act", "class": 0, "weight": 1.0}]
    edited = explorer.edit(SAID, question, context=turns)["text"]
    assert edited == explorer.model.edit([SAID], {"act": "question"}, contexts=[turns])[0]
    assert len(explorer.walk(SAID, edited, 3, turns)) == 3


# -- the server --------------------------------------------------------------------------------------------------------


@pytest.fixture
def page(own: Explorer) -> Iterator[ExplorePage]:
    with ExplorePage(own, 0) as server:
        thread = threading.Thread(target=server.serve_forever, args=(0.02,), daemon=True)
        thread.start()
        yield server
        server.shutdown()
        thread.join()


def fetched(address: str, body: bytes | None = None) -> tuple[int, bytes]:
    try:
        with urllib.request.urlopen(address, body, timeout=20) as reply:
            return reply.status, reply.read()
    except urllib.error.HTTPError as error:
        return error.code, error.read()


def test_only_the_secret_address_answers(page: ExplorePage) -> None:
    base = page.address.removesuffix(f"{page.key}/")
    assert page.server_address[0] == "127.0.0.1" and len(page.key) >= 16
    for path in ("", "read", "wrong/read", f"{page.key}/facts", f"{page.key}/__init__"):
        assert fetched(base + path, b"{}")[0] == 404 and fetched(base + path)[0] == 404
    for body in (b"[1", b"[]", b'{"texts": 1}', b"3"):
        assert fetched(page.address + "read", body)[0] == 400
    status, answer = fetched(page.address + "read", json.dumps({"text": FOOD}).encode())
    assert status == 200 and json.loads(answer)["answer"]["back"] == page.explorer.read(FOOD)["back"]
    assert "row 0 is int" in json.loads(fetched(page.address + "read", b'{"text": 1}')[1])["error"]


def test_the_page_may_ask_its_own_server_alone(page: ExplorePage) -> None:
    status, content = fetched(page.address)
    text = content.decode()
    assert status == 200 and "connect-src 'self';" in text.replace("&#x27;", "'")
    assert not re.findall(r"(?:src|href)=[\"']?https?:|@import|url\(", text)


def test_a_port_in_use_and_a_run_that_is_none_are_one_error(page: ExplorePage, tmp_path: Path) -> None:
    with pytest.raises(TextEBMError, match="choose another with --port"):
        ExplorePage(page.explorer, page.server_port)
    outcome = CliRunner().invoke(app, ["explore", str(tmp_path / "nothing")])
    assert outcome.exit_code == 2 and "no run at" in outcome.stderr


def test_a_page_that_is_closed_early_is_no_fault(page: ExplorePage, capsys: pytest.CaptureFixture[str]) -> None:
    for error, told in ((BrokenPipeError(), False), (ConnectionResetError(), False), (RuntimeError("a bug"), True)):
        try:
            raise error
        except Exception:
            page.handle_error(None, ("127.0.0.1", 1))
        assert ("a bug" in capsys.readouterr().err) == told


def test_the_command_says_where_and_ends_quietly(saved: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def ended(*_: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(ExplorePage, "serve_forever", ended)
    outcome = CliRunner().invoke(app, ["explore", str(saved), "--port", "0"])
    assert outcome.exit_code == 0 and re.fullmatch(r"http://127\.0\.0\.1:\d+/[\w-]{16,}/\n", outcome.stdout)


# -- the page in a browser ---------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    yield from started()


def until(browser: Browser, expression: str) -> Any:
    end = time.monotonic() + 20
    while not (value := browser.js(expression)):
        assert time.monotonic() < end, f"never: {expression}"
        time.sleep(0.03)
    return value


def enter(browser: Browser, selector: str, value: str, event: str = "input") -> None:
    browser.js(
        f"(node => {{ node.value = {json.dumps(value)}; node.dispatchEvent(new Event({event!r})); }})"
        f"(document.querySelector({json.dumps(selector)}))"
    )


def test_the_page_is_driven_by_clicks(browser: Browser, page: ExplorePage) -> None:
    explorer = page.explorer
    browser.open(page.address)
    settled = "!document.querySelector('[aria-busy]') && document.querySelector('#read .because') !== null"
    until(browser, settled)
    # a sentence that is typed is read
    enter(browser, "#read .sentence", FOOD)
    label = {head["name"]: head["label"] for head in explorer.read(FOOD)["heads"]}
    until(browser, f"document.querySelector('#read .answer').textContent.includes({FOOD.split()[3]!r})")
    until(browser, settled)
    for name, own in label.items():
        assert browser.js(f"document.querySelector('#read [data-head={name}] h3').textContent") == own
    words = "[...document.querySelectorAll('#read [data-head=code] .because > span > span')].map(w => w.textContent)"
    assert browser.js(words) == FOOD.split()
    # menus and sliders steer; the strength is the slider's
    browser.js("document.querySelectorAll('#write select').forEach(s => { s.value = ''; })")
    enter(browser, "#write [data-head=sentiment] select", "1", "change")
    for weight in ("0.5", "8"):
        enter(browser, "#write [data-head=sentiment] input", weight)
        expected = [row["text"] for row in explorer.write([{**POSITIVE, "weight": float(weight)}])]
        said = "[...document.querySelectorAll('.twins .link > .text')].map(t => t.textContent)"
        until(browser, f"JSON.stringify({said}) === JSON.stringify({json.dumps(expected)})")
    # a sentence that is clicked is read and edited; an edit shows what differs
    browser.js("document.querySelector('.twins button').click()")
    for place in ("read", "edit"):
        assert browser.js(f"document.querySelector('#{place} .sentence').value") == expected[0]
    enter(browser, "#edit .sentence", FOOD)
    browser.js("document.querySelectorAll('#edit select').forEach(s => { s.value = ''; })")
    enter(browser, "#edit [data-head=sentiment] select", "0", "change")
    told = explorer.edit(FOOD, [{**POSITIVE, "class": 0}])
    shown = (
        "[...document.querySelectorAll('#edit .edited ins, #edit .edited del')].map(n => [n.tagName, n.textContent])"
    )
    tags = {"in": "INS", "out": "DEL"}
    changes = [[tags[kind], words] for kind, words in told["changes"] if kind in tags]
    until(browser, f"JSON.stringify({shown}) === JSON.stringify({json.dumps(changes)})")
    # a walk between two sentences
    enter(browser, "#walk input[type=range]", "3")
    until(browser, "document.querySelectorAll('#walk .trail li').length === 3")
    # a code that gets a name has it in the run and in the menus
    enter(browser, "#codes [data-code='2'] input", "food", "change")
    until(browser, "[...document.querySelector('#write [data-head=code] select').options].some(o => o.text === 'food')")
    book = load_codebook(explorer.directory)
    assert book is not None and book.heads["code"].names == {2: "food"}
    enter(browser, "#codes [data-code='1'] input", "food", "change")
    assert "both called" in until(browser, "document.querySelector('#codes .problem')?.textContent")
    # nothing goes anywhere else, and nothing failed
    assert browser.problems() == []
    assert all(address.startswith((page.address, "data:")) for address in browser.requests())


def test_the_page_fits_a_phone_and_says_when_the_server_is_gone(browser: Browser, page: ExplorePage) -> None:
    browser.open(page.address, width=390, dark=True)
    until(browser, "!document.querySelector('[aria-busy]') && document.querySelector('#walk .trail') !== null")
    assert browser.js("document.documentElement.scrollWidth") == 390
    page.shutdown()
    page.server_close()
    enter(browser, "#read .sentence", FOOD)
    assert "gives no answer" in until(browser, "document.querySelector('#read .problem')?.textContent")
