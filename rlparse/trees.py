"""Binary trees as derivations: reading and writing brackets, spans, trivial and random trees.

A *derivation* is the sequence of ``2n - 1`` transitions (SHIFT = 0, REDUCE = 1) that builds a binary tree
over n tokens from left to right. Each binary tree has exactly one, so derivations are the representation of
trees everywhere. A *span* is ``(start, end)`` with the end excluded. Everything here takes time linear in the
length of the sentence (what starts from spans sorts them first) and nothing recurses, so very long and very
deep trees work. No torch here.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from typing import Literal, NamedTuple

import numpy as np

from rlparse import PAD
from rlparse.errors import MalformedTreeError

__all__ = [
    "BalancedSplit",
    "BinaryTree",
    "LabelledTree",
    "balanced",
    "binarise",
    "check_derivation",
    "depth",
    "derivation_from_spans",
    "escape_brackets",
    "format_brackets",
    "left_branching",
    "mean_leaf_depth",
    "parse_binary",
    "parse_listops",
    "parse_ptb",
    "random_merges",
    "right_branching",
    "spans",
    "uniform_tree",
]

SHIFT, REDUCE = 0, 1  # plain integers: comparing with an IntEnum costs ten times as much in these loops

BalancedSplit = Literal["floor", "ceil", "power_of_two"]
Span = tuple[int, int]


class BinaryTree(NamedTuple):
    """The words of a sentence and the derivation of a binary tree over them."""

    tokens: tuple[str, ...]
    transitions: tuple[int, ...]


class LabelledTree(NamedTuple):
    """A constituency tree of any arity.

    Attributes:
        tokens: The words.
        labelled_spans: ``(start, end, label)`` of every phrase (not of part-of-speech tags), inner before
            outer; phrases of one token and unary chains (several labels on one span) included.
    """

    tokens: tuple[str, ...]
    labelled_spans: tuple[tuple[int, int, str], ...]


# ------------------------------------------------------------------------------------------ brackets to trees


_PIECE = re.compile(r"\S+", re.ASCII)


def _pieces(text: str) -> list[str]:
    """Split at ASCII space only: a token such as Stanford's ``1\u00a01/2`` has a no-break space inside."""
    return text.split() if text.isascii() else _PIECE.findall(text)


def parse_binary(text: str) -> BinaryTree:
    """Read a binary tree such as ``( ( Two women ) ( are sleeping ) )``, the format of SNLI's binary parses.

    Brackets and tokens stand between spaces, every bracket holds exactly two items. A sentence of one token
    is the bare token or the token in brackets.

    Raises:
        MalformedTreeError: The brackets do not match, or one of them does not hold two items.
    """
    pieces = _pieces(text)
    if len(pieces) == 3 and pieces[0] == "(" and pieces[2] == ")" and pieces[1] not in ("(", ")"):
        return BinaryTree((pieces[1],), (SHIFT,))
    tokens: list[str] = []
    transitions: list[int] = []
    items = 0  # in the innermost open bracket
    open_items: list[int] = []  # in the brackets around it
    for index, piece in enumerate(pieces):
        if piece == ")":
            if not open_items:
                raise _bracket_error(text, index, "')' closes no open bracket")
            if items != 2:
                raise _bracket_error(text, index, f"expected 2 items in this bracket, found {items}")
            transitions.append(REDUCE)
            items = open_items.pop() + 1
            continue
        if items == 2 and open_items:
            raise _bracket_error(text, index, "expected ')', found a third item in this bracket")
        if items == 1 and not open_items:
            raise _bracket_error(text, index, "expected the end of the text after a complete tree")
        if piece == "(":
            open_items.append(items)
            items = 0
        else:
            tokens.append(piece)
            transitions.append(SHIFT)
            items += 1
    if not pieces:
        raise MalformedTreeError("expected a bracketed tree, got an empty text")
    if open_items:
        raise MalformedTreeError(
            f"expected {len(open_items)} more ')' at the end, character {len(text)} of {_shorten(text)!r}"
        )
    return BinaryTree(tuple(tokens), tuple(transitions))


