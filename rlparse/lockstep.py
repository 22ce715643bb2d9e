"""The parser state of a whole batch, advanced in lockstep: tensors and pure functions on them.

Node ids live in one table a row: leaves are 0..N-1 (N is the padded length) and the j-th REDUCE of a row makes
node N + j. Environment, rollout and stack machine all read the state from here; `ParserState` in
`rlparse.transitions` is its readable twin for one sentence.
"""

from __future__ import annotations

from functools import cache
from typing import NamedTuple

import torch
from torch import Tensor
from torch.nn import functional as F

from rlparse import PAD
from rlparse.compiled import replay_kernels
from rlparse.errors import IllegalTransitionError, MalformedTreeError

SHIFT, REDUCE = 0, 1


class LockstepState(NamedTuple):
    """State of R parsers over sentences of at most N tokens.

    Attributes:
        lengths: [R] int64. Tokens of each sentence.
        stack: [R, N] int64. Node ids, bottom first; entries at and above the stack size are meaningless.
        stack_sizes: [R] int64.
        buffer_front: [R] int64. Index of the next token to shift, equal to the length when the buffer is empty.
        children: [R, N - 1, 2] int64. Left and right child of node N + j; -1 while there is no such node.
    """

    lengths: Tensor
    stack: Tensor
    stack_sizes: Tensor
    buffer_front: Tensor
    children: Tensor

    @property
    def n_reduced(self) -> Tensor:
        """[R] int64. REDUCEs so far: every one takes one item off what was shifted."""
        return self.buffer_front - self.stack_sizes

    @property
    def finished(self) -> Tensor:
        """[R] bool. One tree covers the sentence."""
        return (self.buffer_front == self.lengths) & (self.stack_sizes == 1)


def init(lengths: Tensor, n_tokens: int) -> LockstepState:
    """Start one parser a row, with everything in the buffer.

    Args:
        lengths: [R] int64, each from 1 to ``n_tokens``.
        n_tokens: Padded length N.

    Raises:
        ValueError: A length is outside 1..N.
    """
    _check_lengths(lengths, n_tokens)
    rows, device = lengths.shape[0], lengths.device
    zeros = torch.zeros(rows, dtype=torch.int64, device=device)
    return LockstepState(
        lengths=lengths,
        stack=torch.zeros(rows, n_tokens, dtype=torch.int64, device=device),
        stack_sizes=zeros,
        buffer_front=zeros.clone(),
        children=torch.full((rows, n_tokens - 1, 2), -1, dtype=torch.int64, device=device),
    )


def legal(state: LockstepState) -> Tensor:
    """Tell which transitions each row may take: the batched twin of `transitions.legal_transitions`.

    Returns:
        [R, A] bool. Column 0 SHIFT (the buffer is not empty), column 1 REDUCE (two items on the stack). Both are
        False in a finished row.
    """
    return torch.stack((state.buffer_front < state.lengths, state.stack_sizes >= 2), dim=1)


def tops(state: LockstepState) -> Tensor:
    """Give the node ids that a tracker looks at.

    Returns:
        [R, 3] int64. Buffer front, top of the stack, second of the stack; -1 where there is none.
    """
    depth = state.stack_sizes.unsqueeze(1)  # [R, 1]
    front = torch.where(state.buffer_front < state.lengths, state.buffer_front, -1)
    first = state.stack.gather(1, (depth - 1).clamp_min(0))
    second = state.stack.gather(1, (depth - 2).clamp_min(0))
    first = torch.where(depth >= 1, first, -1)
    second = torch.where(depth >= 2, second, -1)
    return torch.cat((front.unsqueeze(1), first, second), dim=1)


