"""Trees: brackets, derivations and spans say the same; trivial and random trees have the right shapes."""

from __future__ import annotations

import gzip
import itertools
import json
import time
from collections import Counter
from math import comb, factorial

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from rlparse import PAD, trees
from rlparse.errors import MalformedTreeError
from rlparse.transitions import ParserState

# ---------------------------------------------------------------------- slow, obvious versions: nested pairs


def nested_trees(min_tokens: int = 1, max_leaves: int = 25):
    """Binary trees as nested pairs; every leaf is a word."""
    words = st.text("abcXYZ019.,'-[]", min_size=1, max_size=4)
    pairs = st.recursive(words, lambda sub: st.tuples(sub, sub), max_leaves=max_leaves)
    return pairs.filter(lambda tree: len(words_of(tree)) >= min_tokens)


def words_of(tree):
    return [tree] if isinstance(tree, str) else words_of(tree[0]) + words_of(tree[1])


def derivation_of(tree):
    return [0] if isinstance(tree, str) else derivation_of(tree[0]) + derivation_of(tree[1]) + [1]


def text_of(tree):
    return tree if isinstance(tree, str) else f"( {text_of(tree[0])} {text_of(tree[1])} )"


def spans_of(tree, start=0):
    """Spans of the internal nodes, children before parents."""
    if isinstance(tree, str):
        return []
    middle = start + len(words_of(tree[0]))
    return spans_of(tree[0], start) + spans_of(tree[1], middle) + [(start, middle + len(words_of(tree[1])))]


def leaf_depths(tree):
    return [0] if isinstance(tree, str) else [d + 1 for child in tree for d in leaf_depths(child)]


def all_derivations(n):
    """Try all arrangements of SHIFTs and REDUCEs, keep those whose stack never runs empty."""
    found = []
    for reduces in itertools.combinations(range(2 * n - 1), n - 1):
        derivation = [1 if step in reduces else 0 for step in range(2 * n - 1)]
        sizes = list(itertools.accumulate(1 - 2 * t for t in derivation))
        if min(sizes) >= 1:
            found.append(tuple(derivation))
    assert len(found) == comb(2 * n - 2, n - 1) // n
    return found


def draw_text(text):
    """A derivation, written by hand as a bracketed text with one-letter tokens and no spaces: ((ab)c)."""
    return [1 if character == ")" else 0 for character in text if character != "("]


# ------------------------------------------------------------------------------------------- round trips


@given(nested_trees())
def test_tree_to_text_to_tree_is_identity(tree):
    words, derivation = words_of(tree), derivation_of(tree)
    assert trees.parse_binary(text_of(tree)) == (tuple(words), tuple(derivation))
    assert trees.format_brackets(words, derivation) == text_of(tree)


@given(nested_trees())
def test_tree_to_spans_to_tree_is_identity(tree):
    derivation = derivation_of(tree)
    spans = trees.spans(derivation)
    assert spans == spans_of(tree)
    n = len(words_of(tree))
    assert trees.derivation_from_spans(reversed(spans), n) == derivation
    leaves = [(i, i + 1) for i in range(n)]
    assert trees.derivation_from_spans(spans + spans + leaves, n) == derivation


@given(nested_trees())
def test_depths_are_those_of_the_nested_tree(tree):
    depths = leaf_depths(tree)
    assert trees.depth(derivation_of(tree)) == max(depths)
    assert trees.mean_leaf_depth(derivation_of(tree)) == pytest.approx(sum(depths) / len(depths))


@given(nested_trees())
def test_parser_state_finds_the_same_spans(tree):
    state = ParserState(len(words_of(tree)))
    for transition in trees.parse_binary(text_of(tree)).transitions:
        state.apply(transition)
    assert state.is_terminal
    assert list(state.spans[state.n_tokens :]) == spans_of(tree)


