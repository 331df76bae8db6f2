"""params.yaml, typed, checked and frozen: the one place that values come from (stage: check).

Every key is listed here; an unknown key, a wrong type or a value out of range ends in one line that names the key.
The `check` stage runs first in the pipeline, so that a bad value fails before DVC removes any output.
"""

from __future__ import annotations

import copy
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any, Literal, Self

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, ValidationError, field_validator, model_validator

from tli.io.errors import UserError
from tli.io.structured import brief, parse_yaml, read_yaml

Dtype = Literal["float32", "float16", "bfloat16"]
Count = Annotated[int, Field(ge=1)]
Seed = Annotated[int, Field(ge=0, lt=2**32)]
Share = Annotated[float, Field(ge=0, le=1)]
Positive = Annotated[float, Field(gt=0)]


class Section(BaseModel):
    """A mapping whose keys are all known, all typed and never change."""

    model_config = ConfigDict(frozen=True, extra="forbid", strict=True, allow_inf_nan=False)


class Shares(Section):
    """Shares of a whole: they sum to 1."""

    @model_validator(mode="after")
    def _sums(self) -> Self:
        total = sum(value for _, value in self)
        if abs(total - 1) > 1e-9:
            raise ValueError(f"shares that sum to 1, got the sum {total:g}")
        return self


class Pairs(Section):
    """Where the word pairs come from: `project` is data/pairs.tsv, `author` the two lists of the section `author`."""

    source: Literal["project", "author"]


class Adapter(Section):
    """Where the paper's cell comes from: `trained` here, or the `author`'s own, of the section `author`."""

    source: Literal["trained", "author"]


class Listed(Section):
    """One file of the author's repository, by its path there and the SHA-256 of its bytes."""

    path: str
    sha256: Annotated[str, Field(pattern=r"^[0-9a-f]{64}$")]


class Blob(Section):
    """One file of the author's repository, by its path there and its git blob id."""

    path: str
    git_blob: Annotated[str, Field(pattern=r"^[0-9a-f]{40}$")]


class Author(Section):
    """The author's public files at a pinned commit, fetched only where a `source` says so."""

    url: Annotated[str, Field(pattern=r"^https://[^\s]+/[0-9a-f]{40}$")]
    trained: Listed
    control: Listed
    adapter: Blob


class Fetch(Section):
    """The file in git that notes the SHA-256 of every fetched file at its first fetch and holds later ones to it."""

    manifest: str


class FourBit(Section):
    """How bitsandbytes packs one 4-bit type: the dtype weights are cast to before, whether scales are packed too."""

    load_dtype: Dtype
    double_quant: bool


class Quantize(Section):
    """NF4 for training and measuring; FP4 for the view of the public evaluation script (measure/views.py)."""

    nf4: FourBit
    fp4: FourBit


class Lora(Section):
    """LoRA: W + (alpha / r) B A, with alpha by `scaling`, on the blocks that the loss can reach or on all.

    `2r`: alpha = 2 r. `fixed32`: alpha = 32. `rslora`: the factor is 8 / sqrt(r) (rank-stabilised, 2312.03732).
    All three give the factor 2 at the paper's r = 16. `reached`: blocks 1 to train.layer, to which alone the loss
    gives a gradient. `all`: every block, as in the public scripts; B stays 0 beyond, but dropout draws there too.
    """

    rank: Count
    scaling: Literal["2r", "fixed32", "rslora"]
    blocks: Literal["reached", "all"]
    dropout: Annotated[float, Field(ge=0, lt=1)]
    targets: Annotated[tuple[Literal["q_proj", "k_proj", "v_proj", "o_proj"], ...], Field(min_length=1, strict=False)]


class Train(Section):
    """Targeted Lexical Injection (2506.15415, section 3): what the loss reads and how it is minimised.

    `layer` may also be `middle` or `last` in the file: half the profile's blocks, or all of them. `pairs: shuffled`
    trains on the same words with the translations permuted, a control for what training does whatever the pairing.
    """

    layer: Count
    pooling: Literal["mask", "content"]
    pairs: Literal["translations", "shuffled"]
    margin: Annotated[float, Field(ge=0)]
    lr: Annotated[float, Field(ge=0)]
    weight_decay: Annotated[float, Field(ge=0)]
    warmup_steps: Annotated[int, Field(ge=0)]
    epochs: Count
    batch_size: Annotated[int, Field(ge=2)]
    mask_duplicates: bool
    seed: Seed


