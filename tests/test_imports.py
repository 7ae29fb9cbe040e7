"""The architecture as the code has it: who may import whom, what never occurs, and that importing does nothing."""

from __future__ import annotations

import ast
import os
import re
import subprocess
import sys
from functools import cache
from pathlib import Path

import pytest
from tiny import trained

import textebm

PACKAGE = Path(textebm.__file__).parent
FILES = sorted(PACKAGE.rglob("*.py"))
NAMES = [str(path.relative_to(PACKAGE)) for path in FILES]

# One way up: a room knows only rooms of lower floors. Each floor may import all those below it, but for the floors of
# parts (1 and 2), whose rooms know only what is named here. "textebm/README" of the plan: shared/design/house.md.
ALLOWED: dict[str, set[str]] = {
    "errors": set(),
    "terminal": set(),  # what a terminal is shown
    "files": {"errors"},  # what is written, is written whole
    "notebook": set(),  # progress of long work, and values as short tables
    # the parts
    "text": {"errors", "files"},
    "networks": {"errors", "files"},
    "objective": {"errors"},  # pure terms
    "recipe": {"errors", "files"},
    "prior": {"errors", "networks"},
    # the model: encoder, decoder, prior, and the objective that trains them
    "model": {"errors", "files", "notebook", "recipe", "text", "networks", "objective", "prior"},
}
ALLOWED["use"] = {*ALLOWED["model"], "model"}  # what one does with a trained model
ALLOWED["api"] = {*ALLOWED["use"], "use"}  # the face of all that
# measure it, look at it, train it
ALLOWED["evaluation"] = {*ALLOWED["api"], "api"}
ALLOWED["inspection"] = {*ALLOWED["evaluation"], "evaluation"}
ALLOWED["training"] = {*ALLOWED["model"], "model", "evaluation"}  # no roof: evaluation.latent has the estimates
ALLOWED["runs"] = {
    *ALLOWED["inspection"],
    *ALLOWED["training"],
    "inspection",
    "training",
    "terminal",
}  # a run directory
# the doors
ALLOWED["densities"] = {"errors", "networks", "objective", "prior"}  # no text at all: the prior on its own
ALLOWED["bench"] = {*ALLOWED["runs"]}
ALLOWED["sklearn"] = {*ALLOWED["runs"], "runs"}  # estimators, which train
ALLOWED["cli"] = {*ALLOWED["runs"], "runs", "densities", "bench"}
ALLOWED["__main__"] = {"cli"}
ALLOWED["__init__"] = {*ALLOWED["cli"], "cli"} - {"cli"}
# Keyword arguments that let a file run code.
TRUSTING = {("trust_remote_code", True), ("weights_only", False), ("allow_pickle", True), ("shell", True)}


@cache
def parse(path: Path) -> ast.Module:
    return ast.parse(path.read_text(encoding="utf-8"), filename=str(path))


def unit_of(module: str) -> str:
    """`textebm.prior.noise` -> `prior`; the package itself is `__init__`."""
    return (module.split(".") + ["__init__"])[1]


def module_of(path: Path) -> str:
    parts = path.relative_to(PACKAGE.parent).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


def exists(module: str) -> bool:
    path = PACKAGE.parent.joinpath(*module.split("."))
    return path.is_dir() or path.with_suffix(".py").is_file()