@given(nested_trees(), st.sampled_from(["left", "right"]))
def test_binarising_a_binary_tree_changes_nothing(tree, branching):
    words, derivation = words_of(tree), derivation_of(tree)
    labelled = trees.LabelledTree(tuple(words), tuple((s, e, "X") for s, e in spans_of(tree)))
    assert trees.binarise(labelled, branching) == (tuple(words), tuple(derivation))


@given(nested_trees(min_tokens=2))
def test_treebank_notation_of_a_binary_tree_is_read(tree):
    def ptb(node):
        if isinstance(node, str):
            return f"(T {node})"
        return f"(X{ptb(node[0])} {ptb(node[1])})"

    words = tuple(words_of(tree))
    assert trees.parse_ptb(ptb(tree)) == (words, tuple((s, e, "X") for s, e in spans_of(tree)))


# --------------------------------------------------------------------------------------------- brackets


def test_snli_parse_is_read():
    tree = trees.parse_binary("( ( Two women ) ( ( are ( holding packages ) ) . ) )")
    assert tree.tokens == ("Two", "women", "are", "holding", "packages", ".")
    assert tree.transitions == (0, 0, 1, 0, 0, 0, 1, 1, 0, 1, 1)
    assert trees.spans(tree.transitions) == [(0, 2), (3, 5), (2, 5), (2, 6), (0, 6)]


@pytest.mark.parametrize("text", ["word", " word\n", "( word )"])
def test_one_token_may_stand_in_brackets(text):
    assert trees.parse_binary(text) == (("word",), (0,))


def test_no_break_space_is_part_of_a_token():
    text = "( 1\u00a01/2 miles )"
    assert trees.parse_binary(text) == (("1\u00a01/2", "miles"), (0, 0, 1))
    assert trees.format_brackets(*trees.parse_binary(text)) == text
    assert trees.parse_ptb("(NP (CD 1\u00a01/2) (NNS miles))").tokens == ("1\u00a01/2", "miles")
    with pytest.raises(MalformedTreeError, match="third item in this bracket: 'c' at character 6"):
        trees.parse_binary("( é b c )")


def test_listops_sequence_is_read():
    tree = trees.parse_listops("( ( ( ( ( [SM 6 ) 5 ) 9 ) 0 ) ] )")
    assert tree.tokens == ("[SM", "6", "5", "9", "0", "]")
    assert tree.transitions == (0, 0, 1, 0, 1, 0, 1, 0, 1, 0, 1)
    assert trees.parse_listops("7") == (("7",), (0,))


def test_listops_file_is_read(shared_data):
    lines = (shared_data / "listops" / "format_sample_d8.tsv").read_text(encoding="utf-8").splitlines()
    assert len(lines) == 500
    for line in lines:
        _, sequence = line.split("\t")
        tree = trees.parse_listops(sequence)
        assert trees.format_brackets(*tree) == sequence
        assert list(tree.tokens) == [piece for piece in sequence.split() if piece not in "()"]
        assert list(tree.transitions) == [int(piece == ")") for piece in sequence.split() if piece != "("]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "expected a bracketed tree, got an empty text"),
        ("  ", "expected a bracketed tree, got an empty text"),
        ("( a b ) )", r"'\)' closes no open bracket: '\)' at character 8 of '\( a b \) \)'"),
        ("( ( a b )", r"expected 1 more '\)' at the end, character 9 of '\( \( a b \)'"),
        ("( a", r"expected 1 more '\)' at the end"),
        ("(", r"expected 1 more '\)' at the end"),
        ("( a ( b ) )", r"expected 2 items in this bracket, found 1: '\)' at character 8 "),
        ("( ( a ) )", r"expected 2 items in this bracket, found 1: '\)' at character 6 "),
        ("( )", r"expected 2 items in this bracket, found 0: '\)' at character 2 "),
        ("( ( ) a )", r"expected 2 items in this bracket, found 0: '\)' at character 4 "),
        ("( a b c )", r"expected '\)', found a third item in this bracket: 'c' at character 6 "),
        ("( a b ( c d ) )", r"expected '\)', found a third item in this bracket: '\(' at character 6 "),
        ("a b", "expected the end of the text after a complete tree: 'b' at character 2 "),
        ("( a b ) c", "expected the end of the text after a complete tree: 'c' at character 8 "),
        ("( a b ) ( c d )", r"expected the end of the text after a complete tree: '\(' at character 8 "),
        (
            "(a b)",
            r"expected the end of the text .*: 'b\)' at character 3 .*brackets need spaces around them",
        ),
        ("( " * 100 + "a )", r"found 1: '\)' at character 202 of '….*a \)'"),
    ],
)
def test_malformed_brackets_are_located(text, message):
    with pytest.raises(MalformedTreeError, match=message):
        trees.parse_binary(text)


