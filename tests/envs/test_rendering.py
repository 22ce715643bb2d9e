"""Drawings of a parser, as they have to look."""

from __future__ import annotations

import numpy as np
import pytest

from rlparse import trees
from rlparse.transitions import ParserState
from rlparse_envs.rendering import bracketed, draw_tree, render_parser

TREE = trees.parse_binary("( ( The ( old man ) ) ( ( sleeps ( on ( a bench ) ) ) . ) )")


def after(n_steps, tree=TREE):
    parser = ParserState(len(tree.tokens))
    for transition in tree.transitions[:n_steps]:
        parser.apply(transition)
    return parser


START = """\
stack   (empty)
buffer  The | old | man | sleeps | on | a | bench | .
legal   SHIFT

 ▸ The
   old
   man
   sleeps
   on
   a
   bench
   ."""

MIDDLE = """\
stack   0  ( a bench )
        1  on
        2  sleeps
        3  ( The ( old man ) )
buffer  .
legal   SHIFT or REDUCE

   The    ───┐
   old    ─┐ │
   man    ─┴─┴──╴3
   sleeps ──────╴2
   on     ──────╴1
   a      ─┐
   bench  ─┴────╴0
 ▸ ."""

END = """\
stack   0  ( ( The ( old man ) ) ( ( sleeps ( on ( a bench ) ) ) . ) )
buffer  (empty)
legal   nothing: the tree is complete

   The    ───┐
   old    ─┐ │
   man    ─┴─┴─────┐
   sleeps ─────┐   │
   on     ───┐ │   │
   a      ─┐ │ │   │
   bench  ─┴─┴─┴─┐ │
   .      ───────┴─┴──╴0"""


@pytest.mark.parametrize(("n_steps", "expected"), [(0, START), (10, MIDDLE), (15, END)])
def test_drawing(n_steps, expected):
    assert render_parser(after(n_steps), TREE.tokens) == expected


def test_long_sentences_are_cut_where_they_would_not_fit():
    tokens = [f"word{i}" for i in range(40)]
    parser = ParserState(40)
    for transition in trees.right_branching(40)[:20]:
        parser.apply(transition)
    lines = render_parser(parser, tokens).split("\n")
    assert lines[:7] == [
        "stack   0  word19",
        "        1  word18",
        "        2  word17",
        "        3  word16",
        "        4  word15",
        "        …  15 more below",
        "buffer  word20 | word21 | word22 | word23 | word24 | word25 | word26 | word27 … 12 more",
    ]
    for transition in trees.right_branching(40)[20:]:
        parser.apply(transition)
    top = render_parser(parser, tokens).split("\n")[0]
    assert len(top) <= 100
    assert top.startswith("stack   0  ( word0 ( word1 ")
    assert " … " in top


def test_every_tree_can_be_read_off_its_drawing():
    """A node is where a line from above meets a row: follow every corner and find the spans again."""
    rng = np.random.default_rng(0)
    for n in (2, 3, 5, 9, 14):
        for _ in range(10):
            derivation = trees.uniform_tree(n, rng)
            tokens = [f"t{i}" for i in range(n)]
            rows = [
                line[3:]
                for line in draw_tree(after(2 * n - 1, trees.BinaryTree(tokens, derivation)), tokens).split(
                    "\n"
                )
            ]
            width = max(map(len, rows))
            rows = [row.ljust(width) for row in rows]
            starts = {y: y for y in range(n)}  # row of a tree's line -> its first token
            found = []
            for x in range(width):
                for y in range(n):
                    if rows[y][x] == "┴":
                        above = y - 1
                        while rows[above][x] == "│":
                            above -= 1
                        assert rows[above][x] == "┐"
                        starts[y] = starts.pop(above)
                        found.append((starts[y], y + 1))
            assert sorted(found) == sorted(trees.spans(derivation))


def test_one_word():
    assert render_parser(after(1, trees.BinaryTree(("Stop",), (0,))), ["Stop"]).endswith("   Stop ──╴0")


def test_tokens_that_are_brackets_are_named():
    assert bracketed(["(", "not", "a", ")"], trees.right_branching(4)) == "( -LRB- ( not ( a -RRB- ) ) )"
