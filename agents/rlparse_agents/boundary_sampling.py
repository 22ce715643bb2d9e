"""Sample parses with a network over boundaries: a loop over integers, with a recurrent state if the network has one.

Items are numbered as in `rlparse_agents.sampling`: every step puts one on the stack, and item t is the top before step
t. Each has its mark (`boundaries.leaf_marks`) and the number of what lies beneath it.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from rlparse import PAD, lockstep
from rlparse.lockstep import REDUCE, SHIFT
from rlparse_agents.boundaries import N_WORDS, BoundaryReader, Shares, edged, kernels_for, read
from rlparse_agents.rollout import longest_first
from rlparse_agents.sampling import Draw, stretches_of


class PlayedBoundaries(NamedTuple):
    """Sampled parses.

    Attributes:
        transitions: [R, T] int64, PAD after the end.
        shift_odds: [R, T] float. Logit of SHIFT less that of REDUCE wherever there was a choice; any number elsewhere.
    """

    transitions: Tensor
    shift_odds: Tensor


def play_boundaries(
    tokens: Tensor,
    lengths: Tensor,
    reader: BoundaryReader,
    lstm: nn.LSTM | None,
    head: nn.Linear,
    draw: Draw,
    *,
    catalan_prior: bool,
) -> PlayedBoundaries:
    """Parse every row, without gradient.

    Args:
        tokens: [R, N] int64.
        lengths: [R] int64.
        reader: The network's first layer.
        lstm: What reads it step by step, or None.
        head: From that to the logits of SHIFT and REDUCE.
        draw: Called once, for [T, R] thresholds.
        catalan_prior: Add `lockstep.catalan_logits`.

    Raises:
        ValueError: A length is outside 1..N.
    """
    rows, n_tokens = tokens.shape
    shortest, longest = (int(x) for x in lengths.aminmax())
    if not 1 <= shortest <= longest <= n_tokens:
        raise ValueError(f"lengths must be from 1 to {n_tokens}, got lengths from {shortest} to {longest}")
    shares = reader.shares(edged(tokens, lengths), lengths)
    for_shift = head.weight[SHIFT] - head.weight[REDUCE]
    prior = (head.bias[SHIFT] - head.bias[REDUCE]).expand(1, 1)
    table = lockstep.catalan_table(n_tokens, device=tokens.device)
    prior = (prior - table.to(prior.dtype) if catalan_prior else prior.expand(table.shape)).contiguous()
    n_steps = 2 * n_tokens - 1
    thresholds = draw((n_steps, rows)).to(for_shift.dtype)
    kernels = kernels_for(for_shift)
    if kernels is None or lstm is not None:
        return _play(shares, lengths, lstm, for_shift, prior, thresholds)
    transitions = torch.full((rows, n_steps), PAD, dtype=torch.int64)
    shift_odds = for_shift.new_zeros(rows, n_steps)
    room = torch.empty_like(for_shift), torch.empty(2 * n_tokens, dtype=torch.int64)
    reading = lengths.contiguous(), shares.words, shares.of_words, shares.of_kinds, for_shift, prior
    kernels.play_boundaries(*reading, thresholds, *room, transitions, shift_odds)
    return PlayedBoundaries(transitions, shift_odds)


def _play(
    shares: Shares,
    lengths: Tensor,
    lstm: nn.LSTM | None,
    for_shift: Tensor,
    prior: Tensor,
    thresholds: Tensor,
) -> PlayedBoundaries:
    """Do what the compiled function does, with torch: the longest row first, so that finished ones fall off the end.

    Args:
        shares: What is read.
        lengths: [R] int64.
        lstm: What reads it step by step, or None.
        for_shift: [H] float. Weights of the logit of SHIFT less those of REDUCE.
        prior: [W, W] float. What does not depend on words of that difference, by stack and buffer size.
        thresholds: [T, R] float.
    """
    by_length, _ = longest_first(lengths)
    thresholds, words, lengths = thresholds[:, by_length], shares.words[by_length], lengths[by_length]
    rows, width = words.shape
    n_steps, device = len(thresholds), words.device
    stretches = stretches_of(lengths.tolist())
    # Columns of all rows in one line, behind one more that holds nothing.
    word_at = F.pad(words.flatten(), (1, 0))
    nothing = torch.arange(rows, device=device) * width + 1
    first = nothing + 1
    highest = first + lengths
    # Entry of `prior` with f tokens shifted: (2 f - t) W + (n - f).
    size = prior.shape[1]
    per_token = 2 * size - 1
    origin = lengths - per_token * first
    # Each item's mark, with columns counted along the line, and the number of what lies beneath it.
    n_items = rows + sum((stop - start) * active for start, stop, active in stretches)
    items = torch.empty(n_items, 2, dtype=torch.int64, device=device)
    numbers = torch.arange(n_items, device=device)
    items[:rows, 0] = 4 * nothing
    items[:rows, 1] = numbers[:rows]
    slots = torch.arange(N_WORDS, device=device)
    transitions = torch.full((n_steps, rows), PAD, dtype=torch.int64, device=device)
    shift_odds = for_shift.new_zeros(n_steps, rows)
    front = first
    tracked = None if lstm is None else (for_shift.new_zeros(rows, lstm.hidden_size),) * 2
    before, done = 0, rows
    for start, stop, active in stretches:
        front, high = front[:active], highest[:active]
        if tracked is not None:
            tracked = tracked[0][:active], tracked[1][:active]
        for t in range(start, stop):
            mark, beneath = items[before : before + active].unbind(1)
            mark_of_second, beneath_second = items.index_select(0, beneath).unbind(1)
            left, left_of_second = mark >> 2, mark_of_second >> 2
            places = torch.stack((left_of_second, left - 1, left, front - 1, front), dim=1)
            kinds = (mark & 3).add_(mark_of_second & 3, alpha=4)
            hidden = read(shares.of_words, shares.of_kinds, word_at.take(places).add_(slots), kinds)
            if lstm is not None:
                assert tracked is not None
                tracked = torch.lstm_cell(hidden, tracked, *lstm.all_weights[0])
                hidden = tracked[0]
            place = torch.add(origin[:active] - size * t, front, alpha=per_token)
            odds = torch.addmv(prior.take(place), hidden, for_shift)
            shifts = thresholds[t, :active] <= odds
            # With t + 1 steps taken, at least (t + 1) // 2 + 1 tokens are shifted, and at most all.
            after = torch.minimum((front + shifts).clamp_min_(first[:active] + (t + 1) // 2 + 1), high)
            reduces = after == front
            item = items[done : done + active]
            torch.where(reduces, 4 * left_of_second + 1 + 2 * (mark & 1), 4 * front, out=item[:, 0])
            torch.where(reduces, beneath_second, numbers[before : before + active], out=item[:, 1])
            transitions[t, :active] = reduces
            shift_odds[t, :active] = odds
            front, before, done = after, done, done + active
    back = torch.argsort(by_length)
    return PlayedBoundaries(
        *(plane.index_select(1, back).t().contiguous() for plane in (transitions, shift_odds))
    )