def test_error_shows_the_place_in_a_long_text():
    text = "( " * 60 + "a b ) c ) d e ) " + "f ) " * 57
    with pytest.raises(
        MalformedTreeError, match="third item in this bracket: 'e' at character 132"
    ) as caught:
        trees.parse_binary(text)
    assert "a b ) c ) d e ) f )" in str(caught.value)
    assert len(str(caught.value)) < 200


@pytest.mark.parametrize("token", ["(", ")", "", "two words", " a", "tab\t"])
def test_token_that_cannot_be_read_back_is_refused(token):
    with pytest.raises(MalformedTreeError, match="token 1 cannot stand in a bracketed text"):
        trees.format_brackets(["a", token], [0, 0, 1])


def test_escaped_brackets_can_be_read_back():
    words = trees.escape_brackets(["(", "a", ")", "(b"])
    assert words == ("-LRB-", "a", "-RRB-", "(b")
    derivation = trees.balanced(4)
    assert trees.parse_binary(trees.format_brackets(words, derivation)) == (words, tuple(derivation))


def test_writing_needs_a_derivation_over_the_tokens():
    with pytest.raises(MalformedTreeError, match="expected a derivation over 3 tokens, found 2 SHIFTs"):
        trees.format_brackets(["a", "b", "c"], [0, 0, 1])


# --------------------------------------------------------------------------------------------- labelled trees


def test_treebank_tree_is_read_with_unary_chains():
    text = "(ROOT (S (NP (DT The) (NN cat)) (VP (VBZ sleeps) (ADVP (RB here))) (. .)))"
    assert trees.parse_ptb(text) == (
        ("The", "cat", "sleeps", "here", "."),
        ((0, 2, "NP"), (3, 4, "ADVP"), (2, 4, "VP"), (0, 5, "S"), (0, 5, "ROOT")),
    )


def test_outermost_bracket_without_label_is_no_phrase():
    text = "( (S (NP-SBJ (PRP We)) (VP (VBP sleep))))"
    expected = ((0, 1, "NP-SBJ"), (1, 2, "VP"), (0, 2, "S"))
    assert trees.parse_ptb(text) == (("We", "sleep"), expected)


def test_empty_elements_are_left_out():
    text = "(S (NP-SBJ (-NONE- *T*-1)) (VP (VB go) (SBAR (-NONE- 0) (S (-NONE- *T*)))) (-LRB- -LRB-))"
    assert trees.parse_ptb(text) == (("go", "-LRB-"), ((0, 1, "VP"), (0, 2, "S")))


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "expected a tree with at least one word, got ''"),
        ("(S (-NONE- *))", "expected a tree with at least one word"),
        ("word", r"expected '\(', found 'word' at character 0"),
        ("(S (NP a)", r"expected 1 more '\)' at the end, character 9"),
        ("(S (NP a)) )", r"expected the end of the text after a complete tree, found '\)' at character 11"),
        ("(S (NP a)) (S (NP b))", r"expected the end of the text after a complete tree, found '\('"),
        (")", r"'\)' closes no open bracket at character 0"),
        ("(S (NP))", "expected a word or a phrase in the bracket 'NP' at character 6"),
        ("(S (NP a b))", r"expected '\)' after the word 'a', found 'b' at character 9"),
        ("(S (NP a (X b)))", r"expected '\)' after the word 'a', found '\(' at character 9"),
        ("(S (NP a) b)", r"expected '\(' or '\)' after a phrase, found the word 'b' at character 10"),
    ],
)
def test_malformed_treebank_text_is_located(text, message):
    with pytest.raises(MalformedTreeError, match=message):
        trees.parse_ptb(text)