def parse_listops(seq: str) -> BinaryTree:
    """Read a ListOps sequence such as ``( ( ( [SM 6 ) 5 ) ] )``.

    The notation is that of `parse_binary`; the operators' own square brackets are part of the tokens, and a
    list branches to the left: ``[SM 6 5 ]`` is ``( ( ( [SM 6 ) 5 ) ] )``.

    Raises:
        MalformedTreeError: The brackets are not those of one binary tree.
    """
    return parse_binary(seq)


_PTB_PIECE = re.compile(r"[()]|[^\s()]+", re.ASCII)


def parse_ptb(text: str) -> LabelledTree:
    """Read a Penn-Treebank tree such as ``(ROOT (S (NP (PRP We)) (VP (VBP sleep))))``.

    Empty elements (tag ``-NONE-``) are left out, with the phrases that hold nothing else. A phrase without a
    label (the treebank's outermost bracket) gets none of the labelled spans.

    Raises:
        MalformedTreeError: Brackets do not match, or a tag does not hold exactly one word.
    """
    tokens: list[str] = []
    labelled: list[tuple[int, int, str]] = []
    # One entry per open bracket: (label, first token), whether a phrase is in it, the word in it.
    open_brackets: list[tuple[str | None, int]] = []
    holds_phrases: list[bool] = []
    words: list[str | None] = []
    finished = False
    previous_is_open = False
    for match in _PTB_PIECE.finditer(text):
        piece, at = match.group(), match.start()
        if finished:
            raise _ptb_error(text, at, f"expected the end of the text after a complete tree, found {piece!r}")
        if piece == "(":
            if words and words[-1] is not None:
                raise _ptb_error(text, at, f"expected ')' after the word {words[-1]!r}, found '('")
            if holds_phrases:
                holds_phrases[-1] = True
            open_brackets.append((None, len(tokens)))
            holds_phrases.append(False)
            words.append(None)
        elif piece == ")":
            if not open_brackets:
                raise _ptb_error(text, at, "')' closes no open bracket")
            label, start = open_brackets.pop()
            word, phrase = words.pop(), holds_phrases.pop()
            if word is None and not phrase:
                raise _ptb_error(text, at, f"expected a word or a phrase in the bracket {label or ''!r}")
            if word is not None:
                if label != "-NONE-":
                    tokens.append(word)
            elif label is not None and len(tokens) > start:
                labelled.append((start, len(tokens), label))
            finished = not open_brackets
        elif not open_brackets:
            raise _ptb_error(text, at, f"expected '(', found {piece!r}")
        elif previous_is_open:
            open_brackets[-1] = (piece, open_brackets[-1][1])
        elif holds_phrases[-1]:
            raise _ptb_error(text, at, f"expected '(' or ')' after a phrase, found the word {piece!r}")
        elif words[-1] is not None:
            raise _ptb_error(text, at, f"expected ')' after the word {words[-1]!r}, found {piece!r}")
        else:
            words[-1] = piece
        previous_is_open = piece == "("
    if open_brackets:
        raise MalformedTreeError(
            f"expected {len(open_brackets)} more ')' at the end, character {len(text)} of {_shorten(text)!r}"
        )
    if not tokens:
        raise MalformedTreeError(f"expected a tree with at least one word, got {_shorten(text)!r}")
    return LabelledTree(tuple(tokens), tuple(labelled))


