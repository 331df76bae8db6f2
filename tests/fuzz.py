"""One parser of tests/unit/test_parsers.py under atheris: python tests/fuzz.py PARSER FOLDER SECONDS.

Atheris (https://github.com/google/atheris) grows inputs from those that reach new lines of `tli` and of the reader of
YAML, from the good file and its words on. Whatever is neither a value nor a refusal in one line ends the process, with
the input in FOLDER/found; so does an input that takes a minute. `make soak` runs this where atheris is installed.
"""

from __future__ import annotations

import re
import sys
from pathlib import Path

import atheris

sys.path.insert(0, str(Path(__file__).parent / "unit"))

with atheris.instrument_imports(include=["tli", "ruamel"]):
    import test_parsers


def main(name: str, folder: Path, seconds: int) -> None:
    """Ends the process, by libFuzzer's own exit; `stat::number_of_executed_units` says how many inputs it tried."""
    work, seeds, found = (folder / part for part in ("work", "seeds", "found"))
    for made in (work, seeds, found):
        made.mkdir(parents=True)
    good = test_parsers.PARSERS[name][2](work)
    (seeds / "good").write_bytes(good)
    words = {"".join(f"\\x{byte:02x}" for byte in word) for word in re.findall(rb"[\w.-]+|[^\w\s]", good)}
    (folder / "words").write_text("".join(f'"{word}"\n' for word in sorted(words)))
    options = [f"-max_total_time={seconds}", f"-artifact_prefix={found}/", "-timeout=60", "-print_final_stats=1"]
    options += [f"-max_len={2 * len(good) + 200}", f"-dict={folder / 'words'}", str(seeds)]
    atheris.Setup([sys.argv[0], *options], lambda data: test_parsers.is_read(name, data, work))
    atheris.Fuzz()


if __name__ == "__main__":
    main(sys.argv[1], Path(sys.argv[2]), int(sys.argv[3]))