@pytest.mark.parametrize(
    ("branching", "expected"),
    [("right", "(((ab)(c(d(ef))))g)"), ("left", "(((ab)(((cd)e)f))g)")],
)
def test_long_phrases_are_split_from_the_given_side(branching, expected):
    tree = trees.parse_ptb("(R (S (X (T a) (T b)) (X (T c) (T d) (Y (Z (T e))) (T f))) (T g))")
    assert list(trees.binarise(tree, branching).transitions) == draw_text(expected)


@pytest.mark.parametrize("branching", ["left", "right"])
def test_binarising_without_phrases_gives_a_branching_tree(branching):
    flat = trees.LabelledTree(("a", "b", "c", "d"), ())
    expected = trees.left_branching(4) if branching == "left" else trees.right_branching(4)
    assert list(trees.binarise(flat, branching).transitions) == expected
    assert trees.binarise(trees.LabelledTree(("a",), ((0, 1, "NP"),)), branching).transitions == (0,)


def test_binarising_refuses_what_it_cannot_do():
    with pytest.raises(MalformedTreeError, match=r"spans \(0, 2\) and \(1, 3\) cross"):
        trees.binarise(trees.LabelledTree(("a", "b", "c"), ((1, 3, "X"), (0, 2, "Y"))))
    with pytest.raises(MalformedTreeError, match=r"span \(1, 4\) is not inside a sentence of 3 tokens"):
        trees.binarise(trees.LabelledTree(("a", "b", "c"), ((1, 4, "X"),)))
    with pytest.raises(ValueError, match="branching must be 'right' or 'left', got 'up'"):
        trees.binarise(trees.LabelledTree(("a",), ()), "up")


def test_snli_binary_and_labelled_parses_agree(shared_data):
    with gzip.open(
        shared_data / "snli" / "snli_1.0_train_first1024.jsonl.gz", "rt", encoding="utf-8"
    ) as file:
        pairs = [json.loads(line) for line in file]
    for pair in pairs:
        for side in ("1", "2"):
            binary = trees.parse_binary(pair[f"sentence{side}_binary_parse"])
            labelled = trees.parse_ptb(pair[f"sentence{side}_parse"])
            assert labelled.tokens == binary.tokens
            assert trees.format_brackets(*binary) == pair[f"sentence{side}_binary_parse"]
            # The binary parse is a binarisation of the labelled one: it has all its phrases.
            nodes = {*trees.spans(binary.transitions), *((i, i + 1) for i in range(len(binary.tokens)))}
            assert {(start, end) for start, end, _ in labelled.labelled_spans} <= nodes


# --------------------------------------------------------------------------------------------- checks


@pytest.mark.parametrize(
    ("transitions", "n_tokens", "message"),
    [
        ([], None, "expected one tree at the end of 0 transitions, found 0 items"),
        ([0, 0], None, "expected one tree at the end of 2 transitions, found 2 items on the stack"),
        ([0, 1, 0], None, "REDUCE at step 1 needs 2 items on the stack, found 1"),
        ([1], None, "REDUCE at step 0 needs 2 items on the stack, found 0"),
        ([0, 0, 1, 1], None, "REDUCE at step 3 needs 2 items on the stack, found 1"),
        ([0, 0, 1, PAD], None, r"at step 3, got 2 \(padding: cut the derivation at its end first\)"),
        ([0, 7], None, r"expected SHIFT \(0\) or REDUCE \(1\) at step 1, got 7$"),
        ([0, 0, 1], 3, "expected a derivation over 3 tokens, found 2 SHIFTs"),
        ([0, 0, 0, 1], 2, "expected a derivation over 2 tokens, found 3 SHIFTs"),
    ],
)
def test_derivation_that_is_no_tree_is_refused(transitions, n_tokens, message):
    with pytest.raises(MalformedTreeError, match=message):
        trees.check_derivation(transitions, n_tokens)
    if n_tokens is None:
        for function in (trees.spans, trees.depth, trees.mean_leaf_depth):
            with pytest.raises(MalformedTreeError, match=message):
                function(transitions)


