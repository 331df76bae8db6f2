"""The model card of an adapter: a README.md with its base model, training data, settings, and code to load it.

The text depends only on params.yaml and the stage's inputs, so the same adapter always has the same card. Results are
measured later; `tli export` adds them (commands/export_adapter.py).
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from tli.config.parameters import HubModel, MicroworldModel, PackagedModel, Params
from tli.data.words.lexicon import read_pairs
from tli.io.files import MANIFEST, sha256_of
from tli.model import lora

RESULTS = "## Results"
LATER = "Measured after this file was written: `paper/tables`. `tli export` copies the adapter and adds them."


def page(params: Params, seed: int | None, pairs: Path, quantized: Path) -> str:
    """The card as Markdown, with the metadata block that hubs read.

    Args:
        params: the parameters that the adapter was trained with; its rank is `params.lora.rank`.
        seed: the training seed; None for the author's adapter, which was fetched.
        pairs: the checked word list.
        quantized: the folder of 4-bit checkpoints.
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
        f"## Licence\n\n{_license_text(params, seed)}\n",
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
    model, lora_settings, train, blocks = params.active.model, params.lora, params.train, params.adapted_blocks
    folder = quantized / "nf4"
    if isinstance(model, HubModel):
        text = f"`{model.repo}` at revision `{model.revision}`"
        text += "; `first` is the one noted in fetched.sha256" if model.revision == "first" else ""
        text += "" if model.whole else f"; its first {model.held} of {model.blocks} blocks were loaded"
    elif isinstance(model, PackagedModel):
        text = f"{model.title}, SHA-256 {model.sha256}, made a checkpoint by the stage `base`"
    else:
        text = f"a Llama of {model.blocks} blocks, trained on the micro-world from seed {model.seed}; on no hub"
    yield "base model", text
    manifest = sha256_of(quantized / MANIFEST)
    dtype = params.active.compute.dtype
    yield "loaded as", f"NF4, compute in {dtype}: `{folder.as_posix()}`, SHA-256 of its manifest {manifest}"
    if seed is None:
        author, blocks = params.author, model.blocks
        yield "adapter", f"{author.url}/{author.adapter.path}, git blob {author.adapter.git_blob}"
    else:
        count = sum(pair.set == "trained" for pair in read_pairs(pairs))
        shuffled = ", the translations permuted" if train.pairs == "shuffled" else ""
        list_hash = sha256_of(pairs)
        yield "training data", f"{count} Swahili–English word pairs{shuffled}; SHA-256 of the list {list_hash}"
        text = f"triplet loss on cosines, margin {train.margin:g}, hardest negative of the batch, hidden_states"
        text += f"[{train.layer}], mean over tokens with BOS {'in' if train.pooling == 'mask' else 'out'}"
        yield "objective", text
        text = f"AdamW, learning rate {train.lr:g}, weight decay {train.weight_decay:g}, linear schedule with "
        text += f"{train.warmup_steps} warm-up steps, {train.epochs} epochs of batches of {train.batch_size}"
        yield "optimiser", f"{text}, seed {seed}"
    divisor = "sqrt(rank)" if lora_settings.scaling == "rslora" else "rank"
    text = f"rank {lora_settings.rank}, B A times {lora.alpha(lora_settings)} / {divisor}, "
    text += f"dropout {lora_settings.dropout:g}, "
    yield "LoRA", f"{text}on {', '.join(lora_settings.targets)} of blocks 1 to {blocks} of {model.blocks}"
    yield "parameters", f"{lora.parameter_count(params, blocks):,}"


FOUR_BIT = """four_bit = BitsAndBytesConfig(
    load_in_4bit=True, bnb_4bit_quant_type="nf4", bnb_4bit_compute_dtype="bfloat16",
)
"""


def _loading(params: Params, quantized: Path) -> str:
    """Code that loads base and adapter with transformers and peft, and a call of lm-evaluation-harness."""
    model = params.active.model
    if isinstance(model, HubModel):
        note, name, four_bit_config = "", model.repo, FOUR_BIT
        classes = "AutoModelForCausalLM, AutoTokenizer, BitsAndBytesConfig"
        model_argument = f'"{name}", revision="{model.revision}"'
        quantization_argument = ", quantization_config=four_bit"
        harness_arguments = f"pretrained={name},revision={model.revision},dtype=bfloat16,peft=."
        harness_note = (
            "With lm-evaluation-harness, the base unpacked (for scores as in the tables name the 4-bit folder):"
        )
    else:
        note = "The base is a folder of the repository after `dvc repro quantize`; name it as seen from here. "
        name, classes = (quantized / "nf4").as_posix(), "AutoModelForCausalLM, AutoTokenizer"
        four_bit_config = quantization_argument = ""
        model_argument, harness_arguments = f'"{name}"', f"pretrained={name},peft=."
        harness_note = "With lm-evaluation-harness:"
    return f"""{note}With transformers and peft:

```python
from peft import PeftModel
from transformers import {classes}

{four_bit_config}base = AutoModelForCausalLM.from_pretrained({model_argument}{quantization_argument})
tokenizer = AutoTokenizer.from_pretrained({model_argument})
model = PeftModel.from_pretrained(base, ".")  # the folder of this file
```

{harness_note}

```sh
lm_eval --model hf --model_args {harness_arguments} --tasks xcopa_sw
```"""


def _limits(params: Params) -> str:
    text = "Of words with similar hidden states the model need not translate any: see retrieval and the controls "
    text += "beside the cosines in the tables."
    if isinstance(params.active.model, MicroworldModel):
        text += " Its base has read nothing but a micro-world of a few thousand words; neither is of use elsewhere."
    return text


def _license_text(params: Params, seed: int | None) -> str:
    if seed is None:
        return "The adapter's author states none: it may be measured, not passed on."
    text = "CC BY 4.0, as the word list that it is trained on."
    if params.pairs.source == "author":
        text = "The word list's author states none: it may be measured, not passed on."
    if isinstance(params.active.model, PackagedModel):
        text += f" The base model's is {params.active.model.licence}."
    if isinstance(params.active.model, HubModel):
        text += " The base model's licence holds for what is made with it: see its page."
    return text