def apply(state: LockstepState, actions: Tensor) -> LockstepState:
    """Take one transition in every row and return the new state; the old one is left as it was.

    Args:
        state: The state before.
        actions: [R] int64. SHIFT, REDUCE, or PAD to leave a row as it is.

    Raises:
        IllegalTransitionError: A row's transition is not legal; the message names the first such row.
    """
    allowed = legal(state)
    wrong = ~torch.cat((allowed, torch.ones_like(allowed[:, :1])), dim=1).gather(
        1, actions.unsqueeze(1)
    ).squeeze(1)
    if bool(wrong.any()):
        row = int(wrong.nonzero()[0])
        size, front, length = (int(x[row]) for x in (state.stack_sizes, state.buffer_front, state.lengths))
        step = 2 * front - size
        if int(actions[row]) == SHIFT:
            raise IllegalTransitionError(
                f"row {row}: SHIFT at step {step} needs a token in the buffer, all {length} are shifted"
            )
        raise IllegalTransitionError(
            f"row {row}: REDUCE at step {step} needs 2 items on the stack, found {size}"
        )
    fresh = LockstepState(
        state.lengths,
        state.stack.clone(),
        state.stack_sizes.clone(),
        state.buffer_front.clone(),
        state.children.clone(),
    )
    apply_(fresh, actions)
    return fresh


def apply_(state: LockstepState, actions: Tensor) -> None:
    """Take one legal transition in every row, in place and unchecked: the loop of rollouts and of `trace`.

    A row with PAD writes only to entries that carry no meaning, so that no row has to be picked out.
    """
    n_tokens = state.stack.shape[1]
    sizes = state.stack_sizes
    shift, reduce = actions == SHIFT, actions == REDUCE
    if n_tokens > 1:
        below = (sizes.unsqueeze(1) - torch.tensor([2, 1], device=sizes.device)).clamp_min(0)  # [R, 2]
        made = state.n_reduced.clamp_max(n_tokens - 2)
        slot = made.view(-1, 1, 1).expand(-1, 1, 2)
        pair = state.stack.gather(1, below).unsqueeze(1)
        keep = state.children.gather(1, slot)
        state.children.scatter_(1, slot, torch.where(reduce.view(-1, 1, 1), pair, keep))
        node = torch.where(shift, state.buffer_front, made + n_tokens)
    else:
        node = state.buffer_front
    # Where a SHIFT or REDUCE pushes; a PAD row pushes just above its stack, or onto itself when the stack is full.
    place = (sizes - 2 * reduce.long()).clamp(0, n_tokens - 1).unsqueeze(1)
    pushed = torch.where((shift | reduce).unsqueeze(1), node.unsqueeze(1), state.stack.gather(1, place))
    state.stack.scatter_(1, place, pushed)
    state.stack_sizes.add_(shift.long()).sub_(reduce.long())
    state.buffer_front.add_(shift.long())


class Trace(NamedTuple):
    """What a batch of complete derivations does, step by step.

    Attributes:
        lengths: [R] int64.
        children: [R, N - 1, 2] int64. Children of node N + j; -1 past the row's last node.
        steps: [R, N - 1] int64. Step at which node N + j is made; -1 past the last.
        heights: [R, N - 1] int64. Height of node N + j above its deepest leaf, from 1; 0 past the last.
        tops: [R, T, 3] int64. Buffer front, stack top and second *before* each step; -1 where there is none.
        legal: [R, T, A] bool. Legal transitions before each step; all False after the end.
    """

    lengths: Tensor
    children: Tensor
    steps: Tensor
    heights: Tensor
    tops: Tensor
    legal: Tensor

    def to(self, device: torch.device) -> Trace:
        """Copy to a device what is not there yet; to a GPU without waiting for it."""
        pins = device.type == "cuda"
        fields = (field.pin_memory() if pins and not field.is_cuda else field for field in self)
        return Trace(*(field.to(device, non_blocking=True) for field in fields))


