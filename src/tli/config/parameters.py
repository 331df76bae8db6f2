"""The schema of params.yaml and its loading. All parameters of a run come from there.

Each class is a section of the file, and lists its keys with their types and ranges. An unknown key, a wrong type or a
value out of range raises UserError, whose one line names the key. The stage `check` runs first in the pipeline, so that
a bad value fails before DVC removes any output.
"""

from __future__ import annotations

from collections.abc import Mapping
from itertools import pairwise
from pathlib import Path
from typing import Annotated, Any, Literal, NamedTuple, Self

from pydantic import Field, ValidationError, field_validator, model_validator

from tli.config.benchmarks import Benchmarks, FileBenchmarks, GivenBenchmarks
from tli.config.section import (
    Count,
    Dtype,
    HubRepo,
    Names,
    Positive,
    Ranks,
    Section,
    Seed,
    Seeds,
    Sha256,
)
from tli.io.errors import UserError
from tli.io.structured import brief, parse_yaml, read_yaml

STUDIED = "microworld"  # the model whose further bases the study runs


class Pairs(Section):
    """The source of the word pairs: `project` (data/pairs.tsv) or `author` (the two lists of the section `author`)."""

    source: Literal["project", "author"]


class Adapter(Section):
    """The source of the main run's adapter: `trained` here, or `author` (the adapter of the section `author`)."""

    source: Literal["trained", "author"]


class Listed(Section):
    """A file of the author's repository: its path there and its SHA-256."""

    path: str
    sha256: Sha256


class Blob(Section):
    """A file of the author's repository: its path there and its git blob id."""

    path: str
    git_blob: Annotated[str, Field(pattern=r"^[0-9a-f]{40}$")]


class Author(Section):
    """The author's public files at a pinned commit, fetched only if pairs.source or adapter.source is `author`."""

    url: Annotated[str, Field(pattern=r"^https://[^\s]+/[0-9a-f]{40}$")]
    trained: Listed
    control: Listed
    adapter: Blob


class Fetch(Section):
    """`manifest`: the file in git with the SHA-256 of every fetched file. Later fetches must give the same bytes."""

    manifest: str


class FourBit(Section):
    """How bitsandbytes quantises to a 4-bit type.

    `load_dtype`: the dtype to which weights are cast first. `double_quant`: whether the scales are quantised too.
    """

    load_dtype: Dtype
    double_quant: bool


class Quantize(Section):
    """NF4 is for training and measuring, FP4 for the view of the public evaluation script (measure/views.py)."""

    nf4: FourBit
    fp4: FourBit


class Lora(Section):
    """LoRA: a weight W becomes W + (alpha / r) B A, where r is `rank`.

    `scaling`: `2r` sets alpha = 2 r; `fixed32` sets alpha = 32; `rslora` sets the factor to 8 / sqrt(r)
    (rank-stabilised LoRA, arXiv 2312.03732). All three give the factor 2 at the paper's r = 16.
    `blocks`: `reached` adapts blocks 1 to train.layer, the only ones with a gradient from the loss. `all` adapts every
    block, as the public scripts do; above train.layer B stays 0, but dropout there still draws random numbers.
    """

    rank: Count
    scaling: Literal["2r", "fixed32", "rslora"]
    blocks: Literal["reached", "all"]
    dropout: Annotated[float, Field(ge=0, lt=1)]
    targets: Annotated[tuple[Literal["q_proj", "k_proj", "v_proj", "o_proj"], ...], Field(min_length=1, strict=False)]


