"""Explains errors of the machine in one line: a full disk, a folder without permission, too little memory.

The command still ends: these functions only replace the traceback.
"""

from __future__ import annotations

import errno
import os
import re
import sys

import click

FULL = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)
FORBIDDEN = (errno.EACCES, errno.EPERM, errno.EROFS)
RUST = re.compile(r"\(os error (\d+)\)")  # how the Rust code of safetensors and tokenizers reports a system error
# the wordings of PyTorch, the system, CUDA, C++ and numpy
MEMORY = re.compile(r"[Cc]an(?:'t|not) allocate memory|out of memory|bad_alloc|Unable to allocate")


def explain(error: Exception, command: str) -> str | None:
    """Returns one line for an error of the machine: where it happened, what happened and what to do.

    Args:
        error: the exception that ended the command.
        command: the command that was running; it is named if the error names no file.

    Returns:
        The line; None if the machine did not cause the error, or if the error has a one-line message already.
    """
    if isinstance(error, click.ClickException):
        return None
    rust = RUST.search(str(error))
    number = error.errno if isinstance(error, OSError) else int(rust[1]) if rust else None
    if isinstance(error, MemoryError) or number == errno.ENOMEM or MEMORY.search(str(error)):
        requested = re.search(r"allocate ([\d.]+ ?[A-Za-z]+)", str(error))
        return (
            f"{command}: out of memory{f' ({requested[1]} more were requested)' if requested else ''}; free some, or "
            "lower the profile's compute.batch_size (for base model.pretraining.batch_tokens, for training "
            "train.batch_size)"
        )
    if number is None or number == errno.EPIPE:  # the reader closed the pipe: click ends the command without a message
        return None
    where, reason = getattr(error, "filename", None) or command, os.strerror(number)
    if number in FULL:
        return f"{where}: no space left ({reason}); free some and run again"
    if number in FORBIDDEN:
        return f"{where}: {reason}; expected a place that this user may read and write: fix that and run again"
    return f"{where}: {reason}; fix that and run again"


def open_streams() -> None:
    """Opens standard input, output and error on /dev/null where they are closed.

    Without this, a file that a stage opens could get the number of a closed stream and receive its output.
    """
    while (handle := os.open(os.devnull, os.O_RDWR)) < 3:
        pass
    os.close(handle)
    for number, name in ((1, "stdout"), (2, "stderr")):
        if getattr(sys, name) is None:
            setattr(sys, name, os.fdopen(number, "w", encoding="utf-8"))