def trace(transitions: Tensor, lengths: Tensor) -> Trace:
    """Replay complete derivations on the lockstep parser, without touching any vector.

    Args:
        transitions: [R, T] int, T = 2N - 1, PAD after the end.
        lengths: [R] int64.

    Raises:
        ValueError: ``transitions`` is not [R, 2N - 1] with N at least the longest sentence, or ``lengths`` not [R].
        IllegalTransitionError: A transition is not legal where it stands.
        MalformedTreeError: A row stops before one tree covers its sentence, or goes on after it.
    """
    if transitions.dim() != 2 or transitions.shape[1] % 2 == 0 or lengths.shape != transitions.shape[:1]:
        raise ValueError(
            f"transitions must be [R, 2N - 1] and lengths [R], "
            f"got {tuple(transitions.shape)} and {tuple(lengths.shape)}"
        )
    rows, n_steps = transitions.shape
    n_tokens = (n_steps + 1) // 2
    device = lengths.device
    transitions, lengths = transitions.long(), lengths.long()
    kernels = replay_kernels()
    if kernels is not None:
        # On a GPU too: one copy there and back costs less than a hundred small kernels.
        found = _empty_trace(lengths.cpu().contiguous(), n_tokens)
        if kernels.replay(transitions.cpu().contiguous(), *found):
            return found._replace(lengths=lengths) if device.type == "cpu" else found.to(device)
        # Something is wrong: what follows says what.
    _check_lengths(lengths, n_tokens)
    _check(transitions, lengths)
    numbers = torch.arange(n_steps, device=device)
    is_shift, is_reduce = transitions == SHIFT, transitions == REDUCE
    shifted, reduced = is_shift.cumsum(1), is_reduce.cumsum(1)  # [R, T] after each step
    starts = _starts(is_shift, shifted - reduced)
    nodes = torch.where(is_shift, shifted - 1, reduced + (n_tokens - 1))  # node that each step makes
    # What stands on the stack before a step was left there by the step before it; below that lies what the step before
    # its first SHIFT left there. A finished row keeps its root.
    before = torch.minimum(numbers - 1, 2 * lengths.unsqueeze(1) - 2)
    below = starts.gather(1, before.clamp_min(0)) - 1
    first = torch.where(before >= 0, nodes.gather(1, before.clamp_min(0)), -1)
    second = torch.where((before >= 0) & (below >= 0), nodes.gather(1, below.clamp_min(0)), -1)
    fronts = shifted - is_shift.long()
    may_shift = fronts < lengths.unsqueeze(1)
    tops = torch.stack((torch.where(may_shift, fronts, -1), first, second), dim=2)
    may_reduce = shifted - reduced - is_shift.long() + is_reduce.long() >= 2
    # One column a REDUCE; the last column takes all other steps and is cut off.
    column = torch.where(is_reduce, reduced - 1, n_tokens - 1)
    steps = torch.full((rows, n_tokens), -1, dtype=torch.int64, device=device)
    steps = steps.scatter_(1, column, torch.where(is_reduce, numbers, -1))[:, :-1]
    made = steps.clamp_min(0)
    missing = steps < 0
    children = torch.stack((second.gather(1, made), first.gather(1, made)), dim=2)
    heights = _heights(starts, is_reduce, reduced, made)
    return Trace(
        lengths,
        children.masked_fill_(missing.unsqueeze(2), -1),
        steps,
        heights.masked_fill_(missing, 0),
        tops,
        torch.stack((may_shift, may_reduce), dim=2),
    )


def _empty_trace(lengths: Tensor, n_tokens: int) -> Trace:
    """Give room for a trace, without values."""
    rows, inner = lengths.shape[0], n_tokens - 1
    return Trace(
        lengths=lengths,
        children=lengths.new_empty(rows, inner, 2, dtype=torch.int64),
        steps=lengths.new_empty(rows, inner, dtype=torch.int64),
        heights=lengths.new_empty(rows, inner, dtype=torch.int64),
        tops=lengths.new_empty(rows, n_tokens + inner, 3, dtype=torch.int64),
        legal=lengths.new_empty(rows, n_tokens + inner, 2, dtype=torch.bool),
    )