def imports(tree: ast.Module, module: str, is_package: bool) -> list[tuple[str, int]]:
    """(module of ours, line) for each import: nested ones too, and those that only a type checker reads."""
    named: list[tuple[str, int]] = []
    for node in ast.walk(tree):
        names: list[str] = []
        if isinstance(node, ast.Import):
            names = [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            base = node.module or ""
            if base == "textebm" and all(alias.name == "__version__" for alias in node.names):
                continue  # the version is everybody's
            if node.level:
                parents = module.split(".")
                parents = parents[: len(parents) - node.level + is_package]
                base = ".".join([*parents, *filter(None, [node.module])])
            # `from textebm.training import loop` names a module, `from textebm.errors import X` does not.
            full = [f"{base}.{alias.name}" for alias in node.names]
            names = [name if base == "textebm" or exists(name) else base for name in full]
        named.extend((name, node.lineno) for name in names if name.split(".")[0] == "textebm")
    return named


@pytest.mark.parametrize("path", FILES, ids=NAMES)
def test_imports_follow_the_direction(path: Path) -> None:
    module = module_of(path)
    unit = unit_of(module)
    assert unit in ALLOWED, f"{path.name}: enter {unit!r} in the table of allowed imports, and say why in the commit"
    for name, line in imports(parse(path), module, path.name == "__init__.py"):
        target = unit_of(name)
        allowed = ALLOWED[unit] | {unit}
        assert target in allowed, f"{path}:{line}: {unit} imports {name}; allowed: {', '.join(sorted(allowed))}"


def circles(edges: dict[str, set[str]]) -> set[str]:
    """What is left when everything that imports nothing that is left has been taken away, again and again."""
    left = dict(edges)
    while free := [name for name, targets in left.items() if not (targets - {name}) & left.keys()]:
        for name in free:
            del left[name]
    return set(left)


def test_the_table_has_no_circle() -> None:
    assert not circles(ALLOWED)
    assert circles({"a": {"b"}, "b": {"c"}, "c": {"b"}, "d": set()}) == {"a", "b", "c"}


def test_no_file_imports_itself_through_others() -> None:
    edges = {}
    for path in FILES:
        module = module_of(path)
        edges[module] = {name for name, _ in imports(parse(path), module, path.name == "__init__.py")}
    edges.pop("textebm")  # the lazy names of the package, which nobody inside may use
    assert not circles(edges)
    assert not [module for module, names in edges.items() if "textebm" in names]


def test_the_parser_sees_every_form() -> None:
    source = """
import textebm.api
from textebm.model import build
from . import prior
from ..text import batches
from .prior import noise
import torch
if TYPE_CHECKING:
    import textebm.runs.sweep
def f():
    from textebm.cli import app
"""
    names = {name for name, _ in imports(ast.parse(source), "textebm.networks.encoder", False)}
    assert {unit_of(name) for name in names} == {"api", "model", "networks", "text", "runs", "cli"}


@pytest.mark.parametrize("path", FILES, ids=NAMES)
def test_nothing_unsafe_is_called(path: Path) -> None:
    for node in ast.walk(parse(path)):
        if isinstance(node, ast.Import | ast.ImportFrom):
            names = [alias.name for alias in node.names] + [getattr(node, "module", None) or ""]
            roots = {name.split(".")[0] for name in names}
            bad = roots & {"pickle", "cPickle", "cloudpickle", "dill", "joblib", "shelve", "marshal"}
            assert not bad, f"{path}:{node.lineno}: imports {bad}"
        if isinstance(node, ast.Call):
            called = ast.unparse(node.func)
            forbidden = ("torch.load", "torch.save", "yaml.load", "yaml.unsafe_load", "eval", "exec", "os.system")
            assert called not in forbidden, f"{path}:{node.lineno}: calls {called}"
            for keyword in node.keywords:
                value = keyword.value.value if isinstance(keyword.value, ast.Constant) else None
                assert (keyword.arg, value) not in TRUSTING, f"{path}:{node.lineno}: {keyword.arg}={value}"


@pytest.mark.parametrize("path", FILES, ids=NAMES)
def test_only_build_asks_for_a_kind(path: Path) -> None:
    """A component that compares `kind` is two components, chosen in model/build.py; recipe/ checks what it was given,
    and runs/ tells what a recipe says.

    A `kind` that the file itself finds out (what sort of file a reader has before it) is another matter.
    """
    unit = unit_of(module_of(path))
    if module_of(path) in ("textebm.model.build", "textebm.model.build_prior") or unit in ("recipe", "runs"):
        return
    nodes = list(ast.walk(parse(path)))
    own = any(isinstance(node, ast.Name) and node.id == "kind" and bound(node) for node in nodes)
    for node in nodes:
        if isinstance(node, ast.Compare):
            sides = [node.left, *node.comparators]
            names = [getattr(side, "attr", "" if own else getattr(side, "id", "")) for side in sides]
            constant = any(isinstance(side, ast.Constant | ast.Tuple | ast.Set | ast.List) for side in sides)
            assert not ("kind" in names and constant), f"{path}:{node.lineno}: {ast.unparse(node)}"


@pytest.mark.parametrize("path", FILES, ids=NAMES)
def test_what_is_caught_is_named(path: Path) -> None:
    """`except Exception` turns a bug into a message: only where libraries raise many kinds, and those alone."""
    for node in ast.walk(parse(path)):
        if isinstance(node, ast.ExceptHandler):
            caught = "everything" if node.type is None else ast.unparse(node.type)
            if caught in ("everything", "Exception"):
                first = ast.unparse(node.body[0])
                assert first.startswith("if not refused_by_library(error)"), f"{path}:{node.lineno}: catches {caught}"


def bound(name: ast.Name) -> bool:
    return isinstance(name.ctx, ast.Store)


def flat(targets: list[ast.expr]) -> list[ast.expr]:
    """The single targets of `a, (b.c, d[0]) = ...`."""
    return [part for each in targets for part in (flat(each.elts) if isinstance(each, ast.Tuple) else [each])]


@pytest.mark.parametrize("path", FILES, ids=NAMES)
def test_importing_a_file_calls_nothing(path: Path) -> None:
    """No seeds, filters, handlers or environment at import: nothing of another's is called or assigned into."""
    if unit_of(module_of(path)) in ("cli", "__main__"):
        return  # Typer's commands are put together by calls
    body = parse(path).body
    own = {node.name for node in body if isinstance(node, ast.ClassDef)}
    own |= {part.id for node in body for part in ast.walk(node) if isinstance(part, ast.Name) and bound(part)}
    for node in body:
        touched = flat(node.targets) if isinstance(node, ast.Assign) else []
        if isinstance(node, ast.Expr) and isinstance(node.value, ast.Call):
            touched.append(node.value.func)
        for target in touched:
            root = ast.unparse(target).split(".")[0].split("[")[0].split("(")[0]
            assert root in own, f"{path}:{node.lineno}: {ast.unparse(node)[:80]}"


@pytest.mark.parametrize("path", FILES, ids=NAMES)
def test_files_are_short_and_finished(path: Path) -> None:
    text = path.read_text(encoding="utf-8")
    assert len(text.splitlines()) <= (750 if path.name == "api.py" else 450)  # signature, words, example
    assert not re.search(r"\b(TODO|FIXME|XXX|NotImplementedError)\b", text)


def run(code: str) -> str:
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=120, env=os.environ)
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_import_is_fast_and_without_torch() -> None:
    code = """
import sys, time
begin = time.perf_counter()
import textebm
print(time.perf_counter() - begin)
heavy = {"torch", "transformers", "datasets", "numpy", "sklearn", "pydantic", "typer", "rich"} & sys.modules.keys()
assert not heavy, heavy
assert set(textebm.__all__) <= set(dir(textebm))
"""
    # The best of three: a busy machine may disturb one.
    assert min(float(run(code)) for _ in range(3)) < 0.3


