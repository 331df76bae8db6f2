"""Stage `microworld`: generates the micro-world, a small bilingual corpus, and benchmark items held out of it.

A deterministic simulation (data/microworld); it computes no measure.

Inputs: word pairs, the vocabulary in data/world.
Outputs: corpus.txt (one document per line), items.jsonl (items in the formats of XCOPA and XNLI), verbs.txt (verb stems
for the tokenizer), and microworld.json (counts).

Used by: the tables `audit` and `baselines`, and through the micro-world's model and items by every other table.
"""

from __future__ import annotations

import json
import random
from pathlib import Path

from tli.config.benchmarks import Benchmarks, MicroworldBenchmarks, NoBenchmarks
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
    settings: Benchmarks,
) -> None:
    """Writes corpus.txt, items.jsonl and verbs.txt to `out`, and counts to `metrics` (JSON).

    If the profile has other benchmarks or none, there is no micro-world: `out` has only a note, and `metrics` is empty.

    Raises:
        UserError: a line of the vocabulary or of the word pairs is not valid.
    """
    if not isinstance(settings, MicroworldBenchmarks):
        reason = "are none" if isinstance(settings, NoBenchmarks) else "have another source"
        with atomic_dir(out) as folder:
            write_text(folder / "none.txt", f"The benchmarks of this profile {reason}; no micro-world is made.\n")
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
