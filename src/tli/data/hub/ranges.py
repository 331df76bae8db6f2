"""Parts of a large file of the hub, by byte ranges: what is needed of it moves, and never the whole by mistake.

Feeds every table of a profile whose model is fetched in part. The hub gives a hash of the whole file, which no part can
be held against: what comes is checked by range and size here, and held to its first fetch in model/part.py. A file that
the cache has whole is hash-checked and read there.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from functools import cached_property
from itertools import pairwise
from pathlib import Path
from typing import NamedTuple, TypeVar
from urllib.parse import urlsplit

import httpx2
import huggingface_hub
from huggingface_hub import constants, errors, get_session
from huggingface_hub.utils import build_hf_headers, hf_raise_for_status  # type: ignore[attr-defined]

from tli.data.hub import fetch, pins, server
from tli.data.hub.fetch import Repo
from tli.io.errors import CheckFailed, UserError

T = TypeVar("T")

PIECE = 1 << 26  # bytes of one request at most: they are held in memory
SPARE = 1 << 25  # bytes between the ranges of a file that may come along, so that there are fewer requests


class Range(NamedTuple):
    """The bytes from `start` up to, not including, `stop`."""

    start: int
    stop: int

    @property
    def size(self) -> int:
        return self.stop - self.start


def merged(wanted: Iterable[Range], spare: int) -> list[Range]:
    """As few ranges as hold all of `wanted` and at most `spare` bytes more: the smallest gaps are closed first.

    A request costs a round trip, some 0.1 s, in which a few MB might come: what is spared in requests is paid in bytes.
    """
    ordered = sorted(wanted)
    gaps = [later.start - one.stop for one, later in pairwise(ordered)]
    closed: set[int] = set()
    for place in sorted(range(len(gaps)), key=gaps.__getitem__):
        spare -= gaps[place]
        if spare < 0:
            break
        closed.add(place)
    found: list[Range] = []
    for place, one in enumerate(ordered):
        if place - 1 in closed:
            found[-1] = Range(found[-1].start, one.stop)
        else:
            found.append(one)
    return found


def pieces(wanted: Iterable[Range]) -> list[Range]:
    """What is asked for, request by request: the merged ranges, cut to PIECE bytes."""
    return [
        Range(start, min(start + PIECE, one.stop))
        for one in merged(wanted, SPARE)
        for start in range(one.start, one.stop, PIECE)
    ]


class Remote:
    """One file of a pinned repository: its size and any ranges of its bytes, from the cache or by the network."""

    def __init__(self, repo: Repo, name: str, manifest: Path) -> None:
        self.repo, self.name, self.key, self._manifest = repo, name, repo.key(name), manifest
        self._location: str | None = None

    @cached_property
    def whole(self) -> Path | None:
        """The file in the cache, its hash checked, where it is there as a whole."""
        return fetch.whole(self.repo, self.name, self._manifest)

    @cached_property
    def size(self) -> int:
        """Bytes of the whole file."""
        return self.whole.stat().st_size if self.whole else self._ask(self._locate)

    def read(self, wanted: Sequence[Range]) -> Iterator[memoryview]:
        """The bytes of ranges that stand in order and do not overlap, one after the other.

        Raises:
            UserError: no access, no network, or a server that sends anything but the range it was asked for.
        """
        first = 0
        for piece in pieces(wanted):
            data = memoryview(self._piece(piece))
            while first < len(wanted) and wanted[first].start < piece.stop:
                one = wanted[first]
                yield data[max(one.start - piece.start, 0) : one.stop - piece.start]
                if one.stop > piece.stop:
                    break
                first += 1

    def _piece(self, piece: Range) -> bytes | bytearray:
        if self.whole is not None:
            with self.whole.open("rb") as file:
                file.seek(piece.start)
                return file.read(piece.size)
        got = bytearray()  # what a broken connection has brought stays

        def call() -> None:
            fresh = self._location is None
            try:
                self._get(piece, got)
            except errors.HfHubHTTPError as error:
                self._location = None  # the address may have expired
                if fresh or error.response.status_code != 403:
                    raise
                self._get(piece, got)

        self._ask(call)
        return got

    def _ask(self, call: Callable[[], T]) -> T:
        if constants.is_offline_mode():
            raise UserError(f"{self.key}: a part of it is not in the cache, and HF_HUB_OFFLINE is set; unset it")
        return server.ask(self.key, call)

    def _locate(self) -> int:
        """Asks the hub where the file lies and whether it is the one that the manifest knows; returns its size."""
        url = huggingface_hub.hf_hub_url(
            self.repo.name, self.name, repo_type=self.repo.kind, revision=self.repo.revision
        )
        found = huggingface_hub.get_hf_file_metadata(url, timeout=server.TIMEOUT)
        fetch.same_commit(self.repo, found.commit_hash, self.key)
        noted = pins.read(self._manifest).get(self.key)
        if noted is not None and found.etag != noted:
            raise CheckFailed(
                f"{self._manifest}: {self.key}: expected SHA-256 {noted}, the hub gives {found.etag}; "
                "remove that line if you know why it differs"
            )
        if found.size is None:
            raise UserError(f"{self.key}: the hub says no size; check HF_ENDPOINT")
        self._location = found.location
        return found.size

    def _get(self, piece: Range, got: bytearray) -> None:
        """Asks for what of `piece` is not yet in `got`, and takes nothing else for it."""
        if self._location is None and (size := self._locate()) != self.size:
            raise CheckFailed(f"{self.key}: expected {self.size} bytes in all, got {size}; run again")
        location = str(self._location)
        start, last = piece.start + len(got), piece.stop - 1
        headers = build_hf_headers()
        if urlsplit(location).netloc != urlsplit(constants.ENDPOINT).netloc:
            headers.pop("authorization", None)  # the address is signed, and the token another's business
        headers |= {"Range": f"bytes={start}-{last}", "Accept-Encoding": "identity"}
        timeout = constants.HF_HUB_DOWNLOAD_TIMEOUT
        with get_session().stream("GET", location, headers=headers, timeout=timeout) as response:
            hf_raise_for_status(response)
            said = response.headers.get("Content-Range", "no range")
            if response.status_code != 206 or said != f"bytes {start}-{last}/{self.size}":
                raise UserError(
                    f"{self.key}: expected bytes {start}-{last}/{self.size}, the server sends HTTP "
                    f"{response.status_code}, {said:.60}; a proxy may drop Range: mend that, or set model.span to null "
                    "and fetch the whole"
                )
            for chunk in response.iter_raw():
                got += chunk
                if len(got) > piece.size:
                    raise UserError(f"{self.key}: expected {piece.size} bytes of a range, got more; run again")
        if len(got) < piece.size:
            raise httpx2.ReadError("the answer ends early")
