"""A pretrained model from one packaged GGUF file, checked by its hash (stage: base, `model.source: package`).

GGUF stores a weight matrix in blocks of 32 numbers, each block with a scale d and a minimum m:

    w = d q + m, q in 4 bits (Q4_1),    or    w = d q, q in 8 bits (Q8_0)

transformers' loader computes w in float32 and restores the order of the rows of q_proj and k_proj, which GGUF permutes.
The output is an ordinary transformers checkpoint in float32. No network is used.
"""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import torch
from transformers import AutoConfig, AutoModelForCausalLM, AutoTokenizer, PreTrainedModel
from transformers.modeling_gguf_pytorch_utils import load_gguf_checkpoint

from tli.config.parameters import PackagedModel
from tli.io.errors import UserError
from tli.io.files import atomic_dir, sha256_of
from tli.io.structured import write_json
from tli.model import shards, supported
from tli.model.hub import compare_shape
from tli.model.tokenizer import put_bos_first

FOLDER = "models"  # the folder of the Python environment where `make setup` puts packaged models


def run(out: Path, metrics: Path, settings: PackagedModel) -> None:
    """Writes the checkpoint and its tokenizer to `out`, and hashes and sizes to `metrics` (JSON).

    Raises:
        UserError: the file is missing or has another hash, or the shape in params.yaml is not that of the file.
    """
    file = locate(settings)
    check_shape(file, settings)
    model = load(file)
    tokenizer = AutoTokenizer.from_pretrained(file.parent, gguf_file=file.name, local_files_only=True)
    with atomic_dir(out) as folder:
        model.save_pretrained(folder)
        tokenizer.save_pretrained(folder)
        bos = put_bos_first(folder, file.name)
        tensors, digest = len(shards.headers(folder)), shards.digest_of_all(folder)
    write_json(
        metrics,
        {
            "name": settings.name,
            "file": file.name,
            "file_bytes": file.stat().st_size,
            "file_sha256": settings.sha256,
            "licence": settings.licence,
            "bos": bos,
            "tensors": tensors,
            "tensors_sha256": digest,
            "parameters": sum(parameter.numel() for parameter in model.parameters()),
            "head": "tied" if model.config.tie_word_embeddings else "own",
        },
    )


def locate(settings: PackagedModel) -> Path:
    """The packaged file, after a check of its hash: `settings.file`, here or in the environment's folder of models.

    Raises:
        UserError: it is in neither place, or has another SHA-256.
    """
    paths = [Path(settings.file), Path(sys.prefix) / FOLDER / settings.file]
    file = next((path for path in paths if path.is_file()), None)
    if file is None:
        raise UserError(
            f"params.yaml: model.file: expected the packaged model at {' or '.join(map(str, paths))}, found no file; "
            "run `make setup`, which installs it, or name a GGUF file with the hash of model.sha256"
        )
    if (got := sha256_of(file)) != settings.sha256:
        raise UserError(
            f"{file}: expected SHA-256 {settings.sha256} (model.sha256), got {got} of {file.stat().st_size} bytes; "
            "remove the file and run `make setup`, which installs it again"
        )
    return file


def check_shape(file: Path, settings: PackagedModel) -> None:
    """Raises UserError unless the architecture is supported and params.yaml has the shape of the GGUF header."""
    header = load_gguf_checkpoint(str(file))["config"]
    supported.check_configuration(header, file.name)
    compare_shape(settings, AutoConfig.for_model(**header), file.name)


def load(file: Path) -> PreTrainedModel:
    """Loads a GGUF file in float32 as an ordinary transformers model that can be saved."""
    model: Any = AutoModelForCausalLM.from_pretrained(
        file.parent, gguf_file=file.name, dtype=torch.float32, local_files_only=True
    )
    # the loader marks the model as quantised by GGUF; transformers does not save such a model
    model.hf_quantizer, model.is_quantized = None, False
    del model.config.quantization_config
    loaded: PreTrainedModel = model.eval()
    return loaded
