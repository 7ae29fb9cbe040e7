"""A chain by the Triton kernel is the plain chain. No GPU is needed: Triton's interpreter runs the kernel, and its
compiler makes machine code of it for GPUs that are not there."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest
import torch
from torch import Tensor

from textebm.errors import TextEBMError
from textebm.networks.energy import EnergyNet
from textebm.prior import sampler, sampling
from textebm.prior.condition import FREE, Condition
from textebm.prior.fixed import FixedPotential, fixed_potential
from textebm.prior.noise import NoiseSchedule, log_snr_ladder
from textebm.prior.prior import ChainSettings, LatentPrior
from textebm.prior.transport import Ladder

kernel = pytest.importorskip("textebm.prior.chain_kernel", reason="needs triton, which is there for Linux")
DEVICE = "cuda" if torch.cuda.is_available() else "cpu"  # where conftest.py has Triton interpret
DIM, LEVELS, ROWS = 6, 4, 21  # rows: one whole program and a part of another
HEADS = {"sentiment": 2, "code": 5}


def prior(
    heads: dict[str, int] = HEADS, dtype: torch.dtype = torch.float32, context: int = 0, **options: object
) -> LatentPrior:
    torch.manual_seed(0)
    net = EnergyNet(DIM, LEVELS, heads, hidden_size=72, num_blocks=2, spectral_norm=True, context_size=context)
    torch.nn.init.normal_(net.outputs.weight)
    torch.nn.init.normal_(net.outputs.bias)
    chain = ChainSettings(metropolis=True, steps=2, dtype=dtype, fused=True)
    schedule = NoiseSchedule(log_snr_ladder(LEVELS, 3.0, -3.0))
    return LatentPrior(DIM, net, schedule, chain=chain, **options).eval().to(DEVICE)  # type: ignore[arg-type]


def both(
    potential: FixedPotential, n: int, *, steps: int = 3, metropolis: bool = True
) -> tuple[sampler.ChainResult, sampler.ChainResult]:
    """The plain chain and the kernel's, from random points, each row with a step and a width of its own."""
    generator = seeded(1)
    w, mean = (torch.randn(n, DIM, generator=generator, device=DEVICE) for _ in range(2))
    stddev, step = torch.rand(2, n, 1, generator=generator, device=DEVICE) + 0.3
    rho, spread = 1 - 0.4 * step, 0.4 + torch.rand(DIM, generator=generator, device=DEVICE)
    plain, fused = (
        chain(potential, w, mean, stddev, rho, steps, spread=spread, metropolis=metropolis, generator=seeded(2))
        for chain in (sampler.semi_implicit, kernel.semi_implicit)
    )
    return plain, fused


def both_langevin(potential: FixedPotential, metropolis: bool) -> tuple[sampler.ChainResult, sampler.ChainResult]:
    generator = seeded(1)
    w, mean = (torch.randn(ROWS, DIM, generator=generator, device=DEVICE) for _ in range(2))
    stddev = torch.rand(ROWS, 1, generator=generator, device=DEVICE) + 0.3
    plain, fused = (
        chain(potential, w, mean, stddev, 1.0, 3, metropolis=metropolis, generator=seeded(2))
        for chain in (sampler.langevin, kernel.langevin)
    )
    return plain, fused


def same(a: sampler.ChainResult, b: sampler.ChainResult, atol: float = 2e-5) -> None:
    torch.testing.assert_close(b.w, a.w, atol=atol, rtol=1e-4)
    torch.testing.assert_close(b.gradient, a.gradient, atol=5 * atol, rtol=1e-3)
    torch.testing.assert_close(b.acceptance, a.acceptance, atol=5 * atol, rtol=1e-3)
    assert a.evaluations == b.evaluations


def seeded(seed: int) -> torch.Generator:
    return torch.Generator(DEVICE).manual_seed(seed)


def levels(n: int = ROWS) -> Tensor:
    return torch.arange(n, device=DEVICE) % LEVELS


