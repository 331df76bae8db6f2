"""Makes a checkpoint's tokenizer put BOS before every text (stage: base).

Words are measured with BOS in front, as in the paper's model. Some tokenizers have a BOS token but do not add it
(SmolLM2, Pythia, OLMo). In the checkpoint that the stage writes, they do, for this project and for
lm-evaluation-harness, whose `add_bos_token` only adds the tokenizer's default special tokens.
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

PREPENDED, OWN, NO_BOS = "prepended by us", "the tokenizer's own", "EOS, there is no BOS"  # values in base.json
# A text to check that all tokens other than BOS stay the same.
SAMPLE = "The price of 12 books, in Kiswahili: bei ya vitabu kumi na viwili."
FILE, SETTINGS = "tokenizer.json", "tokenizer_config.json"
PLAIN_CLASS = "PreTrainedTokenizerFast"  # uses tokenizer.json unchanged


def put_bos_first(folder: Path, where: str | None = None) -> str:
    """Makes the tokenizer of `folder` put BOS first if it has a BOS token and does not already (`prepend_bos`).

    Args:
        where: the name of the folder in messages.

    Returns:
        PREPENDED, OWN, or NO_BOS, where EOS takes the place of BOS (measure/embeddings.py).

    Raises:
        UserError: there is no tokenizer, or it has neither BOS nor EOS.
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
    """Makes the tokenizer of `folder` put its BOS token before a text; returns whether a change was necessary.

    The rest of its post-processor is kept. Changed files are written as new files, because those in the folder may be
    hard links into a cache. A tokenizer without a BOS token is not changed.

    Raises:
        UserError: there is no tokenizer, or it cannot put BOS first and keep all other tokens.
    """
    where = str(folder) if where is None else where
    tokenizer = load(folder, where)
    bos, ids = tokenizer.bos_token_id, _ids(tokenizer)
    if bos is None or ids[:1] == [bos]:
        return False
    settings = read_json(folder / SETTINGS, "a tokenizer's settings")
    # Some classes (GPTNeoXTokenizer) replace the post-processor of tokenizer.json, so try a generic class too.
    generic = settings | {"tokenizer_class": PLAIN_CLASS} | tokenizer.special_tokens_map
    _write(folder, _with_bos(folder, tokenizer))
    for candidate in (settings, generic):
        if candidate is generic:
            _write(folder, generic)
        if _ids(load(folder, where)) == [bos, *ids]:
            return True
    raise UserError(
        f"{where}: expected a tokenizer that can put BOS ({tokenizer.bos_token}) first and keep its other tokens, "
        "got one that does not; choose another model"
    )


def _with_bos(folder: Path, tokenizer: PreTrainedTokenizerBase) -> Tokenizer:
    """The tokenizer of `folder` with a post-processor that puts BOS before each text."""
    if (folder / FILE).is_file():
        core = Tokenizer.from_file(str(folder / FILE))
    else:  # transformers built it from vocab.json and merges.txt or a SentencePiece model
        core = Tokenizer.from_str(tokenizer.backend_tokenizer.to_str())
    content = json.loads(core.to_str())
    content["post_processor"] = _add_bos(content["post_processor"], str(tokenizer.bos_token), tokenizer.bos_token_id)
    return Tokenizer.from_str(json.dumps(content))


def _add_bos(processor: dict[str, Any] | None, bos: str, bos_id: int) -> dict[str, Any]:
    """Adds BOS to the template of a post-processor from tokenizer.json; adds a template if it has none.

    An existing template is extended, because the library cannot run two templates in sequence on a pair of texts.
    """
    if processor is None:
        texts: list[dict[str, Any]] = [{"Sequence": {"id": name, "type_id": place}} for place, name in enumerate("AB")]
        empty = {"type": "TemplateProcessing", "single": texts[:1], "pair": texts, "special_tokens": {}}
        return _add_bos(empty, bos, bos_id)
    if processor["type"] == "TemplateProcessing":
        tokens = processor["special_tokens"] | {bos: {"id": bos, "ids": [bos_id], "tokens": [bos]}}
        templates_with_bos = {key: _before_each_text(processor[key], bos) for key in ("single", "pair")}
        return {**processor, **templates_with_bos, "special_tokens": tokens}
    steps = processor["processors"] if processor["type"] == "Sequence" else [processor]
    templates = [step for step in steps if step["type"] == "TemplateProcessing"]
    changed = [_add_bos(step, bos, bos_id) if step in templates else step for step in steps]
    return {"type": "Sequence", "processors": changed if templates else [*steps, _add_bos(None, bos, bos_id)]}


def _before_each_text(template: list[dict[str, Any]], bos: str) -> list[dict[str, Any]]:
    """The template with BOS before each text."""
    extended: list[dict[str, Any]] = []
    for piece in template:
        if "Sequence" in piece:
            extended.append({"SpecialToken": {"id": bos, "type_id": piece["Sequence"]["type_id"]}})
        extended.append(piece)
    return extended


def _write(folder: Path, content: Tokenizer | dict[str, Any]) -> None:
    """Replaces tokenizer.json or tokenizer_config.json by a new file."""
    with tempfile.TemporaryDirectory(dir=folder) as temporary:
        if isinstance(content, Tokenizer):
            new_file = Path(temporary) / FILE
            content.save(str(new_file))
        else:
            new_file = Path(temporary) / SETTINGS
            write_json(new_file, content)
        new_file.replace(folder / new_file.name)


def load(folder: Path, where: str, advice: str = "choose a model with one") -> PreTrainedTokenizerBase:
    """The tokenizer in `folder`. Code in the folder is never run.

    Raises:
        UserError: there is no tokenizer; the message begins with `where` and ends with `advice`.
    """
    try:
        loaded: PreTrainedTokenizerBase = AutoTokenizer.from_pretrained(
            folder, local_files_only=True, trust_remote_code=False
        )
    except Exception as error:  # any type, if the files are broken
        reason = " ".join(str(error).split())[:200]
        raise UserError(f"{where}: expected a tokenizer, got: {reason or type(error).__name__}; {advice}") from None
    return loaded


def _ids(tokenizer: PreTrainedTokenizerBase) -> list[int]:
    ids: list[int] = tokenizer(SAMPLE)["input_ids"]
    return ids
