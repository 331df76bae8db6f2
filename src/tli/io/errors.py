"""Errors that end a command with one line, and nothing else."""

from __future__ import annotations

import sys
from typing import IO, Any

import click

from tli.io import progress


class Told(click.ClickException):
    """What ends a command with one line on standard error, its first word red where colours may be shown."""

    def show(self, file: IO[Any] | None = None) -> None:
        stream = sys.stderr if file is None else file
        first = click.style("Error:", fg="red", bold=True) if progress.coloured(stream) else "Error:"
        click.echo(f"{first} {self.format_message()}", file=stream)


class UserError(Told):
    """The user's mistake: one line that says what, where, expected, got and what to do. Exit status 2."""

    exit_code = 2


class CheckFailed(Told):
    """A check that ran and did not pass. Exit status 1."""

    exit_code = 1
