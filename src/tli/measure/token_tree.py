"""Token trees: sequences with a common prefix in one row, each shared token once. Used for all benchmark scores.

The nodes of a tree are in depth-first order, so that a node's descendants directly follow it: node q is k or a
descendant of k if and only if k <= q < end_k. Attention is causal, so a node that attends to itself and its ancestors,
at its position in its own sequence, has the same hidden state as in that sequence. SpecInfer (2305.09781, section 4.2)
verifies several continuations of one text in the same way.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from itertools import accumulate, pairwise
from typing import NamedTuple

import torch
from jaxtyping import Float, Int
from torch import Tensor

# The number of nodes at which a tree spends as much on attention, which grows as its square, as on everything else.
# Counted in operations it is 800 in the micro-world's model, whose attention is slower per operation, and 26,000 in the
# published model.
BREAK_EVEN_NODES = 512


class Tree(NamedTuple):
    """`ids`, `depth` and `end`: each node's token, its position in its sequence, and the end of its descendants.

    `paths` maps each sequence's index to its nodes in order.
    """

    ids: list[int]
    depth: list[int]
    end: list[int]
    paths: dict[int, list[int]]


def batches(sequences: Sequence[Sequence[int]], size: int) -> Iterator[list[Tree]]:
    """Batches of trees of similar size, at most `size` sequences each, largest last; depends on nothing else."""
    batch: list[Tree] = []
    sequences_in_batch = 0
    for tree in sorted(trees(sequences, size), key=lambda tree: (len(tree.ids), min(tree.paths))):
        if batch and sequences_in_batch + len(tree.paths) > size:
            yield batch
            batch, sequences_in_batch = [], 0
        batch.append(tree)
        sequences_in_batch += len(tree.paths)
    if batch:
        yield batch


def trees(sequences: Sequence[Sequence[int]], size: int) -> Iterator[Tree]:
    """Groups the sequences into trees of at most `size` sequences; each sequence is in one tree.

    In lexicographic order a sequence shares its longest prefix with a neighbour. A tree of n nodes costs
    n + n^2 / BREAK_EVEN_NODES. A tree is split if its two halves, which both run their common prefix, cost less than
    the whole. It is split where neighbours share the shortest prefix, and among equals nearest to the middle.
    """
    if not sequences:
        return
    order = sorted(range(len(sequences)), key=lambda index: (sequences[index], index))
    shared = [0] + [_common_prefix(sequences[a], sequences[b]) for a, b in pairwise(order)]
    new_nodes = [0, *accumulate(len(sequences[index]) - prefix for index, prefix in zip(order, shared, strict=True))]

    def nodes(start: int, stop: int) -> int:
        return new_nodes[stop] - new_nodes[start] + shared[start]

    spans = [(0, len(order))]
    while spans:
        start, stop = spans.pop()
        if stop - start > 1:
            split = min(range(start + 1, stop), key=lambda place: (shared[place], abs(2 * place - start - stop)))
            saved_attention = nodes(start, stop) ** 2 - nodes(start, split) ** 2 - nodes(split, stop) ** 2
            if stop - start > size or saved_attention > BREAK_EVEN_NODES * shared[split]:
                spans += [(split, stop), (start, split)]
                continue
        yield _build_tree({index: sequences[index] for index in order[start:stop]})


def _common_prefix(first: Sequence[int], second: Sequence[int]) -> int:
    """The length of the common prefix."""
    for place, (a, b) in enumerate(zip(first, second, strict=False)):
        if a != b:
            return place
    return min(len(first), len(second))


def _build_tree(members: dict[int, Sequence[int]]) -> Tree:
    """Builds a tree from sequences in lexicographic order."""
    tree = Tree([], [], [], {})
    path: list[int] = []
    previous: Sequence[int] = ()
    for index, sequence in members.items():
        prefix = _common_prefix(previous, sequence)
        new_nodes = range(len(tree.ids), len(tree.ids) + len(sequence) - prefix)
        path, previous = [*path[:prefix], *new_nodes], sequence
        tree.ids.extend(sequence[prefix:])
        tree.depth.extend(range(prefix, len(sequence)))
        tree.end.extend(new_nodes)
        tree.paths[index] = path
        for node in path:
            tree.end[node] = len(tree.ids)
    return tree


def pad_trees(batch: Sequence[Tree], pad_id: int) -> Int[Tensor, "3 tree node"]:
    """`ids`, `depth` and `end` of trees, padded on the right; padding nodes attend only to themselves."""
    widest = max(len(tree.ids) for tree in batch)
    paddings = ([pad_id] * widest, [0] * widest, range(1, widest + 1))
    return torch.tensor(
        [
            [[*values, *padding[len(values) :]] for values, padding in zip(tree[:3], paddings, strict=True)]
            for tree in batch
        ]
    ).transpose(0, 1)


def attention_mask(end: Int[Tensor, "tree node"], dtype: torch.dtype) -> Float[Tensor, "tree 1 node node"]:
    """The mask added to attention scores, one row per query: 0 if q is k or a descendant of k, else dtype's minimum."""
    key = torch.arange(end.shape[1], device=end.device)
    query = key[:, None]
    visible = (key <= query) & (query < end[:, None, :])
    mask = torch.zeros(visible.shape, dtype=dtype, device=end.device)
    return mask.masked_fill_(~visible, torch.finfo(dtype).min)[:, None]
