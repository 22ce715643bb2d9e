"""Encode sentences by trees that are chosen on the way, with the straight-through Gumbel estimator.

Before merge k a sentence is a list of items x; its candidates are c_i = compose(x_i, x_{i + 1}), scored by q . h(c_i).
With Gumbel noise g and a temperature,

    p = softmax((scores + g) / temperature),    y = one_hot(argmax p)
    x'_i = y_i c_i + (1 - Y_i) x_i + (Y_i - y_i) x_{i + 1},    Y_i = y_1 + ... + y_i

which merges where y is 1 and copies everywhere else. Backward takes the gradient of y for that of p.

Written out, every candidate is composed anew at every merge, n^2 / 2 of them. Values and gradient are the same if each
different candidate is composed once, 3 n of them. Forward that is plain, because y is one or zero. Backward, what flows
into a candidate is, at each merge, a multiple of the query, and once, where it is merged, the gradient of the item that
it becomes. So the gradient of each candidate's parts along the query is computed once for all, and backward goes
through the merges with products of numbers and vectors, and one composition of the merged pairs each.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.nn import functional as F

from rlparse.models.cells import refuse_second_derivatives, without_autocast
from rlparse.models.chart import Merging, merge
from rlparse.models.composition import Composition

Noise = Callable[[Tensor], Tensor]
"""Give noise to be added to scores, [a, m] float, of the same shape; rows are sorted by length, longest first."""


class GumbelTrees(NamedTuple):
    """Sentences that were encoded by trees chosen on the way.

    Attributes:
        roots: [R, D] float. Hidden vector of each sentence's root, with gradient.
        merges: [R, M] int64. Positions, M = N - 1 after a row's end.
    """

    roots: Tensor
    merges: Tensor


def gumbel_noise(generator: torch.Generator | None = None) -> Noise:
    """Draw standard Gumbel noise, with which the greatest sum is a sample from the softmax of the scores."""
    return lambda scores: -torch.empty_like(scores).exponential_(generator=generator).log()


def gumbel_trees(
    composition: Composition,
    query: Tensor,
    embeddings: Tensor,
    lengths: Tensor,
    words: Tensor,
    *,
    temperature: float = 1.0,
    noise: Noise | None = None,
) -> GumbelTrees:
    """Encode every sentence by merging, again and again, the neighbours that score best.

    Reference: Choi, Yoo & Lee 2018, "Learning to Compose Task-Specific Tree Structures"; Jang, Gu & Poole 2017,
    "Categorical Reparameterization with Gumbel-Softmax".

    Args:
        composition: Without a tracker, and one that draws no random numbers.
        query: [D] float.
        embeddings: [U, E] float, one for every leaf.
        lengths: [R] int64.
        words: [R, N] int64. Leaf that each token is; see `rlparse.models.stack_machine.distinct_words`.
        temperature: Of the softmax through which the gradient goes; what is merged does not depend on it.
        noise: `gumbel_noise`, or None for the greedy trees.

    Raises:
        ValueError: The composition reads a tracker, or the temperature is not positive.
    """
    if composition.tracker_size:
        raise ValueError(
            f"candidates are composed before any tracker could read them: the composition has "
            f"tracker_size={composition.tracker_size}, use tracker_size=0"
        )
    if not temperature > 0:
        raise ValueError(f"temperature must be positive, got {temperature}")
    weights = [p for p in composition.parameters() if p.requires_grad]
    with without_autocast(embeddings):
        roots, merges = _GumbelTrees.apply(  # type: ignore[no-untyped-call]  # torch does not annotate `apply`
            composition,
            temperature,
            noise,
            lengths,
            words,
            weights,
            query,
            embeddings.to(query.dtype),
            *weights,
        )
    return GumbelTrees(roots, merges)


class _GumbelTrees(torch.autograd.Function):
    """Gives roots and merges, from query, embeddings and the composition's weights."""

    @staticmethod
    def forward(
        ctx: Any,
        composition: Composition,
        temperature: float,
        noise: Noise | None,
        lengths: Tensor,
        words: Tensor,
        weights: list[Tensor],
        query: Tensor,
        embeddings: Tensor,
        *parameters: Tensor,
    ) -> tuple[Tensor, Tensor]:
        merged = merge(
            composition,
            query,
            embeddings,
            lengths,
            words,
            (lambda scores: scores) if noise is None else (lambda scores: scores + noise(scores)),
        )
        ctx.composition, ctx.temperature, ctx.merged, ctx.weights = composition, temperature, merged, weights
        ctx.save_for_backward(query, embeddings, *parameters)
        roots = merged.in_batch(merged.planes[0].index_select(0, merged.roots))
        merges = merged.in_batch(merged.merges)
        ctx.mark_non_differentiable(merges)
        return roots, merges

    @staticmethod
    def backward(ctx: Any, grad_roots: Tensor, grad_merges: Tensor) -> tuple[Any, ...]:
        refuse_second_derivatives()
        query, embeddings, *_ = ctx.saved_tensors  # which raises if weights were changed meanwhile
        with without_autocast(embeddings):
            swept = _Backward(ctx.composition, ctx.merged, query.detach(), embeddings.detach(), ctx.weights)
            gradients = swept.run(grad_roots, ctx.temperature)
        return None, None, None, None, None, None, *gradients


