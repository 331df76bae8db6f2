"""The author's own adapter in the place of one trained here (stage: train, where `adapter.source` is author).

Its training had no seed, so that only these weights can give the published means after training. Feeds the adapter
table, and through the adapter the before/after, retrieval and transfer tables.
"""

from __future__ import annotations

import tempfile
from pathlib import Path

from tli.config.parameters import Params
from tli.data.hub.fetch import fetch_url
from tli.data.words.lexicon import read_pairs
from tli.io.rows import Row, write_rows
from tli.measure.views import View, main_cell
from tli.model import card, checkpoint, lora
from tli.stages import train


def run(pairs_path: Path, quantized: Path, out: Path, rows_path: Path, log: Path, params: Params) -> None:
    """The `train` stage without training: fetches the adapter by its git blob id, checks it, writes it to `out`.

    There are no losses, so `log` stays without curves.
    """
    folder, blob, train_ = quantized / "nf4", params.author.adapter, params.train
    with tempfile.TemporaryDirectory() as temporary:
        file = fetch_url(f"{params.author.url}/{blob.path}", Path(temporary) / lora.WEIGHTS, git_blob=blob.git_blob)
        parameters = lora.adopt(file, folder, params.lora, out, card.page(params, None, pairs_path, quantized))
    view = str(View(str(train_.layer), train_.pooling, "nf4"))
    found = [Row(*main_cell(params), "trained", "-", view, "trainable_parameters", parameters)]
    found += train.described(out, params)
    found += train.lengths(checkpoint.tokenizer(folder), read_pairs(pairs_path))
    write_rows(rows_path, found)
    train.write_curves(log, [])
