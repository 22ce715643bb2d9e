"""Tables and trees as they are printed."""

from __future__ import annotations

import io
from typing import Any

import pytest
from rich.console import Console

from rlparse.corpora.corpus import Corpus
from rlparse.corpora.examples import Example, Sentence
from rlparse.trees import balanced, left_branching, parse_binary, right_branching
from rlparse_experiments.evaluate import SHOWN_TREES, ParseTable
from rlparse_experiments.report.tables import console, parse_table
from rlparse_experiments.report.trees import (
    draw_samples,
    sample_sentences,
    side_by_side,
    tree_drawing,
    tree_samples,
)


def printed(table: Any, width: int = 80) -> list[str]:
    out = Console(file=io.StringIO(), width=width)
    out.print(table)
    return out.file.getvalue().rstrip().splitlines()


def table_of(*, gold: bool) -> ParseTable:
    scores = {"nyu": 0.123456, "prpn": 0.5, "evalb": 1.0}
    kinds = ["learned", *SHOWN_TREES]
    return ParseTable(
        n_gold=9_999 if gold else 0,
        n_sentences=20_000,
        against_gold=dict.fromkeys(kinds, scores) if gold else {},
        agreement={kind: {"nyu": 0.4, "prpn": 0.3, "evalb": 0.2} for kind in SHOWN_TREES},
        depth=dict.fromkeys([*kinds, *(["gold"] if gold else [])], 12.3456),
        recall={},
        exact=0.25 if gold else None,
    )


# ------------------------------------------------------------------------------------------------------------ tables


def test_a_table_has_a_row_for_every_tree_and_fits_into_80_columns():
    lines = printed(
        parse_table(
            table_of(gold=True), accuracies={"learned": 1.0, "gold": 0.5}, learned="run: gold_or_right"
        )
    )
    assert max(map(len, lines)) <= 80
    assert " ".join(lines[1].split()) == "trees accuracy F1 nyu F1 prpn F1 evalb depth vs run"
    rows = {line[:21].strip(): line[21:].split() for line in lines[3:]}
    assert list(rows) == [
        "run: gold_or_right",
        "gold",
        "left",
        "right",
        "balanced (floor)",
        "balanced (ceil)",
        "random",
    ]
    assert rows["run: gold_or_right"] == ["100.00", "12.35", "50.00", "100.00", "12.35", "100.00"]
    assert rows["gold"] == ["50.00", "100.00", "100.00", "100.00", "12.35", "12.35"]
    assert rows["left"] == ["–", "12.35", "50.00", "100.00", "12.35", "40.00"]


def test_a_table_without_gold_has_no_column_for_it():
    lines = printed(parse_table(table_of(gold=False), accuracies={}, learned="learned"))
    assert lines[1].split() == ["trees", "accuracy", "depth", "vs", "run"]
    assert [line.split()[0] for line in lines[3:]] == [
        "learned",
        "left",
        "right",
        "balanced",
        "balanced",
        "random",
    ]


def test_what_is_piped_is_100_columns_wide(monkeypatch):
    monkeypatch.setenv("COLUMNS", "40")
    assert console().width == 100
    monkeypatch.setenv("COLUMNS", "140")
    assert console().width == 140


# ------------------------------------------------------------------------------------------------------------- trees


def test_a_tree_is_drawn_beside_its_words():
    tree = parse_binary("( ( The ( old man ) ) ( sleeps . ) )")
    assert tree_drawing(tree.tokens, tree.transitions).splitlines() == [
        "The    ───┐",
        "old    ─┐ │",
        "man    ─┴─┴─┐",
        "sleeps ─┐   │",
        ".      ─┴───┴──",
    ]


def test_a_tree_of_one_word_is_drawn():
    assert tree_drawing(["yes"], [0]) == "yes ──"


def test_two_drawings_stand_under_their_titles():
    assert (
        side_by_side("a\nbb", "c\nd\ne", ("ours", "theirs"))
        == "ours    theirs\na       c\nbb      d\n        e"
    )


def corpus_of(*examples: tuple[str, ...], gold: bool = True) -> Corpus:
    def sentence(text: str) -> Sentence:
        tree = parse_binary(text)
        return Sentence(tree.tokens, tree.transitions if gold else None)

    return Corpus.from_examples([Example(tuple(map(sentence, sides)), "x") for sides in examples])


