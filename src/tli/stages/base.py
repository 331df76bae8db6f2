"""Stage `base`: makes the checkpoint of the base model.

`model.source` in params.yaml chooses one of:

- `package`: dequantise a packaged GGUF file, w = d q + m (model/package.py).
- `versioned`: copy the micro-world's weights from data/ (model/versioned.py).
- `pretrain`: train them, with loss = mean of -log p(token | tokens before it) (model/pretrain.py).
- `hub`: fetch a published checkpoint, whole (model/hub.py) or in part (model/part.py).

Inputs: the micro-world's folder (its corpus and hash), the word list (for a part of a model), params.yaml.
Outputs: a transformers checkpoint (configuration, tokenizer, safetensors) and base.json (sizes, hashes, source).
Used by: the tables `setup` and `audit`, and through the model by every other table.
"""

from __future__ import annotations

from pathlib import Path

from tli.config.parameters import MicroworldModel, PackagedModel, Params
from tli.model import hub, package, part, pretrain, versioned


def run(world: Path, words: Path | None, out: Path, metrics: Path, params: Params) -> None:
    """Makes the checkpoint from the source in the parameters.

    Args:
        world: the micro-world's folder, with the corpus that `pretrain` and `versioned` read.
        words: the words whose embeddings are fetched, if only a part of a model is fetched.
        out: the checkpoint's folder to write.
        metrics: the JSON to write: number of parameters, hashes and source.
    """
    model, manifest = params.active.model, Path(params.fetch.manifest)
    if isinstance(model, MicroworldModel):
        build = versioned.run if model.source == "versioned" else pretrain.run
        build(world, out, metrics, model)
    elif isinstance(model, PackagedModel):
        package.run(out, metrics, model)
    elif model.whole:
        hub.run(out, metrics, model, manifest)
    else:
        part.run(words, out, metrics, model, manifest)