def _starts(is_shift: Tensor, sizes: Tensor) -> Tensor:
    """Give the step of the first SHIFT under the node that each step makes: [R, T] int64.

    A node that lies at place k of the stack was begun by the last SHIFT before it that pushed to place k. Sorting the
    steps of a row by the place they push to, then by time, brings each next to the ones before it.

    Args:
        is_shift: [R, T] bool.
        sizes: [R, T] int64. Stack sizes after each step.
    """
    n_steps = is_shift.shape[1]
    keys, order = (sizes * n_steps + torch.arange(n_steps, device=sizes.device)).sort(dim=1)
    begun = torch.where(is_shift.gather(1, order), keys, 0).cummax(dim=1).values % n_steps
    return torch.empty_like(begun).scatter_(1, order, begun)


def _heights(starts: Tensor, is_reduce: Tensor, reduced: Tensor, steps: Tensor) -> Tensor:
    """Give the height above its deepest leaf of the node that each of some REDUCEs makes: [R, M] int64.

    The steps under a node are an interval, from the first SHIFT to its own REDUCE. So the depth of every node is the
    number of intervals around it, and a height is the greatest depth in an interval less the depth of its end.

    Args:
        starts: [R, T] int64. As `_starts` gives them.
        is_reduce: [R, T] bool.
        reduced: [R, T] int64. REDUCEs up to and with each step.
        steps: [R, M] int64. The REDUCEs asked for.
    """
    n_steps = starts.shape[1]
    counted = is_reduce.long()
    begun = torch.zeros_like(starts).scatter_add_(1, starts, counted).cumsum(1)
    around = begun.sub_(reduced).add_(counted)  # [R, T] intervals that hold each step
    # The greatest of any 2^k neighbours, for every k in columns of their own: two such runs cover an interval.
    greatest = [around]
    while 2 ** len(greatest) <= n_steps:
        half, last = 2 ** (len(greatest) - 1), greatest[-1]
        greatest.append(F.pad(torch.maximum(last[:, :-half], last[:, half:]), (0, half)))
    table = torch.cat(greatest, dim=1)  # [R, K T]
    first = starts.gather(1, steps)
    k = torch.frexp((steps - first + 1).float()).exponent.long() - 1  # floor of log2
    left, right = table.gather(1, k * n_steps + first), table.gather(1, (k * n_steps + steps + 1) - 2**k)
    return torch.maximum(left, right) - around.gather(1, steps) + 1


def mean_depth(trace: Trace) -> Tensor:
    """Average, over the tokens of each sentence, the number of nodes above a token.

    Every node adds one to the depth of each token below it, so that the sum over tokens is the sum of the sizes of all
    nodes. The same as `parse_scores.mean_depth`, per row.

    Returns:
        [R] float32; 0 for sentences of one token.
    """
    n_inner = trace.steps.shape[1]
    n_tokens = n_inner + 1
    # Every node's leftmost leaf, by following left children twice as far each time; leaves point to themselves.
    leaves = torch.arange(n_tokens, device=trace.lengths.device).expand(len(trace.lengths), -1)
    leftmost = torch.cat((leaves, trace.children[:, :, 0].clamp_min(0)), dim=1)
    for _ in range(n_inner.bit_length()):
        leftmost = leftmost.gather(1, leftmost)
    # The j-th REDUCE at step t covers what was shifted until then, t - j tokens, from its leftmost leaf on.
    number = torch.arange(n_inner, device=trace.lengths.device)
    sizes = trace.steps - number - leftmost[:, n_tokens:]
    return torch.where(trace.steps >= 0, sizes, 0).sum(1) / trace.lengths


def _check_lengths(lengths: Tensor, n_tokens: int) -> None:
    wrong = (lengths < 1) | (lengths > n_tokens)
    if bool(wrong.any()):
        bad = int(wrong.nonzero()[0])
        raise ValueError(f"lengths must be from 1 to {n_tokens}, got {int(lengths[bad])} in row {bad}")


