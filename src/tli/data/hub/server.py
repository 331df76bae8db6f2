"""Requests to the hub or another server: which errors are retried, for how long, and how a failure is explained.

The client is that of huggingface_hub, by plain HTTP with range requests, so that a download continues after a dropped
connection. The message of a failure depends only on the kind of error: it contains no text and no header of the server.
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
WAIT = 1.0  # seconds before the second try; doubled for each further one
PATIENCE = 300.0  # longest wait in seconds that a server may ask for
TRANSIENT = (408, 429, 500, 502, 503, 504)
TIMEOUT = 10.0  # seconds without an answer from the server


class TooLong(Exception):
    """A server asks for a wait of more than PATIENCE."""


def prepare() -> None:
    """Configures the client: plain HTTP (the path that the tests cover), no telemetry, no log messages."""
    constants.HF_HUB_DISABLE_XET = True
    constants.HF_HUB_DISABLE_TELEMETRY = True
    logging.set_verbosity_error()  # type: ignore[no-untyped-call]
    session = get_session()  # shared by the process; the client makes a new one after a failed connection
    session.event_hooks = {**session.event_hooks, "response": [_limit_wait]}


def _limit_wait(response: httpx2.Response) -> None:
    """Raises TooLong if the server asks for a wait of more than PATIENCE. The client would wait for any time."""
    wait = _requested_wait(response)
    if wait is not None and wait > PATIENCE:
        raise TooLong(f"{_status(response)}, with {wait:.0f} s to wait; run again after that")


def _requested_wait(response: httpx2.Response) -> float | None:
    """The seconds to wait by the header Retry-After, or the hub's RateLimit (requests left, seconds); None without."""
    if response.status_code not in TRANSIENT:
        return None
    limit = re.search(r"\br=0;\s*t=(\d+)", response.headers.get("RateLimit", ""))
    seconds = response.headers.get("Retry-After", "") or (limit[1] if limit else "")
    return float(seconds) + 1 if seconds.isdigit() else None


def _status(response: httpx2.Response) -> str:
    return f"HTTP {response.status_code} {responses.get(response.status_code, '')}".rstrip()


def ask(where: str, call: Callable[[], T]) -> T:
    """Returns `call()`, which is retried with growing waits if the error may be temporary.

    Args:
        where: the file or repository, for messages.
        call: makes the request.

    Raises:
        UserError: the request failed; the line begins with `where`.
    """
    for attempt in range(1, TRIES + 1):
        prepare()
        try:
            return call()
        except TooLong as error:
            raise UserError(f"{where}: {error}") from None
        except errors.LocalEntryNotFoundError as error:  # the client itself has retried
            problem, _ = _explain(error.__cause__ or error, 0)
            break
        except (httpx2.HTTPError, OSError, ValueError) as error:
            problem, wait = _explain(error, WAIT * 2 ** (attempt - 1))
        if wait is None:
            raise UserError(f"{where}: {problem}")
        if attempt < TRIES:
            print(f"{where}: {problem}; try {attempt + 1} of {TRIES} in {wait:.0f} s", file=sys.stderr, flush=True)
            time.sleep(wait)
    raise UserError(f"{where}: {problem}, in {TRIES} tries; run again later (finished downloads are kept)")


def _explain(error: BaseException, wait: float) -> tuple[str, float | None]:
    """Returns what happened and what to do, and the seconds to wait before another try; None if a retry cannot help."""
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
            return f"{error.filename}: {error.strerror}; fix that and run again", None
        case OSError() if "Consistency check" in str(error):
            return (
                "the server did not send as many bytes as it announced; run again, or check HF_ENDPOINT",
                None,
            )
    return "the answer does not come from a hub; check HF_ENDPOINT and the proxy", None


def _explain_status(error: errors.HfHubHTTPError, wait: float) -> tuple[str, float | None]:
    """The same as `_explain`, for an answer with an HTTP status and no error code of the hub."""
    text = _status(error.response)
    if error.response.status_code in (401, 403):
        return f"{text}; set HF_TOKEN to a token that may read it, and accept its licence if it is gated", None
    if error.response.status_code not in TRANSIENT:
        return f"{text}; check the address, HF_ENDPOINT and the proxy", None
    requested = _requested_wait(error.response)
    return text, wait if requested is None else requested
