"""ListOps (Nangia and Bowman 2018): nested list operations on digits, whose value needs the right tree.

``[MAX 2 9 [MIN 4 7 ] 0 ]`` has the value 9. The gold tree branches to the left inside a list:
``( ( ( ( ( [MAX 2 ) 9 ) ( ( ( [MIN 4 ) 7 ) ] ) ) 0 ) ] )``.

The generator draws as the authors' program does: below depth 20 an operator with probability 1/4, uniform
over four, with 2 to 5 arguments; else a digit. A data set is a number of *different* draws, split at random.
About 516,000 draws make the published 100,000 expressions, as three of four draws are a bare digit.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np

from rlparse.corpora.corpus import Corpus, CorpusArrays, CorpusNames
from rlparse.corpora.examples import LISTOPS_LABELS, Example, Sentence
from rlparse.errors import CorpusError

OPERATORS = ("[MIN", "[MAX", "[MED", "[SM")
TOKENS = (*LISTOPS_LABELS, *OPERATORS, "]")
"""The 15 token types; a generated expression is a ``bytes`` of positions in this tuple."""

MAX_DEPTH = 20
MAX_ARGUMENTS = 5
OPERATOR_PROBABILITY = 0.25

_FIRST_OPERATOR = len(LISTOPS_LABELS)
_CLOSE = len(TOKENS) - 1
_PER_OPERATOR = MAX_ARGUMENTS - 1  # 2 to 5 arguments
_CODES = 640  # 3/4 of them digits (48 each), 1/4 operators with a number of arguments (10 each)
_PATIENCE = 2_000_000  # draws without a new expression


class Draws(NamedTuple):
    """Different ListOps expressions, in random order.

    Attributes:
        expressions: Each as positions in ``TOKENS``.
        n_draws: How many draws it took to find them, repeated and unfit ones included.
    """

    expressions: list[bytes]
    n_draws: int


def draw_expressions(
    n: int,
    *,
    seed: int,
    max_tokens: float | None = None,
    min_tokens: int = 1,
    fit_tokens: int | None = None,
) -> Draws:
    """Draw until ``n`` different expressions are found.

    Args:
        n: How many to find.
        seed: Of the draws and of the order of the result.
        max_tokens: Longer draws are rejected.
        min_tokens: Shorter draws are rejected; 2 leaves out the ten bare digits.
        fit_tokens: Count only expressions of at most so many tokens towards ``n``; longer ones come on top.

    Raises:
        CorpusError: There are not that many, or they are too rare to be found.
    """
    rng = np.random.default_rng(seed)
    limit = max_tokens if max_tokens is not None else 1 << 60
    fit = min(limit, fit_tokens if fit_tokens is not None else limit)
    codes, position = _codes(rng), 0
    found: dict[bytes, None] = {}
    n_fit = n_draws = stale = 0
    while n_fit < n:
        if len(codes) - position < 4096:
            codes, position = codes[position:] + _codes(rng), 0
        expression, position, codes = _draw(codes, position, limit, rng)
        n_draws += 1
        if expression is None or len(expression) < min_tokens or expression in found:
            stale += 1
            if stale > _PATIENCE:
                raise CorpusError(
                    f"found only {n_fit} of {n} different ListOps expressions of {min_tokens} to "
                    f"{fit_tokens or max_tokens} tokens in {n_draws} draws, the last {stale} without a new "
                    "one; ask for fewer or longer ones"
                )
            continue
        found[expression] = None
        if len(expression) <= fit:
            n_fit += 1
            stale = 0
    expressions = list(found)
    return Draws([expressions[i] for i in rng.permutation(len(expressions)).tolist()], n_draws)


def _codes(rng: np.random.Generator) -> list[int]:
    codes: list[int] = rng.integers(0, _CODES, 1 << 16).tolist()
    return codes


def _draw(
    codes: list[int], position: int, limit: float, rng: np.random.Generator
) -> tuple[bytes | None, int, list[int]]:
    """Draw one expression in preorder, or None as soon as it must become longer than ``limit``."""
    out = bytearray()
    missing: list[int] = []  # arguments that each open list still needs
    owed = 1  # tokens that are certain to come: missing arguments and closing brackets
    n_digit_codes = _CODES * 3 // 4
    while True:
        if position == len(codes):
            codes, position = _codes(rng), 0
        code = codes[position]
        position += 1
        if code >= n_digit_codes and len(missing) < MAX_DEPTH - 1:
            operator, arguments = divmod((code - n_digit_codes) // 10, _PER_OPERATOR)
            arguments += 2
            owed += arguments + 1
            if len(out) + owed > limit:
                return None, position, codes
            out.append(_FIRST_OPERATOR + operator)
            owed -= 1
            missing.append(arguments)
            continue
        out.append(code % 10)
        owed -= 1
        while missing:
            missing[-1] -= 1
            if missing[-1]:
                break
            missing.pop()
            out.append(_CLOSE)
            owed -= 1
        else:
            return bytes(out), position, codes


def value(tokens: Sequence[str]) -> int:
    """Evaluate an expression. MED truncates the mean of the two middle values, SM adds modulo 10.

    Also knows FIRST and LAST of an older version of the task.

    Raises:
        CorpusError: The tokens are not one ListOps expression.
    """
    lists: list[tuple[str, list[int]]] = []
    done = False
    for position, token in enumerate(tokens):
        if done:
            raise CorpusError(
                f"ListOps expression ends at token {position}, expected nothing more, found {token!r}"
            )
        if token in _EVALUATE:
            lists.append((token, []))
            continue
        if token == "]":
            if not lists or not lists[-1][1]:
                raise CorpusError(
                    f"']' at token {position} of a ListOps expression needs an open list with a value in it"
                )
            operator, values = lists.pop()
            result = _EVALUATE[operator](values)
        elif token in LISTOPS_LABELS:
            result = int(token)
        else:
            raise CorpusError(
                f"token {position} of a ListOps expression must be a digit, ']' or one of "
                f"{sorted(_EVALUATE)}, found {token!r}"
            )
        if lists:
            lists[-1][1].append(result)
        else:
            done = True
    if not done:
        raise CorpusError(
            f"ListOps expression of {len(tokens)} tokens ends with {len(lists)} open lists, expected 0"
        )
    return result


def _median(values: list[int]) -> int:
    ordered, middle = sorted(values), len(values) // 2
    return ordered[middle] if len(values) % 2 else (ordered[middle - 1] + ordered[middle]) // 2


_EVALUATE: dict[str, Callable[[list[int]], int]] = {
    "[MIN": min,
    "[MAX": max,
    "[MED": _median,
    "[SM": lambda values: sum(values) % 10,
    "[FIRST": lambda values: values[0],
    "[LAST": lambda values: values[-1],
}

_WORDS = {*LISTOPS_LABELS, *_EVALUATE, "]", "(", ")"}


def is_listops(tokens: Sequence[str]) -> bool:
    """Whether all tokens are words of ListOps, the operators FIRST and LAST of an older version included."""
    return all(token in _WORDS for token in tokens)


def list_derivation(tokens: Sequence[str]) -> tuple[int, ...]:
    """The gold derivation of tokens with brackets among them: every list branches to the left.

    A token that starts with ``[`` or ``(`` opens a list, ``]`` or ``)`` closes it.

    Raises:
        CorpusError: The brackets do not make one list, or there is more than one item outside of all lists.
    """
    derivation: list[int] = []
    depth = 0
    for position, token in enumerate(tokens):
        if position and depth == 0:
            raise CorpusError(
                f"brackets close before token {position}, expected nothing more, found {token!r}"
            )
        derivation.append(0)
        if token[0] in "[(":
            depth += 1
            continue
        if token in ("]", ")"):
            depth -= 1
            if depth < 0:
                raise CorpusError(f"{token!r} at token {position} closes a bracket that was never opened")
            derivation.append(1)
        if depth:
            derivation.append(1)
    if depth or not tokens:
        raise CorpusError(
            f"{len(tokens)} tokens end with {depth} open brackets, expected 0 after at least 1 token"
        )
    return tuple(derivation)


def example_of(expression: bytes) -> Example:
    """A generated expression as text, with its value and gold parse."""
    tokens = tuple(TOKENS[i] for i in expression)
    return Example((Sentence(tokens, list_derivation(tokens)),), str(value(tokens)))


def corpus_of(expressions: Sequence[bytes], *, name: str) -> Corpus:
    """Expressions as a corpus, several times faster than through ``Example``.

    Raises:
        CorpusError: There are no expressions.
    """
    if not expressions:
        raise CorpusError(f"corpus {name!r} has no examples")
    flat = np.frombuffer(b"".join(expressions), np.uint8)
    offsets = np.cumsum([0, *map(len, expressions)], dtype=np.int64)
    # One REDUCE joins an argument to its list; after "]" one joins the bracket, and one the finished list to
    # the list around it. The last token of an expression has no list around it, an operator nothing to its
    # left.
    reduces = np.where(flat == _CLOSE, 2, np.where(flat >= _FIRST_OPERATOR, 0, 1))
    reduces[offsets[1:] - 1] -= 1
    transitions = np.ones(2 * len(flat) - len(expressions), np.uint8)
    transitions[np.arange(len(flat)) + np.cumsum(reduces) - reduces] = 0
    encoded = [token.encode() for token in TOKENS]
    n = len(expressions)
    arrays = CorpusArrays(
        tokens=flat.astype(np.int32),
        token_offsets=offsets,
        transitions=transitions,
        has_gold=np.ones(n, np.bool_),
        labels=np.fromiter(map(_fast_value, expressions), np.int32, n),
        spans=np.zeros((0, 3), np.int32),
        span_offsets=np.zeros(n + 1, np.int64),
        has_spans=np.zeros(n, np.bool_),
        type_text=np.frombuffer(b"".join(encoded), np.uint8),
        type_offsets=np.cumsum([0, *map(len, encoded)], dtype=np.int64),
    )
    return Corpus(arrays, CorpusNames(name, 1, LISTOPS_LABELS, ()))


def _fast_value(expression: bytes) -> int:
    """``value`` of a generated expression, without checks."""
    stack: list[list[int]] = []
    values: list[int] = []
    for token in expression:
        if token < _FIRST_OPERATOR:
            values.append(token)
        elif token < _CLOSE:
            stack.append(values)
            values = [token]
        else:
            operator = values[0] - _FIRST_OPERATOR
            del values[0]
            if operator == 0:
                result = min(values)
            elif operator == 1:
                result = max(values)
            elif operator == 2:
                result = _median(values)
            else:
                result = sum(values) % 10
            values = stack.pop()
            values.append(result)
    return values[0]


def operator_depth(tokens: Sequence[str]) -> int:
    """Lists inside lists: 0 for a digit, 1 for a list of digits."""
    deepest = depth = 0
    for token in tokens:
        if token[0] == "[":
            depth += 1
            deepest = max(deepest, depth)
        elif token == "]":
            depth -= 1
    return deepest


def embedded_listops(
    n_train: int = 20_000,
    n_dev: int = 1_000,
    n_test: int = 1_000,
    *,
    seed: int = 0,
    max_tokens: int | None = 100,
    test_max_tokens: float | None = None,
    min_tokens: int = 2,
) -> tuple[Corpus, Corpus, Corpus]:
    """Generate disjoint training, development and test corpora with gold parses.

    All three are random parts of one set of different draws. The cap of the training set can be below that
    of the test set, as is usual for ListOps (100 or 130 tokens, none in evaluation).

    Args:
        n_train: Expressions to train on.
        n_dev: Expressions for choosing a model.
        n_test: Expressions for the final score.
        seed: Of everything.
        max_tokens: Longest expression in training and development; None for no cap.
        test_max_tokens: Longest expression in the test; None for ``max_tokens``, ``math.inf`` for no cap.
        min_tokens: 2 leaves out the ten bare digits, which have nothing to parse.

    Raises:
        CorpusError: There are not that many different expressions.
    """
    if test_max_tokens is None:
        test_max_tokens = max_tokens
    elif max_tokens is None or test_max_tokens < max_tokens:
        raise CorpusError(
            f"test_max_tokens must not be below max_tokens ({max_tokens}), got {test_max_tokens}; "
            "a shorter test set can be had by subset()"
        )
    drawn = draw_expressions(
        n_train + n_dev + n_test,
        seed=seed,
        max_tokens=test_max_tokens,
        min_tokens=min_tokens,
        fit_tokens=max_tokens,
    ).expressions
    test, rest = drawn[:n_test], drawn[n_test:]
    rest = [expression for expression in rest if max_tokens is None or len(expression) <= max_tokens]
    return (
        corpus_of(rest[:n_train], name="listops-train"),
        corpus_of(rest[n_train : n_train + n_dev], name="listops-dev"),
        corpus_of(test, name="listops-test"),
    )


def write_listops(
    folder: Path, *, n_train: int = 90_000, n_test: int = 10_000, seed: int = 0, max_tokens: int | None = None
) -> list[Path]:
    """Generate a data set as published and write the official format, label TAB bracketed expression.

    Returns:
        The files written: ``train_d20s.tsv`` and ``test_d20s.tsv``.
    """
    folder.mkdir(parents=True, exist_ok=True)
    drawn = draw_expressions(n_train + n_test, seed=seed, max_tokens=max_tokens).expressions
    paths = []
    for name, part in (("train_d20s.tsv", drawn[:n_train]), ("test_d20s.tsv", drawn[n_train:])):
        with (folder / name).open("w", encoding="utf-8", newline="\n") as file:
            file.writelines(f"{_fast_value(expression)}\t{_bracketed(expression)}\n" for expression in part)
        paths.append(folder / name)
    return paths


def _bracketed(expression: bytes) -> str:
    """The official fully bracketed text of a generated expression."""
    # A list of m arguments is m + 1 nested binary nodes, all of which open before its operator.
    sizes: list[int] = []
    open_lists: list[int] = []
    for position, token in enumerate(expression):
        sizes.append(0)
        if token < _FIRST_OPERATOR or token == _CLOSE:
            if token == _CLOSE:
                sizes[open_lists.pop()] += 1
            if open_lists:
                sizes[open_lists[-1]] += 1
        else:
            open_lists.append(position)
    pieces: list[str] = []
    for position, token in enumerate(expression):
        pieces.extend(["("] * sizes[position])
        pieces.append(TOKENS[token])
        if token < _FIRST_OPERATOR:
            pieces.append(")")
        elif token == _CLOSE:
            pieces.extend((")", ")"))
    # The outermost item is joined to nothing.
    return " ".join(pieces[:-1])
