"""The process of a stage: parameters, threads, environment variables, start-up."""

from __future__ import annotations

import atexit
import gc
import importlib
import logging
import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import click

from tli.config import parameters
from tli.io import progress, resume
from tli.io.receipts import last_receipt, write_receipt

# Disable garbage collection during imports: the objects are never freed, and start-up is a third faster.
COLLECTED = gc.get_threshold()
gc.set_threshold(100_000, *COLLECTED[1:])
atexit.register(gc.freeze)

# Use one code path for float32 products on every processor with AVX2. By default MKL, PyTorch, oneDNN and OpenBLAS
# choose a path by the instruction set, and the order of additions differs. The portable path costs no time on AMD
# processors, and a fifth of the time on Intel processors with AVX512. A variable that is already set is not changed;
# if it is empty, the library chooses.
PORTABLE = {
    "MKL_CBWR": "AVX2",
    "ATEN_CPU_CAPABILITY": "avx2",
    "ONEDNN_MAX_CPU_ISA": "AVX2",
    "OPENBLAS_CORETYPE": "Haswell",
}


def load_params(key: str | None = None, model: str | None = None) -> parameters.Params:
    """Loads params.yaml with the changes of --set and of a study's `key`, for `model` or else that of --model."""
    options = click.get_current_context().find_root().obj
    return parameters.load(changes=options["changes"], key=key, model=model or options["model"])


def every_model() -> list[parameters.Params]:
    """Returns the parameters of each model of the run, or only of that of --model."""
    first = load_params()
    named = click.get_current_context().find_root().obj["model"]
    return [first] if named else [load_params(model=model) for model in first.models]


@contextmanager
def stage(
    out: Path,
    *inputs: Path,
    torch: bool = True,
    fetches: Callable[[parameters.Params], bool] = lambda _: False,
    key: str | None = None,
) -> Iterator[parameters.Params]:
    """The context in which a stage runs. Yields the parameters.

    Sets threads, environment variables and the state of torch; locks `out`; writes a receipt beside `out`; and ends the
    process if the DVC process that started it ends. Stages run offline unless `fetches(params)` is true.

    Args:
        out: the stage's output.
        inputs: the files whose hashes the receipt stores.
        torch: whether the stage uses torch.
        fetches: whether the stage needs the network under these parameters.
        key: a key of the study, whose changes to params.yaml apply.

    Raises:
        UserError: bad parameters, `out` is locked by another process, or DVC has ended already.
    """
    resume.end_with_dvc()
    params = load_params(key)
    threads = str(params.active.compute.threads)
    # Waiting threads spin briefly and then sleep. Without the spinning, two threads are no faster than one; without the
    # sleep, they take the cores from other processes, and every small layer has to wait.
    os.environ |= {"OMP_NUM_THREADS": threads, "GOMP_SPINCOUNT": "1000", "TOKENIZERS_PARALLELISM": "false"}
    os.environ["OPENBLAS_NUM_THREADS"] = "1"  # for numpy: its matrices are small, and OpenBLAS threads never sleep
    if params.active.compute.dtype == "float32" and params.active.compute.device == "cpu":
        for name, value in PORTABLE.items():
            if os.environ.setdefault(name, value) == "":
                del os.environ[name]
    os.environ.setdefault("TQDM_DISABLE", "1")  # the stage shows its own progress
    os.environ |= {"HF_HUB_DISABLE_TELEMETRY": "1"} | ({} if fetches(params) else {"HF_HUB_OFFLINE": "1"})
    os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")  # deterministic algorithms need it on a GPU
    # bitsandbytes warns that the package `kernels` is missing, which would download native code
    logging.getLogger("bitsandbytes.backends.cpu.ops").setLevel(logging.ERROR)
    if torch:
        import_without_compiler("bitsandbytes")
        from tli.model import backbone

        gc.freeze()
        gc.set_threshold(*COLLECTED)  # later objects may hold tensors
        backbone.setup(params.active.compute.threads, params.active.compute.device)
    with resume.lock(out), progress.stage(_name(), last_receipt(out)) as stage, write_receipt(out, inputs, stage.pace):
        yield params


def import_without_compiler(name: str) -> None:
    """Imports a module while torch.compile does nothing.

    bitsandbytes wraps its functions for devices without kernels in torch.compile, which imports the whole compiler: a
    quarter of a stage's start-up. CPU and CUDA devices have kernels, so that none of these functions runs here.
    """
    import torch

    compiler = torch.compile
    torch.compile = lambda function=None, **_: function or (lambda inner: inner)  # type: ignore[assignment]
    try:
        importlib.import_module(name)
    finally:
        torch.compile = compiler


def _name() -> str:
    """The name of the running command as `tli costs` lists it, with its rank or key of the study if it has one."""
    context = click.get_current_context()
    item = context.params.get("rank") or context.params.get("key")
    return f"{context.info_name}@{item}" if item else str(context.info_name)
