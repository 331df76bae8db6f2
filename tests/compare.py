"""Runs the pipeline under this processor's instructions and again under AVX2 alone, and compares the two runs.

    python tests/compare.py params.yaml           both models, whole
    python tests/compare.py params.yaml --small   the micro-world's versioned weights, two ranks, two seeds

A base that is pre-trained in the run would be another on each side, so the weights are versioned ones.
Both runs have the same parameters and the same seeds; each has a scratch checkout. `tli verify --against` compares them
and gives this program its exit status. The checkouts are removed where it finds no difference; else they stay.
"""

from __future__ import annotations

import shutil
import subprocess
import sys
import tempfile
from collections.abc import Mapping
from pathlib import Path

from ruamel.yaml import YAML

from checkout import Checkout, clone
from tli.commands.process import PORTABLE

# ATen, oneDNN and MKL choose their instructions by the processor, each by a rule of its own: three variables.
AVX2 = {"ATEN_CPU_CAPABILITY": "avx2", "ONEDNN_MAX_CPU_ISA": "AVX2", "MKL_ENABLE_INSTRUCTIONS": "AVX2"}
OWN = dict.fromkeys(PORTABLE, "")  # else the stages take one code path on every processor, and nothing is compared
RUNS: dict[str, Mapping[str, str]] = {"own": OWN, "avx2": AVX2}


def run(target: Path, params: Path, variables: Mapping[str, str], small: bool) -> Checkout:
    """A checkout in `target` after `dvc repro` under the parameters of the file `params` and those variables.

    What dvc prints goes to the file `target`.log.

    Raises:
        SystemExit: a command failed; its status is 1.
    """
    checkout = clone(target)
    write_params(params, checkout.root / "params.yaml", small)
    checkout("git", "commit", "-q", "--allow-empty", "-a", "-m", "the parameters to compare under")
    checkout.env |= variables
    log = Path(f"{target}.log")
    for command in (["dvc", "pull", "-q", "data.dvc"], ["dvc", "repro"]):
        with log.open("ab") as output:
            call = subprocess.run(
                command, cwd=checkout.root, env=checkout.env, stdin=subprocess.DEVNULL, stdout=output, stderr=output
            )
        if call.returncode:
            print("\n".join(log.read_text(encoding="utf-8", errors="replace").splitlines()[-20:]), file=sys.stderr)
            print(f"compare: {' '.join(command)}: exit status {call.returncode}; all of it: {log}", file=sys.stderr)
            raise SystemExit(1)
    return checkout


def write_params(params: Path, out: Path, small: bool) -> None:
    """Copies `params`; if `small`, for the micro-world's model alone with two ranks and two seeds of the sweep."""
    yaml = YAML(pure=True)
    loaded = yaml.load(params.read_text(encoding="utf-8"))
    if small:
        loaded["models"] = ["microworld"]
        loaded["sweep"] |= {"ranks": [2, 16], "seeds": [0, 1]}
    with out.open("w", encoding="utf-8") as file:
        yaml.dump(loaded, file)


def compare(params: Path, small: bool = False) -> int:
    """Runs both and returns the exit status of the comparison."""
    folder = Path(tempfile.mkdtemp(prefix="tli-compare-"))
    checkouts = {}
    for name, variables in RUNS.items():
        settings = " ".join(f"{key}={value}" for key, value in variables.items()) or "the processor's own instructions"
        print(f"compare: {params}: {settings}", flush=True)
        checkouts[name] = run(folder / name, params, variables, small)
    own, avx2 = checkouts["own"], checkouts["avx2"]
    verify = [sys.executable, "-m", "tli", "verify", "--against", str(avx2.root)]
    status = subprocess.run(verify, cwd=own.root, env=own.env, stdin=subprocess.DEVNULL).returncode
    if status:
        print(f"compare: the two runs differ; they are in {folder}", file=sys.stderr)
    else:
        shutil.rmtree(folder)
    return status


if __name__ == "__main__":
    raise SystemExit(compare(Path(sys.argv[1]), "--small" in sys.argv[2:]))
