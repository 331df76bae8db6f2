"""Makes the base model's checkpoint: packaged, versioned, pre-trained or fetched (stage: base).

Every source gives the same: transformers' configuration, tokenizer and safetensors in one folder, and small metrics.
Feeds the setup table, and every other through the model.
"""

from __future__ import annotations

from pathlib import Path

from tli.config.parameters import MicroworldModel, PackagedModel, Params
from tli.model import hub, package, part, pretrain, versioned


def run(world: Path, words: Path | None, out: Path, metrics: Path, params: Params) -> None:
    """The `base` stage, by the source that the parameters name.

    Args:
        world: the micro-world's folder, whose corpus `pretrain` reads.
        words: the word list whose embeddings are fetched where only a part of a model is.
        out: the checkpoint's folder to write.
        metrics: JSON to write: parameters, vocabulary, hashes, by source.
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
