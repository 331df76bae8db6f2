"""Reads byte ranges of a large file of the hub.

If the server ignores Range requests, the download stops; it never fetches the whole file instead. The hub has only a
hash of the whole file, so a part cannot be checked by it. This module checks the range and size of an answer;
model/part.py compares the bytes with those of the first fetch. If the cache contains the whole file, its hash is
checked and the ranges are read from it.
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

PIECE = 1 << 26  # most bytes of a request; they are kept in memory
SPARE = 1 << 25  # most bytes of a file that are fetched without need, so that there are fewer requests


class Range(NamedTuple):
    """The bytes from `start` up to, not including, `stop`."""

    start: int
    stop: int

    @property
    def size(self) -> int:
        return self.stop - self.start


def merged(wanted: Iterable[Range], spare: int) -> list[Range]:
    """Merges ranges by closing the smallest gaps first, up to `spare` additional bytes in total.

    A request costs a round trip of about 0.1 s, in which a few MB could be transferred. So it is faster to fetch some
    unneeded bytes than to make more requests.

    Args:
        wanted: ranges that do not overlap, in any order.
        spare: the most bytes in the gaps that are closed.
    """
    ordered = sorted(wanted)
    gaps = [later.start - earlier.stop for earlier, later in pairwise(ordered)]
    closed: set[int] = set()
    for index in sorted(range(len(gaps)), key=gaps.__getitem__):
        spare -= gaps[index]
        if spare < 0:
            break
        closed.add(index)
    ranges: list[Range] = []
    for index, wanted_range in enumerate(ordered):
        if index - 1 in closed:
            ranges[-1] = Range(ranges[-1].start, wanted_range.stop)
        else:
            ranges.append(wanted_range)
    return ranges


def pieces(wanted: Iterable[Range]) -> list[Range]:
    """Returns the range of each request: the merged ranges, cut to at most PIECE bytes."""
    return [
        Range(start, min(start + PIECE, joined.stop))
        for joined in merged(wanted, SPARE)
        for start in range(joined.start, joined.stop, PIECE)
    ]


class Remote:
    """A file of a repository at a pinned revision. Its size and bytes come from the cache or the network.

    Args:
        repo: the repository.
        name: the file's path in it.
        manifest: the manifest of fetched files.
    """

    def __init__(self, repo: Repo, name: str, manifest: Path) -> None:
        self.repo, self.name, self.key, self._manifest = repo, name, repo.key(name), manifest
        self._location: str | None = None

    @cached_property
    def whole(self) -> Path | None:
        """The path in the cache if the whole file is there, after a check of its hash; else None."""
        return fetch.whole(self.repo, self.name, self._manifest)

    @cached_property
    def size(self) -> int:
        """The size of the whole file in bytes."""
        return self.whole.stat().st_size if self.whole else self._ask(self._locate)

    def read(self, wanted: Sequence[Range]) -> Iterator[memoryview]:
        """Yields the bytes of ranges. A range that spans several requests comes in several parts.

        Args:
            wanted: ranges in order that do not overlap.

        Raises:
            UserError: no access, no network, or a server that does not send exactly the requested range.
        """
        first = 0
        for piece in pieces(wanted):
            data = memoryview(self._piece(piece))
            while first < len(wanted) and wanted[first].start < piece.stop:
                start, stop = wanted[first]
                yield data[max(start - piece.start, 0) : stop - piece.start]
                if stop > piece.stop:
                    break
                first += 1

    def _piece(self, piece: Range) -> bytes | bytearray:
        if self.whole is not None:
            with self.whole.open("rb") as file:
                file.seek(piece.start)
                return file.read(piece.size)
        got = bytearray()  # keeps the bytes that came before a connection broke

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
            raise UserError(
                f"{self.key}: a part of it is not in the cache, and HF_HUB_OFFLINE is set; unset it to fetch it"
            )
        return server.ask(self.key, call)

    def _locate(self) -> int:
        """Asks the hub for the file's address, checks its hash against the manifest, and returns its size."""
        url = huggingface_hub.hf_hub_url(
            self.repo.name, self.name, repo_type=self.repo.kind, revision=self.repo.revision
        )
        metadata = huggingface_hub.get_hf_file_metadata(url, timeout=server.TIMEOUT)
        fetch.same_commit(self.repo, metadata.commit_hash, self.key)
        expected = pins.read(self._manifest).get(self.key)
        if expected is not None and metadata.etag != expected:
            raise CheckFailed(
                f"{self._manifest}: {self.key}: expected SHA-256 {expected}, the hub gives {metadata.etag}; "
                "remove that line if you know why it differs"
            )
        if metadata.size is None:
            raise UserError(f"{self.key}: expected a size from the hub, got none; check HF_ENDPOINT")
        self._location = metadata.location
        return metadata.size

    def _get(self, piece: Range, got: bytearray) -> None:
        """Requests the bytes of `piece` that are not yet in `got`, and appends them. Accepts no other answer."""
        if self._location is None and (size := self._locate()) != self.size:
            raise CheckFailed(f"{self.key}: expected {self.size} bytes in all, got {size}; run again")
        location = str(self._location)
        start, last = piece.start + len(got), piece.stop - 1
        headers = build_hf_headers()
        if urlsplit(location).netloc != urlsplit(constants.ENDPOINT).netloc:
            headers.pop("authorization", None)  # the address is signed; the token must not go to another host
        headers |= {"Range": f"bytes={start}-{last}", "Accept-Encoding": "identity"}
        timeout = constants.HF_HUB_DOWNLOAD_TIMEOUT
        with get_session().stream("GET", location, headers=headers, timeout=timeout) as response:
            hf_raise_for_status(response)
            content_range = response.headers.get("Content-Range", "no range")
            if response.status_code != 206 or content_range != f"bytes {start}-{last}/{self.size}":
                raise UserError(
                    f"{self.key}: expected bytes {start}-{last}/{self.size}, the server sends HTTP "
                    f"{response.status_code}, {content_range:.60}; a proxy may drop the header Range: fix that, or set "
                    "model.span to null to fetch the whole file"
                )
            for chunk in response.iter_raw():
                got += chunk
                if len(got) > piece.size:
                    raise UserError(f"{self.key}: expected {piece.size} bytes of a range, got more; run again")
        if len(got) < piece.size:
            raise httpx2.ReadError("the answer ends early")