@pytest.mark.parametrize("n", range(1, 8))
def test_checks_accept_exactly_the_trees(n):
    good = set(all_derivations(n))
    for transitions in itertools.product((0, 1), repeat=2 * n - 1):
        if transitions in good:
            trees.check_derivation(transitions, n)
            assert len(trees.spans(transitions)) == n - 1
        else:
            for check in (trees.check_derivation, trees.spans):
                with pytest.raises(MalformedTreeError, match=r"step|expected"):
                    check(transitions)


@pytest.mark.parametrize(
    ("spans", "n", "message"),
    [
        ([(0, 2), (1, 3)], 3, r"spans \(0, 2\) and \(1, 3\) cross"),
        ([(0, 4), (0, 3), (2, 4)], 4, r"spans \(0, 3\) and \(2, 4\) cross"),
        ([(0, 3)], 3, "a binary tree over 3 tokens has 2 spans of 2 or more tokens, got 1"),
        ([(0, 2), (0, 3), (0, 1)], 4, "has 3 spans of 2 or more tokens, got 2"),
        ([(0, 4)], 3, r"span \(0, 4\) is not inside a sentence of 3 tokens"),
        ([(-1, 2)], 3, r"span \(-1, 2\) is not inside"),
        ([(2, 2)], 3, r"span \(2, 2\) is not inside"),
        ([], 0, "a tree needs at least 1 token, got 0"),
    ],
)
def test_spans_that_are_no_tree_are_refused(spans, n, message):
    with pytest.raises(MalformedTreeError, match=message):
        trees.derivation_from_spans(spans, n)


# --------------------------------------------------------------------------------------------- trivial trees


@pytest.mark.parametrize(
    ("derivation", "text"),
    [
        (trees.left_branching(1), "a"),
        (trees.left_branching(4), "(((ab)c)d)"),
        (trees.right_branching(1), "a"),
        (trees.right_branching(4), "(a(b(cd)))"),
        (trees.right_branching(1, final_at_root=True), "a"),
        (trees.right_branching(2, final_at_root=True), "(ab)"),
        (trees.right_branching(4, final_at_root=True), "((a(bc))d)"),
        (trees.balanced(1), "a"),
        (trees.balanced(3), "(a(bc))"),
        (trees.balanced(5), "((ab)(c(de)))"),
        (trees.balanced(6), "((a(bc))(d(ef)))"),
        (trees.balanced(3, "ceil"), "((ab)c)"),
        (trees.balanced(5, "ceil"), "(((ab)c)(de))"),
        (trees.balanced(6, "ceil"), "(((ab)c)((de)f))"),
        (trees.balanced(2, "power_of_two"), "(ab)"),
        (trees.balanced(3, "power_of_two"), "(a(bc))"),
        (trees.balanced(4, "power_of_two"), "((ab)(cd))"),
        (trees.balanced(5, "power_of_two"), "(a((bc)(de)))"),
        (trees.balanced(6, "power_of_two"), "((ab)((cd)(ef)))"),
        (trees.balanced(7, "power_of_two"), "((a(bc))((de)(fg)))"),
        (trees.balanced(9, "power_of_two"), "(a(((bc)(de))((fg)(hi))))"),
    ],
)
def test_trivial_tree_has_its_shape(derivation, text):
    assert derivation == draw_text(text)


@pytest.mark.parametrize("split", ["floor", "ceil"])
@pytest.mark.parametrize("n", [1, 2, 3, 17, 64, 100, 1023])
def test_balanced_trees_are_as_shallow_as_can_be(n, split):
    assert trees.depth(trees.balanced(n, split)) == (n - 1).bit_length()