class Train(Section):
    """Targeted Lexical Injection (arXiv 2506.15415, section 3): the loss and the optimisation.

    `layer`: the layer at which the loss reads embeddings; the file may also say `middle` (half the model's blocks) or
    `last` (all of them). `pooling`: see measure/views.py. `pairs: shuffled` permutes the translations, as a control for
    effects of training that do not depend on the pairing.
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
    """`random_seeds`: seeds of the random pairings (derangements) to which translation pairs are compared."""

    random_seeds: Annotated[tuple[Seed, ...], Field(min_length=1, strict=False)]


class Translate(Section):
    """The translation prompt: the number of trained pairs in it as examples, and the seed that chooses them.

    `skip`: models that are not measured.
    """

    shots: Count
    seed: Seed
    skip: Names


class Tsne(Section):
    """The t-SNE plot: the number of trained pairs, the perplexity, and the seed that chooses pairs and starts t-SNE."""

    pairs: Annotated[int, Field(ge=2)]
    perplexity: Positive
    seed: Seed

    @model_validator(mode="after")
    def _neighbours(self) -> Self:
        if self.perplexity >= 2 * self.pairs:
            raise ValueError(f"a perplexity below the number of words, {2 * self.pairs}, got {self.perplexity:g}")
        return self


class Sink(Section):
    """The attention sink added to a base (model/attention_sink.py).

    From layer `layer` on, the hidden state of BOS has `ratio` times the norm of the other tokens.
    """

    layer: Annotated[int, Field(ge=2)]
    ratio: Annotated[float, Field(gt=1)]


class Sweep(Section):
    """The rank sweep: every rank of `ranks` with every seed of `seeds`. Rank 0, the base model, is always included."""

    ranks: Ranks
    seeds: Annotated[Seeds, Field(min_length=1)]


class Variant(Section):
    """A variant of the training that the study runs.

    `changes`: the values of this file that it changes (dotted key -> value). `ranks`: its ranks. `sink`: whether it
    runs on the base with an attention sink (section `bos`).
    """

    ranks: Ranks
    changes: dict[Annotated[str, Field(pattern=r"^(lora|train)\.\w+$")], str | int | float | bool]
    sink: bool = False


class Key(NamedTuple):
    """A key of the study, `s1-2r`: a variant on the base of a seed."""

    base: int
    variant: str

    def __str__(self) -> str:
        return f"s{self.base}-{self.variant}"


class Cluster(Section):
    """Where `tli submit` runs the stages of the sweep, and with what resources (cluster/submit.py).

    No stage depends on this section. `cpus`, `mem` (in GB), `gpus` and `time` (in minutes) are for one attempt;
    `retries` counts the attempts after the first; `at_once` limits the tasks of a Slurm array that run at a time.
    `runtime: container` runs the commands in `image` through Apptainer. With `executor: local`, the number of stages
    that run at a time is the number of cores divided by `cpus`.
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
    """The bootstrap over adapters and items: the number of draws and the seed."""

    draws: Annotated[int, Field(ge=100)]
    seed: Seed


class Margins(Section):
    """Margins of equivalence: a difference between -margin and +margin counts as none.

    `accuracy` is in percentage points, `cosine` in units of the cosine, `retrieval` a share (P@1).
    """

    accuracy: Positive
    cosine: Positive
    retrieval: Positive


OUTCOMES = ("cosine", "excess", "p1", "xcopa", "copa_test", "xnli")


class Stats(Section):
    """The statistics: the coverage of every interval, and the tests of the rank study as declared in advance.

    `families`: name -> the outcomes whose tests are corrected together, over all sets, directions and languages. `left`
    is the excess of the cosine of translations over that of random pairs, `p1` the P@1 of retrieval.
    """

    confidence: Annotated[float, Field(gt=0.5, lt=1)]
    power: Annotated[float, Field(ge=0.5, lt=1)]
    bootstrap: Bootstrap
    margins: Margins
    families: dict[
        str, Annotated[tuple[Literal["cosine", "excess", "p1", "xcopa", "copa_test", "xnli"], ...], Field(strict=False)]
    ]

    @field_validator("families")
    @classmethod
    def _each_once(cls, families: dict[str, tuple[str, ...]]) -> dict[str, tuple[str, ...]]:
        named = [outcome for outcomes in families.values() for outcome in outcomes]
        if sorted(named) != sorted(OUTCOMES):
            raise ValueError(f"each of {', '.join(OUTCOMES)} in one family")
        return families

    @property
    def alpha(self) -> float:
        """The significance level of every test: 1 - confidence."""
        return 1 - self.confidence


class Pretraining(Section):
    """Pre-training of the micro-world model: the learning rate rises to `lr`, then falls to lr / 10 along a cosine."""

    steps: Count
    batch_tokens: Count
    lr: Positive
    warmup_steps: Annotated[int, Field(ge=0)]
    weight_decay: Annotated[float, Field(ge=0)]


