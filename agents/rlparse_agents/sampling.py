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
from torch.nn import functional as F

from rlparse import PAD, lockstep
from rlparse.compiled import gate_kernels
from rlparse.lockstep import REDUCE, SHIFT
from rlparse.models.cells import Children
from rlparse.models.composition import Composition
from rlparse.models.tracker import Tracker
from rlparse_agents.rollout import Seen, longest_first

Draw = Callable[[tuple[int, ...]], Tensor]
"""Give thresholds of a shape: SHIFT is taken where its odds are not lower.

Of uniform numbers u they are logit(u), because u <= P(SHIFT) = sigmoid(odds) is logit(u) <= odds; zeros take what is
likelier, SHIFT on a tie.
"""


def drawing(generator: torch.Generator | None, device: torch.device, temperature: float) -> Draw:
    """Draw thresholds at random.

    They are multiplied by the temperature where the odds would be divided by it, so that the loop knows nothing of it.
    """

    def draw(shape: tuple[int, ...]) -> Tensor:
        return torch.logit(torch.rand(shape, generator=generator, device=device)) * temperature

    return draw


class Reading(NamedTuple):
    """What the loop reads, computed for all tokens at once before it.

    Attributes:
        composition: What REDUCE computes.
        leaves: [R * (N + 1), D] float each. Planes of the tokens' states; zeros at and past a sentence's end.
        ahead: [R * (N + 1), 4H] float. The tracker's gates as far as they depend on the next token. The weights of its
            candidates are doubled here: tanh(x) = 2 sigmoid(2 x) - 1, and on a CPU one sigmoid over all four gates is
            much faster than a tanh over one.
        of_stack: [2D, 4H] float. The tracker's weights of the second of the stack, and of its top.
        of_hidden: [H, 4H] float. Those of its own hidden vector.
        for_shift: [H] float. Weights of the logit of SHIFT less those of REDUCE.
        prior: [W, W] float. What does not depend on words of that difference, by stack and buffer size.
        lengths: [R] int64.
        n_tokens: N.
    """

    composition: Composition
    leaves: tuple[Tensor, ...]
    ahead: Tensor
    of_stack: Tensor
    of_hidden: Tensor
    for_shift: Tensor
    prior: Tensor
    lengths: Tensor
    n_tokens: int


Read = Callable[[Tensor, Tensor], Reading]
"""`read` of what is to be read: (tokens [R, N], lengths [R]) to what the loop reads."""


