"""Slow, obvious versions of what the library does fast. Tests compare; nothing else may import this."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Sequence
from math import comb
from typing import TYPE_CHECKING

import numpy as np
import torch
from torch import Tensor

from rlparse import trees
from rlparse.corpora.batching import Batch
from rlparse.models.composition import BinaryTreeLSTM, Composition, GatedRecursiveCell, TreeRNN
from rlparse.models.nli_model import NLIModel
from rlparse.models.tracker import Tracker
from rlparse.transitions import ParserState

if TYPE_CHECKING:
    from rlparse_agents.policy import TrackerPolicy

SHIFT, REDUCE, PAD = 0, 1, 2
Combine = Callable[[Tensor, Tensor], Tensor]


# ------------------------------------------------------------------------------------------------ trees


def catalan(n: int) -> int:
    """Binary trees with n inner nodes."""
    return comb(2 * n, n) // (n + 1)


def all_derivations(n: int) -> list[tuple[int, ...]]:
    """Derivations of all binary trees over n tokens: every arrangement whose stack never runs empty."""
    found = []
    for reduces in itertools.combinations(range(2 * n - 1), n - 1):
        derivation = tuple(REDUCE if step in reduces else SHIFT for step in range(2 * n - 1))
        if min(itertools.accumulate(1 - 2 * t for t in derivation)) >= 1:
            found.append(derivation)
    return found


def completions(stack_size: int, buffer_size: int) -> int:
    """Count the ways to finish a parse, by trying them all."""
    if stack_size == 1 and buffer_size == 0:
        return 1
    ways = completions(stack_size + 1, buffer_size - 1) if buffer_size else 0
    return ways + (completions(stack_size - 1, buffer_size) if stack_size >= 2 else 0)


def random_derivation(n: int, rng: torch.Generator) -> list[int]:
    """Toss a coin wherever both transitions are legal."""
    state = ParserState(n)
    while not state.is_terminal:
        may_shift, may_reduce = state.legal
        coin = int(torch.randint(2, (1,), generator=rng))
        state.apply(coin if may_shift and may_reduce else int(may_reduce))
    return [int(t) for t in state.transitions]


def padded(derivations: Sequence[Sequence[int]], n_tokens: int | None = None) -> Tensor:
    """Put derivations under each other: [R, 2N - 1], PAD after each one's end."""
    width = 2 * n_tokens - 1 if n_tokens else max(map(len, derivations))
    return torch.tensor([list(d) + [PAD] * (width - len(d)) for d in derivations], dtype=torch.int64)


def plain_batch(
    examples: Sequence[Sequence[Sequence[int]]],
    labels: Sequence[int] | None = None,
    gold: Sequence[Sequence[Sequence[int] | None]] | None = None,
) -> Batch:
    """Pad examples, each a list of its sentences' token ids, row after row: all first sentences, then all second."""
    rows = [example[side] for side in range(len(examples[0])) for example in examples]
    n_tokens = max(map(len, rows))
    golden = [None] * len(rows) if gold is None else [g[side] for side in range(len(gold[0])) for g in gold]
    return Batch(
        tokens=torch.tensor([[*row, *[0] * (n_tokens - len(row))] for row in rows]),
        lengths=torch.tensor([len(row) for row in rows]),
        labels=torch.tensor([0] * len(examples) if labels is None else labels),
        gold=padded([g or () for g in golden], n_tokens),
        has_gold=torch.tensor([g is not None for g in golden]),
        indices=torch.arange(len(examples)),
    )


def fold(leaves: Sequence[Tensor], transitions: Sequence[int], combine: Combine) -> Tensor:
    """Build one tree with a Python list for a stack."""
    buffer, stack = list(leaves), []
    for transition in transitions:
        if transition == SHIFT:
            stack.append(buffer.pop(0))
        else:
            right, left = stack.pop(), stack.pop()
            stack.append(combine(left, right))
    assert len(stack) == 1
    assert not buffer
    return stack[0]


# ------------------------------------------------------------------------------------------- compositions


def sigmoid(x: Tensor) -> Tensor:
    return 1 / (1 + torch.exp(-x))


def normalised(x: Tensor) -> Tensor:
    """Layer norm of one vector, without gain and bias."""
    centred = x - x.mean()
    return centred / torch.sqrt((centred**2).mean() + 1e-5)


def affine(weight: Tensor, bias: Tensor | float, *parts: Tensor) -> Tensor:
    return weight @ torch.cat(parts) + bias


