"""One measurement at Llama-3.1-8B's shape, in a process of its own: python worker.py NAME FOLDER prints it as JSON.

FOLDER is what `shape.write` wrote. The project runs by its own stages' functions; beside them stands what a user would
write with transformers, PEFT, bitsandbytes and Accelerate, as their documentation has it.
"""

from __future__ import annotations

import json
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from pathlib import Path
from statistics import median
from typing import Any

import numpy as np
import torch
from accelerate import dispatch_model
from peft import LoraConfig, get_peft_model
from safetensors.torch import save_file
from torch.optim.optimizer import register_optimizer_step_post_hook
from transformers import AutoConfig, AutoModelForCausalLM, AutoTokenizer

sys.path.append(str(Path(__file__).resolve().parents[1]))
import shape

from tiny import ROOT
from tli.config import parameters
from tli.config.parameters import Params
from tli.data.words.lexicon import Pair, read_pairs
from tli.io.rows import read_rows
from tli.io.structured import write_tsv
from tli.measure import embeddings
from tli.model import backbone, checkpoint
from tli.model.batched_lora import batched_lora
from tli.stages import scan, train
from tli.training import loop, objective

LAYER, BATCH, STEPS, WARM_UP, THREADS, SEEDS = 2, 8, 12, 2, 2, 5
TOKENS_A_WORD = 6  # in the step's batch: 16 words of 6 tokens with BOS, no padding
WORDS_TIMED = 8  # one a forward
Result = dict[str, Any]


def params(weights: str) -> Params:
    """params.yaml as committed, the model `lugha_llama` on this machine's processor."""
    compute = {"threads": THREADS, "device": "cpu", "weights": weights}
    changes = {f"profiles.lugha_llama.compute.{key}": value for key, value in compute.items()}
    return parameters.load(ROOT / "params.yaml", changes, model="lugha_llama")


def words() -> list[str]:
    pairs = read_pairs(ROOT / "data" / "pairs.tsv")
    return [pair.swahili for pair in pairs] + [pair.english for pair in pairs]


def tokens(folder: Path, texts: Sequence[str]) -> list[int]:
    """How many tokens each text has, with BOS."""
    return [len(ids) for ids in embeddings.tokens(checkpoint.tokenizer(folder / "nf4"), texts)]