class Measure(Section):
    """Seeds of the random pairings (derangements) that translation pairs are held against."""

    random_seeds: Annotated[tuple[Seed, ...], Field(min_length=1, strict=False)]


class Probe(Section):
    """The translation prompt: how many trained pairs stand in it as examples, and the seed of their draw."""

    shots: Count
    seed: Seed


class Project(Section):
    """The picture of trained pairs: how many, t-SNE's perplexity, and the seed of their draw and of t-SNE."""

    pairs: Annotated[int, Field(ge=2)]
    perplexity: Positive
    seed: Seed

    @model_validator(mode="after")
    def _neighbours(self) -> Self:
        if self.perplexity >= 2 * self.pairs:
            raise ValueError(f"a perplexity below the number of words, {2 * self.pairs}, got {self.perplexity:g}")
        return self


class Bos(Section):
    """The BOS regime (model/attention_sink.py): from layer `layer` on, BOS has `ratio` times the norm of others."""

    layer: Annotated[int, Field(ge=2)]
    ratio: Annotated[float, Field(gt=1)]


def _once(values: tuple[Any, ...]) -> tuple[Any, ...]:
    if len(set(values)) != len(values):
        raise ValueError("each value once")
    return values


Ranks = Annotated[tuple[Count, ...], Field(min_length=1, strict=False), AfterValidator(_once)]
Seeds = Annotated[tuple[Seed, ...], Field(strict=False), AfterValidator(_once)]
Names = Annotated[tuple[str, ...], Field(strict=False), AfterValidator(_once)]


class Arm(Section):
    """An arm of the full grid: which keys of this file it changes, and at which ranks it is run."""

    ranks: Ranks
    changes: dict[Annotated[str, Field(pattern=r"^(lora|train)\.\w+$")], str | int | float | bool]


class Sweep(Section):
    """The rank sweep: every rank with every seed; rank 0, the base model, is always there.

    `base_seeds` are further bases, each with a corpus of its own: with `grid: [full]`, full/dvc.yaml repeats the sweep
    on each of them with every arm of `arms`, and those of `bos_arms` on the base in the BOS regime.
    """

    ranks: Ranks
    seeds: Annotated[Seeds, Field(min_length=1)]
    grid: Annotated[tuple[Literal["full"], ...], Field(strict=False, max_length=1)]
    base_seeds: Annotated[Seeds, Field(min_length=1)]
    arms: Names
    bos_arms: Names


class Cluster(Section):
    """Where and with what `tli submit` runs the cells of the sweep (cluster/submit.py); no stage depends on it.

    `mem` in GB, `time` in minutes an attempt; `retries` beside a cell's first attempt. `container`: in `image` through
    Apptainer. Under `local`, as many cells run at a time as `cpus` goes into the processor's cores.
    """

    executor: Literal["slurm", "local"]
    runtime: Literal["environment", "container"]
    image: str | None
    partition: str | None
    account: str | None
    constraint: str | None
    cpus: Count
    mem: Count
    gpus: Annotated[int, Field(ge=0)]
    time: Annotated[int, Field(ge=2)]
    retries: Annotated[int, Field(ge=0)]
    at_once: Count

    @model_validator(mode="after")
    def _has_an_image(self) -> Self:
        if (self.runtime == "container") != (self.image is not None):
            raise ValueError(f"an image with runtime container and null without, got {self.image}")
        return self


class Bootstrap(Section):
    """How many times adapters and items are resampled, and from which seed."""

    draws: Annotated[int, Field(ge=100)]
    seed: Seed


class Margins(Section):
    """What counts as no difference, either way: points of accuracy, cosine, P@1 as a share."""

    accuracy: Positive
    cosine: Positive
    retrieval: Positive


OUTCOMES = ("cosine", "left", "p1", "xcopa", "xnli")


