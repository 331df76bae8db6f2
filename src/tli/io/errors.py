"""Exceptions that end a command with one line on standard error and no traceback."""

from __future__ import annotations

import sys
from typing import IO, Any

import click

from tli.io import progress


class OneLineError(click.ClickException):
    """Ends a command with one line on standard error. The word `Error:` is red where the terminal allows colours."""

    def show(self, file: IO[Any] | None = None) -> None:
        """Prints the message to `file`, or to standard error if none is given."""
        stream = sys.stderr if file is None else file
        prefix = click.style("Error:", fg="red", bold=True) if progress.coloured(stream) else "Error:"
        click.echo(f"{prefix} {self.format_message()}", file=stream)


class UserError(OneLineError):
    """The user made a mistake. The message reads "where: expected X, got Y; what to do". Exit status 2."""

    exit_code = 2


class CheckFailed(OneLineError):
    """A check ran and did not pass. Exit status 1."""

    exit_code = 1