def tree_rnn_formula(cell: TreeRNN, left: Tensor, right: Tensor, *tracker: Tensor) -> Tensor:
    """tanh(W [h_l; h_r; tracker] + b), with layer norm before the tanh where the cell has one."""
    x = affine(cell.combine.weight, cell.combine.bias, left, right, *tracker)
    if cell.norm is not None:
        x = normalised(x) * cell.norm.weight + cell.norm.bias
    return torch.tanh(x)


def tree_lstm_formula(cell: BinaryTreeLSTM, left: Tensor, right: Tensor, *tracker: Tensor) -> Tensor:
    """Tai et al.'s equations, one gate at a time; with layer norm, of each gate and of the cell."""
    D = cell.hidden_size
    W, b = cell.combine.weight, cell.combine.bias
    gate = []
    for k in range(5):
        rows = slice(k * D, (k + 1) * D)
        if cell.cell_norm is None:
            gate.append(affine(W[rows], b[rows], left[:D], right[:D], *tracker))
        else:
            pre = affine(W[rows], 0.0, left[:D], right[:D], *tracker)
            gate.append(normalised(pre) * cell.gain[k] + b[rows])
    i, forget_left, forget_right, o = (sigmoid(gate[k]) for k in range(4))
    c = i * torch.tanh(gate[4]) + forget_left * left[D:] + forget_right * right[D:]
    seen = c
    if cell.cell_norm is not None:
        seen = normalised(c) * cell.cell_norm.weight + cell.cell_norm.bias
    return torch.cat((o * torch.tanh(seen), c))


def gated_formula(cell: GatedRecursiveCell, left: Tensor, right: Tensor, *tracker: Tensor) -> Tensor:
    """Ordered Memory's cell: three gates and a candidate from one hidden layer."""
    D = cell.hidden_size
    wide = affine(cell.widen.weight, cell.widen.bias, left, right, *tracker).clamp_min(0)
    blocks = cell.combine.weight @ wide + cell.combine.bias
    gate_left, gate_right, gate_new = (sigmoid(blocks[k * D : (k + 1) * D]) for k in range(3))
    h = gate_left * left + gate_right * right + gate_new * blocks[3 * D :]
    return normalised(h) if cell.layer_norm else h


def leaf_formula(cell: Composition, embedding: Tensor) -> Tensor:
    """What each composition makes of one word."""
    assert isinstance(cell, (TreeRNN, BinaryTreeLSTM, GatedRecursiveCell))
    x = cell.project.weight @ embedding + cell.project.bias
    if isinstance(cell, TreeRNN):
        return torch.tanh(x)
    if isinstance(cell, GatedRecursiveCell) and cell.layer_norm:
        return normalised(x)
    return x


def compose_formula(cell: Composition, left: Tensor, right: Tensor, *tracker: Tensor) -> Tensor:
    """The parent of two nodes, by the formula of the cell's own kind."""
    if isinstance(cell, TreeRNN):
        return tree_rnn_formula(cell, left, right, *tracker)
    if isinstance(cell, BinaryTreeLSTM):
        return tree_lstm_formula(cell, left, right, *tracker)
    assert isinstance(cell, GatedRecursiveCell)
    return gated_formula(cell, left, right, *tracker)


def lstm_formula(tracker: Tracker, x: Tensor, hidden: Tensor, cell: Tensor) -> tuple[Tensor, Tensor]:
    """One step of an LSTM, gate by gate."""
    H = tracker.hidden_size
    lstm = tracker.lstm
    gate = []
    for k in range(4):
        rows = slice(k * H, (k + 1) * H)
        from_input = lstm.weight_ih_l0[rows] @ x + lstm.bias_ih_l0[rows]
        gate.append(from_input + lstm.weight_hh_l0[rows] @ hidden + lstm.bias_hh_l0[rows])
    cell = sigmoid(gate[1]) * cell + sigmoid(gate[0]) * torch.tanh(gate[2])
    return sigmoid(gate[3]) * torch.tanh(cell), cell


# --------------------------------------------------------------------------------------------- one sentence


class OneSentence:
    """The stack machine for one sentence: lists of vectors, and a tracker that may look at them."""

    def __init__(self, composition: Composition, embeddings: Tensor, tracker: Tracker | None = None) -> None:
        self.composition, self.tracker = composition, tracker
        self.buffer = [leaf_formula(composition, embedding) for embedding in embeddings]
        self.stack: list[Tensor] = []
        self.nodes = list(self.buffer)  # leaves, then every REDUCE's
        if tracker is not None:
            self.hidden = self.cell = embeddings.new_zeros(tracker.hidden_size)

    def look(self) -> Tensor:
        """Let the tracker read buffer front, stack top and second of the stack."""
        assert self.tracker is not None
        D = self.composition.hidden_size
        nothing = self.hidden.new_zeros(D)
        front = self.buffer[0][:D] if self.buffer else nothing
        top = self.stack[-1][:D] if self.stack else nothing
        second = self.stack[-2][:D] if len(self.stack) >= 2 else nothing
        seen = (front, top, second)
        self.hidden, self.cell = lstm_formula(self.tracker, torch.cat(seen), self.hidden, self.cell)
        return self.hidden

    def take(self, transition: int) -> None:
        """Carry out one transition; the composition reads the tracker if it was built to."""
        if transition == SHIFT:
            self.stack.append(self.buffer.pop(0))
            return
        right, left = self.stack.pop(), self.stack.pop()
        fed = (self.hidden,) if self.composition.tracker_size else ()
        self.stack.append(compose_formula(self.composition, left, right, *fed))
        self.nodes.append(self.stack[-1])


