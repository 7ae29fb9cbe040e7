"""`python -m tests.reliability`: the promises at their stated counts, as a table.

--count: so many attempts of each promise instead of the stated ones. --share: that share of the stated ones.
"""

from __future__ import annotations

import argparse
import gc
import logging
import os
import subprocess
import sys
import tempfile
from datetime import date
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
os.environ.update(HF_HUB_OFFLINE="1", HF_DATASETS_OFFLINE="1", TOKENIZERS_PARALLELISM="false", OMP_NUM_THREADS="1")
sys.path[:0] = [str(ROOT), str(ROOT / "tests")]


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m tests.reliability", description=__doc__)
    parser.add_argument("--count", type=int, help="attempts of each promise; the stated ones unless given")
    parser.add_argument("--share", type=float, default=1.0, help="share of the stated attempts")
    parser.add_argument("--only", default="", help="promises with this word in their name or text")
    parser.add_argument("--skip", help="no promises with this word in their name or text")
    parser.add_argument(
        "--seconds", type=float, default=float("inf"), help="CPU seconds for each; then it is cut short"
    )
    options = parser.parse_args()
    import torch

    from tests.reliability import PROMISES, table, tried

    torch.set_num_threads(1)
    logging.disable(logging.WARNING)  # damaged files by the hundred, as it should be
    gc.collect()
    gc.freeze()  # what libraries hold is collected by no run
    outcomes = []
    with tempfile.TemporaryDirectory(prefix="textebm-reliability-") as folder:
        os.environ["TEXTEBM_CACHE"] = f"{folder}/cache"
        for number, each in enumerate(PROMISES):
            told = f"{each.name} {each.text}"
            if options.only in told and not (options.skip and options.skip in told):
                count = options.count or max(1, round(each.stated * options.share))
                outcomes.append(tried(each, count, Path(folder) / str(number), seconds=options.seconds))
                print(table(outcomes[-1:]).splitlines()[-1], file=sys.stderr, flush=True)
                for problem in outcomes[-1].problems[:10]:
                    print(f"    {problem}", file=sys.stderr, flush=True)
    commit = subprocess.run(["git", "rev-parse", "--short", "HEAD"], capture_output=True, text=True, cwd=ROOT).stdout
    print(f"{date.today()}, commit {commit.strip() or 'unknown'}\n\n{table(outcomes)}")
    return int(any(each.problems for each in outcomes))


if __name__ == "__main__":
    sys.exit(main())