class Stats(Section):
    """The coverage of every interval, and what the tests of the rank study were declared to be before they are run.

    `families`: the outcomes whose tests are corrected together, over all their sets, directions and languages. `left`
    is what the cosine of translations exceeds that of random pairs by, `p1` retrieval's P@1.
    """

    confidence: Annotated[float, Field(gt=0.5, lt=1)]
    power: Annotated[float, Field(ge=0.5, lt=1)]
    bootstrap: Bootstrap
    margins: Margins
    families: dict[str, Annotated[tuple[Literal["cosine", "left", "p1", "xcopa", "xnli"], ...], Field(strict=False)]]

    @field_validator("families")
    @classmethod
    def _each_once(cls, families: dict[str, tuple[str, ...]]) -> dict[str, tuple[str, ...]]:
        named = [outcome for outcomes in families.values() for outcome in outcomes]
        if sorted(named) != sorted(OUTCOMES):
            raise ValueError(f"each of {', '.join(OUTCOMES)} in one family")
        return families

    @property
    def alpha(self) -> float:
        """The level of every test."""
        return 1 - self.confidence


class Pretraining(Section):
    """The embedded base's optimisation: steps, never seconds; `lr` after warm-up, then a cosine to a tenth of it."""

    steps: Count
    batch_tokens: Count
    lr: Positive
    warmup_steps: Annotated[int, Field(ge=0)]
    weight_decay: Annotated[float, Field(ge=0)]


class Shape(Section):
    """A decoder with Llama's module names: `blocks` of attention with `kv_heads` shared keys and values, and an MLP.

    Queries have the width heads x head_dim, keys and values kv_heads x head_dim. In a Llama head_dim is hidden_size /
    heads; Qwen3 and Gemma 3 choose it freely. `tied_embeddings`: the language-model head is the embedding matrix.
    """

    blocks: Annotated[int, Field(ge=2)]
    hidden_size: Annotated[int, Field(ge=32, multiple_of=32)]
    intermediate_size: Annotated[int, Field(ge=32, multiple_of=32)]
    heads: Count
    kv_heads: Count
    head_dim: Annotated[int, Field(ge=2, multiple_of=2)]
    vocab_size: Count
    tied_embeddings: bool

    @model_validator(mode="after")
    def _fits(self) -> Self:
        if self.heads % self.kv_heads or self.query_width % 32 or self.kv_width % 32:
            raise ValueError(
                "expected heads a multiple of kv_heads, and heads x head_dim and kv_heads x head_dim multiples of 32, "
                f"got heads {self.heads}, kv_heads {self.kv_heads}, head_dim {self.head_dim}"
            )
        return self

    @property
    def query_width(self) -> int:
        """Output width of q_proj, input width of o_proj."""
        return self.heads * self.head_dim

    @property
    def kv_width(self) -> int:
        """Output width of k_proj and v_proj."""
        return self.kv_heads * self.head_dim

    @property
    def held(self) -> int:
        """How many of the first blocks this run has; all, where nothing says otherwise."""
        return self.blocks

    @property
    def whole(self) -> bool:
        """Whether this run has every block, the final norm and the head."""
        return self.held == self.blocks


class MicroworldModel(Shape):
    """A small bilingual Llama, pre-trained on the micro-world.

    `versioned`: its weights are read from the folder `weights`, which data.dvc holds, so that every machine has the
    same base. `pretrain`: the `base` stage trains it anew from `seed` by `pretraining`, and the results will differ:
    pre-training amplifies rounding, so that another processor is another seed.
    """

    source: Literal["versioned", "pretrain"]
    weights: str
    vocab_size: Annotated[int, Field(ge=256, multiple_of=32)]
    seed: Seed
    pretraining: Pretraining

    @model_validator(mode="after")
    def _is_a_llama(self) -> Self:
        if self.hidden_size != self.heads * self.head_dim:
            raise ValueError(
                f"expected hidden_size heads x head_dim ({self.query_width}), as in a Llama, got {self.hidden_size}"
            )
        return self

    @property
    def title(self) -> str:
        return "a small bilingual Llama, " + ("versioned" if self.source == "versioned" else "pre-trained in this run")


class PackagedModel(Shape):
    """A pretrained model out of one GGUF file, recognised by its SHA-256 (model/package.py).

    `file` is a path, or a path inside the environment's folder of packaged models (requirements/model.txt).
    """

    source: Literal["package"]
    file: str
    sha256: Annotated[str, Field(pattern=r"^[0-9a-f]{64}$")]
    name: str
    licence: str

    @property
    def title(self) -> str:
        return f"{self.name}, out of {self.file.rpartition('/')[2]}"