@pytest.mark.parametrize(
    "build",
    [
        trees.left_branching,
        trees.right_branching,
        trees.balanced,
        lambda n: trees.random_merges(n, np.random.default_rng(0)),
        lambda n: trees.uniform_tree(n, np.random.default_rng(0)),
    ],
)
def test_no_tree_over_no_tokens(build):
    with pytest.raises(ValueError, match="a tree needs at least 1 token, got 0"):
        build(0)


def test_unknown_split_is_refused():
    with pytest.raises(ValueError, match="split must be 'floor', 'ceil' or 'power_of_two', got 'third'"):
        trees.balanced(3, "third")


# --------------------------------------------------------------------------------------------- random trees


def expected_merge_probabilities(n):
    """Probability of each tree under random merges: try all (n - 1)! orders of closing the gaps."""
    counts = Counter()
    for order in itertools.permutations(range(n - 1)):
        forest = [str(i) for i in range(n)]
        gaps = list(range(n - 1))
        for gap in order:
            at = gaps.index(gap)
            forest[at : at + 2] = [(forest[at], forest[at + 1])]
            gaps.pop(at)
        counts[tuple(derivation_of(forest[0]))] += 1
    return {tree: count / factorial(n - 1) for tree, count in counts.items()}


def assert_frequencies(draws, probabilities):
    """Every tree occurs, within 4.5 standard deviations of its expected count."""
    counts = Counter(map(tuple, draws))
    assert set(counts) == set(probabilities)
    for tree, p in probabilities.items():
        sd = (len(draws) * p * (1 - p)) ** 0.5
        assert abs(counts[tree] - len(draws) * p) <= 4.5 * sd, (tree, counts[tree], len(draws) * p)


@pytest.mark.parametrize("n", [1, 2, 3, 4, 5, 6])
def test_uniform_trees_are_uniform_over_all_binary_trees(n):
    rng = np.random.default_rng(n)
    every = all_derivations(n)
    draws = [trees.uniform_tree(n, rng) for _ in range(300 * len(every))]
    assert_frequencies(draws, {tree: 1 / len(every) for tree in every})


@pytest.mark.parametrize("n", [1, 2, 3, 4, 5, 6])
def test_random_merges_have_the_probabilities_of_merging(n):
    rng = np.random.default_rng(n)
    probabilities = expected_merge_probabilities(n)
    assert set(probabilities) == set(all_derivations(n))
    assert_frequencies([trees.random_merges(n, rng) for _ in range(300 * len(probabilities))], probabilities)


@given(st.integers(1, 60), st.integers(0, 1000))
def test_random_trees_are_trees_and_repeat_with_the_seed(n, seed):
    for draw in (trees.random_merges, trees.uniform_tree):
        derivation = draw(n, np.random.default_rng(seed))
        trees.check_derivation(derivation, n)
        assert all(type(transition) is int for transition in derivation)
        assert draw(n, np.random.default_rng(seed)) == derivation


# --------------------------------------------------------------------------------------------- size


def test_ten_thousand_tokens_take_linear_time_and_no_recursion():
    n = 10_000
    rng = np.random.default_rng(0)
    words = [f"w{i}" for i in range(n)]
    started = time.process_time()
    for derivation in (
        trees.left_branching(n),
        trees.right_branching(n),
        trees.balanced(n, "power_of_two"),
        trees.random_merges(n, rng),
        trees.uniform_tree(n, rng),
    ):
        text = trees.format_brackets(words, derivation)
        assert trees.parse_binary(text).transitions == tuple(derivation)
        spans = trees.spans(derivation)
        assert trees.derivation_from_spans(spans, n) == derivation
        labelled = trees.LabelledTree(tuple(words), tuple((s, e, "X") for s, e in spans))
        assert list(trees.binarise(labelled).transitions) == derivation
        assert trees.depth(derivation) < n
    ptb = "(S " * n + " ".join(f"(T {word}))" for word in words)
    assert len(trees.parse_ptb(ptb).labelled_spans) == n
    assert time.process_time() - started < 10
    assert trees.depth(trees.left_branching(n)) == n - 1