def _check(transitions: Tensor, lengths: Tensor) -> None:
    """Raise unless every row is one complete derivation followed by PAD."""
    shift, reduce = transitions == SHIFT, transitions == REDUCE
    known = shift | reduce | (transitions == PAD)
    if not bool(known.all()):
        row, step = (int(x) for x in (~known).nonzero()[0])
        raise ValueError(
            f"transitions hold 0 (SHIFT), 1 (REDUCE) or {PAD} (PAD), found {int(transitions[row, step])} "
            f"in row {row} at step {step}"
        )
    size_after = (shift.long() - reduce.long()).cumsum(1)
    size_before = size_after - shift.long() + reduce.long()
    shifted = shift.long().cumsum(1)
    short = reduce & (size_before < 2)
    long = shift & (shifted > lengths.unsqueeze(1))
    for wrong, rule in ((short, "REDUCE"), (long, "SHIFT")):
        if bool(wrong.any()):
            row, step = (int(x) for x in wrong.nonzero()[0])
            found = (
                f"needs 2 items on the stack, found {int(size_before[row, step])}"
                if rule == "REDUCE"
                else f"needs a token in the buffer, all {int(lengths[row])} are shifted"
            )
            raise IllegalTransitionError(f"row {row}: {rule} at step {step} {found}")
    expected = 2 * lengths - 1
    real = (shift | reduce).long()
    ends = real.sum(1)
    gaps = (real.cumsum(1) != torch.arange(1, real.shape[1] + 1, device=real.device)) & real.bool()
    unfinished = (ends != expected) | gaps.any(1)
    if bool(unfinished.any()):
        bad = unfinished.nonzero().squeeze(1).tolist()
        shown = ", ".join(f"{r} ({int(size_after[r, -1])} items left)" for r in bad[:5])
        raise MalformedTreeError(
            f"{len(bad)} of {len(lengths)} derivations are not 2n - 1 transitions that end in one tree, "
            f"followed by PAD: rows {shown}"
        )


def catalan_logits(state_sizes: Tensor, buffer_sizes: Tensor) -> Tensor:
    """Log-odds of REDUCE against SHIFT under which every binary tree over the sentence is equally likely.

        P(SHIFT | s items on the stack, b tokens in the buffer) = (s + 1) b / (s (2 b + s - 1))

    which is the share of the completions (ballot numbers) that begin with a SHIFT. Fair coins instead would
    favour some trees exponentially.

    Args:
        state_sizes: Any shape, int64. Stack sizes s.
        buffer_sizes: Same shape, int64. Buffer sizes b.

    Returns:
        Same shape, float32. log P(REDUCE) - log P(SHIFT) where both are legal, else 0.
    """
    s, b = state_sizes.float(), buffer_sizes.float()
    free = (state_sizes >= 2) & (buffer_sizes >= 1)
    shift = ((s + 1) * b) / (s * (2 * b + s - 1)).clamp_min(1.0)
    shift = torch.where(free, shift, torch.full_like(shift, 0.5))
    return torch.log1p(-shift) - torch.log(shift)


def catalan_table(n_tokens: int, device: torch.device | str = "cpu") -> Tensor:
    """Tabulate `catalan_logits` for sentences of at most N tokens.

    Returns:
        [W, W] float32, W > N a power of two: by stack size, then buffer size. One tensor for all that ask; do not write
        to it.
    """
    return _catalan_table(1 << n_tokens.bit_length(), torch.device(device))


@cache  # a few powers of two for every device; CUDA graphs go on reading a table where it lies
def _catalan_table(width: int, device: torch.device) -> Tensor:
    sizes = torch.arange(width, device=device)
    return catalan_logits(sizes.unsqueeze(1).expand(width, width), sizes.expand(width, width))
