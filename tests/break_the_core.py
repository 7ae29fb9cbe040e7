"""Break the numerical core in known ways, and see each fault caught by the tests that stand beside it.

    python -m tests.break_the_core [--only WORD] [--jobs N]

Each fault is one replaced piece of text in a copy of the package; the named tests must then fail. It is no part of the
gate: a fault takes as long as its tests. A fault that passes, or whose text is no longer there, is printed and makes
the exit code 1.
"""

from __future__ import annotations

import argparse
import os
import shutil
import subprocess
import sys
import tempfile
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
LIMIT = 600  # seconds for the tests of one fault


@dataclass(frozen=True)
class Fault:
    """In *file* of the package, *right* becomes *wrong*; tests: what must fail then."""

    file: str
    right: str
    wrong: str
    tests: str


SAMPLER, PRIOR, NOISE = "tests/test_sampler.py", "tests/test_prior.py", "tests/test_noise.py"
TERMS, MODEL, OBJECTIVE = "tests/test_objective_terms.py", "tests/test_model.py", "tests/test_objective.py"
STEERING, EDITING = "tests/test_steering.py", "tests/test_rewriting.py"
CALIBRATION, WORDING = "tests/test_calibration.py", "tests/test_wording.py"
FAULTS = (
    # the sampler
    Fault("prior/sampler.py", "noise_scale = (1 - rho.square()).sqrt()", "noise_scale = (1 - rho)", SAMPLER),
    Fault("prior/sampler.py", "mean + rho * (point - mean) +", "rho * point +", SAMPLER),
    Fault("prior/sampler.py", "curvature = 1 / stddev.square() - 1 / variance", "curvature = 0 * variance", SAMPLER),
    Fault("prior/sampler.py", "0.5 * epsilon.square()", "epsilon.square()", SAMPLER),
    Fault("prior/sampler.py", "new_value\n            - value", "value\n            - new_value", SAMPLER),
    Fault("prior/sampler.py", "take = (drawn < probability)", "take = (drawn > probability)", SAMPLER),
    # the ladder of noise
    Fault("prior/noise.py", "sigma = (1 - a.square()).sqrt()", "sigma = 1 - a", NOISE),
    Fault("prior/noise.py", "(1 / a, sigma / a)", "(1 / a, sigma)", NOISE),
    Fault("prior/noise.py", "constant + d * top.log() / 2", "constant + d * top.log()", NOISE),
    Fault("prior/noise.py", "(1 - alpha.square()).clamp_min(0).sqrt() * noise", "(1 - alpha) * noise", NOISE),
    # the prior and how it is learned
    Fault("prior/learning.py", "diffused.tau * score + diffused.noise", "score + diffused.noise", PRIOR),
    Fault("prior/learning.py", "f_negative - f_positive + penalty", "f_positive - f_negative + penalty", PRIOR),
    Fault("prior/learning.py", "pull = pull - (mean *", "pull = pull + (mean *", PRIOR),
    Fault("prior/learning.py", "(loss * known).sum() / known.sum().clamp_min(1)", "(loss * known).mean()", MODEL),
    Fault("prior/condition.py", "logits.log_softmax(-1)\n    if", "logits\n    if", STEERING),
    Fault("prior/condition.py", "log_p.masked_fill(~asked", "log_p.masked_fill(asked", STEERING),
    Fault("prior/condition.py", "return self.weight * log_probability_of", "return log_probability_of", STEERING),
    Fault("prior/fixed.py", "(1 - strength) * gradient + strength * within", "gradient + strength * within", STEERING),
    Fault("prior/nearest.py", "symbol_logits(alpha * leaf", "symbol_logits(leaf", STEERING),
    # the objective
    Fault("objective/bottleneck.py", "marginal_entropy - conditional_entropy", "conditional_entropy", OBJECTIVE),
    Fault(
        "objective/schedules.py",
        "kl_per_dimension.mean(0).clamp_min(floor)",
        "kl_per_dimension.clamp_min(floor)",
        MODEL,
    ),
    Fault("model/objective.py", "reconstruction + weights.kl * divergence", "reconstruction + divergence", MODEL),
    Fault("model/objective.py", "prior_loss - weights.kl * (entropy", "prior_loss - (entropy", TERMS),
    Fault("model/objective.py", "model.prior.dim * (matching.loss", "(matching.loss", TERMS),
    Fault("model/objective.py", "posterior.unpacked(posterior.packed.detach())", "posterior", TERMS),
    Fault("model/auxiliary_terms.py", "alpha_bar[noisy.level].square()", "alpha_bar[noisy.level]", TERMS),
    Fault("model/auxiliary_terms.py", "weights.cluster if model.heads[name].column is None else", "", TERMS),
    Fault("model/auxiliary_terms.py", "loss - weights.mutual_information", "loss + weights.mutual_information", MODEL),
    # use
    Fault("use/edit_search.py", "~there | (passed > 0)", "~there", EDITING),
    Fault("use/edit_search.py", "replaced = (free - keep)", "replaced = free", EDITING),
    Fault("use/edit_search.py", "(losses + keep).cumsum(-1)", "losses.cumsum(-1)", EDITING),
    Fault("use/calibration.py", "best[i], surest[i] = text, value", "best[i] = text", EDITING),
    Fault("use/calibration.py", "(share - self.shares[-1]) / (1 -", "(share - self.shares[-1]) / (2 -", CALIBRATION),
    Fault("use/wording.py", ".view(len(z), -1).sum(-1)", ".view(-1, len(z)).sum(0)", WORDING),
    Fault("use/attributes.py", "[-slope / 2, slope / 2]", "[slope / 2, -slope / 2]", STEERING),
    Fault("use/reading.py", "torch.minimum(least, log_prob", "torch.maximum(least, log_prob", EDITING),
)


