"""Run the derivations of a whole batch over vectors: no Python loop over sentences or nodes, only over groups.

A *schedule* says which nodes are composed together. By step: all rows that REDUCE at the same step of the
lockstep parser; the only order possible when a tracker feeds the composition. By level: all nodes of equal height.
Either way the nodes of a group are neighbours in one preallocated table (`rlparse.models.layout`), so that a group is
one gather, one composition, one write. Where tokens share leaves, a subtree that occurs several times in a batch, in
the parses of one sentence or in many sentences, is one node by level, and is composed once; by step it is a node each
time.

Forward and backward are written by hand (`rlparse.models.cells`): autograd sees one function. The gradient of a node
lies by each of its parents, so that backward gathers like forward does and never adds into a table
(`rlparse.models.groups`); with a tracker, which reads the same node in many steps, it adds (`rlparse.models.steps`).
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor, nn

from rlparse import PAD, lockstep
from rlparse.lockstep import Trace
from rlparse.models.cells import without_autocast
from rlparse.models.composition import Composition
from rlparse.models.groups import compose_groups, real_tokens
from rlparse.models.layout import SCHEDULES, Layout, ScheduleName, distinct_words, lay_out
from rlparse.models.steps import Chooser, choosing, replay, track_and_compose
from rlparse.models.tracker import Tracker


class Encoding(NamedTuple):
    """The vectors of a batch of trees.

    Attributes:
        roots: [R, D] float. Hidden vector of the node that covers each sentence.
        table: [U + M + 1, D] float. Hidden vectors of leaves and nodes, in the layout's order, and a row of zeros,
            which stands for "nothing there". By level, with ``words``, equal subtrees have one row.
        layout: Where they lie.
        trace: The derivations that made them.
        tracker: [R, T, H] float. Tracker's hidden vectors after reading each step (zeros past a row's end), or None.
    """

    roots: Tensor
    table: Tensor
    layout: Layout
    trace: Trace
    tracker: Tensor | None


class StackMachine(nn.Module):
    """Compose every sentence of a batch along its derivation.

    Args:
        composition: What REDUCE computes.
        tracker: Read the stack at every step and feed the composition (SPINN); its width must be the
            composition's ``tracker_size``.
        schedule: ``by_step`` or ``by_level``; with a tracker always by step.

    Raises:
        ValueError: Tracker and composition do not fit each other, or the schedule is unknown.
    """

    def __init__(
        self, composition: Composition, tracker: Tracker | None = None, *, schedule: str = "by_level"
    ) -> None:
        super().__init__()
        width = 0 if tracker is None else tracker.hidden_size
        if width != composition.tracker_size:
            raise ValueError(
                f"the composition reads a tracker of width {composition.tracker_size}, got one of width {width}"
            )
        if schedule not in SCHEDULES:
            raise ValueError(f"unknown schedule {schedule!r}; known: {', '.join(SCHEDULES)}")
        self.composition = composition
        self.tracker = tracker
        self.schedule = "by_step" if tracker is not None else schedule

    def forward(self, embeddings: Tensor, trace: Trace, words: Tensor | None = None) -> Encoding:
        """Encode a batch of sentences along known derivations.

        Args:
            embeddings: [R, N, E] float, one for every token; what stands past a sentence's length is never read. With
                ``words``: [U, E] float, one for every word.
            trace: What `lockstep.trace` makes of the batch's derivations, which it checks.
            words: [R, N] int64. Which row of ``embeddings`` each token is, as `distinct_words` gives it. By level, what
                is drawn at random inside of a composition is then the same in equal subtrees.

        Raises:
            ValueError: Shapes do not fit each other.
        """
        rows, n_steps = trace.tops.shape[:2]
        n_tokens = (n_steps + 1) // 2
        named, given = ("embeddings", embeddings) if words is None else ("words", words)
        if given.dim() != (3 if words is None else 2) or given.shape[:2] != (rows, n_tokens):
            raise ValueError(
                f"{named} must be [R, N{', E' if words is None else ''}] with R = {rows} and N = {n_tokens} as the "
                f"derivations have it, got {tuple(given.shape)}"
            )
        embeddings, words = self._checked(embeddings, words)
        with without_autocast(embeddings):
            return self._encode(embeddings, trace, words)

    def _encode(self, embeddings: Tensor, trace: Trace, words: Tensor | None) -> Encoding:
        n_steps = trace.tops.shape[1]
        if self.tracker is None:
            leaves = real_tokens(embeddings, trace.lengths) if words is None else embeddings
            layout = lay_out(trace, self.schedule, words, leaves.shape[0])
            roots, table = compose_groups(self.composition, layout, leaves)
            return Encoding(roots, table, layout, trace, None)
        _at_least_one(trace.lengths)
        # Longest first, so that the rows still running are always the first ones.
        order = torch.argsort(trace.lengths, descending=True, stable=True)
        in_order = Trace(*(field[order] for field in trace))
        if words is None:
            leaves, places = real_tokens(embeddings[order], in_order.lengths), None
        else:
            leaves, places = embeddings, words[order]
        layout = lay_out(in_order, "by_step", places, leaves.shape[0])
        table, tracked = track_and_compose(
            self.composition, self.tracker, in_order.lengths, n_steps, leaves, replay(layout, in_order)
        )
        return self._encoding(table, tracked, layout, order, trace)

    @staticmethod
    def _encoding(table: Tensor, tracked: Tensor, layout: Layout, order: Tensor, trace: Trace) -> Encoding:
        """Undo the sorting of rows; ``trace`` is of the batch as it came."""
        back = torch.argsort(order)
        roots = layout.roots[back]
        assert layout.rows is not None  # which only nodes by level have not
        layout = layout._replace(position=layout.position[back], rows=order[layout.rows], roots=roots)
        return Encoding(table.index_select(0, roots), table, layout, trace, tracked.index_select(0, back))

    def sample(
        self, embeddings: Tensor, lengths: Tensor, choose: Chooser, words: Tensor | None = None
    ) -> tuple[Encoding, Tensor]:
        """Encode while the transitions are being chosen from what the tracker has read so far.

        Nothing is replayed for the gradient: backward goes through the pass that sampled. ``choose`` is called
        without gradient, once a step, for the rows still running, longest first; what a policy adds to the tracker is
        cheaply judged once more from ``Encoding.tracker``, for all steps at once.

        Args:
            embeddings: [R, N, E] float, or [U, E] with ``words``; see `forward`.
            lengths: [R] int64.
            choose: Gives the transitions.
            words: [R, N] int64; see `forward`.

        Returns:
            The encoding, and the derivations [R, T] int64.

        Raises:
            ValueError: The machine has no tracker, or shapes do not fit.
            IllegalTransitionError: A chosen transition was not legal.
        """
        if self.tracker is None:
            raise ValueError("sampling reads a tracker, this stack machine was built without one")
        named, given = ("embeddings", embeddings) if words is None else ("words", words)
        if given.dim() != (3 if words is None else 2) or given.shape[:1] != lengths.shape:
            raise ValueError(
                f"{named} must be [R, N{', E' if words is None else ''}] with R = {lengths.shape[0]}, "
                f"got {tuple(given.shape)}"
            )
        _at_least_one(lengths)
        embeddings, words = self._checked(embeddings, words)
        with without_autocast(embeddings):
            return self._sample(self.tracker, embeddings, lengths.long(), choose, words)

    def _sample(
        self, tracker: Tracker, embeddings: Tensor, lengths: Tensor, choose: Chooser, words: Tensor | None
    ) -> tuple[Encoding, Tensor]:
        order = torch.argsort(lengths, descending=True, stable=True)
        in_order = lengths[order]
        if words is None:
            leaves, places = real_tokens(embeddings[order], in_order), None
            tokens = torch.arange(leaves.shape[0], device=lengths.device)
        else:
            leaves, places = embeddings, words[order]
            tokens = real_tokens(places.unsqueeze(2), in_order).squeeze(1)
        n_steps = 2 * (embeddings if words is None else words).shape[1] - 1
        chosen = torch.full((n_steps, len(order)), PAD, dtype=torch.int64, device=lengths.device)
        play = choosing(in_order, tokens, choose, chosen)
        table, tracked = track_and_compose(self.composition, tracker, in_order, n_steps, leaves, play)
        sampled = lockstep.trace(chosen.t(), in_order)
        back = torch.argsort(order)
        layout = lay_out(sampled, "by_step", places, leaves.shape[0])
        trace = Trace(*(field[back] for field in sampled))
        return self._encoding(table, tracked, layout, order, trace), chosen.t()[back]

    def _checked(self, embeddings: Tensor, words: Tensor | None) -> tuple[Tensor, Tensor | None]:
        """Give embeddings in the weights' dtype, as autocast may have made another, and check what points to them."""
        words = None if words is None else words.long()
        if words is not None and words.device.type == "cpu" and words.numel():
            least, greatest = (int(bound) for bound in words.aminmax())
            if least < 0 or greatest >= embeddings.shape[0]:
                raise ValueError(
                    f"words must be from 0 to {embeddings.shape[0] - 1}, the rows of embeddings, "
                    f"got words from {least} to {greatest}"
                )
        weight = next(self.composition.parameters(), embeddings)
        return embeddings.to(weight.dtype), words


def _at_least_one(lengths: Tensor) -> None:
    if not lengths.shape[0]:
        raise ValueError("a batch with a tracker needs at least one sentence, got none")


__all__ = [
    "SCHEDULES",
    "Chooser",
    "Encoding",
    "Layout",
    "ScheduleName",
    "StackMachine",
    "distinct_words",
    "lay_out",
]