def test_public_names_resolve() -> None:
    for name in textebm.__all__:
        assert getattr(textebm, name).__name__ == name
    with pytest.raises(AttributeError, match="no attribute 'nothing'"):
        _ = textebm.nothing


def test_writing_loads_no_library_that_it_does_not_need(tmp_path: Path) -> None:
    """A first sentence costs PyTorch, the tokenizers library and little else; seconds of every start otherwise."""
    trained().save_pretrained(tmp_path / "model")
    run(
        f"""
import sys
from textebm.cli.shared import load_model
from pathlib import Path
model = load_model(Path({str(tmp_path / "model")!r}))
model.generate(2, symbols={{"sentiment": "positive"}}, seed=0)
model.encode(model.edit(["the pizza was great ."], {{"sentiment": "negative"}}))
from textebm.runs.explore_page import Explorer, ExplorePage
ExplorePage(Explorer(model, "model"), 0).page()
heavy = {{"transformers", "huggingface_hub", "datasets", "pandas", "pyarrow", "sklearn", "scipy", "matplotlib"}}
heavy |= {{"sympy", "torch._dynamo", "torch._inductor", "accelerate", "jinja2", "PIL", "sacrebleu"}}
assert not heavy & sys.modules.keys(), heavy & sys.modules.keys()
"""
    )


def test_importing_everything_changes_nothing() -> None:
    run(
        """
import importlib, logging, os, pathlib, random, signal, sys
import numpy, torch
import textebm

def state():
    return (
        random.getstate(),
        [str(part) for part in numpy.random.get_state()],
        torch.get_rng_state().tolist(),
        torch.get_default_dtype(),
        torch.is_grad_enabled(),
        dict(os.environ),
        [signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)],
        list(logging.getLogger().handlers),
        os.getcwd(),
    )

def import_all():
    root = pathlib.Path(textebm.__file__).parent
    for path in sorted(root.rglob("*.py")):
        parts = path.relative_to(root.parent).with_suffix("").parts
        if parts[-1] != "__main__":
            importlib.import_module(".".join(parts[:-1] if parts[-1] == "__init__" else parts))

import_all()  # what other libraries do when first imported is theirs
for name in [name for name in sys.modules if name.split(".")[0] == "textebm"]:
    del sys.modules[name]
before = state()
import_all()
for now, then in zip(state(), before, strict=True):
    assert now == then, str(now)[:1000]
"""
    )
