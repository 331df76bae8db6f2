"""The model card of an adapter, README.md beside its weights: what it is, what it is made of, how to load it.

Everything in it follows from params.yaml and the stage's inputs, so that the same adapter has the same card. Results
are known only later, to the tables; `tli export` writes those in (commands/export_adapter.py). Feeds no table.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from tli.config.parameters import HubModel, MicroworldModel, PackagedModel, Params
from tli.data.words.lexicon import read_pairs
from tli.io.files import MANIFEST, sha256_of
from tli.model import lora

RESULTS = "## Results"
LATER = "Measured after this file was written: `paper/tables/{model}`. `tli export` copies the adapter and adds them."


def page(params: Params, seed: int | None, pairs: Path, quantized: Path) -> str:
    """The card as Markdown, with the front matter that a hub reads.

    Args:
        params: those that the adapter was trained under; its rank is `params.lora.rank`.
        seed: of its training; None for the author's adapter, which was fetched.
        pairs: the checked word list. quantized: the folder of 4-bit checkpoints.
    """
    rows = "\n".join(f"| {name} | {value} |" for name, value in _rows(params, seed, pairs, quantized))
    parts = [
        "\n".join(_front(params)),
        f"# LoRA adapter of rank {params.lora.rank}: Targeted Lexical Injection",
        "Trained so that a Swahili word and its English translation have similar hidden states in an early layer "
        "(arXiv 2506.15415). Written by the pipeline with the weights; not edited by hand.",
        f"| | |\n| :-- | :-- |\n{rows}",
        f"## Load it\n\n{_loading(params, quantized)}",
        f"{RESULTS}\n\n{LATER.format(model=params.model)}",
        f"## What it is not\n\n{_limits(params)}",
        f"## Licence\n\n{_licence(params, seed)}\n",
    ]
    return "\n\n".join(parts)


def _front(params: Params) -> Iterator[str]:
    model = params.active.model
    yield "---"
    yield "library_name: peft"
    if isinstance(model, HubModel):
        yield f"base_model: {model.repo}"
        yield "license: other"
        yield "license_name: that-of-the-base-model"
    else:
        yield f"license: {model.licence.lower() if isinstance(model, PackagedModel) else 'cc-by-4.0'}"
    yield "language: [sw, en]"
    yield "tags: [lora, swahili, cross-lingual-alignment]"
    yield "---"


def _rows(params: Params, seed: int | None, pairs: Path, quantized: Path) -> Iterator[tuple[str, str]]:
    model, made, train, blocks = params.active.model, params.lora, params.train, params.adapted_blocks
    folder = quantized / "nf4"
    if isinstance(model, HubModel):
        said = f"`{model.repo}` at revision `{model.revision}`"
        said += "; `first` is the one noted in fetched.sha256" if model.revision == "first" else ""
        said += "" if model.whole else f"; its first {model.held} of {model.blocks} blocks were loaded"
    elif isinstance(model, PackagedModel):
        said = f"{model.title}, SHA-256 {model.sha256}, made a checkpoint by the stage `base`"
    else:
        said = f"a Llama of {model.blocks} blocks, trained on the micro-world from seed {model.seed}; on no hub"
    yield "base model", said
    manifest = sha256_of(quantized / MANIFEST)
    dtype = params.active.compute.dtype
    yield "loaded as", f"NF4, compute in {dtype}: `{folder.as_posix()}`, SHA-256 of its manifest {manifest}"
    if seed is None:
        author, blocks = params.author, model.blocks
        yield "adapter", f"{author.url}/{author.adapter.path}, git blob {author.adapter.git_blob}"
    else:
        count = sum(pair.set == "trained" for pair in read_pairs(pairs))
        shuffled = ", the translations permuted" if train.pairs == "shuffled" else ""
        listed = sha256_of(pairs)
        yield "training data", f"{count} Swahili–English word pairs{shuffled}; SHA-256 of the list {listed}"
        said = f"triplet loss on cosines, margin {train.margin:g}, hardest negative of the batch, hidden_states"
        said += f"[{train.layer}], mean over tokens with BOS {'in' if train.pooling == 'mask' else 'out'}"
        yield "objective", said
        said = f"AdamW, learning rate {train.lr:g}, weight decay {train.weight_decay:g}, linear schedule with "
        said += f"{train.warmup_steps} warm-up steps, {train.epochs} epochs of batches of {train.batch_size}"
        yield "optimiser", f"{said}, seed {seed}"
    scaled = "sqrt(rank)" if made.scaling == "rslora" else "rank"
    said = f"rank {made.rank}, B A times {lora.alpha(made)} / {scaled}, dropout {made.dropout:g}, "
    yield "LoRA", f"{said}on {', '.join(made.targets)} of blocks 1 to {blocks} of {model.blocks}"
    yield "parameters", f"{lora.size(params, blocks):,}"


FOUR_BIT = """four_bit = BitsAndBytesConfig(
    load_in_4bit=True, bnb_4bit_quant_type="nf4", bnb_4bit_compute_dtype="bfloat16",
)
"""


def _loading(params: Params, quantized: Path) -> str:
    """Code that loads base and adapter by transformers and peft, and the harness's call, from the adapter's folder."""
    model = params.active.model
    if isinstance(model, HubModel):
        note, name, classes, first = "", model.repo, "AutoModelForCausalLM, AutoTokenizer, BitsAndBytesConfig", FOUR_BIT
        named, packed = f'"{name}", revision="{model.revision}"', ", quantization_config=four_bit"
        asked = f"pretrained={name},revision={model.revision},dtype=bfloat16,peft=."
        scores = "With lm-evaluation-harness, the base unpacked (for scores as in the tables name the 4-bit folder):"
    else:
        note = "The base is a folder of the repository after `dvc repro quantize`; name it as seen from here. "
        name, classes, first, packed = (quantized / "nf4").as_posix(), "AutoModelForCausalLM, AutoTokenizer", "", ""
        named, asked, scores = f'"{name}"', f"pretrained={name},peft=.", "With lm-evaluation-harness:"
    return f"""{note}With transformers and peft:

```python
from peft import PeftModel
from transformers import {classes}

{first}base = AutoModelForCausalLM.from_pretrained({named}{packed})
tokenizer = AutoTokenizer.from_pretrained({named})
model = PeftModel.from_pretrained(base, ".")  # the folder of this file
```

{scores}

```sh
lm_eval --model hf --model_args {asked} --tasks xcopa_sw
```"""


def _limits(params: Params) -> str:
    said = "Of words with similar hidden states the model need not translate any: see retrieval and the controls "
    said += "beside the cosines in the tables."
    if isinstance(params.active.model, MicroworldModel):
        said += " Its base has read nothing but a micro-world of a few thousand words; neither is of use elsewhere."
    return said


def _licence(params: Params, seed: int | None) -> str:
    if seed is None:
        return "The adapter's author states none: it may be measured, not passed on."
    own = "CC BY 4.0, as the word list that it is trained on."
    if params.pairs.source == "author":
        own = "The word list's author states none: it may be measured, not passed on."
    if isinstance(params.active.model, PackagedModel):
        own += f" The base model's is {params.active.model.licence}."
    if isinstance(params.active.model, HubModel):
        own += " The base model's licence holds for what is made with it: see its page."
    return own
