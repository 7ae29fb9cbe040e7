"""Curated codes of a run: described when it is trained, changed by commands, used wherever codes are asked or shown."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest
import tiny
from typer.testing import CliRunner

from textebm.api import TextEBM
from textebm.cli import app
from textebm.runs.train import train
from textebm.use.codebook import load_codebook


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Path:
    directory = tmp_path_factory.mktemp("runs") / "tiny"
    train(tiny.recipe("objective.cluster_features=content"), out=directory, quiet=True)
    return directory


@pytest.fixture
def run(trained: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(trained, tmp_path / "run"))


def ask(*arguments: object, code: int = 0, stdin: str | None = None) -> str:
    result = CliRunner().invoke(app, [str(each) for each in arguments], input=stdin)
    assert result.exit_code == code, result.output
    return result.stderr if code else result.stdout


def test_codes_are_called_by_their_words(trained: Path) -> None:
    model = TextEBM.from_pretrained(trained)
    book = load_codebook(trained)
    assert book is not None and set(book.heads) == {"sentiment", "topic", "code"}
    assert len(book.head("code").words) == 5 and any(book.head("code").words)
    assert model.codes == book and model.heads["sentiment"].classes == ("negative", "positive")
    for code, name in enumerate(model.heads["code"].classes):
        assert name.split() == [str(code), *book.head("code").words[code][:3]]
        assert model.heads["code"].index(name) == model.heads["code"].index(str(code)) == code
    labels = model.classify(list(tiny.sentences(20)), "code").labels
    assert set(labels) <= set(model.heads["code"].classes)


def test_a_name_is_used_everywhere(run: Path) -> None:
    shown = ask("codes", "rename", run, "2", "the  kitchen", "--note", "soups, too")
    assert "2\tthe kitchen\n" in shown
    model = TextEBM.from_pretrained(run)
    assert model.heads["code"].classes[2] == "the kitchen"
    assert ask("generate", run, "-n", "2", "--symbol", "code=the kitchen")
    drawn = [model.sample_latents(3, symbols={"code": name}) for name in ("the kitchen", "2", 2, "1")]
    assert (drawn[0] == drawn[1]).all() and (drawn[0] == drawn[2]).all() and (drawn[0] != drawn[3]).any()
    text = "\n".join(tiny.sentences(30)) + "\n"
    labels = {line.split("\t")[0] for line in ask("classify", run, "--head", "code", stdin=text).splitlines()}
    codes = {json.loads(line)["codes"]["code"] for line in ask("encode", run, "-", stdin=text).splitlines()}
    assert labels == codes <= set(model.heads["code"].classes)
    names = [card["name"] for card in json.loads(ask("codes", run, "--json", "--limit", "50"))]
    assert names == list(model.heads["code"].classes)
    exported = json.loads(ask("codes", "export", run))
    assert exported[2]["name"] == "the kitchen" and exported[2]["note"] == "soups, too"
    assert "2\tthe kitchen" not in ask("codes", "rename", run, "the kitchen", "")


def test_merged_and_hidden_codes_and_none_of_these(run: Path) -> None:
    ask("codes", "rename", run, "0", "food")
    ask("codes", "merge", run, "food", "1", "2")
    ask("codes", "hide", run, "3")
    texts = list(tiny.sentences(60))
    labels = TextEBM.from_pretrained(run).classify(texts, "code").labels
    known = {"food", "none of these", TextEBM.from_pretrained(run).codes.head("code").name(4)}
    assert set(labels) <= known and "food" in labels
    assert len(json.loads(ask("codes", "export", run))) == 3
    ask("codes", "merge", run, "food", "food")
    ask("codes", "hide", run, "3", "--show")
    assert len(json.loads(ask("codes", "export", run))) == 5
    told = ask("codes", "threshold", run, "--precision", "0.01")
    assert told.startswith("p >= ") and "have no code" in told
    assert "no threshold reaches" in ask("codes", "threshold", run, "--precision", "1.0", "--head", "topic", code=2)
    ask("codes", "threshold", run, "--off")


def test_codes_gather_in_groups(run: Path) -> None:
    groups = json.loads(ask("codes", run, "--levels", "2", "--json"))
    assert len(groups) == 2 and sum(map(len, groups)) <= 5
    assert len(ask("codes", run, "--levels", "2").splitlines()) == 2


def test_why_says_what_each_word_adds(run: Path) -> None:
    texts = list(tiny.sentences(3))
    lines = ask("codes", "why", run, "-", stdin="\n".join(texts)).splitlines()
    assert len(lines) == 3 and len(lines[0].split("\t")[2].split()) == 2 * len(texts[0].split())
    records = [json.loads(line) for line in ask("codes", "why", run, "-", "--json", stdin=texts[0]).splitlines()]
    assert records[0]["baseline"] + sum(records[0]["parts"]) == pytest.approx(records[0]["log_probability"], abs=0.02)


def test_names_are_carried_to_another_run(run: Path, trained: Path, tmp_path: Path) -> None:
    other = Path(shutil.copytree(trained, tmp_path / "other"))
    used = max(json.loads(ask("codes", run, "--json", "--limit", "60")), key=lambda card: card["size"])["code"]
    ask("codes", "rename", run, used, "drinks")
    found = json.loads(ask("codes", "carry", run, other, "--json"))
    assert found[used] == {"old": used, "name": "drinks", "new": used, "overlap": 1.0}
    assert TextEBM.from_pretrained(other).heads["code"].classes[used] == "drinks"


@pytest.mark.parametrize(
    "arguments, message",
    [
        (["rename", "RUN", "9", "x"], "there is no code 9; there are 0 to 4"),
        (["rename", "RUN", "drniks", "x"], "no code is called 'drniks'"),
        (["hide", "RUN", "1", "--head", "cod"], "did you mean 'code'"),
        (["threshold", "RUN"], "either --precision or --off"),
        (["merge", "RUN", "1", "9"], "there is no code 9"),
    ],
)
def test_what_cannot_be_changed_is_said_and_changes_nothing(run: Path, arguments: list[str], message: str) -> None:
    before = (run / "codes.yaml").read_bytes()
    assert message in ask("codes", *(str(run) if each == "RUN" else each for each in arguments), code=2)
    assert (run / "codes.yaml").read_bytes() == before


def test_a_damaged_codebook_is_one_line(run: Path) -> None:
    (run / "codes.yaml").write_text("heads: {code: {words: 3}}")
    assert "codes.yaml: heads.code.words" in ask("codes", run, code=2)


def test_a_run_without_a_codebook_gets_one(run: Path) -> None:
    (run / "codes.yaml").unlink()
    assert TextEBM.from_pretrained(run).heads["code"].classes == tuple("01234")
    ask("codes", "rename", run, "1", "named")
    assert TextEBM.from_pretrained(run).heads["code"].classes[1] == "named"


def test_the_report_says_why_a_sentence_has_its_code(run: Path) -> None:
    ask("report", run, "--limit", "60")
    page = (run / "report.html").read_text(encoding="utf-8")
    data = json.loads(page.split('<script type="application/json" id="data">')[1].split("</script>")[0])
    cards = data["cards"]["code"]
    explained = [text for card in cards for text in card["typical"] if text["words"]]
    assert explained and all(len(text["words"]) == len(text["parts"]) for text in explained)
