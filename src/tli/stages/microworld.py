"""Generates the micro-world: a corpus, and items held out of it (stage: microworld)."""

from __future__ import annotations

import json
import random
from pathlib import Path

from tli.config.parameters import HubBenchmarks, MicroworldBenchmarks, NoBenchmarks
from tli.data.microworld.sampler import World
from tli.data.microworld.vocabulary import read_vocabulary
from tli.data.microworld.world import corpus, items, summary
from tli.data.words import lexicon
from tli.io.files import atomic_dir, write_text
from tli.io.structured import write_json


def run(
    pairs_path: Path,
    vocabulary_path: Path,
    out: Path,
    metrics: Path,
    settings: MicroworldBenchmarks | HubBenchmarks | NoBenchmarks,
) -> None:
    """The `microworld` stage: writes corpus.txt, items.jsonl and verbs.txt (stems, for the tokenizer) to `out`.

    Where the benchmarks are others or none there is no micro-world: `out` holds a note that says so, `metrics` nothing.

    Raises:
        UserError: a broken line of the vocabulary or of the word pairs.
    """
    if not isinstance(settings, MicroworldBenchmarks):
        why = "are fetched" if isinstance(settings, HubBenchmarks) else "are none"
        with atomic_dir(out) as folder:
            write_text(folder / "none.txt", f"The benchmarks of this profile {why}; no micro-world is made.\n")
        write_json(metrics, {})
        return
    pairs = lexicon.read_pairs(pairs_path)
    world = World(read_vocabulary(vocabulary_path), settings.held_out, random.Random(f"{settings.seed}:held-out"))
    documents = list(corpus(world, pairs, settings, random.Random(f"{settings.seed}:corpus")))
    records = list(items(world, settings))
    with atomic_dir(out) as folder:
        write_text(folder / "corpus.txt", "".join(f"{text}\n" for _, text in documents))
        write_text(folder / "items.jsonl", "".join(json.dumps(r, ensure_ascii=False) + "\n" for r in records))
        write_text(folder / "verbs.txt", "".join(f"{form}\n" for form in world.vocabulary.verb_forms()))
    write_json(metrics, summary(world, documents, records))