Name = Annotated[str, Field(pattern=r"^[\w.-]+/[\w.-]+$")]
# What a repository is pinned to. `first`: what `main` is at the first fetch, from then on what the manifest noted.
Revision = Annotated[str, Field(min_length=1)]


class HubRepo(Section):
    """A repository of the Hugging Face hub at a pinned revision: 40 hex digits, or `first` (data/hub/fetch.py)."""

    repo: Name
    revision: Revision


class HubModel(Shape, HubRepo):
    """A published checkpoint; `head_from` names a sibling whose lm_head is taken where this one has none.

    `span`: only so many of the first blocks are fetched, and of the embeddings the rows of the word list
    (model/part.py); null: the whole model. Without the head nothing can be scored: benchmarks.source is none then.
    """

    source: Literal["hub"]
    head_from: HubRepo | None
    span: Annotated[int, Field(ge=2)] | None

    @model_validator(mode="after")
    def _spans(self) -> Self:
        if self.span is not None and self.span >= self.blocks:
            raise ValueError(f"expected span null or below blocks ({self.blocks}), got {self.span}")
        if self.span is not None and self.head_from is not None:
            raise ValueError("expected head_from null with a span, which leaves the head out")
        return self

    @property
    def held(self) -> int:
        return self.blocks if self.span is None else self.span

    @property
    def title(self) -> str:
        return f"{self.repo}@{self.revision}"


class Mix(Shares):
    """Shares of the corpus's documents by kind; they sum to 1."""

    dictionary: Share
    parallel: Share
    switched: Share
    causal: Share
    entailment: Share


class Languages(Shares):
    """Shares of the causal and entailment statements by language, or switching between both; they sum to 1."""

    english: Share
    switched: Share
    swahili: Share


class Items(Section):
    """Items a task and language, by split; more than the bound would ask for more distinct items than there are."""

    test: Annotated[int, Field(ge=6, le=800)]
    dev: Annotated[int, Field(ge=6, le=400)]


class MicroworldBenchmarks(Section):
    """The micro-world: `documents` of corpus, the share of combinations held out of it for items, and its noise."""

    source: Literal["microworld"]
    seed: Seed
    documents: Count
    held_out: Annotated[float, Field(gt=0, lt=1)]
    rivals: Share
    mix: Mix
    languages: Languages
    items: Items


class HubTask(HubRepo):
    """A benchmark's repository and the languages of it that are scored."""

    languages: Annotated[tuple[str, ...], Field(min_length=1, strict=False)]


class HubBenchmarks(Section):
    """XCOPA, English COPA and XNLI as released; `limit` keeps the first items of a task and language, null all."""

    source: Literal["hub"]
    xcopa: HubTask
    copa: HubRepo
    xnli: HubTask
    limit: Annotated[int, Field(ge=10)] | None


class NoBenchmarks(Section):
    """No items: nothing is scored, and every table of scores is left out."""

    source: Literal["none"]


class Transfer(Section):
    """Which split is scored: the `default` of the harness for each task (the micro-world's: test), or the one named."""

    split: Literal["default", "validation", "test"]


class Compute(Section):
    """What changes speed and, through rounding, the last digits: threads, sequences a forward pass, device and dtype.

    `dtype` is that of every product and of what is not packed in 4 bits. In float32 processors with other instruction
    sets agree to 2e-4 in a mean cosine; bfloat16 is the paper's choice, and a GPU's.
    `weights: dequantized` unpacks the 4-bit weights once where adapters are trained, `packed` at every call; both give
    the same bits, the first in less time and four times the memory (docs/performance.md).
    """

    threads: Count
    batch_size: Count
    device: Literal["cpu", "cuda"]
    dtype: Literal["float32", "bfloat16"]
    weights: Literal["packed", "dequantized"]


class Profile(Section):
    """What varies with the model: its shape and source, its benchmarks, the machine's share."""

    model: Annotated[PackagedModel | MicroworldModel | HubModel, Field(discriminator="source")]
    benchmarks: Annotated[MicroworldBenchmarks | HubBenchmarks | NoBenchmarks, Field(discriminator="source")]
    compute: Compute

    @model_validator(mode="after")
    def _has_a_head(self) -> Self:
        if not self.model.whole and self.benchmarks.source != "none":
            raise ValueError("expected benchmarks.source none with model.span, which leaves the head out")
        return self