def tried(fault: Fault) -> str | None:
    """What is wrong with the tests of *fault*; None where they caught it."""
    with tempfile.TemporaryDirectory(prefix="textebm-fault-") as folder:
        copy = Path(folder)
        for name in ("textebm", "tests", "recipes"):
            shutil.copytree(ROOT / name, copy / name, ignore=shutil.ignore_patterns("__pycache__"))
        shutil.copy(ROOT / "pyproject.toml", copy)
        path = copy / "textebm" / fault.file
        text = path.read_text(encoding="utf-8")
        if text.count(fault.right) < 1:
            return "its text is no longer there"
        path.write_text(text.replace(fault.right, fault.wrong, 1), encoding="utf-8")
        command = [sys.executable, "-m", "pytest", "-x", "-q", "-n", "0", "-p", "no:cacheprovider", fault.tests]
        environment = {**os.environ, "PYTHONPATH": str(copy), "OMP_NUM_THREADS": "1"}
        done = subprocess.run(command, cwd=copy, env=environment, capture_output=True, text=True, timeout=LIMIT)
        return None if done.returncode == 1 else f"not caught by {fault.tests} (exit code {done.returncode})"


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--only", default="", help="faults whose file or text has this in it")
    parser.add_argument("--jobs", type=int, default=2)
    options = parser.parse_args()
    chosen = [each for each in FAULTS if options.only in f"{each.file} {each.right}"]
    missed = 0
    with ThreadPoolExecutor(options.jobs) as pool:
        for fault, problem in zip(chosen, pool.map(tried, chosen), strict=True):
            word = "caught" if problem is None else "MISSED"
            print(f"{word}  {fault.file}: {fault.right.splitlines()[0]} {problem or ''}", flush=True)
            missed += problem is not None
    print(f"{len(chosen) - missed} of {len(chosen)} faults were caught")
    return 1 if missed else 0


if __name__ == "__main__":
    raise SystemExit(main())