class Shape(Section):
    """The shape of a decoder with Llama's module names. Each block has grouped-query attention and an MLP.

    Queries have the width heads x head_dim, keys and values the width kv_heads x head_dim. In a Llama head_dim is
    hidden_size / heads; in Qwen3 and Gemma 3 it is independent. `tied_embeddings`: the language-model head is the
    embedding matrix.
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
        """The output width of q_proj and input width of o_proj."""
        return self.heads * self.head_dim

    @property
    def kv_width(self) -> int:
        """The output width of k_proj and v_proj."""
        return self.kv_heads * self.head_dim

    @property
    def held(self) -> int:
        """The number of blocks that this run has, from the first on: all, unless `span` says otherwise."""
        return self.blocks

    @property
    def whole(self) -> bool:
        """Whether this run has every block, the final norm and the head."""
        return self.held == self.blocks


class MicroworldModel(Shape):
    """A small bilingual Llama, pre-trained on the micro-world.

    `source: versioned` reads its weights from the folder `weights`, which data.dvc versions, so that every machine has
    the same base. `source: pretrain` trains it from `seed` in the stage `base`. The results then differ between
    processors, because pre-training amplifies rounding errors.
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
    """A pretrained model from one GGUF file, which is checked by its SHA-256 (model/package.py).

    `file` is a path, or a path in the environment's folder of packaged models (requirements/model.txt).
    """

    source: Literal["package"]
    file: str
    sha256: Sha256
    name: str
    licence: str

    @property
    def title(self) -> str:
        return f"{self.name}, out of {self.file.rpartition('/')[2]}"


class HubModel(Shape, HubRepo):
    """A published checkpoint of the Hugging Face hub.

    `head_from`: another repository, whose lm_head is used if this one has none. `span`: fetch only so many blocks,
    from the first on, and only the embeddings of the word list (model/part.py); null fetches the whole model. A partial
    model has no head and cannot score benchmarks, so benchmarks.source must be `none`.
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


class Score(Section):
    """The split to score: `default` is the harness's own for each task, and `test` for the micro-world."""

    split: Literal["default", "validation", "test"]


class Compute(Section):
    """Settings of the computation. They change the speed and, through rounding, the last digits.

    `batch_size` is the number of sequences per forward pass. `dtype` is that of every matrix product and of all weights
    that are not quantised. In float32, processors with different instruction sets agree to 2e-4 in a mean cosine;
    bfloat16 is the paper's choice, for a GPU. `weights: dequantized` unpacks the 4-bit weights once for training,
    `packed` at every call; both give the same bits, the first in less time and four times the memory
    (docs/performance.md).
    """

    threads: Count
    batch_size: Count
    device: Literal["cpu", "cuda"]
    dtype: Literal["float32", "bfloat16"]
    weights: Literal["packed", "dequantized"]


class Profile(Section):
    """The settings of one model: its shape and source, its benchmarks, and its computation."""

    model: Annotated[PackagedModel | MicroworldModel | HubModel, Field(discriminator="source")]
    benchmarks: Annotated[Benchmarks, Field(discriminator="source")]
    compute: Compute

    @model_validator(mode="after")
    def _has_a_head(self) -> Self:
        if not self.model.whole and self.benchmarks.source != "none":
            raise ValueError("expected benchmarks.source none with model.span, which leaves the head out")
        return self