def encode_one(
    composition: Composition, embeddings: Tensor, transitions: Sequence[int], tracker: Tracker | None = None
) -> tuple[Tensor, Tensor | None]:
    """Parse one sentence: [n, E] and 2n - 1 transitions to all nodes' states, the root's last, and [2n - 1, H]."""
    machine = OneSentence(composition, embeddings, tracker)
    tracked = []
    for transition in transitions:
        if tracker is not None:
            tracked.append(machine.look())
        machine.take(transition)
    assert len(machine.stack) == 1
    assert not machine.buffer
    return torch.stack(machine.nodes), torch.stack(tracked) if tracked else None


def classify_one(
    model: NLIModel, sentences: Sequence[Sequence[int]], parses: Sequence[Sequence[int]]
) -> Tensor:
    """Logits [C] of one example, without dropout."""
    D = model.machine.composition.hidden_size
    vectors = []
    for tokens, transitions in zip(sentences, parses, strict=True):
        embeddings = torch.stack([model.embedding.weight[token] for token in tokens])
        nodes, _ = encode_one(model.machine.composition, embeddings, transitions, model.machine.tracker)
        vectors.append(nodes[-1, :D])
    if model.hide_premise:
        vectors[0] = torch.zeros_like(vectors[0])
    if len(vectors) == 2:
        p, h = vectors
        vectors += [(p - h).abs(), p * h]
    head = model.head
    wide = affine(head.widen.weight, head.widen.bias, *vectors).clamp_min(0)
    return head.classify.weight @ wide + head.classify.bias


def derivation_log_prob(
    policy: TrackerPolicy, tokens: Sequence[int], transitions: Sequence[int], encoder: NLIModel | None = None
) -> Tensor:
    """Sum of log-probabilities of one derivation, by stepping a parser and a tracker through it.

    The Catalan prior is counted, not computed: the share of the completions that begin with each transition.
    """
    reader = policy if encoder is None else encoder
    embeddings = torch.stack([reader.embedding.weight[token] for token in tokens])
    machine = OneSentence(reader.machine.composition, embeddings, policy.tracker)
    parser = ParserState(len(tokens))
    total = embeddings.new_zeros(())
    for transition in transitions:
        logits = policy.head.weight @ machine.look() + policy.head.bias
        if all(parser.legal):
            if policy.catalan_prior:
                s, b = parser.stack_size, parser.buffer_size
                ways = torch.tensor([completions(s + 1, b - 1), completions(s - 1, b)], dtype=logits.dtype)
                logits = logits + ways.log()
            total = total + logits[transition] - torch.log(torch.exp(logits[0]) + torch.exp(logits[1]))
        else:
            assert parser.legal[transition]
        parser.apply(transition)
        machine.take(transition)
    return total


def slow_spans(derivation: Sequence[int]) -> set[tuple[int, int]]:
    """Spans of more than one token, by running the parser with Python lists."""
    stack: list[tuple[int, int]] = []
    front, found = 0, set()
    for transition in derivation:
        if transition == SHIFT:
            stack.append((front, front + 1))
            front += 1
        else:
            right, left = stack.pop(), stack.pop()
            stack.append((left[0], right[1]))
            found.add(stack[-1])
    assert stack == [(0, front)]
    return found


def slow_f1(predicted: Sequence[int], gold: Sequence[int], root: bool = True) -> float:
    """F1 of one sentence by sets of spans."""
    left_out = set() if root else {(0, (len(gold) + 1) // 2)}
    ours, theirs = slow_spans(predicted) - left_out, slow_spans(gold) - left_out
    return len(ours & theirs) / len(theirs) if theirs else 1.0


def random_derivations(rng: np.random.Generator, lengths: Sequence[int]) -> list[list[int]]:
    """Draw a tree for each length, from either of two distributions."""
    return [
        trees.uniform_tree(n, rng) if rng.random() < 0.5 else trees.random_merges(n, rng) for n in lengths
    ]
