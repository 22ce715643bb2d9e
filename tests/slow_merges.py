"""Slow, obvious versions of easy-first parsing: lists of items, one sentence at a time. Only tests import this."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from rlparse.models.composition import Composition
from slow_reference import REDUCE, SHIFT, compose_formula, leaf_formula


def all_merges(n: int) -> list[tuple[int, ...]]:
    """Every order of merging n items: (n - 1)! of them."""
    return list(itertools.product(*(range(n - 1 - k) for k in range(n - 1))))


def tree_of(merges: Sequence[int], items: Sequence) -> object:
    """Nested pairs."""
    items = list(items)
    for place in merges:
        items[place : place + 2] = [(items[place], items[place + 1])]
    (tree,) = items
    return tree


def derivation_of(tree: object) -> tuple[int, ...]:
    """SHIFT for a leaf, REDUCE after both parts of a pair."""
    if not isinstance(tree, tuple):
        return (SHIFT,)
    return (*derivation_of(tree[0]), *derivation_of(tree[1]), REDUCE)


def merge_distributions(
    composition: Composition,
    query: Tensor,
    embeddings: Tensor,
    merges: Sequence[int],
    temperature: float = 1.0,
) -> list[Tensor]:
    """Log-probabilities of every merge there is, before each of those that are taken: layer by layer."""
    D = composition.hidden_size
    items = [leaf_formula(composition, embedding) for embedding in embeddings]
    found = []
    for place in merges:
        pairs = [compose_formula(composition, a, b) for a, b in itertools.pairwise(items)]
        scores = torch.stack([query @ pair[:D] for pair in pairs]) / temperature
        found.append(scores - scores.exp().sum().log())
        items[place : place + 2] = [pairs[place]]
    return found


def straight_through(
    composition: Composition,
    query: Tensor,
    embeddings: Tensor,
    noise: Callable[[int], Tensor],
    temperature: float = 1.0,
) -> tuple[Tensor, list[int]]:
    """Encode one sentence as Choi et al. publish it: every pair composed anew in every layer, all of it in autograd."""
    D = composition.hidden_size
    items = [leaf_formula(composition, embedding) for embedding in embeddings]
    merges = []
    while len(items) > 1:
        pairs = [compose_formula(composition, a, b) for a, b in itertools.pairwise(items)]
        scores = torch.stack([query @ pair[:D] for pair in pairs])
        soft = torch.softmax((scores + noise(len(merges))[: len(pairs)]) / temperature, dim=0)
        place = int(soft.argmax())
        hard = torch.zeros_like(soft)
        hard[place] = 1.0
        y = hard + soft - soft.detach()
        merges.append(place)
        items = [
            y[i] * pairs[i] + (1 - y[: i + 1].sum()) * items[i] + y[:i].sum() * items[i + 1]
            for i in range(len(pairs))
        ]
    return items[0][:D], merges