class Params(Section):
    """All of params.yaml, for one of its models.

    `models` lists the models of a run by their keys in `profiles`. `model` is the one that this process works on; it is
    not in the file, `load` sets it. `study` lists keys BASE-VARIANT: further bases of the micro-world, of the seeds in
    `bases`, each with its own corpus, items and weights, and the variants of the training to run on them.
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
    score: Score
    translate: Translate
    tsne: Tsne
    sweep: Sweep
    study: Names
    bases: Seeds
    sink: Sink
    variants: dict[Annotated[str, Field(pattern=r"^[a-z0-9]+(-[a-z0-9]+)*$")], Variant]
    stats: Stats
    cluster: Cluster
    profiles: dict[str, Profile]

    @model_validator(mode="before")
    @classmethod
    def _depth(cls, raw: Any) -> Any:
        """Replaces a train.layer of `middle` or `last` by the number of a block of the model."""
        try:
            blocks, layer = raw["profiles"][raw["model"]]["model"]["blocks"], raw["train"]["layer"]
            number = {"middle": blocks // 2, "last": blocks}.get(layer, layer)
        except (KeyError, TypeError):
            return raw  # pydantic reports the key itself
        return {**raw, "train": {**raw["train"], "layer": number}}

    @property
    def active(self) -> Profile:
        """The profile of this process's model."""
        return self.profiles[self.model]

    def widths(self, target: str) -> tuple[int, int]:
        """Returns (d_in, d_out) of a projection to which LoRA can be added."""
        model = self.active.model
        return {
            "q_proj": (model.hidden_size, model.query_width),
            "k_proj": (model.hidden_size, model.kv_width),
            "v_proj": (model.hidden_size, model.kv_width),
            "o_proj": (model.query_width, model.hidden_size),
        }[target]

    @property
    def adapted_blocks(self) -> int:
        """The number of blocks with LoRA, from the first on. Training needs no others."""
        return self.train.layer if self.lora.blocks == "reached" else self.active.model.blocks

    @property
    def highest_rank(self) -> int:
        """The smallest width of the target projections: a higher rank adds parameters but no rank."""
        return min(min(self.widths(target)) for target in self.lora.targets)

    @property
    def translates(self) -> bool:
        """Whether the stage `translate` measures this process's model."""
        return self.active.benchmarks.source != "none" and self.model not in self.translate.skip

    def sweep_scores(self, set_: str, rank: int, seed: int) -> bool:
        """Whether the sweep scores the items of a set (TASK.LANGUAGE) with the adapter of this rank and seed."""
        benchmarks = self.active.benchmarks
        swept = benchmarks.sweep if isinstance(benchmarks, GivenBenchmarks) else None
        if swept is None:
            return benchmarks.source != "none"
        at_rank = set_ in swept.sets or rank in swept.others
        return at_rank and seed in self.sweep.seeds[: swept.seeds]

    @property
    def keys(self) -> tuple[Key, ...]:
        """The keys of the study that this process's model runs: all of the micro-world's model, none of another."""
        return tuple(map(self.key, self.study)) if self.model == STUDIED else ()

    def key(self, text: str, path: Path | str = "params.yaml") -> Key:
        """Reads a key of the study.

        Raises:
            UserError: `bases` lacks its base, or `variants` its variant.
        """
        base, _, variant = text.partition("-")
        bases = {f"s{seed}": seed for seed in self.bases}
        for part, key, known in ((base, "bases", bases), (variant, "variants", self.variants)):
            if part not in known:
                expected = "base" if key == "bases" else "variant"
                raise UserError(
                    f"{path}: study: expected keys BASE-VARIANT with the {expected} one of {', '.join(known)}, "
                    f"got {text!r}; correct its spelling, or add it to {key}"
                )
        return Key(bases[base], variant)

    def of_variant(self, name: str, path: Path | str = "params.yaml") -> Params:
        """The parameters of a variant: its changes, and its ranks as those of the sweep.

        Raises:
            UserError: a changed value or a rank is not valid.
        """
        where, variant = f"{path}: variants.{name}", self.variants[name]
        raw = self.model_dump()
        for dotted, value in variant.changes.items():
            _change(raw, dotted, value, where)
        raw["sweep"]["ranks"] = variant.ranks
        _check_ranks(self, f"{where}.ranks", variant.ranks)
        return _validated(raw, where)

    def of_key(self, key: Key, path: Path | str = "params.yaml") -> Params:
        """The parameters of a key of the study: its variant's, with the corpus, items and weights of its base."""
        raw = self.of_variant(key.variant, path).model_dump()
        profile = raw["profiles"][self.model]
        profile["benchmarks"]["seed"] = profile["model"]["seed"] = key.base
        profile["model"]["weights"] += f"-s{key.base}"
        return _validated(raw, f"{path}: {key}")


def load(
    path: Path | str = "params.yaml",
    changes: Mapping[str, Any] | None = None,
    key: str | None = None,
    model: str | None = None,
) -> Params:
    """Reads and checks params.yaml for one model.

    Args:
        path: the file.
        changes: dotted key -> value, set before the check.
        key: a key of the study, whose base and variant are applied after `changes`; the model is then STUDIED.
        model: a key of `profiles`; if not given, the first of `models`.

    Raises:
        UserError: a bad value; the line names file, key, the expected and the actual value.
    """
    raw = read_yaml(path)
    for dotted, value in (changes or {}).items():
        _change(raw, dotted, value, path)
    if isinstance(raw, dict):
        _choose(raw, model if key is None else STUDIED, path)
    params = _validated(raw, str(path))
    for text in params.study:
        params.key(text, path)
    if params.study and STUDIED not in params.models:
        raise UserError(
            f"{path}: study: expected [] without the model {STUDIED}, got {brief([*params.study])}; "
            f"add {STUDIED} to models"
        )
    if params.model == STUDIED:
        for name in params.variants:
            params.of_variant(name, path)
    return params if key is None else params.of_key(params.key(key, path), path)


