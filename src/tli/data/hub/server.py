"""Asking a server, the hub or another: what is tried again and for how long, and what is said when that fails.

Feeds no table. The client is huggingface_hub's, by plain HTTP with range requests: a dropped connection goes on where
it stopped. A failure is one line made from the kind of error alone: no word of the server's, no header gets into it.
"""

from __future__ import annotations

import errno
import re
import sys
import time
from collections.abc import Callable
from http.client import responses
from typing import TypeVar

import httpx2
from huggingface_hub import constants, errors, get_session
from huggingface_hub.utils import logging

from tli.io.errors import UserError

T = TypeVar("T")

TRIES = 5
WAIT = 1.0  # seconds before the second try; doubled before each further one
PATIENCE = 300.0  # seconds: a server that asks for a longer wait is not waited for
TRANSIENT = (408, 429, 500, 502, 503, 504)
TIMEOUT = 10.0  # seconds without a word from the server


class TooLong(Exception):
    """A server asks to be left alone for longer than PATIENCE."""


def prepare() -> None:
    """Sets the client up: files come by plain HTTP, the one path that the tests cover, and the log is ours to write."""
    constants.HF_HUB_DISABLE_XET = True
    constants.HF_HUB_DISABLE_TELEMETRY = True
    logging.set_verbosity_error()  # type: ignore[no-untyped-call]
    session = get_session()  # one for the process; the client makes a new one after a failed connection
    session.event_hooks = {**session.event_hooks, "response": [_be_patient]}


def _be_patient(response: httpx2.Response) -> None:
    """The client waits by itself, for as long as it is told: a wait past PATIENCE ends the request instead."""
    wait = _asked(response)
    if wait is not None and wait > PATIENCE:
        raise TooLong(f"{_status(response)}, with {wait:.0f} s to wait; run again after that")


def _asked(response: httpx2.Response) -> float | None:
    """Seconds to wait, by an answer that says so: by Retry-After, or the hub's RateLimit (requests left, seconds)."""
    if response.status_code not in TRANSIENT:
        return None
    limit = re.search(r"\br=0;\s*t=(\d+)", response.headers.get("RateLimit", ""))
    asked = response.headers.get("Retry-After", "") or (limit[1] if limit else "")
    return float(asked) + 1 if asked.isdigit() else None


def _status(response: httpx2.Response) -> str:
    return f"HTTP {response.status_code} {responses.get(response.status_code, '')}".rstrip()


def ask(where: str, call: Callable[[], T]) -> T:
    """`call()`, tried again with growing waits while the trouble may pass.

    Raises:
        UserError: one line that begins with `where`.
    """
    for attempt in range(1, TRIES + 1):
        prepare()
        try:
            return call()
        except TooLong as error:
            raise UserError(f"{where}: {error}") from None
        except errors.LocalEntryNotFoundError as error:  # the client has tried again by itself
            trouble, _ = _explain(error.__cause__ or error, 0)
            break
        except (httpx2.HTTPError, OSError, ValueError) as error:
            trouble, wait = _explain(error, WAIT * 2 ** (attempt - 1))
        if wait is None:
            raise UserError(f"{where}: {trouble}")
        if attempt < TRIES:
            print(f"{where}: {trouble}; try {attempt + 1} of {TRIES} in {wait:.0f} s", file=sys.stderr, flush=True)
            time.sleep(wait)
    raise UserError(f"{where}: {trouble}, in {TRIES} tries; run again later, what was fetched stays")


def _explain(error: BaseException, wait: float) -> tuple[str, float | None]:
    """What `error` is in plain words, and how many seconds to wait before another try; None where that is useless."""
    match error:
        case errors.OfflineModeIsEnabled():
            return "HF_HUB_OFFLINE is set; unset it to fetch", None
        case errors.GatedRepoError():
            page = f"the repository's page under {constants.ENDPOINT}"
            return f"gated; accept its licence on {page}, then set HF_TOKEN to a token of that account", None
        case errors.RevisionNotFoundError():
            return "no such revision; set one that the repository has", None
        case errors.RemoteEntryNotFoundError():
            return "no such file at this revision; check its name", None
        case errors.RepositoryNotFoundError():
            return (
                "no such repository, or a private one; check its name, or set HF_TOKEN to a token that may read it",
                None,
            )
        case errors.HfHubHTTPError():
            return _explain_status(error, wait)
        case errors.HFValidationError():
            return "not a name that a repository can have; check it", None
        case httpx2.LocalProtocolError() | UnicodeError():
            return "the request cannot be sent; check HF_TOKEN for stray characters", None
        case httpx2.TimeoutException():
            return "no answer in time", wait
        case httpx2.ConnectError() | httpx2.ProxyError():
            return "no connection", wait
        case httpx2.TransportError():
            return "the connection broke", wait
        case OSError(errno=errno.ENOSPC | errno.EDQUOT | errno.EFBIG):
            return (
                f"no space left ({error.strerror}); free some, or move the cache {constants.HF_HUB_CACHE} (HF_HOME)",
                None,
            )
        case OSError(errno=int()):
            return f"{error.filename}: {error.strerror}; mend that and run again", None
        case OSError() if "Consistency check" in str(error):
            return (
                "the server sent another number of bytes than it had announced; run again, or check HF_ENDPOINT",
                None,
            )
    return "the answer is not one of a hub; check HF_ENDPOINT and the proxy", None


def _explain_status(error: errors.HfHubHTTPError, wait: float) -> tuple[str, float | None]:
    """The same for an answer with a status and no code of the hub's own."""
    text = _status(error.response)
    if error.response.status_code in (401, 403):
        return f"{text}; set HF_TOKEN to a token that may read it, and accept its licence where it is gated", None
    if error.response.status_code not in TRANSIENT:
        return f"{text}; check the address, HF_ENDPOINT and the proxy", None
    asked = _asked(error.response)
    return text, wait if asked is None else asked