def binarise(tree: LabelledTree, branching: Literal["right", "left"] = "right") -> BinaryTree:
    """Make a tree of any arity binary: unary phrases vanish, longer ones are split from the given side.

    Right: ``(a b c d)`` becomes ``(a (b (c d)))``; left: ``(((a b) c) d)``.

    Raises:
        MalformedTreeError: Two spans cross or a span is outside the sentence.
        ValueError: ``branching`` is neither "right" nor "left".
    """
    n = len(tree.tokens)
    if branching not in ("right", "left"):
        raise ValueError(f"branching must be 'right' or 'left', got {branching!r}")
    phrases = {(start, end) for start, end, _ in tree.labelled_spans}
    _check_spans(phrases, n)
    phrases = {span for span in phrases if span[1] - span[0] > 1}
    if n > 1:
        phrases.add((0, n))
    ordered = sorted(phrases, key=lambda span: (span[0], -span[1]), reverse=True)
    open_phrases: list[Span] = []
    n_items: list[int] = []  # complete items that wait in each open phrase
    transitions: list[int] = []
    for token in range(n):
        while ordered and ordered[-1][0] == token:
            open_phrases.append(ordered.pop())
            n_items.append(0)
        transitions.append(SHIFT)
        while open_phrases:
            n_items[-1] += 1
            if branching == "left" and n_items[-1] == 2:
                transitions.append(REDUCE)
                n_items[-1] = 1
            if open_phrases[-1][1] > token + 1:
                break
            open_phrases.pop()
            transitions.extend([REDUCE] * (n_items.pop() - 1))
    return BinaryTree(tree.tokens, tuple(transitions))


# ------------------------------------------------------------------------------------------ trees to brackets


def format_brackets(tokens: Sequence[str], transitions: Sequence[int]) -> str:
    """Write a tree as `parse_binary` reads it: ``( ( a b ) c )``; a single token stands alone.

    Raises:
        MalformedTreeError: The derivation is not one over these tokens, or a token could not be read back
            because it is a bracket (see `escape_brackets`), empty, or holds a space.
    """
    n = len(tokens)
    check_derivation(transitions, n)
    openings = [0] * n
    closings = [0] * (n + 1)
    for start, end in spans(transitions):
        openings[start] += 1
        closings[end] += 1
    pieces = []
    for i, token in enumerate(tokens):
        if token in ("(", ")") or _pieces(token) != [token]:
            raise MalformedTreeError(f"token {i} cannot stand in a bracketed text: {token!r}")
        pieces.append("( " * openings[i] + token + " )" * closings[i + 1])
    return " ".join(pieces)


_ESCAPES = {"(": "-LRB-", ")": "-RRB-"}


def escape_brackets(tokens: Sequence[str]) -> tuple[str, ...]:
    """Write tokens that are brackets as treebanks do, -LRB- and -RRB-, to let them stand in bracketed text."""
    return tuple(_ESCAPES.get(token, token) for token in tokens)


# -------------------------------------------------------------------------------------- derivations and spans


def check_derivation(transitions: Sequence[int], n_tokens: int | None = None) -> None:
    """Raise unless the transitions are a complete derivation, over ``n_tokens`` tokens where given.

    Raises:
        MalformedTreeError: Says at which step which rule is broken.
    """
    size = 0
    for step, transition in enumerate(transitions):
        if transition == SHIFT:
            size += 1
        elif transition == REDUCE:
            if size < 2:
                raise MalformedTreeError(f"REDUCE at step {step} needs 2 items on the stack, found {size}")
            size -= 1
        else:
            hint = " (padding: cut the derivation at its end first)" if transition == PAD else ""
            raise MalformedTreeError(
                f"expected SHIFT (0) or REDUCE (1) at step {step}, got {transition!r}{hint}"
            )
    found = (len(transitions) + size) // 2
    if n_tokens is not None and found != n_tokens:
        raise MalformedTreeError(f"expected a derivation over {n_tokens} tokens, found {found} SHIFTs")
    if size != 1:
        raise MalformedTreeError(
            f"expected one tree at the end of {len(transitions)} transitions, found {size} items on the stack"
        )


def spans(transitions: Sequence[int]) -> list[Span]:
    """List the spans of all internal nodes in the order of their creation: children first, the root last.

    Raises:
        MalformedTreeError: The transitions are not a complete derivation.
    """
    starts: list[int] = []  # of the trees on the stack: each ends where the next one starts
    end = 0
    found = []
    for transition in transitions:
        if transition == SHIFT:
            starts.append(end)
            end += 1
        elif transition == REDUCE and len(starts) > 1:
            starts.pop()
            found.append((starts[-1], end))
        else:
            break
    if len(found) + end != len(transitions) or len(starts) != 1:
        check_derivation(transitions)
    return found