def classes(number: int) -> Tensor:
    return torch.arange(ROWS, device=DEVICE) % number


CONDITIONS = {
    "free": FREE,
    "one head": Condition({"code": classes(5)}, 1.0),
    "two heads, strong, some rows free": Condition({"sentiment": classes(3) - 1, "code": classes(6) - 1}, 3.0),
}


@pytest.mark.parametrize("metropolis", [True, False], ids=["rejecting", "taking all"])
@pytest.mark.parametrize("condition", CONDITIONS.values(), ids=CONDITIONS.keys())
def test_the_chain_is_the_plain_one(condition: Condition, metropolis: bool) -> None:
    potential = fixed_potential(prior(), levels(), condition)
    assert isinstance(potential, FixedPotential)
    plain, fused = both(potential, ROWS, metropolis=metropolis)
    assert plain.gradient.norm() > 1 and 0.3 < plain.acceptance.mean() < 0.98
    same(plain, fused)
    plain, fused = both_langevin(potential, metropolis)
    assert 0.3 < plain.acceptance.mean() < 0.98
    same(plain, fused)


@pytest.mark.parametrize("case", ["no heads", "conditional", "one row", "no step"])
def test_other_forms(case: str) -> None:
    n, context = 1 if case == "one row" else ROWS, 3 if case == "conditional" else 0
    of = prior({} if case == "no heads" else HEADS, context=context)
    given = Condition(context=torch.randn(n, context, device=DEVICE) if context else None)
    potential = fixed_potential(of, levels(n), given)
    assert isinstance(potential, FixedPotential)
    same(*both(potential, n, steps=0 if case == "no step" else 3))


def test_half_precision_is_near() -> None:
    """float16 stands for bfloat16, of which the interpreter has no products."""
    potential = fixed_potential(prior(dtype=torch.float16), levels())
    assert isinstance(potential, FixedPotential) and potential.energy.inputs[0].dtype == torch.float16
    plain, fused = both(potential, ROWS, metropolis=False)
    same(plain, fused, atol=1e-2)


def test_a_draw_of_the_prior_by_fused_chains(monkeypatch: pytest.MonkeyPatch) -> None:
    of, condition = prior(), CONDITIONS["one head"]
    monkeypatch.setattr(sampling, "_on_gpu", lambda w: False)
    plain = sampling.sample(of, ROWS, condition=condition, generator=seeded(3))
    monkeypatch.setattr(sampling, "_on_gpu", lambda w: True)
    fused = sampling.sample(of, ROWS, condition=condition, generator=seeded(3))
    torch.testing.assert_close(fused.z, plain.z, atol=1e-4, rtol=1e-4)
    assert fused.evaluations == plain.evaluations and not torch.equal(fused.z, plain.z)


def test_what_the_kernel_does_not_know_goes_the_plain_way(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sampling, "_on_gpu", lambda w: True)
    monkeypatch.setattr(sampling, "_kernel", lambda: pytest.fail("the kernel was asked for"))
    drawn = sampling.sample(prior(transport=Ladder([2, 4])), 3, generator=seeded(0))
    assert drawn.z.isfinite().all()
    assert sampling.compile_chain(prior(transport=Ladder([2, 4]))) is None


def test_without_triton_it_says_so(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sampling, "_on_gpu", lambda w: True)
    monkeypatch.delattr("textebm.prior.chain_kernel")
    monkeypatch.setitem(sys.modules, "textebm.prior.chain_kernel", None)
    with pytest.raises(TextEBMError, match="needs triton.*fused_chains=false"):
        sampling.sample(prior(), 2)


def test_on_a_cpu_the_option_changes_nothing() -> None:
    of = prior().cpu()
    assert of.chain.fused and sampling.compile_chain(of) is None
    assert sampling.sample(of, 2, generator=torch.Generator().manual_seed(0)).z.isfinite().all()


