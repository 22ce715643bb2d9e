"""Rows of parsers do what ParserState does, each at its own pace."""

from __future__ import annotations

import numpy as np
import pytest

from rlparse import PAD
from rlparse.transitions import ParserState
from rlparse_envs.observations import node_heights
from rlparse_envs.parser_rows import ParserRows, count_dtype

NONE = np.array([], np.int64)


def check(rows, row, parser, tokens, side):
    """Compare one row with its readable twin."""
    fields = {name: field[row].tolist() for name, field in rows.fields.items()}
    history = [int(t) for t in parser.transitions]
    spans = [position for node in parser.stack for position in parser.spans[node]]
    assert fields == {
        "tokens": tokens.tolist(),
        "length": [parser.n_tokens],
        "transitions": history + [PAD] * (rows.n_steps - len(history)),
        "stack_spans": spans + [0] * (2 * rows.n_tokens - len(spans)),
        "stack_size": [parser.stack_size],
        "buffer_front": [parser.buffer_front],
        "side": [side],
        "action_mask": [int(flag) for flag in parser.legal],
    }
    assert (rows.may_shift[row], rows.may_reduce[row]) == parser.legal
    assert rows.steps[row] == parser.step
    heights = node_heights(parser)
    assert rows.heights[row, : parser.stack_size].tolist() == [heights[node] for node in parser.stack]


@pytest.mark.parametrize("n_tokens", [1, 2, 3, 7])
def test_rows_follow_their_parsers(n_tokens):
    """Finished rows wait, parked, for a random time before they are started again."""
    rng = np.random.default_rng(n_tokens)
    rows = ParserRows(5, n_tokens, heights=True)
    parsers, tokens, sides = [None] * 5, np.zeros((5, n_tokens), np.int32), np.zeros(5, np.int64)

    def start(chosen):
        lengths = rng.integers(1, n_tokens + 1, len(chosen))
        for row, n in zip(chosen.tolist(), lengths.tolist(), strict=True):
            parsers[row] = ParserState(n)
            tokens[row] = np.where(np.arange(n_tokens) < n, rng.integers(1, 9, n_tokens), 0)
        sides[chosen] = rng.integers(0, 2, len(chosen))
        rows.start(chosen, tokens[chosen], lengths, sides[chosen])

    start(np.arange(5))
    for _ in range(80):
        over = np.array([parser.is_terminal for parser in parsers])
        again = np.flatnonzero(over & (rng.random(5) < 0.5))
        start(again)
        parked = np.setdiff1d(np.flatnonzero(over), again)
        before = rows.snapshot()
        actions = rng.integers(0, 2, 5)
        advance = rows.advance(actions, parked)
        for row in np.setdiff1d(np.arange(5), parked).tolist():
            legal = parsers[row].legal[actions[row]]
            taken = actions[row] if legal else 1 - actions[row]
            parsers[row].apply(int(taken))
            assert (advance.illegal[row], advance.reduced[row]) == (not legal, taken == 1)
            assert advance.starts[row] == parsers[row].spans[parsers[row].stack[-1]][0]
            check(rows, row, parsers[row], tokens[row], sides[row])
        assert not advance.illegal[parked].any()
        assert not advance.reduced[parked].any()
        for name in ("tokens", "length", "transitions", "stack_spans", "side"):
            assert (rows.fields[name][parked] == before[name][parked]).all()
        start(parked)  # as they must be before they are looked at
        for row in range(5):
            check(rows, row, parsers[row], tokens[row], sides[row])


def test_a_snapshot_is_a_copy_of_all_fields():
    rows = ParserRows(2, 3)
    rows.start(np.arange(2), np.ones((2, 3), np.int32), np.array([3, 2]), np.zeros(2, np.int64))
    first = rows.snapshot()
    rows.advance(np.zeros(2, np.int64), NONE)
    second = rows.snapshot()
    assert first["buffer_front"].tolist() == [[0], [0]]
    assert second["buffer_front"].tolist() == [[1], [1]]
    assert all(field.flags.c_contiguous and field.flags.aligned for field in second.values())
    assert rows.histories(np.array([1])).tolist() == [[0, PAD, PAD, PAD, PAD]]
    assert rows.histories(NONE).shape == (0, 5)


def test_long_sentences_have_wider_numbers():
    n = np.iinfo(np.int16).max + 1
    assert (count_dtype(n - 1), count_dtype(n)) == (np.int16, np.int32)
    rows = ParserRows(1, n)
    rows.start(np.array([0]), np.zeros((1, n), np.int32), np.array([n]), np.array([0]))
    for _ in range(n):
        rows.advance(np.array([0]), NONE)
    advance = rows.advance(np.array([1]), NONE)
    assert advance.starts.tolist() == [n - 2]
    assert rows.fields["stack_spans"][0, 2 * n - 4 :].tolist() == [n - 2, n, 0, 0]
