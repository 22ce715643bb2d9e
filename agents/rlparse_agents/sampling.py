"""Sample parses with a tracker over buffer and stack: one loop, in a form for CPUs and one of fixed shapes.

Every step puts one item on the stack, a token or a composed node, so that items are numbered by the step before which
they came: the top of the stack before step t is item t, and what lies beneath an item never changes while it is there.
Two planes of integers are then the whole parser: how many tokens each row has shifted before every step, and which
item lies beneath each item. Transitions, legality and the tracker's inputs all follow from them.

With f tokens shifted in the first t steps, f - (t - f) items are on the stack. Transitions are legal exactly while f
stays between t // 2 + 1 and the sentence's length: at least one item on the stack, no token shifted that is not there.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import NamedTuple

import torch
from torch import Tensor, nn

from rlparse import PAD, lockstep
from rlparse.lockstep import REDUCE, SHIFT
from rlparse.models.composition import Composition
from rlparse.models.tracker import Tracker
from rlparse_agents.rollout import longest_first

Draw = Callable[[tuple[int, ...]], Tensor]
"""Give as many numbers from 0 to 1 (excluded) as a shape holds, on the device of the parse."""


class Reading(NamedTuple):
    """What the loop reads, computed for all tokens at once before it.

    Attributes:
        cell: Composes.
        leaves: [R * (N + 1), state_size] float. States of tokens; zeros at and past a sentence's end.
        ahead: [R * (N + 1), 4H] float. The tracker's gates as far as they depend on the next token. The order of the
            gates here is input, forget, output, candidate, so that one sigmoid serves the first three.
        of_top: [D, 4H] float. The tracker's weights of the stack's top.
        of_second: [D, 4H] float. Of the item beneath it.
        of_hidden: [H, 4H] float. Of its own hidden vector.
        for_shift: [H] float. Weights of the logit of SHIFT less those of REDUCE.
        prior: [W, W] float. What does not depend on words of that difference, by stack and buffer size.
        lengths: [R] int64.
        n_tokens: N.
    """

    cell: Composition
    leaves: Tensor
    ahead: Tensor
    of_top: Tensor
    of_second: Tensor
    of_hidden: Tensor
    for_shift: Tensor
    prior: Tensor
    lengths: Tensor
    n_tokens: int


class Parses(NamedTuple):
    """What the loop leaves. Past a row's last step the entries carry no meaning, but are valid and finite.

    Attributes:
        fronts: [T + 1, R] int64. Row of ``leaves`` of the next token, before every step and after the last.
        beneath: [T + 1, R] int64. Row of the flattened ``items`` that lies beneath each item.
        items: [T + 1, R, state_size] float. The stack's top before every step and after the last; item 0 is nothing.
        shift_odds: [T, R] float. Logit of SHIFT less that of REDUCE at every step.
    """

    fronts: Tensor
    beneath: Tensor
    items: Tensor
    shift_odds: Tensor


class Stretch(NamedTuple):
    """Steps ``start`` to ``stop`` (excluded), which the first ``rows`` rows take."""

    start: int
    stop: int
    rows: int


def read(
    tokens: Tensor,
    lengths: Tensor,
    embedding: nn.Embedding,
    cell: Composition,
    tracker: Tracker,
    head: nn.Linear,
    *,
    catalan_prior: bool,
) -> Reading:
    """Do everything that one product over all tokens can do.

    Args:
        tokens: [R, N] int64.
        lengths: [R] int64.
        embedding: Of tokens.
        cell: What REDUCE computes.
        tracker: Reads the hidden vectors of the next token, the stack's top and the item beneath it.
        head: From the tracker's hidden vector to the logits of SHIFT and REDUCE.
        catalan_prior: Add `lockstep.catalan_logits`.
    """
    rows, n_tokens = tokens.shape
    token_mask = torch.arange(n_tokens, device=tokens.device) < lengths.unsqueeze(1)
    states = cell.leaf(embedding(tokens))
    leaves = states.new_zeros(rows, n_tokens + 1, cell.state_size)
    leaves[:, :-1] = states.masked_fill(~token_mask.unsqueeze(2), 0.0)
    leaves = leaves.flatten(0, 1)
    w_ih, w_hh, b_ih, b_hh = (_candidate_last(w) for w in tracker.lstm.all_weights[0])
    of_front, of_top, of_second = w_ih.t().chunk(3)
    table = lockstep.catalan_table(n_tokens, device=tokens.device)
    weight, bias = head.weight[SHIFT] - head.weight[REDUCE], head.bias[SHIFT] - head.bias[REDUCE]
    prior = bias - table.to(bias.dtype) if catalan_prior else bias.expand(table.shape)
    return Reading(
        cell=cell,
        leaves=leaves,
        ahead=torch.addmm(b_ih + b_hh, cell.hidden(leaves), of_front),
        of_top=of_top,
        of_second=of_second,
        of_hidden=w_hh.t(),
        for_shift=weight,
        prior=prior,
        lengths=lengths,
        n_tokens=n_tokens,
    )


def play(reading: Reading, stretches: Sequence[Stretch], draws: Sequence[Tensor], *, dense: bool) -> Parses:
    """Parse, row by row as `TransitionDistribution` has it: REDUCE where a draw is not below P(SHIFT).

    Args:
        reading: What to read.
        stretches: How many rows take part in which steps; they follow each other from step 0.
        draws: [rows] float for each step, from 0 to 1 (excluded).
        dense: Compose every row at every step and drop what was not asked for, so that no shape depends on data and
            nothing has to be known outside the device. Otherwise only rows that REDUCE are composed.
    """
    cell, leaves, n_tokens = reading.cell, reading.leaves, reading.n_tokens
    lengths, device = reading.lengths, reading.lengths.device
    rows, n_steps, width = len(lengths), 2 * n_tokens - 1, reading.prior.shape[1]
    first = torch.arange(rows, device=device) * (
        n_tokens + 1
    )  # row of `leaves` of each sentence's first token
    steps = torch.arange(n_steps, device=device).unsqueeze(1)
    # Between these a row's front stays. A finished row's stays at the highest, which wins.
    lowest, highest = first + (steps + 1) // 2 + 1, first + lengths
    # Row of `prior` of f shifted tokens: (2 f - t) W + (n - f). It may not run away after a row's last step.
    per_token = 2 * width - 1
    origin = lengths - width * torch.minimum(steps, 2 * lengths - 2) - per_token * first

    items = leaves.new_zeros(n_steps + 1, rows, cell.state_size)
    flat = items.view(-1, cell.state_size)
    own = torch.arange(len(flat), device=device).view(n_steps + 1, rows)
    beneath = own[0].repeat(n_steps + 1, 1)
    fronts = first.repeat(n_steps + 1, 1)
    shift_odds = leaves.new_zeros(n_steps, rows)
    hidden = leaves.new_zeros(rows, len(reading.of_hidden))
    memory = torch.zeros_like(hidden)
    H = hidden.shape[1]
    for start, stop, active in stretches:
        hidden, memory, high = hidden[:active], memory[:active], highest[:active]
        planes = (plane[start : stop + 1, :active].unbind() for plane in (items, own, beneath, fronts))
        item, me, under, front = planes
        per_step = (plane[start:stop, :active].unbind() for plane in (lowest, origin, shift_odds))
        low, place, odds = per_step
        for k, draw in enumerate(draws[start:stop]):
            top, before = item[k], front[k]
            second = flat.index_select(0, under[k])
            gates = reading.ahead.index_select(0, before)
            gates.addmm_(cell.hidden(top), reading.of_top)
            gates.addmm_(cell.hidden(second), reading.of_second)
            gates.addmm_(hidden, reading.of_hidden)
            i, f, o = gates[:, : 3 * H].sigmoid_().split(H, 1)
            memory = (memory * f).addcmul_(i, torch.tanh(gates[:, 3 * H :]))
            hidden = torch.tanh(memory).mul_(o)
            prior = reading.prior.take(torch.add(place[k], before, alpha=per_token))
            torch.addmv(prior, hidden, reading.for_shift, out=odds[k])
            wanted = before + (draw < torch.sigmoid(odds[k]))
            after = torch.clamp(wanted, low[k], high, out=front[k + 1])
            reduces = after == before
            torch.where(reduces, beneath.take(under[k]), me[k], out=under[k + 1])
            if dense:
                shifted = leaves.index_select(0, before)
                torch.where(reduces.unsqueeze(1), cell(second, top), shifted, out=item[k + 1])
            else:
                torch.index_select(leaves, 0, before, out=item[k + 1])
                chosen = reduces.nonzero().squeeze(1)
                composed = cell(second.index_select(0, chosen), top.index_select(0, chosen))
                item[k + 1].index_copy_(0, chosen, composed)
    return Parses(fronts, beneath, items, shift_odds)


class Played(NamedTuple):
    """A batch that was parsed.

    Attributes:
        reading: What was read.
        parses: What the loop left.
        order: [R] int64. Column of the planes in which each row of the batch was parsed, None where it is the same.
        n_steps: T of the batch; the planes may be longer.
    """

    reading: Reading
    parses: Parses
    order: Tensor | None
    n_steps: int

    def transitions(self) -> Tensor:
        """Read the derivations off: [R, T] int64, PAD after the end."""
        fronts, lengths = self.parses.fronts[: self.n_steps + 1], self.reading.lengths
        steps = torch.arange(self.n_steps, device=lengths.device).unsqueeze(1)
        running = steps < 2 * lengths - 1
        return self._in_order(torch.where(running, (fronts[1:] == fronts[:-1]).long(), PAD)).t().contiguous()

    def logits(self) -> Tensor:
        """Give the logits from which every transition was drawn: [R, T, A] float."""
        odds = self._in_order(self.parses.shift_odds[: self.n_steps]).t()
        return torch.stack((odds, torch.zeros_like(odds)), dim=-1)

    def inputs(self) -> Tensor:
        """Give what the tracker read before every step: [R, T, 3D] float, apart from any graph."""
        cell, parses, steps = self.reading.cell, self.parses, slice(self.n_steps)
        items = cell.hidden(parses.items.flatten(0, 1))
        tops = torch.arange(len(items), device=items.device).view(parses.beneath.shape)
        D = items.shape[1]
        inputs = items.new_empty(self.n_steps, len(self.reading.lengths), 3 * D)
        for k, (source, slots) in enumerate(
            ((cell.hidden(self.reading.leaves), parses.fronts), (items, tops), (items, parses.beneath))
        ):
            rows = self._in_order(slots[steps]).flatten()
            torch.index_select(source, 0, rows, out=inputs.flatten(0, 1)[:, k * D : (k + 1) * D])
        return inputs.transpose(0, 1)

    def _in_order(self, plane: Tensor) -> Tensor:
        return plane if self.order is None else plane.index_select(1, self.order)


def play_dropping(
    tokens: Tensor, lengths: Tensor, read: Callable[[Tensor, Tensor], Reading], draw: Draw
) -> Played:
    """Parse with the longest sentences first, so that finished ones fall off the end: the form for CPUs.

    Args:
        tokens: [R, N] int64.
        lengths: [R] int64.
        read: `read` of what is to be read.
        draw: Called once, for one number for every step of every row: step by step, longest row first.
    """
    by_length, back = longest_first(lengths)
    reading = read(tokens[by_length], lengths[by_length])
    stretches = stretches_of(reading.lengths.tolist())
    counts = [stretch.rows for stretch in stretches for _ in range(stretch.start, stretch.stop)]
    draws = draw((sum(counts),)).split(counts)
    return Played(reading, play(reading, stretches, draws, dense=False), back, 2 * tokens.shape[1] - 1)


def play_dense(
    tokens: Tensor, lengths: Tensor, read: Callable[[Tensor, Tensor], Reading], draw: Draw
) -> Played:
    """Parse in shapes that depend on those of ``tokens`` only, without ever asking for a value: the form for GPUs.

    Args:
        tokens: [R, N] int64.
        lengths: [R] int64.
        read: `read` of what is to be read.
        draw: Called once, for [T, R] numbers.
    """
    rows, n_tokens = tokens.shape
    n_steps = 2 * n_tokens - 1
    reading = read(tokens, lengths)
    parses = play(reading, [Stretch(0, n_steps, rows)], draw((n_steps, rows)).unbind(), dense=True)
    return Played(reading, parses, None, n_steps)


def greedy_draw(like: Tensor) -> Draw:
    """Give the draw that takes the likeliest transition, SHIFT on a tie: the last number below a half."""
    below_half = torch.nextafter(like.new_tensor(0.5), like.new_tensor(0.0))
    return below_half.expand


def stretches_of(lengths: Sequence[int]) -> list[Stretch]:
    """Cut the steps where rows finish, for lengths that fall from row to row."""
    found: list[Stretch] = []
    start = 0
    for row in range(len(lengths) - 1, -1, -1):
        stop = 2 * lengths[row] - 1
        if stop > start:
            found.append(Stretch(start, stop, row + 1))
            start = stop
    return found


def _candidate_last(weight: Tensor) -> Tensor:
    """Reorder an LSTM's gates from (input, forget, candidate, output) to (input, forget, output, candidate)."""
    i, f, g, o = weight.chunk(4)
    return torch.cat((i, f, o, g))