def derivation_from_spans(spans: Iterable[Span], n_tokens: int) -> list[int]:
    """Turn the spans of a binary tree's internal nodes (any order) into its derivation.

    After a token come as many REDUCEs as spans end there, so counting ends is enough; spans of one token and
    repeated spans are ignored.

    Raises:
        MalformedTreeError: Spans cross, lie outside the sentence, or are not ``n_tokens - 1``.
    """
    if n_tokens < 1:
        raise MalformedTreeError(f"a tree needs at least 1 token, got {n_tokens}")
    nodes = set(spans)
    _check_spans(nodes, n_tokens)
    nodes = {span for span in nodes if span[1] - span[0] > 1}
    if len(nodes) != n_tokens - 1:
        raise MalformedTreeError(
            f"a binary tree over {n_tokens} tokens has {n_tokens - 1} spans of 2 or more tokens, "
            f"got {len(nodes)}"
        )
    n_ends = [0] * (n_tokens + 1)
    for _, end in nodes:
        n_ends[end] += 1
    transitions = []
    for end in range(1, n_tokens + 1):
        transitions.append(SHIFT)
        transitions.extend([REDUCE] * n_ends[end])
    return transitions


def depth(transitions: Sequence[int]) -> int:
    """Return the number of edges from the root to the deepest token: 0 for one token, n - 1 at most.

    Raises:
        MalformedTreeError: The transitions are not a complete derivation.
    """
    check_derivation(transitions)
    heights: list[int] = []
    for transition in transitions:
        if transition == SHIFT:
            heights.append(0)
        else:
            right = heights.pop()
            heights[-1] = max(heights[-1], right) + 1
    return heights[0]


def mean_leaf_depth(transitions: Sequence[int]) -> float:
    """Return the number of edges from the root to a token, averaged over the tokens.

    Every token lies as deep as there are spans that hold it, so the sum of depths is the sum of span lengths.

    Raises:
        MalformedTreeError: The transitions are not a complete derivation.
    """
    nodes = spans(transitions)
    return sum(end - start for start, end in nodes) / (len(nodes) + 1)


# ----------------------------------------------------------------------------------- trivial and random trees


def left_branching(n_tokens: int) -> list[int]:
    """Return the derivation of ``(((a b) c) d)``.

    Raises:
        ValueError: There is no token.
    """
    _check_length(n_tokens)
    return [SHIFT] + [SHIFT, REDUCE] * (n_tokens - 1)


def right_branching(n_tokens: int, *, final_at_root: bool = False) -> list[int]:
    """Return the derivation of ``(a (b (c d)))``, or with ``final_at_root`` of ``((a (b c)) d)``.

    The second form suits a sentence that ends with a full stop: treebanks attach it to the root, and this
    alone doubles the score of right-branching trees on English.

    Raises:
        ValueError: There is no token.
    """
    _check_length(n_tokens)
    if final_at_root and n_tokens > 1:
        return [*right_branching(n_tokens - 1), SHIFT, REDUCE]
    return [SHIFT] * n_tokens + [REDUCE] * (n_tokens - 1)


def balanced(n_tokens: int, split: BalancedSplit = "floor") -> list[int]:
    """Return the derivation of a balanced tree, split at every node after a number of tokens m of its n.

    Args:
        n_tokens: Length of the sentence.
        split: ``floor``: m = n // 2, so that the right half is the longer one; ``ceil``: m = (n + 1) // 2;
            ``power_of_two``: the right part has the largest power of two below n, as in the code with
            which latent-tree parsers are usually compared.

    Raises:
        ValueError: There is no token, or no such split.
    """
    _check_length(n_tokens)
    if split not in ("floor", "ceil", "power_of_two"):
        raise ValueError(f"split must be 'floor', 'ceil' or 'power_of_two', got {split!r}")
    transitions: list[int] = []
    to_build = [n_tokens]  # subtree sizes, next one last; 0 is the REDUCE that joins the two before
    while to_build:
        n = to_build.pop()
        if n == 0:
            transitions.append(REDUCE)
        elif n == 1:
            transitions.append(SHIFT)
        else:
            if split == "floor":
                n_right = n - n // 2
            elif split == "ceil":
                n_right = n // 2
            else:
                n_right = 1 << ((n - 1).bit_length() - 1)
            to_build += [0, n_right, n - n_right]
    return transitions