class Parses(NamedTuple):
    """What the loop leaves, item after item: R times nothing, then what every step of every row put on the stack.

    A step is before the item that it makes. Finished rows of the dense form go on making items, which carry no meaning,
    but are valid and finite.

    Attributes:
        tops: [S] int64. The item on top of the stack before every step.
        beneath: [R + S] int64. The item that lies beneath each item.
        fronts: [R + S] int64. Row of ``leaves`` of the next token, once an item is there.
        items: [R + S, D] float. Hidden vectors.
        shift_odds: [S] float. Logit of SHIFT less that of REDUCE at every step.
    """

    tops: Tensor
    beneath: Tensor
    fronts: Tensor
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
    composition: Composition,
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
        composition: What REDUCE computes.
        tracker: Reads the hidden vectors of the next token, the stack's top and the second beneath it.
        head: From the tracker's hidden vector to the logits of SHIFT and REDUCE.
        catalan_prior: Add `lockstep.catalan_logits`.
    """
    n_tokens = tokens.shape[1]
    states = composition.leaf(embedding(tokens))
    token_mask = torch.arange(n_tokens, device=tokens.device) < lengths.unsqueeze(1)
    states = F.pad(states * token_mask.unsqueeze(2).to(states.dtype), (0, 0, 0, 1)).flatten(0, 1)
    leaves = tuple(plane.contiguous() for plane in states.split(composition.hidden_size, dim=1))
    doubled = head.bias.new_ones(4, 1)
    doubled[2].fill_(2.0)  # an LSTM's gates are input, forget, candidate, output
    of_input, of_hidden, b_ih, b_hh = (
        (weight.view(4, -1) * doubled).view(weight.shape) for weight in tracker.lstm.all_weights[0]
    )
    of_front, of_top, of_second = of_input.t().chunk(3)
    prior = (head.bias[SHIFT] - head.bias[REDUCE]).expand(1, 1)
    table = lockstep.catalan_table(n_tokens, device=tokens.device)
    return Reading(
        composition=composition,
        leaves=leaves,
        ahead=torch.addmm(b_ih + b_hh, leaves[0], of_front),
        of_stack=torch.cat((of_second, of_top)),
        of_hidden=of_hidden.t(),
        for_shift=head.weight[SHIFT] - head.weight[REDUCE],
        prior=prior - table.to(prior.dtype) if catalan_prior else prior.expand(table.shape),
        lengths=lengths,
        n_tokens=n_tokens,
    )


def play(
    reading: Reading, stretches: Sequence[Stretch], thresholds: Sequence[Tensor], *, dense: bool
) -> Parses:
    """Parse every row.

    Everything is written into tensors that are allocated, and cut into views, before the steps that use them: the
    vectors are short, so that what a step costs is mostly the number of operations in it.

    Args:
        reading: What to read.
        stretches: How many rows take part in which steps; they follow each other from step 0.
        thresholds: [rows] float for each step: SHIFT where the odds of it are not lower.
        dense: Compose every row at every step and drop what was not asked for, so that no shape depends on data and
            nothing has to be known outside the device. Otherwise only rows that REDUCE are composed.
    """
    leaves, lengths, like = reading.leaves, reading.lengths, reading.ahead
    rows, width, device = len(lengths), reading.prior.shape[1], like.device
    D, H = leaves[0].shape[1], len(reading.of_hidden)
    n_steps = sum((stop - start) * active for start, stop, active in stretches)
    # Every sentence's first row of `leaves`. A row's front stays between two bounds, and once it has finished at the
    # highest, which wins over the other.
    first = torch.arange(rows, device=device) * (reading.n_tokens + 1)
    highest, last_step = first + lengths, 2 * lengths - 2
    # Entry of `prior` with f tokens shifted: (2 f - t) W + (n - f). It may not run away after a row's last step.
    per_token = 2 * width - 1
    origin = lengths - per_token * first

    numbers = torch.arange(rows + n_steps, device=device)
    pairs = numbers.unsqueeze(1).repeat(1, 2)  # [R + S, 2]: what lies beneath each item, and the item
    all_beneath = pairs[:, 0]
    fronts = torch.empty_like(numbers)
    fronts[:rows] = first
    items = tuple(like.new_empty(rows + n_steps, D) for _ in leaves)
    for plane in items:
        plane[:rows].zero_()
    shift_odds = like.new_empty(n_steps)
    h, c, spare, squashed = (like.new_zeros(rows, H) for _ in range(4))
    shifts, minus_one, kernels = torch.empty_like(first), like.new_full((), -1.0), gate_kernels(like)
    gates, read_stack = like.new_empty(rows, 4 * H), like.new_empty(rows, 2 * D)
    composed = tuple(like.new_empty(rows, D) for _ in leaves)
    cell = reading.composition.cell(rows, like)
    tops, done, before = [], rows, slice(0, rows)
    for start, stop, active in stretches:
        gate, both = gates[:active], read_stack[:active]
        i, f, g, o = gate.split(H, dim=1)
        h, c, spare, squashed, shift, high = (x[:active] for x in (h, c, spare, squashed, shifts, highest))
        steps = torch.arange(start, stop, device=device).unsqueeze(1)
        low = (first[:active] + (steps + 1) // 2 + 1).unbind()
        place = (origin[:active] - width * torch.minimum(steps, last_step[:active])).unbind()
        # The items of these steps; before the first of them stand those of the step before.
        block = slice(done, done + (stop - start) * active)
        odds = shift_odds[done - rows : block.stop - rows].view(-1, active).unbind()
        item = [plane[block].view(-1, active, D).unbind() for plane in items]
        front = (fronts[before][:active], *fronts[block].view(-1, active).unbind())
        pair = (pairs[before][:active], *pairs[block].view(-1, active, 2).unbind())
        tops += [numbers[before][:active], numbers[done : block.stop - active]]
        done, before = block.stop, slice(block.stop - active, block.stop)
        for k, threshold in enumerate(thresholds[start:stop]):
            torch.index_select(items[0], 0, pair[k].view(-1), out=both.view(-1, D))
            torch.index_select(reading.ahead, 0, front[k], out=gate)
            gate.addmm_(both, reading.of_stack).addmm_(h, reading.of_hidden)
            if kernels is None:
                gate.sigmoid_()
                c.mul_(f).addcmul_(i, g, value=2.0).sub_(i)
                torch.add(c, c, out=squashed).sigmoid_()
                torch.mul(o, torch.add(minus_one, squashed, alpha=2.0, out=squashed), out=h)
            else:
                kernels.lstm_forward(gate, c, h, spare, squashed)
                c, spare = spare, c
            prior = reading.prior.take(torch.add(place[k], front[k], alpha=per_token))
            torch.addmv(prior, h, reading.for_shift, out=odds[k])
            torch.le(threshold, odds[k], out=shift)
            reduces = torch.clamp(shift.add_(front[k]), low[k], high, out=front[k + 1]) == front[k]
            second, top = pair[k].unbind(1)
            torch.where(reduces, all_beneath.index_select(0, second), top, out=pair[k + 1].select(1, 0))
            if dense:
                cell.compose(Children(both, items, pair[k].reshape(-1)), composed, cell.kept)
                for leaf, made, to in zip(leaves, composed, item, strict=True):
                    torch.where(reduces.unsqueeze(1), made, leaf.index_select(0, front[k]), out=to[k])
            else:
                chosen = reduces.nonzero().squeeze(1)
                m = chosen.shape[0]
                children = pair[k].index_select(0, chosen).view(-1)
                out = tuple(plane[:m] for plane in composed)
                joined = Children(both.index_select(0, chosen), items, children)
                cell.compose(joined, out, tuple(table[:m] for table in cell.kept))
                for leaf, made, to in zip(leaves, out, item, strict=True):
                    torch.index_select(leaf, 0, front[k], out=to[k])
                    to[k].index_copy_(0, chosen, made)
    return Parses(torch.cat(tops), all_beneath, fronts, items[0], shift_odds)


class Played(NamedTuple):
    """A batch that was parsed.

    Attributes:
        reading: What was read.
        parses: What the loop left.
        places: [S] int64. Where each step belongs in a flattened [T, R] plane of the batch; None in the dense form,
            whose steps are such a plane.
        n_steps: T of the batch; the dense form may have gone on.
    """

    reading: Reading
    parses: Parses
    places: Tensor | None
    n_steps: int

    def transitions(self) -> Tensor:
        """Read the derivations off: [R, T] int64, PAD after the end."""
        tops, _, fronts, _, _ = self.parses
        reduces = fronts[-len(tops) :] == fronts.index_select(0, tops)
        return self._by_row(reduces.long(), PAD).contiguous()

    def logits(self) -> Tensor:
        """Give the logits from which every transition was drawn: [R, T, A] float, zeros after the end."""
        odds = self._by_row(self.parses.shift_odds, 0)
        return torch.stack((odds, torch.zeros_like(odds)), dim=-1)

    def seen(self) -> Seen:
        """Give what the tracker read before every step, apart from any graph's memory."""
        leaves, (tops, beneath, fronts, items, _) = self.reading.leaves[0], self.parses
        read = fronts.index_select(0, tops), tops + len(leaves), beneath.index_select(0, tops) + len(leaves)
        slots = torch.stack([self._by_row(slot, 0) for slot in read], dim=2)
        return Seen(torch.cat((leaves, items)), slots)

    def _by_row(self, values: Tensor, nothing: int) -> Tensor:
        """Put one value a step where it belongs, and ``nothing`` after the end: [S] to [R, T]."""
        lengths, rows = self.reading.lengths, len(self.reading.lengths)
        if self.places is None:
            plane = values.view(-1, rows)[: self.n_steps]
            steps = torch.arange(self.n_steps, device=values.device).unsqueeze(1)
            return plane.masked_fill(steps > 2 * lengths - 2, nothing).t()
        plane = values.new_full((self.n_steps * rows,), nothing)
        return plane.index_copy_(0, self.places, values).view(-1, rows).t()


