"""Saved is what was trained; anything else is refused; nothing but the model's files goes to the Hub."""

from __future__ import annotations

import json
import shutil
import sys
from collections.abc import Callable, Iterator
from fnmatch import fnmatch
from pathlib import Path
from typing import Any

import pytest
import torch
from tiny import run, sentences, trained, untrained

from textebm.api import TextEBM
from textebm.errors import CheckpointError, TextEBMError
from textebm.model.files import model_card
from textebm.model.latent_text_model import Attribute
from textebm.use.codebook import Codebook, HeadBook

TEXTS = list(sentences(8))
EXPECTED = {"model.safetensors", "config.json", "tokenizer.json", "tokenizer_config.json", "README.md"}


def everything(model: TextEBM) -> dict[str, Any]:
    """What every public method says, as JSON."""
    encoding, terms = model.encode(TEXTS), model.elbo_terms(TEXTS, seed=2)
    classified = model.classify(TEXTS, "topic")
    return {
        "mean": encoding.mean.tolist(),
        "stddev": encoding.stddev.tolist(),
        "probabilities": {name: p.tolist() for name, p in encoding.probabilities.items()},
        "codes": encoding.codes["code"].tolist(),
        "labels": classified.labels,
        "elbo": [terms.reconstruction_nll.tolist(), terms.kl.tolist(), terms.num_tokens.tolist()],
        "latents": model.sample_latents(5, symbols={"sentiment": 1}, strength=3.0, seed=1, steps_factor=2).tolist(),
        "generate": model.generate(5, symbols={"sentiment": "positive", "code": 2}, seed=1),
        "sampled": model.generate(5, decoding="sample", top_k=20, top_p=0.9, seed=1),
        "beam": model.generate(5, decoding="beam", num_beams=3, seed=0),
        "reconstruct": model.reconstruct(TEXTS),
        "interpolate": model.interpolate(TEXTS[0], TEXTS[1], 4),
        "edit": model.edit(TEXTS, {"sentiment": "negative"}),
        "decode": model.decode(torch.linspace(-1, 1, 16).view(2, 8)),
        "heads": {name: [head.classes, head.column] for name, head in model.heads.items()},
        "recipe": model.recipe,
    }


def test_a_fresh_process_says_the_same(tmp_path: Path) -> None:
    model = trained()
    model.save_pretrained(tmp_path / "model")
    assert {path.name for path in (tmp_path / "model").iterdir()} == EXPECTED
    code = (
        "import sys, json, torch; torch.set_num_threads(1); sys.path.insert(0, sys.argv[1])\n"
        "from test_pretrained import everything\nfrom textebm.api import TextEBM\n"
        "print(json.dumps(everything(TextEBM.from_pretrained(sys.argv[2]))))"
    )
    here = Path(__file__).parent
    done = run(str(here), tmp_path / "model", python=["-c", code])
    assert done.returncode == 0, done.stderr
    expected = json.loads(json.dumps(everything(model)))
    found = json.loads(done.stdout)
    assert [name for name in expected if found[name] != expected[name]] == []
    assert str(here) in sys.path


@pytest.mark.parametrize(
    "overrides",
    [
        ("prior.kind=gaussian_mixture",),
        ("prior.kind=energy",),
        ("prior.kind=joint_energy",),
        ("prior.kind=hierarchical_diffusion_energy",),
        ("latent.segments=4", "encoder.tie_embedding=true"),
    ],
)
def test_every_state_is_saved(tmp_path: Path, overrides: tuple[str, ...]) -> None:
    model = untrained(*overrides, "tokenizer.kind=bpe", "tokenizer.vocabulary_size=300")
    model.prior.rho.fill_(0.77)
    model.save_pretrained(tmp_path)
    loaded = TextEBM.from_pretrained(tmp_path)
    assert not loaded.network.training
    saved = model.network.state_dict()
    assert saved.keys() == loaded.network.state_dict().keys()
    assert all(torch.equal(saved[name], tensor) for name, tensor in loaded.network.state_dict().items())
    texts = ["the food was great .", "naïve 東京 🙂"]
    assert loaded.tokenizer(texts)["input_ids"] == model.tokenizer(texts)["input_ids"]
    assert json.dumps(loaded.reconstruct(texts)) == json.dumps(model.reconstruct(texts))


@pytest.fixture(scope="module")
def saved(tmp_path_factory: pytest.TempPathFactory) -> Path:
    directory = tmp_path_factory.mktemp("saved") / "model"
    untrained().save_pretrained(directory)
    return directory


@pytest.fixture
def copy(saved: Path, tmp_path: Path) -> Iterator[Path]:
    yield Path(shutil.copytree(saved, tmp_path / "copy"))


def truncate(path: Path) -> None:
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])


def empty(path: Path) -> None:
    path.write_bytes(b"")


