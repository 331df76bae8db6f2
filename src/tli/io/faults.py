"""What the machine refuses, told in one line: a full disk, a folder not ours to write, too little memory.

Nothing here computes a number that a table shows, and nothing goes on where something was refused: the command ends.
"""

from __future__ import annotations

import errno
import os
import re
import sys

import click

FULL = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)
FORBIDDEN = (errno.EACCES, errno.EPERM, errno.EROFS)
RUST = re.compile(r"\(os error (\d+)\)")  # how safetensors and tokenizers say it
# as PyTorch, the system, CUDA, C++ and numpy say it
MEMORY = re.compile(r"[Cc]an(?:'t|not) allocate memory|out of memory|bad_alloc|Unable to allocate")


def explain(error: Exception, command: str) -> str | None:
    """One line for an error of the machine's: where, what, what to do; None for an error that is not the machine's.

    Args:
        command: what was running, for errors that name no file.
    """
    if isinstance(error, click.ClickException):  # told already
        return None
    rust = RUST.search(str(error))
    number = error.errno if isinstance(error, OSError) else int(rust[1]) if rust else None
    if isinstance(error, MemoryError) or number == errno.ENOMEM or MEMORY.search(str(error)):
        asked = re.search(r"allocate ([\d.]+ ?[A-Za-z]+)", str(error))
        return (
            f"{command}: out of memory{f' ({asked[1]} more were asked for)' if asked else ''}; free some, or lower the "
            "profile's compute.batch_size (for base model.pretraining.batch_tokens, for training train.batch_size)"
        )
    if number is None or number == errno.EPIPE:  # who reads our output has enough: click ends quietly
        return None
    where, what = getattr(error, "filename", None) or command, os.strerror(number)
    if number in FULL:
        return f"{where}: no space left ({what}); free some and run again"
    if number in FORBIDDEN:
        return f"{where}: {what}; expected a place that this user may write or read: mend that and run again"
    return f"{where}: {what}; mend that and run again"


def open_streams() -> None:
    """Opens what is closed of standard input, output and error on nothing, before a file of ours gets its number."""
    while (handle := os.open(os.devnull, os.O_RDWR)) < 3:
        pass
    os.close(handle)
    for number, name in ((1, "stdout"), (2, "stderr")):
        if getattr(sys, name) is None:
            setattr(sys, name, os.fdopen(number, "w", encoding="utf-8"))