def _choose(raw: dict[str, Any], model: str | None, path: Path | str) -> None:
    """Sets the key `model` in the file's content: to `model`, or to the first of `models`."""
    if "model" in raw:
        raise UserError(f"{path}: model: unknown key; list the models of a run under models")
    models, profiles = raw.get("models"), raw.get("profiles")
    known = ", ".join(map(str, profiles)) if isinstance(profiles, dict) else ""
    if not isinstance(models, list) or not models:
        of_known = f" (of {known})" if known else ""
        raise UserError(
            f"{path}: models: expected a list of one model or more{of_known}, got {brief(models)}; "
            "write it like models: [microworld]"
        )
    for key, names in (("models", models), ("--model", [] if model is None else [model])):
        for name in names:
            if not isinstance(profiles, dict) or name not in profiles:
                raise UserError(
                    f"{path}: {key}: expected names of models ({known}), got {brief(name)}; correct its spelling"
                )
    raw["model"] = models[0] if model is None else model


def parse(change: str) -> tuple[str, Any]:
    """Splits `KEY=VALUE` into key and value and reads the value as YAML.

    Raises:
        UserError: the text does not have this form.
    """
    key, equals, text = change.partition("=")
    try:
        value = parse_yaml(text, "--set")
    except UserError:
        equals = ""
    if not (key and equals and text):
        raise UserError(f"--set: expected KEY=VALUE, got {brief(change)}; write it like lora.rank=8")
    return key, value


def _change(raw: Any, key: str, value: Any, where: Path | str) -> None:
    """Sets a dotted key in place. Raises UserError if the file does not have it."""
    *sections, last = key.split(".")
    section = raw
    for name in sections:
        section = section.get(name) if isinstance(section, dict) else None
    if not isinstance(section, dict) or last not in section:
        raise UserError(f"{where}: {key}: unknown key, cannot be set to {brief(value)}; correct its spelling")
    section[last] = value


def _validated(raw: Any, where: str) -> Params:
    try:
        params = Params.model_validate(raw)
    except ValidationError as error:
        raise UserError(f"{where}: {_first(error)}") from None
    _check_together(params, where)
    return params


UNIONS = ("model", "benchmarks")


def _first(error: ValidationError) -> str:
    """The first of pydantic's errors as one line."""
    finding = error.errors(include_url=False)[0]
    # for the unions `model` and `benchmarks` pydantic adds the name of the chosen member, which is no key of the file
    loc = ("", *map(str, finding["loc"]))
    key = ".".join(part for before, part in pairwise(loc) if before not in UNIONS) or "the whole file"
    more = f" (and {error.error_count() - 1} more)" if error.error_count() > 1 else ""
    if finding["type"] == "extra_forbidden":
        return f"{key}: unknown key, got {brief(finding['input'])}; remove it or correct its spelling{more}"
    if finding["type"] == "missing":
        return f"{key}: missing; add it (the committed params.yaml shows every key){more}"
    message = finding["msg"].removeprefix("Value error, ").removeprefix("Input should be ")
    got = brief(finding["input"])
    return f"{key}: expected {message.removeprefix('expected ')}, got {got}; set another value{more}"


def _check_together(params: Params, path: str) -> None:
    """Checks that layers and ranks fit the model, which no single key can show."""
    blocks = params.active.model.blocks
    if params.train.layer > blocks:
        raise UserError(
            f"{path}: train.layer: expected 1 to {blocks} (the blocks of {params.model}), "
            f"got {params.train.layer}; set a layer that the model has"
        )
    if params.adapted_blocks > params.active.model.held:
        key, got = ("train.layer", params.train.layer) if params.lora.blocks == "reached" else ("lora.blocks", "all")
        raise UserError(
            f"{path}: {key}: expected a value within the first {params.active.model.held} of {blocks} blocks, which "
            f"are all that {params.model} has (model.span), got {got}; set another, or model.span null"
        )
    if isinstance(params.active.benchmarks, FileBenchmarks) and params.score.split != "default":
        raise UserError(
            f"{path}: score.split: expected default with benchmarks.source files (each file of {params.model} says "
            f"what it is used for), got {params.score.split}; set default"
        )
    for key, ranks in (("lora.rank", (params.lora.rank,)), ("sweep.ranks", params.sweep.ranks)):
        _check_ranks(params, f"{path}: {key}", ranks)
    if params.sink.layer >= blocks:
        raise UserError(
            f"{path}: sink.layer: expected 2 to {blocks - 1} (below the last block of {params.model}), "
            f"got {params.sink.layer}; set a layer that the model has"
        )


def _check_ranks(params: Params, where: str, ranks: tuple[int, ...]) -> None:
    """Raises UserError if a rank exceeds the smallest width of the target projections."""
    if max(ranks) > params.highest_rank:
        raise UserError(
            f"{where}: expected at most {params.highest_rank} (the smallest width of "
            f"{', '.join(params.lora.targets)} in {params.model}), got {max(ranks)}; set a lower rank"
        )