def flip(path: Path) -> None:
    data = bytearray(path.read_bytes())
    data[len(data) * 2 // 3] ^= 0x04
    path.write_bytes(data)


def foreign(path: Path) -> None:
    path.write_bytes(b'{"model_type": "gpt2"}')


def directory(path: Path) -> None:
    path.unlink()
    path.mkdir()


@pytest.mark.parametrize("damage", [truncate, empty, flip, foreign, directory, Path.unlink])
@pytest.mark.parametrize("name", sorted(EXPECTED - {"README.md"}))
def test_damage_is_refused(copy: Path, name: str, damage: Callable[[Path], None]) -> None:
    damage(copy / name)
    with pytest.raises(CheckpointError) as caught:
        TextEBM.from_pretrained(copy)
    assert str(copy) in str(caught.value)


def test_files_of_another_model_are_refused(copy: Path, tmp_path: Path) -> None:
    untrained("tokenizer.vocabulary_size=50", "latent.dim=4").save_pretrained(tmp_path / "other")
    for name in ("model.safetensors", "tokenizer.json"):
        before = (copy / name).read_bytes()
        shutil.copy(tmp_path / "other" / name, copy / name)
        with pytest.raises(CheckpointError, match=name):
            TextEBM.from_pretrained(copy)
        (copy / name).write_bytes(before)
    TextEBM.from_pretrained(copy)


def test_a_recipe_of_another_version_is_refused_in_one_line(tmp_path: Path) -> None:
    model = untrained()
    assert model.recipe is not None
    model.recipe["prior"]["component"] = 3
    model.save_pretrained(tmp_path)
    with pytest.raises(
        CheckpointError, match="another version: prior.component: unknown option; .*'components'"
    ) as caught:
        TextEBM.from_pretrained(tmp_path)
    assert "\n" not in str(caught.value)


def test_what_is_no_model_is_refused(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("hello")
    for path in (tmp_path, tmp_path / "absent", tmp_path / "file"):
        with pytest.raises(CheckpointError):
            TextEBM.from_pretrained(path)


def test_saving_replaces_the_model_and_keeps_the_card(copy: Path) -> None:
    (copy / "README.md").write_text("my words")
    other = untrained("seed=5")
    other.save_pretrained(copy)
    assert (copy / "README.md").read_text() == "my words"
    assert torch.equal(TextEBM.from_pretrained(copy).decoder.embedding.weight, other.decoder.embedding.weight)


def test_a_model_that_could_not_be_rebuilt_is_not_saved(tmp_path: Path) -> None:
    model = untrained()
    model.network.recipe = None
    with pytest.raises(TextEBMError, match="without a recipe"):
        model.save_pretrained(tmp_path)
    assert list(tmp_path.iterdir()) == []


def test_a_place_that_cannot_be_written_is_an_error(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("in the way")
    with pytest.raises(CheckpointError):
        untrained().save_pretrained(tmp_path / "file" / "model")


class FakeHub:
    """What `HfApi` is asked."""

    def __init__(self) -> None:
        self.created: list[tuple[str, bool]] = []
        self.uploaded: dict[str, bytes] = {}

    def create_repo(self, repo_id: str, *, private: bool, exist_ok: bool) -> str:
        assert exist_ok
        self.created.append((repo_id, private))
        return f"https://huggingface.co/{repo_id}"

    def upload_folder(self, *, repo_id: str, folder_path: str) -> None:
        self.uploaded = {
            str(p.relative_to(folder_path)): p.read_bytes() for p in Path(folder_path).rglob("*") if p.is_file()
        }


def test_push_uploads_the_model_and_nothing_else(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    hub = FakeHub()
    monkeypatch.setattr("huggingface_hub.HfApi", lambda: hub)
    monkeypatch.setenv("HF_TOKEN", "hf_secretsecret")
    model = untrained()
    assert model.push_to_hub("me/tiny", private=True) == "https://huggingface.co/me/tiny"
    assert hub.created == [("me/tiny", True)]
    assert set(hub.uploaded) == EXPECTED
    assert not any(b"hf_secretsecret" in data for data in hub.uploaded.values())
    for name, data in hub.uploaded.items():
        (tmp_path / name).write_bytes(data)
    assert TextEBM.from_pretrained(tmp_path).generate(2, seed=0) == model.generate(2, seed=0)


def test_what_was_added_is_pushed_and_comes_back(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    hub, model = FakeHub(), untrained()
    levels = model.prior.schedule.num_levels
    model.network.attributes["side"] = Attribute(
        "side", ("a", "b"), torch.randn(levels, 2, 8), torch.randn(levels, 2), {"n": 10}
    )
    words = (("one",),) * len(model.heads["code"].classes)
    model.codes = Codebook(heads={"code": HeadBook(words=words, names={0: "first"})})
    monkeypatch.setattr("huggingface_hub.HfApi", lambda: hub)
    model.push_to_hub("me/tiny")

    def download(repo_id: str, *, allow_patterns: list[str], **_: Any) -> str:
        for name, data in hub.uploaded.items():
            if any(fnmatch(name, pattern) for pattern in allow_patterns):
                (tmp_path / name).parent.mkdir(exist_ok=True)
                (tmp_path / name).write_bytes(data)
        return str(tmp_path)

    monkeypatch.setattr("huggingface_hub.snapshot_download", download)
    loaded = TextEBM.from_pretrained("me/tiny")
    assert loaded.attributes["side"].facts == {"n": 10} and loaded.codes.heads["code"].names == {0: "first"}


def test_a_failed_push_is_one_clear_error(monkeypatch: pytest.MonkeyPatch) -> None:
    class Refusing(FakeHub):
        def create_repo(self, *_: Any, **__: Any) -> str:
            raise OSError("no route to host")

    monkeypatch.setattr("huggingface_hub.HfApi", Refusing)
    with pytest.raises(CheckpointError, match="hf auth login"):
        untrained().push_to_hub("me/tiny")


def test_an_unreachable_hub_id_is_one_clear_error(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(CheckpointError, match="'someone/some-model' is no directory here") as caught:
        TextEBM.from_pretrained("someone/some-model")
    assert "\n" not in str(caught.value)


def test_the_card_names_symbols_and_results() -> None:
    card = model_card(untrained(), "| metric | value |")
    for words in (
        "diffusion_energy",
        "`code`: 5 codes, found",
        "`sentiment`: negative, positive",
        "| metric | value |",
    ):
        assert words in card
    assert card.startswith("---\nlibrary_name: textebm\n")
