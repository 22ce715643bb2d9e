"""Sample parses with a network over boundaries: a loop over integers, with a recurrent state if the network has one.

Items are numbered as in `rlparse_agents.sampling`: every step puts one on the stack, and item t is the top before step
t. Each has its mark (`boundaries.leaf_marks`) and the number of what lies beneath it.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from rlparse import PAD, lockstep
from rlparse.lockstep import REDUCE, SHIFT
from rlparse_agents.boundaries import N_WORDS, BoundaryReader, Shares, edged, sum_of_rows
from rlparse_agents.rollout import longest_first
from rlparse_agents.sampling import Draw, Stretch, stretches_of


class PlayedBoundaries(NamedTuple):
    """Sampled parses.

    Attributes:
        transitions: [R, T] int64, PAD after the end.
        logits: [R, T, A] float. From which every transition was drawn, zeros after the end.
    """

    transitions: Tensor
    logits: Tensor


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
    """Parse every row, the longest first, so that finished ones fall off the end; without gradient.

    Args:
        tokens: [R, N] int64.
        lengths: [R] int64.
        reader: The network's first layer.
        lstm: What reads it step by step, or None.
        head: From that to the logits of SHIFT and REDUCE.
        draw: Called once, for one threshold for every step of every row: step by step, longest row first.
        catalan_prior: Add `lockstep.catalan_logits`.

    Raises:
        ValueError: A length is outside 1..N.
    """
    rows, n_tokens = tokens.shape
    by_length, _ = longest_first(lengths)
    falling = lengths[by_length].tolist()
    if not 1 <= falling[-1] <= falling[0] <= n_tokens:
        raise ValueError(
            f"lengths must be from 1 to {n_tokens}, got lengths from {falling[-1]} to {falling[0]}"
        )
    tokens, lengths = tokens[by_length], lengths[by_length]
    shares = reader.shares(edged(tokens, lengths), lengths)
    stretches = stretches_of(falling)
    counts = [stretch.rows for stretch in stretches for _ in range(stretch.start, stretch.stop)]
    thresholds = draw((sum(counts),)).split(counts)
    reduces, odds = _play(shares, lengths, lstm, head, stretches, thresholds, catalan_prior=catalan_prior)
    n_steps = 2 * n_tokens - 1
    running = torch.arange(n_steps, device=lengths.device).unsqueeze(1) < 2 * lengths - 1
    step, row = running.nonzero().unbind(1)
    places = by_length[row] * n_steps + step
    transitions = torch.full((rows * n_steps,), PAD, dtype=torch.int64, device=lengths.device)
    logits = odds.new_zeros(rows * n_steps, 2)
    transitions[places] = reduces.long()
    logits[places, SHIFT] = odds
    return PlayedBoundaries(transitions.view(rows, n_steps), logits.view(rows, n_steps, 2))


def _play(
    shares: Shares,
    lengths: Tensor,
    lstm: nn.LSTM | None,
    head: nn.Linear,
    stretches: Sequence[Stretch],
    thresholds: Sequence[Tensor],
    *,
    catalan_prior: bool,
) -> tuple[Tensor, Tensor]:
    """Tell for each of S steps, in the order of the thresholds, whether it REDUCEs, and the odds of SHIFT."""
    of_words, of_kinds, words = shares
    rows, width = words.shape
    device = words.device
    # Columns of all rows in one line, behind one more that holds nothing.
    word_at = F.pad(words.flatten(), (1, 0))
    nothing = torch.arange(rows, device=device) * width + 1
    first = nothing + 1
    highest = first + lengths
    for_shift = head.weight[SHIFT] - head.weight[REDUCE]
    prior = (head.bias[SHIFT] - head.bias[REDUCE]).expand(1, 1)
    table = lockstep.catalan_table(width - 2, device=device)
    prior = (prior - table.to(prior.dtype) if catalan_prior else prior.expand(table.shape)).contiguous()
    # Entry of `prior` with f tokens shifted: (2 f - t) W + (n - f).
    size = prior.shape[1]
    per_token = 2 * size - 1
    origin = lengths - per_token * first
    n_steps = sum(map(len, thresholds))
    # Each item's mark, with columns counted along the line, and the number of what lies beneath it.
    items = torch.empty(rows + n_steps, 2, dtype=torch.int64, device=device)
    numbers = torch.arange(rows + n_steps, device=device)
    items[:rows, 0] = 4 * nothing
    items[:rows, 1] = numbers[:rows]
    slots = torch.arange(N_WORDS, device=device)
    odds, all_reduces = [], []
    front = first
    tracked = None if lstm is None else (head.weight.new_zeros(rows, lstm.hidden_size),) * 2
    before, done, t = 0, rows, 0
    for _, stop, active in stretches:
        front, high = front[:active], highest[:active]
        if tracked is not None:
            tracked = tracked[0][:active], tracked[1][:active]
        while t < stop:
            top = items[before : before + active]
            mark, beneath = top.unbind(1)
            second = items.index_select(0, beneath)
            left, left_of_second = mark >> 2, second[:, 0] >> 2
            places = torch.stack((left_of_second, left - 1, left, front - 1, front), dim=1)
            read = word_at.take(places).add_(slots)
            kinds = (mark & 3).add_(second[:, 0] & 3, alpha=4)
            hidden = sum_of_rows(of_words, of_kinds, read, kinds).relu_()
            if lstm is not None:
                assert tracked is not None
                tracked = torch.lstm_cell(hidden, tracked, *lstm.all_weights[0])
                hidden = tracked[0]
            place = torch.add(origin[:active] - size * t, front, alpha=per_token)
            odd = torch.addmv(prior.take(place), hidden, for_shift)
            shifts = thresholds[t] <= odd
            # Legal are the fronts from t // 2 + 1 tokens on (rounded up after the step) to the sentence's end.
            after = torch.minimum((front + shifts).clamp_min_(first[:active] + (t + 1) // 2 + 1), high)
            reduces = after == front
            item = items[done : done + active]
            torch.where(reduces, 4 * left_of_second + 1 + 2 * (mark & 1), 4 * front, out=item[:, 0])
            torch.where(reduces, second[:, 1], numbers[before : before + active], out=item[:, 1])
            odds.append(odd)
            all_reduces.append(reduces)
            front, before, done, t = after, done, done + active, t + 1
    return torch.cat(all_reduces), torch.cat(odds)