class Params(Section):
    """The whole of params.yaml, as one of its models uses it.

    `models` lists the models of a run, each by its key in `profiles`. `model` is the one that this process works on; it
    is no key of the file: `load` sets it.
    """

    models: Annotated[Names, Field(min_length=1)]
    model: str
    pairs: Pairs
    adapter: Adapter
    author: Author
    fetch: Fetch
    quantize: Quantize
    lora: Lora
    train: Train
    measure: Measure
    transfer: Transfer
    probe: Probe
    project: Project
    sweep: Sweep
    bos: Bos
    arms: dict[Annotated[str, Field(pattern=r"^\w+$")], Arm]
    stats: Stats
    cluster: Cluster
    profiles: dict[str, Profile]

    @model_validator(mode="before")
    @classmethod
    def _depth(cls, raw: Any) -> Any:
        """train.layer in words becomes a number of the model's blocks."""
        try:
            blocks, layer = raw["profiles"][raw["model"]]["model"]["blocks"], raw["train"]["layer"]
            number = {"middle": blocks // 2, "last": blocks}.get(layer, layer)
        except (KeyError, TypeError):
            return raw  # said of the key itself
        return {**raw, "train": {**raw["train"], "layer": number}}

    @property
    def active(self) -> Profile:
        """The profile of this process's model."""
        return self.profiles[self.model]

    def widths(self, target: str) -> tuple[int, int]:
        """(d_in, d_out) of a projection that LoRA may sit on."""
        model = self.active.model
        return {
            "q_proj": (model.hidden_size, model.query_width),
            "k_proj": (model.hidden_size, model.kv_width),
            "v_proj": (model.hidden_size, model.kv_width),
            "o_proj": (model.query_width, model.hidden_size),
        }[target]

    @property
    def adapted_blocks(self) -> int:
        """Blocks with LoRA, from the first; also what training needs of the model."""
        return self.train.layer if self.lora.blocks == "reached" else self.active.model.blocks

    @property
    def highest_rank(self) -> int:
        """The smallest width of the target projections: a higher rank adds parameters but no rank."""
        return min(min(self.widths(target)) for target in self.lora.targets)


def load(
    path: Path | str = "params.yaml",
    changes: Mapping[str, Any] | None = None,
    arm: str | None = None,
    model: str | None = None,
) -> Params:
    """Reads and checks `path` for one model, after `changes` (dotted key -> value) and then those of `arm` in it.

    Args:
        model: a key of `profiles`; if not given, the first of `models`.

    Raises:
        UserError: one line that names file, key, what was expected, what stood there.
    """
    raw = read_yaml(path)
    for key, value in (changes or {}).items():
        _change(raw, key, value, path)
    if isinstance(raw, dict):
        _choose(raw, model, path)
    params = _validated(raw, str(path))
    # arms are the full grid's, which needs the whole model
    tried = params.arms if params.active.model.whole else {arm: params.arms[arm]} if arm in params.arms else {}
    changed = {name: _arm(raw, name, each, path) for name, each in tried.items()}
    for key, names in (("sweep.arms", params.sweep.arms), ("sweep.bos_arms", params.sweep.bos_arms), ("--arm", (arm,))):
        if unknown := [name for name in names if name is not None and name not in params.arms]:
            known = ", ".join(params.arms)
            raise UserError(f"{path}: {key}: expected names of arms ({known}), got {unknown[0]!r}; add it there")
    return params if arm is None else changed[arm]


def _choose(raw: dict[str, Any], model: str | None, path: Path | str) -> None:
    """Sets the key `model` of the file's content: the one asked for, or the first of `models`."""
    if "model" in raw:
        raise UserError(f"{path}: model: unknown key; list the models of a run under models")
    models, profiles = raw.get("models"), raw.get("profiles")
    known = ", ".join(map(str, profiles)) if isinstance(profiles, dict) else ""
    if not isinstance(models, list) or not models:
        of_known = f" (of {known})" if known else ""
        raise UserError(
            f"{path}: models: expected a list of one model or more{of_known}, got {brief(models)}; "
            "write it as in models: [microworld]"
        )
    for key, names in (("models", models), ("--model", [] if model is None else [model])):
        for name in names:
            if not isinstance(profiles, dict) or name not in profiles:
                raise UserError(
                    f"{path}: {key}: expected names of models ({known}), got {brief(name)}; correct its spelling"
                )
    raw["model"] = models[0] if model is None else model


def parse(change: str) -> tuple[str, Any]:
    """(key, value) of `KEY=VALUE`, the value read as YAML. Raises UserError where it is not of that form."""
    key, equals, text = change.partition("=")
    try:
        value = parse_yaml(text, "--set")
    except UserError:
        equals = ""
    if not (key and equals and text):
        raise UserError(f"--set: expected KEY=VALUE, got {brief(change)}; write it as in lora.rank=8")
    return key, value


def _arm(raw: Any, name: str, arm: Arm, path: Path | str) -> Params:
    """What the parameters are in an arm, checked like the file itself."""
    own = copy.deepcopy(raw)
    for key, value in arm.changes.items():
        _change(own, key, value, f"{path}: arms.{name}")
    params = _validated(own, f"{path}: arms.{name}")
    _fits(params, f"{path}: arms.{name}.ranks", arm.ranks)
    return params


def _change(raw: Any, key: str, value: Any, where: Path | str) -> None:
    """Sets a dotted key in place; a key that the file does not have is refused."""
    *sections, last = key.split(".")
    at = raw
    for name in sections:
        at = at.get(name) if isinstance(at, dict) else None
    if not isinstance(at, dict) or last not in at:
        raise UserError(f"{where}: {key}: unknown key, cannot be set to {brief(value)}; correct its spelling")
    at[last] = value


def _validated(raw: Any, where: str) -> Params:
    try:
        params = Params.model_validate(raw)
    except ValidationError as error:
        raise UserError(f"{where}: {_first(error)}") from None
    _across(params, where)
    return params


KINDS = ("package", "versioned", "pretrain", "hub", "microworld", "none")


def _first(error: ValidationError) -> str:
    """The first of pydantic's findings as one line."""
    finding = error.errors(include_url=False)[0]
    # pydantic names the kind of a section after its key: no key of the file
    key = ".".join(str(part) for part in finding["loc"] if part not in KINDS) or "the whole file"
    more = f" (and {error.error_count() - 1} more)" if error.error_count() > 1 else ""
    if finding["type"] == "extra_forbidden":
        return f"{key}: unknown key, got {brief(finding['input'])}; remove it or correct its spelling{more}"
    if finding["type"] == "missing":
        return f"{key}: missing; add it (the committed params.yaml shows every key){more}"
    message = finding["msg"].removeprefix("Value error, ").removeprefix("Input should be ")
    got = brief(finding["input"])
    return f"{key}: expected {message.removeprefix('expected ')}, got {got}; set another value{more}"


def _across(params: Params, path: str) -> None:
    """What no single key shows: the layers and the ranks fit the model."""
    blocks = params.active.model.blocks
    if params.train.layer > blocks:
        raise UserError(
            f"{path}: train.layer: expected 1 to {blocks} (the blocks of {params.model}), "
            f"got {params.train.layer}; set a layer that the model has"
        )
    if params.adapted_blocks > params.active.model.held:
        key, got = ("train.layer", params.train.layer) if params.lora.blocks == "reached" else ("lora.blocks", "all")
        raise UserError(
            f"{path}: {key}: expected what the first {params.active.model.held} of {blocks} blocks can give, which are "
            f"all that {params.model} has (model.span), got {got}; set another, or model.span null"
        )
    if params.sweep.grid and not params.active.model.whole:
        raise UserError(
            f"{path}: sweep.grid: expected [] with model.span ({params.model}), got {[*params.sweep.grid]}; "
            "the full grid needs the whole model"
        )
    for key, ranks in (("lora.rank", (params.lora.rank,)), ("sweep.ranks", params.sweep.ranks)):
        _fits(params, f"{path}: {key}", ranks)
    if params.bos.layer >= blocks:
        raise UserError(
            f"{path}: bos.layer: expected 2 to {blocks - 1} (below the last block of {params.model}), "
            f"got {params.bos.layer}; set a layer that the model has"
        )


def _fits(params: Params, where: str, ranks: tuple[int, ...]) -> None:
    if max(ranks) > params.highest_rank:
        raise UserError(
            f"{where}: expected at most {params.highest_rank} (the smallest width of "
            f"{', '.join(params.lora.targets)} in {params.model}), got {max(ranks)}; set a lower rank"
        )
