"""The click group of the program: help in sections, and errors in one line."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import click

from tli.io import faults
from tli.io.errors import UserError

SECTIONS = {  # sections of the help after the stages; the stages check and verify are for people too
    "Results": ("summary", "audit", "export", "export-results"),
    "Maintenance": ("plan", "study-keys", "costs"),
    "Cluster": ("submit", "collect"),
}
FOR_PEOPLE = {name for names in SECTIONS.values() for name in names}


@contextmanager
def one_line(path: str) -> Iterator[None]:
    """Turns click's usage errors in the block into a UserError, whose message is one line.

    Args:
        path: the command, such as `tli train`, for errors that do not name it.
    """
    try:
        yield
    except click.exceptions.NoArgsIsHelpError:
        raise
    except click.UsageError as error:
        message = " ".join(error.format_message().split()).rstrip(".")
        where = error.ctx.command_path if error.ctx else path
        raise UserError(f"{where}: {message[:1].lower()}{message[1:]}; see `{where} --help`") from None


class Command(click.Command):
    """A command whose usage errors are one line."""

    def make_context(self, info_name: str | None, *args: Any, **kwargs: Any) -> click.Context:
        with one_line(f"tli {info_name}"):
            return super().make_context(info_name, *args, **kwargs)


class Tli(click.Group):
    """The program. Its help lists the commands in the order of this file, in sections.

    Errors of the machine, such as a full disk, end a command with one line instead of a traceback (io/faults.py).
    """

    command_class = Command

    def list_commands(self, _context: click.Context) -> list[str]:
        return list(self.commands)

    def format_commands(self, context: click.Context, formatter: click.HelpFormatter) -> None:
        """Writes the commands in sections, the stages first."""
        for title, names in {"Stages": [n for n in self.commands if n not in FOR_PEOPLE], **SECTIONS}.items():
            with formatter.section(title):
                formatter.write_dl([(name, self.commands[name].get_short_help_str(limit=60)) for name in names])

    def make_context(self, info_name: str | None, *args: Any, **kwargs: Any) -> click.Context:
        with one_line("tli"):
            return super().make_context(info_name, *args, **kwargs)

    def resolve_command(self, context: click.Context, args: list[str]) -> Any:
        with one_line("tli"):
            return super().resolve_command(context, args)

    def invoke(self, context: click.Context) -> Any:
        faults.open_streams()
        try:
            return super().invoke(context)
        except Exception as error:
            line = faults.explain(error, context.invoked_subcommand or "tli")
            if line is None:
                raise
            raise UserError(line) from error