def words_of(corpus: Corpus, chosen: list[tuple[int, int]]) -> list[str]:
    return [" ".join(corpus.sentence(*where).tokens) for where in chosen]


FIVE, SIX = "( a ( b ( c ( d e ) ) ) )", "( ( ( ( ( a b ) c ) d ) e ) f )"


def test_no_sentence_is_shown_twice():
    premise = FIVE
    corpus = corpus_of((premise, "( x y )"), (premise, SIX), (premise, "( x y )"), (SIX, "( y z )"))
    assert words_of(corpus, sample_sentences(corpus, 2)) == ["a b c d e", "a b c d e f"]
    # Then what is too short, one an example, and never more than there are.
    assert words_of(corpus, sample_sentences(corpus, 9)) == ["a b c d e", "a b c d e f", "x y", "y z"]


def test_sentences_of_a_fitting_length_come_first():
    long = "( " * 19 + "a " + " ".join("b )" for _ in range(19))
    corpus = corpus_of(("( a b )",), (long,), (FIVE,), (SIX,))
    assert sample_sentences(corpus, 2) == [(2, 0), (3, 0)]
    assert sample_sentences(corpus, 3) == [(2, 0), (3, 0), (0, 0)]
    assert sample_sentences(corpus, 0) == []


def derivations_of(corpus: Corpus, build=right_branching) -> list[list[int]]:
    return [build(n) for n in corpus.lengths.ravel().tolist()]


def test_learned_trees_stand_beside_gold():
    corpus = corpus_of(("( ( a b ) c )", "( d ( e f ) )"))
    assert draw_samples(corpus, derivations_of(corpus), 1) == [
        "learned     gold\na ───┐      a ─┐\nb ─┐ │      b ─┴─┐\nc ─┴─┴──    c ───┴──"
    ]


def test_without_gold_there_is_one_tree():
    corpus = corpus_of((FIVE,), gold=False)
    (drawing,) = draw_samples(corpus, derivations_of(corpus, balanced), 1)
    assert drawing.splitlines()[0] == "learned"
    assert "gold" not in drawing


@pytest.mark.parametrize("width", [30, 60, 100, 200])
def test_drawings_fit_into_the_terminal(width):
    deep = "( " * 35 + "a " + " ".join("b )" for _ in range(35))
    corpus = corpus_of((FIVE,), (deep,))
    for drawing in draw_samples(corpus, derivations_of(corpus), 2, width=width):
        assert max(map(len, drawing.splitlines())) <= width
        assert {"learned", "gold"} <= set(drawing.split())


def test_trees_that_do_not_fit_beside_each_other_stand_below():
    corpus = corpus_of((SIX,))
    (drawing,) = draw_samples(corpus, derivations_of(corpus), 1, width=20)
    lines = drawing.splitlines()
    assert [lines[0], lines[7]] == ["learned", "gold"]
    assert lines[1] == "a ─────────┐"


def test_a_tree_too_wide_to_draw_is_bracketed():
    deep = "( " * 35 + "a " + " ".join("b )" for _ in range(35))
    corpus = corpus_of((deep,))
    (drawing,) = draw_samples(corpus, derivations_of(corpus, left_branching), 1, width=60)
    learned = drawing.split("\n", 1)[1].split("\ngold\n")[0]
    assert parse_binary(learned.replace("\n", " ")).transitions == tuple(left_branching(36))


def test_brackets_among_the_words_are_escaped_where_a_tree_is_bracketed():
    corpus = Corpus.from_examples([Example((Sentence(("(", "a", ")"), None),), "x")])
    (drawing,) = draw_samples(corpus, [left_branching(3)], 1, width=10)
    assert drawing.splitlines()[1].startswith("( ─┐")
    (drawing,) = draw_samples(corpus, [left_branching(3)], 1, width=6)
    assert "-LRB-" in drawing


def test_text_for_tensorboard_is_markdown_that_keeps_columns():
    corpus = corpus_of((FIVE,), (SIX,))
    text = tree_samples(corpus, derivations_of(corpus), 2)
    assert text.startswith("```\nlearned")
    assert text.endswith("\n```")
    assert text.count("```") == 4
