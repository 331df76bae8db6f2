"""Token trees: sequences that begin alike in one row, each shared token once. Feeds every transfer table.

The nodes of a tree stand in the order of a depth-first walk, so that a node's descendants follow it without a gap:
node q descends from k, or is k, where k <= q < end_k. A token that attends to just those k, at the position that it has
in its own sequence, has the state it has there, since attention is causal (SpecInfer, 2305.09781, section 4.2, checks
several continuations of one text in the same way).
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from itertools import accumulate, pairwise
from typing import NamedTuple

import torch
from jaxtyping import Float, Int
from torch import Tensor

# Nodes of a tree that spends as much on attention, which grows as their square, as on all else. Counting operations it
# is 800 in the embedded model, whose attention is the slower a count, and 26,000 in the published one.
EVEN = 512


class Tree(NamedTuple):
    """Of each node: token, position in its sequence, where its descendants end. Of each member: its nodes in order."""

    ids: list[int]
    depth: list[int]
    end: list[int]
    paths: dict[int, list[int]]


def batches(sequences: Sequence[Sequence[int]], size: int) -> Iterator[list[Tree]]:
    """Trees of like size, `size` sequences together at most, largest last. A fixed function of the sequences."""
    batch: list[Tree] = []
    held = 0
    for tree in sorted(trees(sequences, size), key=lambda tree: (len(tree.ids), min(tree.paths))):
        if batch and held + len(tree.paths) > size:
            yield batch
            batch, held = [], 0
        batch.append(tree)
        held += len(tree.paths)
    if batch:
        yield batch


def trees(sequences: Sequence[Sequence[int]], size: int) -> Iterator[Tree]:
    """Every sequence in one tree, of `size` sequences at most.

    In lexicographic order a sequence shares most with its neighbours. A tree of n nodes costs n + n^2 / EVEN. One is
    cut in two, where neighbours share least and, among equals, nearest to the middle, if both halves, with what they
    share run in each, cost less than the whole.
    """
    if not sequences:
        return
    order = sorted(range(len(sequences)), key=lambda index: (sequences[index], index))
    shared = [0] + [_common(sequences[a], sequences[b]) for a, b in pairwise(order)]
    fresh = [0, *accumulate(len(sequences[index]) - again for index, again in zip(order, shared, strict=True))]

    def nodes(start: int, stop: int) -> int:
        return fresh[stop] - fresh[start] + shared[start]

    spans = [(0, len(order))]
    while spans:
        start, stop = spans.pop()
        if stop - start > 1:
            cut = min(range(start + 1, stop), key=lambda at: (shared[at], abs(2 * at - start - stop)))
            spared = nodes(start, stop) ** 2 - nodes(start, cut) ** 2 - nodes(cut, stop) ** 2
            if stop - start > size or spared > EVEN * shared[cut]:
                spans += [(cut, stop), (start, cut)]
                continue
        yield _grown({index: sequences[index] for index in order[start:stop]})


def _common(one: Sequence[int], other: Sequence[int]) -> int:
    """Length of the common prefix."""
    for place, (a, b) in enumerate(zip(one, other, strict=False)):
        if a != b:
            return place
    return min(len(one), len(other))


def _grown(members: dict[int, Sequence[int]]) -> Tree:
    """The tree of sequences in lexicographic order."""
    tree = Tree([], [], [], {})
    path: list[int] = []
    last: Sequence[int] = ()
    for index, sequence in members.items():
        kept = _common(last, sequence)
        new = range(len(tree.ids), len(tree.ids) + len(sequence) - kept)
        path, last = [*path[:kept], *new], sequence
        tree.ids.extend(sequence[kept:])
        tree.depth.extend(range(kept, len(sequence)))
        tree.end.extend(new)
        tree.paths[index] = path
        for node in path:
            tree.end[node] = len(tree.ids)
    return tree


def stack(batch: Sequence[Tree], pad_id: int) -> Int[Tensor, "3 tree node"]:
    """ids, depth and end of trees, padded on the right with nodes that see themselves alone and that no node sees."""
    widest = max(len(tree.ids) for tree in batch)
    blank = ([pad_id] * widest, [0] * widest, range(1, widest + 1))
    return torch.tensor(
        [[[*own, *fill[len(own) :]] for own, fill in zip(tree[:3], blank, strict=True)] for tree in batch]
    ).transpose(0, 1)


def mask(end: Int[Tensor, "tree node"], dtype: torch.dtype) -> Float[Tensor, "tree 1 node node"]:
    """What is added to attention's scores, queries in rows: 0 where q descends from k or is k, else dtype's lowest."""
    key = torch.arange(end.shape[1], device=end.device)
    query = key[:, None]
    seen = (key <= query) & (query < end[:, None, :])
    added = torch.zeros(seen.shape, dtype=dtype, device=end.device)
    return added.masked_fill_(~seen, torch.finfo(dtype).min)[:, None]