@pytest.mark.parametrize("on_gpu", [True, False])
def test_compiling_is_timed_and_changes_nothing(on_gpu: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sampling, "_on_gpu", lambda w: on_gpu)
    if DEVICE == "cpu":
        monkeypatch.setattr(torch.cuda, "synchronize", lambda device: None)
    of = prior().train()
    before = {name: value.clone() for name, value in of.state_dict().items()}
    drawn = torch.get_rng_state()
    seconds = sampling.compile_chain(of)
    assert (seconds is not None and seconds > 0) if on_gpu else seconds is None
    assert of.training and torch.equal(torch.get_rng_state(), drawn)
    assert all(torch.equal(value, before[name]) for name, value in of.state_dict().items())


COMPILE = """
import triton, torch
from triton.backends.compiler import GPUTarget
from triton.compiler import ASTSource
from textebm.prior import chain_kernel as kernel
capability, kind, chunk = {capability}, "{kind}", {chunk}
constants = dict(
    size=64, hidden=256, blocks=3, chunk=chunk, dim=64, width=32, heads=(20,), metropolis=True,
    langevin=False, rows=kernel.ROWS,
)
known = {{"weights": (kind,) * 8, "scratch": kind, "classes": "*i32", "n": "i32", "steps": "i32"}}
names = kernel._chain.arg_names
signature = {{name: "constexpr" if name in constants else known.get(name, "*fp32") for name in names}}
pointers = [(i,) for i, name in enumerate(names) if signature[name] in ("*fp32", "*i32", kind)]
pointers += [(names.index("weights"), i) for i in range(8)]
aligned = {{place: [["tt.divisibility", 16]] for place in pointers}}
source = ASTSource(kernel._chain, signature, constexprs=constants, attrs=aligned)
made = triton.compile(source, target=GPUTarget("cuda", capability, 32), options={{"num_warps": kernel.WARPS}})
code = made.asm["ptx"]
print(len(made.asm["cubin"]), made.metadata.shared, code.count("mma.sync"), code.count("cp.async"))
"""


@pytest.mark.slow
@pytest.mark.parametrize("capability, kind, chunk", [(90, "*bf16", 128), (80, "*fp32", 64)])
def test_it_compiles_for_gpus(tmp_path: Path, capability: int, kind: str, chunk: int) -> None:
    """For H100 and A100, within the shared memory of any GPU since (99 KB), with tensor cores in bfloat16."""
    assert kernel.CHUNKS[2 if kind == "*bf16" else 4] == chunk
    code = COMPILE.format(capability=capability, kind=kind, chunk=chunk)
    file = tmp_path / "compile_it.py"  # Triton reads its functions' source, so it must be in files
    file.write_text(code, encoding="utf-8")
    environment = {
        "PYTHONPATH": str(Path(__file__).parents[1]),
        "TRITON_CACHE_DIR": str(tmp_path),
        "PATH": "/usr/bin:/bin",
    }
    done = subprocess.run([sys.executable, str(file)], capture_output=True, text=True, env=environment, timeout=200)
    assert done.returncode == 0, done.stderr
    binary, shared, products, copies = map(int, done.stdout.split())
    assert binary > 10_000 and shared < 99 * 1024 and copies > 0
    assert (products > 0) == (kind == "*bf16")


def test_gradient_is_that_of_autograd() -> None:
    """One evaluation by the kernel against autograd through the module, not through the hand-written gradient."""
    of, condition = prior(), CONDITIONS["two heads, strong, some rows free"]
    level, w = levels(), torch.randn(ROWS, DIM, generator=seeded(4), device=DEVICE)
    potential = fixed_potential(of, level, condition)
    assert isinstance(potential, FixedPotential)
    found = kernel.semi_implicit(potential, w, w, 1.0, 0.5, 0)

    def by_module(point: Tensor) -> Tensor:
        return of.potential(point, level, condition)

    expected = sampler.potential_and_gradient(by_module, w)[1]
    assert torch.equal(found.w, w) and expected.norm() > 1
    torch.testing.assert_close(found.gradient, expected, atol=1e-4, rtol=1e-4)
