"""From a file of one's own to a recipe: what is proposed, what is said of files and splits."""

from __future__ import annotations

import json
import random
from pathlib import Path

import pytest
from datasets import Dataset
from typer.testing import CliRunner

from textebm.cli import app
from textebm.errors import CorpusError
from textebm.model.build import build_tokenizer
from textebm.recipe.read import load_recipe
from textebm.runs.propose import propose
from textebm.text.corpora import load_corpus
from textebm.text.tokenizer import not_given_back, train_word
from textebm.training.data import check_corpus, corpus_digest, read_split, split_findings


@pytest.fixture(autouse=True)
def places(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TEXTEBM_CACHE", str(tmp_path / "cache"))
    monkeypatch.chdir(tmp_path)


def reviews(path: Path, n: int = 1200) -> Path:
    rng = random.Random(0)
    words = [f"{a}{b}" for a in ("ba", "ke", "lo", "mi", "nu", "pra") for b in ("d", "f", "g", "l", "n", "r", "s", "t")]
    rows = [
        {
            "review": " ".join(rng.choices(words, k=6)).capitalize() + "!",
            "stars": n % 3,
            "my topic": "abcd"[n % 4],
            "one": 1,
        }
        for n in range(n)
    ]
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


def test_a_proposed_recipe_says_why_and_loads(tmp_path: Path) -> None:
    path = reviews(tmp_path / "my reviews.jsonl")
    columns = ["stars", "my topic", "one"]
    proposal = propose(path, text_column="review", label_columns=columns, measure=False)
    (tmp_path / "mine.yaml").write_text(proposal.text)
    recipe = load_recipe(tmp_path / "mine.yaml")
    assert recipe.name == "my-reviews" and recipe.data == proposal.recipe.data
    assert recipe.data.label_columns == ("stars", "my topic"), "a column with one class has no head"
    assert [(head.name, head.labels) for head in recipe.heads][:2] == [("stars", "stars"), ("my_topic", "my topic")]
    assert recipe.tokenizer.kind == "bpe" and 8 <= recipe.data.max_tokens <= 40
    assert "one class" in proposal.text and "classes of 'stars' are numbers" in proposal.text
    assert sum(line.startswith("#") for line in proposal.text.splitlines()) > 8


def test_the_command_writes_a_recipe_beside_its_file_and_times_it(tmp_path: Path) -> None:
    (tmp_path / "project").mkdir()
    reviews(tmp_path / "project" / "reviews.jsonl", 300)
    command = ["recipes", "new", "--from", "project/reviews.jsonl", "--text", "review", "--label", "stars", "project"]
    done = CliRunner().invoke(app, command)
    assert done.exit_code == 0, done.output
    text = (tmp_path / "project" / "reviews.yaml").read_text()
    assert "train: reviews.jsonl" in text and "of training on this machine" in text
    assert load_recipe("project/reviews.yaml").data.train == str(tmp_path / "project" / "reviews.jsonl")
    again = CliRunner().invoke(app, command)
    assert again.exit_code == 2 and "exists already" in again.output
    done = CliRunner().invoke(app, ["recipes", "validate", "project/reviews.yaml"])
    assert done.exit_code == 0 and "is valid" in done.output and "note: train: 300 rows; below 1,000" in done.output


def test_validate_looks_at_the_files(tmp_path: Path) -> None:
    recipe = "data: {corpus: files, train: a.csv, label_columns: [y]}\n"
    (tmp_path / "a.yaml").write_text(recipe)
    assert "no such file" in CliRunner().invoke(app, ["recipes", "validate", "a.yaml"]).output
    (tmp_path / "a.csv").write_text("text,y\na,b\nc,d,e\n")
    done = CliRunner().invoke(app, ["recipes", "validate", "a.yaml"])
    assert done.exit_code == 2 and "1 problems, the first in line 3" in done.output
    (tmp_path / "a.csv").write_text("text,y\na,b\n")
    (tmp_path / "a.yaml").write_text(recipe + "heads: [{name: z, labels: z}]\n")
    assert "'z' is not in data.label_columns" in CliRunner().invoke(app, ["recipes", "validate", "a.yaml"]).output


def test_a_run_knows_its_corpus(tmp_path: Path) -> None:
    path = tmp_path / "a.csv"
    path.write_text("text,y\n" + "".join(f"sentence {n},{n % 2}\n" for n in range(60)))
    first = load_corpus("files", train=path, label_columns=["y"])
    recorded = json.loads(json.dumps(corpus_digest(first)))
    check_corpus(recorded, first, "runs/mine")
    with path.open("a") as file:
        file.write("one more,1\n")
    with pytest.raises(CorpusError, match=r"not the one of runs/mine \(train had 54 rows, now 55"):
        check_corpus(recorded, load_corpus("files", train=path, label_columns=["y"]), "runs/mine")
    path.write_text("text,y\n" + "".join(f"sentence {n},{1 - n % 2}\n" for n in range(60)))  # labels flipped
    with pytest.raises(CorpusError, match="train differs"):
        check_corpus(recorded, load_corpus("files", train=path, label_columns=["y"]), "runs/mine")


def test_07_08_unknown_words_and_cut_texts_are_said() -> None:
    train = Dataset.from_dict({"text": ["a b c d", "a b", "a b c d e"] * 20})
    validation = Dataset.from_dict({"text": ["x y z a"] * 5})
    tokenizer = train_word(train["text"], 100)
    corpus = {"train": train, "validation": validation}
    splits = {name: read_split(rows, tokenizer, 4) for name, rows in corpus.items()}
    found = {finding.name: str(finding) for finding in split_findings(corpus, splits, tokenizer, 4)}
    assert found["unknown_words"].startswith("75% of the validation words are unknown: tokenizer.kind=bpe")
    assert found["cut_texts"].startswith("33% of the training texts are cut to 4 tokens")
    assert not split_findings({"train": train}, {"train": read_split(train, tokenizer, 5)}, tokenizer, 5)


@pytest.mark.parametrize(
    ("texts", "message"),
    [
        (["the food was good ."] * 200, "200 rows hold 1 different text, too few"),
        ([f"text {number}" for number in range(40)], "40 rows hold 40 different texts, too few"),
    ],
)
def test_a_file_with_nothing_to_learn_is_refused(texts: list[str], message: str, tmp_path: Path) -> None:
    (tmp_path / "own.txt").write_text("\n".join(texts), encoding="utf-8")
    with pytest.raises(CorpusError, match=message):
        propose(tmp_path / "own.txt", measure=False)


LETTERS = {
    "chinese": ("这家餐厅的菜{}好吃，我还会再来{}。", "gru"),
    "arabic": ("المطعم رقم {} جميل جدا، وسأعود إليه {}.", "whole_words"),
    "emoji": ("@user{} love this song 😀👍🏽 https://t.co/{} #fun", "whole_words"),
}


@pytest.mark.parametrize("name", LETTERS)
def test_a_proposal_for_any_script_gives_text_back(name: str, tmp_path: Path) -> None:
    """Chinese, which has no spaces, is read in order; all of it is spelt back as it was, and little of it is said."""
    form, encoder = LETTERS[name]
    rows = [(form.format(number, number * 7), "pn"[number % 2]) for number in range(120)]
    path = tmp_path / "own.tsv"
    path.write_text("text\tlabel\n" + "\n".join("\t".join(row) for row in rows), encoding="utf-8")
    made = propose(path, label_columns=["label"], measure=False)
    assert made.recipe.encoder.kind == encoder
    assert "tokens are little: labels, codes" in made.text
    tokenizer = build_tokenizer(made.recipe, [text for text, _ in rows])
    assert not_given_back(tokenizer, [text for text, _ in rows]) == []