def random_merges(n_tokens: int, rng: np.random.Generator) -> list[int]:
    """Join two adjacent trees, chosen uniformly among all adjacent pairs, until one is left.

    The order in which the gaps between tokens are closed is then a uniform permutation, and the root is the
    gap closed last. Balanced trees are far likelier than under `uniform_tree`.

    Raises:
        ValueError: There is no token.
    """
    _check_length(n_tokens)
    transitions = [SHIFT]
    waiting: list[int] = []  # times of the open gaps to the left, decreasing
    for time in rng.permutation(n_tokens - 1).tolist():
        while waiting and waiting[-1] < time:
            waiting.pop()
            transitions.append(REDUCE)
        waiting.append(time)
        transitions.append(SHIFT)
    return transitions + [REDUCE] * len(waiting)


def uniform_tree(n_tokens: int, rng: np.random.Generator) -> list[int]:
    """Draw uniformly from the Catalan(n - 1) binary trees over n tokens.

    By the cycle lemma exactly one rotation of any arrangement of n SHIFTs and n - 1 REDUCEs is a derivation:
    the one that starts after the last place where the running stack size is lowest.

    Raises:
        ValueError: There is no token.
    """
    _check_length(n_tokens)
    arrangement = rng.permutation(np.repeat([SHIFT, REDUCE], [n_tokens, n_tokens - 1]))
    sizes = np.cumsum(1 - 2 * arrangement)
    start = 0 if sizes.min() > 0 else len(sizes) - int(np.argmin(sizes[::-1]))
    transitions: list[int] = np.roll(arrangement, -start).tolist()
    return transitions


# ----------------------------------------------------------------------------------------------------- checks


def _check_length(n_tokens: int) -> None:
    if n_tokens < 1:
        raise ValueError(f"a tree needs at least 1 token, got {n_tokens}")


def _check_spans(spans: set[Span], n_tokens: int) -> None:
    """Raise where a span is outside the sentence or two spans cross."""
    enclosing: list[Span] = []
    for start, end in sorted(spans, key=lambda span: (span[0], -span[1])):
        if not 0 <= start < end <= n_tokens:
            raise MalformedTreeError(f"span ({start}, {end}) is not inside a sentence of {n_tokens} tokens")
        while enclosing and enclosing[-1][1] <= start:
            enclosing.pop()
        if enclosing and enclosing[-1][1] < end:
            raise MalformedTreeError(f"spans {enclosing[-1]} and {(start, end)} cross")
        enclosing.append((start, end))


def _bracket_error(text: str, index: int, problem: str) -> MalformedTreeError:
    """Say where in the text the piece with this index stands."""
    match = list(_PIECE.finditer(text))[index]
    hint = ""
    if match.group() not in ("(", ")") and re.search(r"[()]", match.group()):
        hint = "; brackets need spaces around them"
    return MalformedTreeError(
        f"{problem}: {match.group()!r} at character {match.start()} of "
        f"{_shorten(text, match.start())!r}{hint}"
    )


def _ptb_error(text: str, at: int, problem: str) -> MalformedTreeError:
    return MalformedTreeError(f"{problem} at character {at} of {_shorten(text, at)!r}")


def _shorten(text: str, at: int = 0, width: int = 60) -> str:
    """Cut a long text to what stands around a position."""
    if len(text) <= width:
        return text
    start = max(0, min(at - width // 2, len(text) - width))
    end = start + width
    return ("…" if start else "") + text[start:end] + ("…" if end < len(text) else "")