def even(folder: Path) -> list[Pair]:
    """Whole batches of pairs whose words have TOKENS_A_WORD tokens each."""
    pairs = [pair for pair in read_pairs(ROOT / "data" / "pairs.tsv") if pair.set == "trained"]
    lengths = tokens(folder, [form for pair in pairs for form in (pair.swahili, pair.english)])
    fit = [pair for pair, a, b in zip(pairs, lengths[::2], lengths[1::2], strict=True) if a == b == TOKENS_A_WORD]
    return fit[: len(fit) // BATCH * BATCH]


# The training step.


def timed_steps() -> list[float]:
    """A list that takes the time at the end of every optimizer step from here on."""
    times: list[float] = []
    register_optimizer_step_post_hook(lambda *_: times.append(time.perf_counter()))
    return times


def a_step(times: list[float], losses: Sequence[float]) -> Result:
    between = np.diff(times)[WARM_UP:]
    flop = step_flop()
    return {
        "seconds": median(between),
        "steps": len(between),
        "tokens": 2 * BATCH * TOKENS_A_WORD,
        "flop": flop,
        "losses": list(losses),
    }


def step_flop() -> int:
    """Multiplications and additions of the frozen projections, forward and, for the states' gradient, backward."""
    return 2 * 2 * LAYER * shape.BLOCK_PARAMETERS * 2 * BATCH * TOKENS_A_WORD


def ours(weights: str, folder: Path) -> Result:
    """The stage `train` on STEPS batches."""
    chosen = params(weights)
    pairs = even(folder)
    settings = chosen.train.model_copy(update={"epochs": STEPS * BATCH // len(pairs)})
    return a_step(*_train(folder, chosen.model_copy(update={"train": settings}), pairs))


def together(folder: Path) -> Result:
    """A cell of the stage `sweep-train`, SEEDS adapters side by side: seconds for one of them."""
    chosen, pairs = params("dequantized"), even(folder)
    settings = chosen.train.model_copy(update={"epochs": STEPS * BATCH // len(pairs)})
    backbone.setup(THREADS)
    model, times = loop.load_frozen(folder / "nf4", chosen, pairs), timed_steps()
    with batched_lora(model, chosen.lora, chosen.adapted_blocks, range(SEEDS), LAYER) as adapters:
        first, *_ = loop.train(adapters, checkpoint.tokenizer(folder / "nf4"), pairs, settings)
    result = a_step(times, [step.loss for step in first.steps])
    return result | {"seconds": result["seconds"] / SEEDS}


def _train(folder: Path, chosen: Params, pairs: Sequence[Pair]) -> tuple[list[float], list[float]]:
    backbone.setup(THREADS)
    with tempfile.TemporaryDirectory() as temporary:
        out = Path(temporary)
        write_tsv(out / "pairs.tsv", Pair._fields, pairs)
        times = timed_steps()
        train.run(out / "pairs.tsv", folder, out / "adapter", out / "rows.tsv", out / "log", chosen)
        losses = [
            float(line.split("\t")[-1]) for line in (out / "log/plots/metrics/loss.tsv").open() if "loss" not in line
        ]
    return times, losses


def training(folder: Path) -> Result:
    """The paper's whole training by the stage `train`: start to end, imports apart."""
    chosen, start = params("dequantized"), time.perf_counter()
    pairs = [pair for pair in read_pairs(ROOT / "data" / "pairs.tsv") if pair.set == "trained"]
    times, losses = _train(folder, chosen, pairs)
    forms = tokens(folder, [form for pair in pairs for form in (pair.swahili, pair.english)])
    flop = 2 * 2 * LAYER * shape.BLOCK_PARAMETERS * sum(forms) * chosen.train.epochs
    return {"seconds": time.perf_counter() - start, "steps": len(times), "flop": flop, "losses": losses[:2]}


def by_peft(blocks: int | None, folder: Path) -> Result:
    """A training loop on transformers, PEFT and bitsandbytes; with `blocks`, num_hidden_layers of the model."""
    torch.set_num_threads(THREADS)
    chosen = params("packed")
    model = AutoModelForCausalLM.from_pretrained(
        folder / "nf4", **({} if blocks is None else {"num_hidden_layers": blocks})
    )
    tokenizer = AutoTokenizer.from_pretrained(folder / "nf4")
    settings = LoraConfig(
        r=chosen.lora.rank,
        lora_alpha=2 * chosen.lora.rank,
        lora_dropout=chosen.lora.dropout,
        target_modules=list(chosen.lora.targets),
        task_type="CAUSAL_LM",
    )
    torch.manual_seed(chosen.train.seed)
    model = get_peft_model(model, settings).train()
    trainable = [parameter for parameter in model.parameters() if parameter.requires_grad]
    optimizer = torch.optim.AdamW(trainable, lr=chosen.train.lr, weight_decay=chosen.train.weight_decay)
    pairs, times, losses = even(folder), timed_steps(), []
    order = loop.epoch_batches(len(pairs), BATCH, STEPS * BATCH // len(pairs), chosen.train.seed)
    for batch in order:
        texts = [pairs[index].swahili for index in batch] + [pairs[index].english for index in batch]
        inputs = tokenizer(texts, padding=True, return_tensors="pt")
        inputs.pop("token_type_ids", None)
        states = model(**inputs, output_hidden_states=True).hidden_states[LAYER]
        mask = inputs["attention_mask"].unsqueeze(-1)
        anchors, positives = ((states * mask).sum(dim=1) / mask.sum(dim=1)).chunk(2)
        loss, *_ = objective.triplet_loss(anchors.float(), positives.float(), chosen.train.margin)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    return a_step(times, losses)


# The scan.


def scan_flop(folder: Path) -> int:
    return 2 * shape.BLOCKS * shape.BLOCK_PARAMETERS * sum(tokens(folder, words()))


def streamed(folder: Path) -> Result:
    """The stage `scan`."""
    chosen = params("packed")
    backbone.setup(THREADS)
    with tempfile.TemporaryDirectory() as temporary:
        start = time.perf_counter()
        scan.run(ROOT / "data" / "pairs.tsv", folder, Path(temporary) / "scan.tsv", chosen)
        seconds = time.perf_counter() - start
        rows = read_rows(Path(temporary) / "scan.tsv")
    rows = rows[(rows["set"] == "all") & (rows["measure"] == "cosine_mean") & rows["view"].str.endswith(".mask.nf4")]
    means = [float(value) for value in rows["value"]]
    kept = [*means[: shape.BLOCKS], means[-1]]  # hidden_states[32] of transformers is what follows the final norm
    return {"seconds": seconds, "words": len(words()), "flop": scan_flop(folder), "cosines": kept}


@torch.no_grad()
def whole(folder: Path, batches: Sequence[Sequence[str]], model: Any = None) -> Iterator[list[np.ndarray]]:
    """Mean-pooled hidden states of every layer, batch after batch, as the public scripts compute them."""
    if model is None:
        model = AutoModelForCausalLM.from_pretrained(folder / "nf4").eval()
    tokenizer = AutoTokenizer.from_pretrained(folder / "nf4")
    for texts in batches:
        inputs = tokenizer(list(texts), padding=True, return_tensors="pt")
        inputs.pop("token_type_ids", None)
        mask = inputs["attention_mask"].unsqueeze(-1)
        hidden = model(**inputs, output_hidden_states=True, use_cache=False).hidden_states
        yield [((states.float() * mask).sum(dim=1) / mask.sum(dim=1)).numpy() for states in hidden]


def one_word_a_forward(folder: Path) -> Result:
    torch.set_num_threads(THREADS)
    texts = words()
    sample = texts[:: len(texts) // WORDS_TIMED][: WORDS_TIMED + 1]
    times = [time.perf_counter() for _ in whole(folder, [[text] for text in sample])]
    seconds = median(np.diff(times)) * len(texts)
    return {
        "seconds": seconds,
        "words": len(texts),
        "flop": scan_flop(folder),
        "scaled": f"{len(sample) - 1} words timed",
    }


def in_batches(model: Callable[[Path], Any] | None, folder: Path) -> Result:
    """All words in batches of 64, by length; the first batch is run twice, and its first run is not counted."""
    torch.set_num_threads(THREADS)
    texts = words()
    order = [*backbone.batches([range(n) for n in tokens(folder, texts)], 64)]
    ready = None if model is None else model(folder)
    batches = whole(folder, [[texts[index] for index in batch] for batch in [order[0], *order]], ready)
    next(batches)
    start = time.perf_counter()
    pooled = [*batches]
    seconds, most = time.perf_counter() - start, peak()
    vectors = [np.empty((len(texts), shape.HIDDEN), dtype=np.float32) for _ in pooled[0]]
    for batch, layers in zip(order, pooled, strict=True):
        for whole_, own in zip(vectors, layers, strict=True):
            whole_[batch] = own
    half = len(texts) // 2
    unit = [each / np.linalg.norm(each, axis=1, keepdims=True) for each in vectors]
    cosines = [float((each[:half] * each[half:]).sum(axis=1).mean()) for each in unit]
    return {"seconds": seconds, "words": len(texts), "flop": scan_flop(folder), "cosines": cosines, "peak_bytes": most}


def offloaded(folder: Path) -> Any:
    """The model in bfloat16, its blocks on disk, by Accelerate (bitsandbytes offloads no 4-bit weights to disk).

    All blocks share one file here, so that the disk is never waited for.
    """
    place = folder / "bf16"
    if not place.exists():
        first = checkpoint.load(folder / "nf4", blocks=1, vocabulary=[0], head=False, weights="dequantized")
        one = first.model.layers[0]
        place.mkdir()
        save_file(one.state_dict(), place / "block.safetensors", metadata={"format": "pt"})
    names = checkpoint.CheckpointFiles(place).file_of
    config = AutoConfig.from_pretrained(folder / "nf4")
    del config.quantization_config
    with torch.device("meta"):
        model = AutoModelForCausalLM.from_config(config, dtype=torch.bfloat16).eval()
    small = checkpoint.load(folder / "nf4", blocks=1)
    model.model.embed_tokens, model.lm_head = small.model.embed_tokens, small.lm_head
    model.model.rotary_emb = small.model.rotary_emb
    model.model.norm = torch.nn.RMSNorm(shape.HIDDEN, eps=config.rms_norm_eps, dtype=torch.bfloat16)
    index = {
        f"model.layers.{number}.{name}": {
            "safetensors_file": str(place / "block.safetensors"),
            "weight_name": name,
            "dtype": "bfloat16",
        }
        for number in range(shape.BLOCKS)
        for name in names
    }
    where = dict.fromkeys(("model.embed_tokens", "model.norm", "model.rotary_emb", "lm_head"), "cpu")
    where |= {f"model.layers.{number}": "disk" for number in range(shape.BLOCKS)}
    return dispatch_model(model, where, main_device="cpu", offload_index=index, offload_dir=place, force_hooks=True)


# The machine.


def rates(_folder: Path) -> Result:
    """The best rates of a product with the MLP's matrix, for a few to many tokens, and of copying 1 GB."""
    torch.set_num_threads(THREADS)
    matmul: dict[str, dict[str, float]] = {}
    for dtype in (torch.bfloat16, torch.float32):
        weight = torch.randn(shape.MLP, shape.HIDDEN, dtype=dtype)
        own = matmul[str(dtype).removeprefix("torch.")] = {}
        for n in (96, 384, 1536):
            x = torch.randn(n, shape.HIDDEN, dtype=dtype)
            product = partial(torch.nn.functional.linear, x, weight)
            own[str(n)] = 2 * n * weight.numel() / _best(product)
    source = torch.ones(500_000_000, dtype=torch.bfloat16)
    target = torch.empty_like(source)
    copied = 2 * source.nbytes / _best(lambda: target.copy_(source))
    return {"matmul": matmul, "copy": copied}


def _best(call: Callable[[], object], rounds: int = 12) -> float:
    times = []
    for _ in range(rounds):
        start = time.perf_counter()
        call()
        times.append(time.perf_counter() - start)
    return min(times)


def imports(_folder: Path) -> Result:
    return {}


NAMES: dict[str, Callable[[Path], Result]] = {
    "rates": rates,
    "imports": imports,
    "step whole": lambda folder: by_peft(None, folder),
    "step two blocks": lambda folder: by_peft(LAYER, folder),
    "step packed": lambda folder: ours("packed", folder),
    "step dequantized": lambda folder: ours("dequantized", folder),
    "step together": together,
    "training": training,
    "scan streamed": streamed,
    "scan one word": one_word_a_forward,
    "scan batches": lambda folder: in_batches(None, folder),
    "scan offload": lambda folder: in_batches(offloaded, folder),
}


def peak() -> int:
    """This process's largest resident set, in bytes. (ru_maxrss would start from the parent's.)"""
    line = next(line for line in Path("/proc/self/status").read_text().splitlines() if line.startswith("VmHWM"))
    return int(line.split()[1]) * 1024


if __name__ == "__main__":
    result = NAMES[sys.argv[1]](Path(sys.argv[2]))
    print(json.dumps({"peak_bytes": peak()} | result))