class _Backward:
    """One backward through trees that were merged.

    Args:
        composition: Its weights must be those of forward.
        merged: What forward did.
        query: [D] float.
        embeddings: [U, E] float.
        weights: Of the composition, those whose gradient is asked for.
    """

    def __init__(
        self,
        composition: Composition,
        merged: Merging,
        query: Tensor,
        embeddings: Tensor,
        weights: list[Tensor],
    ) -> None:
        self.composition, self.merged, self.weights = composition, merged, weights
        self.query, self.embeddings = query, embeddings
        self.states = torch.cat(merged.planes, dim=1)  # [U + P + 1, state_size]
        self.n_leaves = len(embeddings)

    def run(self, grad_roots: Tensor, temperature: float) -> list[Tensor]:
        """Give the gradients of query, embeddings and weights from those of the roots, [R, D], as in the batch."""
        merged, D, U = self.merged, len(self.query), self.n_leaves
        pairs = merged.children
        made, sides = self._compose(pairs)
        along = torch.zeros_like(made)
        along[:, :D] = self.query
        # Gradients of every candidate's score: of its parts, row by row as in the table of states.
        of_left, of_right = (torch.zeros_like(self.states) for _ in range(2))
        if len(pairs):
            of_left[U:-1], of_right[U:-1] = torch.autograd.grad(made, sides, along, retain_graph=True)
        of_scores, of_merged, of_leaves = self._sweep(
            grad_roots[merged.order], of_left, of_right, temperature
        )
        of_query = torch.mv(self.states[:, :D].t(), of_scores)
        given = of_merged.addcmul_(along, of_scores[U:-1].unsqueeze(1))
        with torch.enable_grad():
            embeddings = self.embeddings.requires_grad_()
            leaves = self.composition.leaf(embeddings)
        wanted = (embeddings, *self.weights)
        of_embeddings, *of_weights = torch.autograd.grad(
            (leaves, made), wanted, (of_leaves, given), allow_unused=True, materialize_grads=True
        )
        return [of_query, of_embeddings, *of_weights]

    def _sweep(
        self, grad_roots: Tensor, of_left: Tensor, of_right: Tensor, temperature: float
    ) -> tuple[Tensor, Tensor, Tensor]:
        """Go through the merges from the last to the first.

        Args:
            grad_roots: [R, D] float, rows in order of length.
            of_left: [U + P + 1, state_size] float. Gradient of every candidate's score for its left part.
            of_right: The same for its right part.
            temperature: Of the softmax.

        Returns:
            The gradients of the scores of all candidates, [U + P + 1], of the states of candidates as far as they were
            merged, [P, state_size], and of the states of leaves, [U, state_size].
        """
        merged, states, U = self.merged, self.states, self.n_leaves
        size = states.shape[1]
        of_scores, of_states = states.new_zeros(len(states)), torch.zeros_like(states)
        of_roots = F.pad(grad_roots, (0, size - len(self.query)))
        number = torch.arange(merged.merges.shape[1] + 1, device=states.device)
        every = torch.arange(len(merged.order), device=states.device)
        steps = list(zip(merged.active, merged.keys, merged.items, merged.candidates, strict=True))
        grad = states.new_zeros(0, 1, size)
        for k in reversed(range(len(steps))):
            a, keys, items, candidates = steps[k]
            m, before = keys.shape[1], len(grad)
            if a > before:  # rows of which this is the last merge
                fresh = states.new_zeros(a - before, m, size)
                fresh[:, 0] = of_roots[before:a]
                grad = torch.cat((grad, fresh)) if before else fresh
            place, rows = merged.merges[:a, k], every[:a]
            # Now `grad` is of the items after this merge, [a, m, state_size]. First of y, then of the scores.
            here = self._rows(states, items)
            copied_left, copied_right = (grad * here[:, :-1]).sum(2), (grad * here[:, 1:]).sum(2)
            of_y = (grad * self._rows(states, candidates)).sum(2) - copied_right
            of_y += (copied_right - copied_left).flip(1).cumsum(1).flip(1)
            legal = number[:m] < (merged.lengths[:a] - 1 - k).unsqueeze(1)
            p = torch.softmax((keys / temperature).masked_fill(~legal, -torch.inf), dim=1)
            of_keys = p * (of_y - (p * of_y).sum(1, keepdim=True)) / temperature
            of_scores.index_add_(0, candidates.flatten(), of_keys.flatten())
            # Of the items before it: copies, parts of what was merged, and parts of what was scored.
            of_new = grad[rows, place]
            chosen = candidates[rows, place]
            of_states.index_add_(0, chosen, of_new)
            made, sides = self._compose(merged.children[chosen - U])
            left, right = torch.autograd.grad(made, sides, of_new)
            earlier = states.new_empty(a, m + 1, size)
            at, position, weight = number[:m, None], place[:, None, None], of_keys.unsqueeze(2)
            torch.mul(grad, at < position, out=earlier[:, :m])
            earlier[:, m] = 0.0
            earlier[:, 1:].addcmul_(grad, (at > position).to(grad.dtype))
            earlier[rows, place] += left
            earlier[rows, place + 1] += right
            earlier[:, :m].addcmul_(self._rows(of_left, candidates), weight)
            earlier[:, 1:].addcmul_(self._rows(of_right, candidates), weight)
            grad = earlier
        if steps:
            of_states.index_add_(0, steps[0][2].flatten(), grad.flatten(0, 1))
        single = merged.lengths == 1
        of_states.index_add_(0, merged.roots[single], of_roots[single])
        return of_scores, of_states[U:-1], of_states[:U]

    @staticmethod
    def _rows(table: Tensor, index: Tensor) -> Tensor:
        """Gather rows of a table: [..., state_size]."""
        return table.index_select(0, index.flatten()).view(*index.shape, -1)

    def _compose(self, pairs: Tensor) -> tuple[Tensor, tuple[Tensor, Tensor]]:
        """Compose pairs of rows of the table, [m, 2], and give the result, and its parts, for autograd."""
        left, right = (self.states[side].requires_grad_() for side in pairs.unbind(1))
        with torch.enable_grad():
            return self.composition(left, right), (left, right)
