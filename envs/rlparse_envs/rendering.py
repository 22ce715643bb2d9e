"""Draw a parser as text: the stack, the buffer, and the partial tree that grows beside the tokens."""

from __future__ import annotations

from collections.abc import Sequence

from rlparse.transitions import ParserState, Transition
from rlparse.trees import escape_brackets, format_brackets

STACK_LINES, BUFFER_TOKENS, STACK_WIDTH = 5, 8, 88
"""At most so many stack items and buffer tokens are written out, and so many characters of one item."""


def bracketed(tokens: Sequence[str], transitions: Sequence[int]) -> str:
    """Write a tree as bracketed text; tokens that are brackets become -LRB- and -RRB-, as in treebanks."""
    return format_brackets(escape_brackets(tokens), transitions)


def render_parser(parser: ParserState, tokens: Sequence[str]) -> str:
    """Draw stack, buffer and partial tree of one sentence.

    Returns:
        Lines of text without a final line break, such as

            stack   0  ( old man )
                    1  The
            buffer  sleeps | .
            legal   SHIFT or REDUCE

               The     ──────╴1
               old     ─┐
               man     ─┴────╴0
             ▸ sleeps
               .
    """
    return "\n".join((*_describe(parser, tokens), "", draw_tree(parser, tokens)))


def draw_tree(parser: ParserState, tokens: Sequence[str]) -> str:
    """Draw the trees on the stack to the right of their tokens, one token a line.

    A node stands in the column of its height: a line down from its left child meets the line of its right
    child. The roots, which are the items of the stack, run to the right edge and are numbered from the top
    of the stack (0). Tokens still in the buffer have no line; the next one is marked.
    """
    heights, rows = [0] * parser.n_tokens, list(range(parser.n_tokens))
    for left, right in parser.children:
        heights.append(1 + max(heights[left], heights[right]))
        rows.append(rows[right])
    edge = 2 * max((heights[node] for node in parser.stack), default=0) + 2
    grid = [[" "] * edge for _ in range(parser.buffer_front)]
    for row in grid:
        row[0] = "─"
    for j, (left, right) in enumerate(parser.children):
        column = 2 * heights[parser.n_tokens + j] - 1
        for child in (left, right):
            for x in range(max(0, 2 * heights[child] - 1) + 1, column):
                grid[rows[child]][x] = "─"
        for y in range(rows[left] + 1, rows[right]):
            grid[y][column] = "│"
        grid[rows[left]][column], grid[rows[right]][column] = "┐", "┴"
    names = {}
    for number, node in enumerate(reversed(parser.stack)):
        row = grid[rows[node]]
        for x in range(max(0, 2 * heights[node] - 1) + 1, edge):
            row[x] = "─"
        names[rows[node]] = f"╴{number}"
    width = max(map(len, tokens))
    lines = []
    for i, token in enumerate(tokens):
        marker = "▸" if i == parser.buffer_front else " "
        drawing = "".join(grid[i]) + names.get(i, "") if i < len(grid) else ""
        lines.append(f" {marker} {token:<{width}} {drawing}".rstrip())
    return "\n".join(lines)


def _describe(parser: ParserState, tokens: Sequence[str]) -> list[str]:
    """Write stack and buffer out, one item of the stack a line, the top first."""
    texts = list(tokens)
    for left, right in parser.children:
        texts.append(f"( {texts[left]} {texts[right]} )")
    stack = [_shortened(texts[node], STACK_WIDTH) for node in reversed(parser.stack)]
    lines = [f"{number:>2}  {text}" for number, text in enumerate(stack[:STACK_LINES])] or [" (empty)"]
    if len(stack) > STACK_LINES:
        lines.append(f" …  {len(stack) - STACK_LINES} more below")
    described = ["stack  " + lines[0], *(" " * 7 + line for line in lines[1:])]
    waiting = list(tokens[parser.buffer_front :])
    shown = " | ".join(waiting[:BUFFER_TOKENS])
    if len(waiting) > BUFFER_TOKENS:
        shown += f" … {len(waiting) - BUFFER_TOKENS} more"
    described.append(f"buffer  {shown or '(empty)'}")
    names = [transition.name for transition in Transition if parser.legal[transition]]
    described.append(f"legal   {' or '.join(names) or 'nothing: the tree is complete'}")
    return described


def _shortened(text: str, width: int) -> str:
    """Cut the middle out of a long text."""
    if len(text) <= width:
        return text
    half = (width - 3) // 2
    return f"{text[:half]} … {text[-half:]}"
