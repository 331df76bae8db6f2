"""BOS in front of every text, whatever the tokenizer does by itself (stage: base).

Words are measured with BOS in front, as the paper's model has it. Some tokenizers have a BOS token and do not put it
there (SmolLM2, Pythia, OLMo): in the checkpoint that the stage writes they do, for us and for lm-evaluation-harness,
whose `add_bos_token` only asks the tokenizer for its own special tokens. Feeds a row of the setup table.
"""

from __future__ import annotations

import json
import tempfile
from pathlib import Path
from typing import Any

from tokenizers import Tokenizer
from transformers import AutoTokenizer, PreTrainedTokenizerBase

from tli.io.errors import UserError
from tli.io.structured import read_json, write_json

PREPENDED, OWN, NO_BOS = "prepended by us", "the tokenizer's own", "EOS, there is no BOS"  # what base.json says
SAMPLE = "The price of 12 books, in Kiswahili: bei ya vitabu kumi na viwili."  # whose other tokens must stay
FILE, SETTINGS = "tokenizer.json", "tokenizer_config.json"
PLAIN_CLASS = "PreTrainedTokenizerFast"  # takes tokenizer.json as it is


def put_bos_first(folder: Path, where: str | None = None) -> str:
    """Prepends BOS in the tokenizer of `folder` where it has one and does not (`prepend_bos`).

    Args:
        where: what messages call the folder.

    Returns:
        PREPENDED, OWN, or NO_BOS where EOS stands in for it (measure/embeddings.py).

    Raises:
        UserError: no tokenizer, or one with neither BOS nor EOS.
    """
    where = str(folder) if where is None else where
    tokenizer = load(folder, where)
    if tokenizer.bos_token_id is None and tokenizer.eos_token_id is None:
        raise UserError(
            f"{where}: {SETTINGS}: expected a bos_token or an eos_token, got neither; choose a model that has one"
        )
    if tokenizer.bos_token_id is None:
        return NO_BOS
    return PREPENDED if prepend_bos(folder, where) else OWN


def prepend_bos(folder: Path, where: str | None = None) -> bool:
    """Makes the tokenizer of `folder` put its BOS token in front of a text; returns whether it had to be made to.

    The rest of its post-processor stays. Files that change are written anew, since the folder's may be
    hard links into a cache. A tokenizer without a BOS token is left alone.

    Raises:
        UserError: no tokenizer, or one that cannot be made to put BOS first and keep every other token.
    """
    where = str(folder) if where is None else where
    before = load(folder, where)
    bos, ids = before.bos_token_id, _ids(before)
    if bos is None or ids[:1] == [bos]:
        return False
    settings = read_json(folder / SETTINGS, "a tokenizer's settings")
    # Some classes (GPTNeoXTokenizer) replace the post-processor of tokenizer.json by one of their own.
    plain = settings | {"tokenizer_class": PLAIN_CLASS} | before.special_tokens_map
    _write(folder, _with_bos(folder, before))
    for tried in (settings, plain):
        if tried is plain:
            _write(folder, plain)
        if _ids(load(folder, where)) == [bos, *ids]:
            return True
    raise UserError(
        f"{where}: expected a tokenizer that can put BOS ({before.bos_token}) first and keep its other tokens, "
        "got one that does not; choose another model"
    )


def _with_bos(folder: Path, tokenizer: PreTrainedTokenizerBase) -> Tokenizer:
    """The tokenizer of `folder`, its post-processor extended so that BOS stands in front of each text."""
    if (folder / FILE).is_file():
        core = Tokenizer.from_file(str(folder / FILE))
    else:  # transformers made it from vocab.json and merges.txt, or from a SentencePiece model
        core = Tokenizer.from_str(tokenizer.backend_tokenizer.to_str())
    content = json.loads(core.to_str())
    content["post_processor"] = _extended(content["post_processor"], str(tokenizer.bos_token), tokenizer.bos_token_id)
    return Tokenizer.from_str(json.dumps(content))


def _extended(processor: dict[str, Any] | None, bos: str, number: int) -> dict[str, Any]:
    """A post-processor as tokenizer.json has it, with BOS in its template; with a template where it has none.

    Two templates one after another are more than the library can run on a pair of texts.
    """
    if processor is None:
        texts: list[dict[str, Any]] = [{"Sequence": {"id": name, "type_id": place}} for place, name in enumerate("AB")]
        empty = {"type": "TemplateProcessing", "single": texts[:1], "pair": texts, "special_tokens": {}}
        return _extended(empty, bos, number)
    if processor["type"] == "TemplateProcessing":
        tokens = processor["special_tokens"] | {bos: {"id": bos, "ids": [number], "tokens": [bos]}}
        pieces = {key: _before_each_text(processor[key], bos) for key in ("single", "pair")}
        return {**processor, **pieces, "special_tokens": tokens}
    steps = processor["processors"] if processor["type"] == "Sequence" else [processor]
    templates = [step for step in steps if step["type"] == "TemplateProcessing"]
    changed = [_extended(step, bos, number) if step in templates else step for step in steps]
    return {"type": "Sequence", "processors": changed if templates else [*steps, _extended(None, bos, number)]}


def _before_each_text(template: list[dict[str, Any]], bos: str) -> list[dict[str, Any]]:
    pieces: list[dict[str, Any]] = []
    for piece in template:
        if "Sequence" in piece:
            pieces.append({"SpecialToken": {"id": bos, "type_id": piece["Sequence"]["type_id"]}})
        pieces.append(piece)
    return pieces


def _write(folder: Path, content: Tokenizer | dict[str, Any]) -> None:
    """Writes tokenizer.json or tokenizer_config.json as a new file, in place of the one that is there."""
    with tempfile.TemporaryDirectory(dir=folder) as temporary:
        if isinstance(content, Tokenizer):
            written = Path(temporary) / FILE
            content.save(str(written))
        else:
            written = Path(temporary) / SETTINGS
            write_json(written, content)
        written.replace(folder / written.name)


def load(folder: Path, where: str, advice: str = "choose a model with one") -> PreTrainedTokenizerBase:
    """The tokenizer in `folder`; code that may lie beside it is never run.

    Raises:
        UserError: there is none; it names `where` and ends with `advice`.
    """
    try:
        loaded: PreTrainedTokenizerBase = AutoTokenizer.from_pretrained(
            folder, local_files_only=True, trust_remote_code=False
        )
    except Exception as error:  # whatever transformers and tokenizers make of files that are none
        reason = " ".join(str(error).split())[:200]
        raise UserError(f"{where}: expected a tokenizer, got: {reason or type(error).__name__}; {advice}") from None
    return loaded


def _ids(tokenizer: PreTrainedTokenizerBase) -> list[int]:
    ids: list[int] = tokenizer(SAMPLE)["input_ids"]
    return ids