def play_dropping(tokens: Tensor, lengths: Tensor, read: Read, draw: Draw) -> Played:
    """Parse with the longest sentences first, so that finished ones fall off the end: the form for CPUs.

    Args:
        tokens: [R, N] int64.
        lengths: [R] int64.
        read: Gives what is read.
        draw: Called once, for one threshold for every step of every row: step by step, longest row first.

    Raises:
        ValueError: A length is outside 1..N.
    """
    by_length, _ = longest_first(lengths)
    falling = lengths[by_length].tolist()
    if not 1 <= falling[-1] <= falling[0] <= tokens.shape[1]:
        raise ValueError(
            f"lengths must be from 1 to {tokens.shape[1]}, got lengths from {falling[-1]} to {falling[0]}"
        )
    reading = read(tokens[by_length], lengths[by_length])
    stretches = stretches_of(falling)
    counts = [stretch.rows for stretch in stretches for _ in range(stretch.start, stretch.stop)]
    thresholds = draw((sum(counts),)).split(counts)
    n_steps = 2 * tokens.shape[1] - 1
    running = torch.arange(n_steps, device=lengths.device).unsqueeze(1) < 2 * reading.lengths - 1
    step, row = running.nonzero().unbind(1)
    places = step * len(lengths) + by_length[row]
    return Played(reading, play(reading, stretches, thresholds, dense=False), places, n_steps)


def play_dense(tokens: Tensor, lengths: Tensor, read: Read, draw: Draw) -> Played:
    """Parse in shapes that depend on those of ``tokens`` only, without ever asking for a value: the form for GPUs.

    Args:
        tokens: [R, N] int64.
        lengths: [R] int64.
        read: Gives what is read.
        draw: Called once, for [T, R] thresholds.
    """
    rows, n_tokens = tokens.shape
    n_steps = 2 * n_tokens - 1
    reading = read(tokens, lengths)
    parses = play(reading, [Stretch(0, n_steps, rows)], draw((n_steps, rows)).unbind(), dense=True)
    return Played(reading, parses, None, n_steps)


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
