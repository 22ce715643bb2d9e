"""The stack machine agrees with one sentence at a time, in values and gradients, whatever the batch and schedule."""

from __future__ import annotations

import math
from collections.abc import Sequence

import pytest
import torch
from torch import Tensor

from rlparse import lockstep
from rlparse.errors import IllegalTransitionError
from rlparse.models.composition import COMPOSITIONS, Composition, build_composition
from rlparse.models.stack_machine import SCHEDULES, Chooser, Encoding, StackMachine, distinct_words, lay_out
from rlparse.models.tracker import Tracker
from rlparse.trees import balanced, left_branching, right_branching
from slow_reference import all_derivations, encode_one, fold, padded, random_derivation

pytestmark = pytest.mark.usefixtures("kernels")

E, D, H = 3, 3, 2
LENGTHS = (4, 1, 7, 2, 3, 7, 1, 5)


def build(
    name: str, *, layer_norm: bool = False, tracker_size: int = 0, schedule: str = "by_level"
) -> StackMachine:
    """A machine in double precision whose every parameter is random."""
    torch.manual_seed(1)
    cell = build_composition(name, E, D, tracker_size=tracker_size, layer_norm=layer_norm)
    machine = StackMachine(
        cell, Tracker(D, tracker_size) if tracker_size else None, schedule=schedule
    ).double()
    with torch.no_grad():
        for parameter in machine.parameters():
            parameter.normal_(std=0.7)
    return machine


def sentences(lengths: Sequence[int] = LENGTHS, seed: int = 0) -> tuple[list[list[int]], Tensor]:
    """Random derivations, and embeddings with NaN where there is no token."""
    rng = torch.Generator().manual_seed(seed)
    derivations = [random_derivation(n, rng) for n in lengths]
    embeddings = torch.full((len(lengths), max(lengths), E), math.nan, dtype=torch.float64)
    for row, n in enumerate(lengths):
        embeddings[row, :n] = torch.randn(n, E, dtype=torch.float64, generator=rng)
    return derivations, embeddings


def encode(machine: StackMachine, derivations: Sequence[Sequence[int]], embeddings: Tensor) -> Encoding:
    lengths = torch.tensor([(len(d) + 1) // 2 for d in derivations])
    encoding: Encoding = machine(
        embeddings, lockstep.trace(padded(derivations, embeddings.shape[1]), lengths)
    )
    return encoding


def nodes_of(encoding: Encoding, row: int, n: int) -> Tensor:
    """Hidden vectors of one sentence's nodes, leaves first, read out of the table: [2n - 1, D]."""
    n_tokens = (encoding.layout.position.shape[1] + 1) // 2
    names = [*range(n), *range(n_tokens, n_tokens + n - 1)]
    return encoding.table[encoding.layout.position[row, names]]


def values_and_gradients(
    machine: StackMachine, derivations: Sequence[Sequence[int]], embeddings: Tensor
) -> tuple[list[Tensor], list[Tensor]]:
    """What every node, root and tracker step is, and the gradient of a random sum of all of them."""
    leaf = embeddings.clone().requires_grad_()
    encoding = encode(machine, derivations, leaf)
    values = [encoding.roots]
    for row, derivation in enumerate(derivations):
        values.append(nodes_of(encoding, row, (len(derivation) + 1) // 2))
        if encoding.tracker is not None:
            values.append(encoding.tracker[row, : len(derivation)])
    return values, gradients(machine, values, leaf)


def slow_values_and_gradients(
    machine: StackMachine, derivations: Sequence[Sequence[int]], embeddings: Tensor
) -> tuple[list[Tensor], list[Tensor]]:
    """The same, one sentence at a time."""
    leaf = embeddings.clone().requires_grad_()
    values, roots = [], []
    for row, derivation in enumerate(derivations):
        own = leaf[row, : (len(derivation) + 1) // 2]
        nodes, tracked = encode_one(machine.composition, own, derivation, machine.tracker)
        nodes = machine.composition.hidden(nodes)
        roots.append(nodes[-1])
        values += [nodes] if tracked is None else [nodes, tracked]
    values = [torch.stack(roots), *values]
    return values, gradients(machine, values, leaf)


def gradients(machine: StackMachine, values: Sequence[Tensor], leaf: Tensor) -> list[Tensor]:
    rng = torch.Generator().manual_seed(5)
    loss = sum((v * torch.randn(v.shape, generator=rng, dtype=torch.float64)).sum() for v in values)
    wanted = [leaf, *(p for p in machine.parameters() if p.requires_grad)]
    found = torch.autograd.grad(loss, wanted, allow_unused=True)
    return [torch.zeros_like(w) if g is None else g for w, g in zip(wanted, found, strict=True)]


def assert_same(a: object, b: object, tolerance: float = 1e-10) -> None:
    torch.testing.assert_close(a, b, rtol=0, atol=tolerance, equal_nan=True)


# ----------------------------------------------------------------------------------------- the slow reference


@pytest.mark.parametrize("name", COMPOSITIONS)
@pytest.mark.parametrize("layer_norm", [False, True])
@pytest.mark.parametrize("tracker_size", [0, H])
@pytest.mark.parametrize("schedule", SCHEDULES)
def test_values_and_gradients_agree_with_one_sentence_at_a_time(name, layer_norm, tracker_size, schedule):
    machine = build(name, layer_norm=layer_norm, tracker_size=tracker_size, schedule=schedule)
    derivations, embeddings = sentences()
    fast, fast_gradients = values_and_gradients(machine, derivations, embeddings)
    slow, slow_gradients = slow_values_and_gradients(machine, derivations, embeddings)
    assert_same(fast, slow)
    assert_same(fast_gradients, slow_gradients)
    assert all(g[~g.isnan()].any() for g in slow_gradients)


@pytest.mark.parametrize("name", COMPOSITIONS)
def test_both_schedules_give_one_answer(name):
    derivations, embeddings = sentences((9, 3, 12, 1, 6), seed=3)
    by_step, by_level = (
        values_and_gradients(build(name, schedule=schedule), derivations, embeddings)
        for schedule in SCHEDULES
    )
    assert_same(by_step, by_level)


@pytest.mark.parametrize("tracker_size", [0, H])
def test_gradients_agree_with_finite_differences(tracker_size):
    machine = build("tree_lstm", tracker_size=tracker_size)
    derivations, embeddings = sentences((3, 1, 2))
    embeddings = embeddings.nan_to_num().requires_grad_()
    names = [name for name, _ in machine.named_parameters()]

    def run(embeddings: Tensor, *parameters: Tensor) -> tuple[Tensor, ...]:
        given = dict(zip(names, parameters, strict=True))
        trace = lockstep.trace(padded(derivations), torch.tensor([3, 1, 2]))
        encoding = torch.func.functional_call(machine, given, (embeddings, trace))
        return (encoding.roots, encoding.table, *([encoding.tracker] if tracker_size else []))

    assert torch.autograd.gradcheck(run, (embeddings, *machine.parameters()), fast_mode=bool(tracker_size))


# ------------------------------------------------------------------------------------------- revealing mock


class Revealing(Composition):
    """2 left + 3 right: on one-hot leaves, the integers of a node tell its tree."""

    def leaf(self, embeddings: Tensor) -> Tensor:
        return embeddings

    def forward(self, left: Tensor, right: Tensor, tracker: Tensor | None = None) -> Tensor:
        return 2 * left + 3 * right


@pytest.mark.parametrize("schedule", SCHEDULES)
def test_every_tree_is_composed_as_it_is_derived(schedule):
    """All 65 trees over 1 to 6 tokens, in one batch."""
    derivations = [d for n in range(1, 7) for d in all_derivations(n)]
    one_hot = torch.eye(6, dtype=torch.float64)
    machine = StackMachine(Revealing(6, 6), schedule=schedule)
    encoding = encode(machine, derivations, one_hot.expand(len(derivations), 6, 6))
    seen = set()
    for root, derivation in zip(encoding.roots, derivations, strict=True):
        leaves = list(one_hot[: (len(derivation) + 1) // 2])
        assert torch.equal(root, fold(leaves, derivation, lambda l, r: 2 * l + 3 * r))
        seen.add(tuple(root.tolist()))
    assert len(seen) == len(derivations) == 65


def test_a_hand_made_tree():
    # ( a ( b c ) ): 2a + 3(2b + 3c)
    encoding = encode(StackMachine(Revealing(3, 3)), [(0, 0, 0, 1, 1)], torch.eye(3).unsqueeze(0))
    assert encoding.roots.tolist() == [[2, 6, 9]]


# --------------------------------------------------------------------- what may not change a sentence's vectors


@pytest.mark.parametrize("tracker_size", [0, H])
@pytest.mark.parametrize("schedule", SCHEDULES)
def test_padding_does_not_change_the_encoding(tracker_size, schedule):
    machine = build("tree_lstm", tracker_size=tracker_size, schedule=schedule)
    derivations, embeddings = sentences()
    wider = torch.cat((embeddings, torch.full((len(LENGTHS), 3, E), math.inf, dtype=torch.float64)), dim=1)
    values, grads = values_and_gradients(machine, derivations, embeddings)
    wide_values, wide_grads = values_and_gradients(machine, derivations, wider)
    assert_same(values, wide_values, 1e-12)
    assert_same(grads[1:], wide_grads[1:], 1e-12)
    assert_same(grads[0], wide_grads[0][:, : max(LENGTHS)], 1e-12)
    assert not wide_grads[0][:, max(LENGTHS) :].any()


@pytest.mark.parametrize("tracker_size", [0, H])
@pytest.mark.parametrize("schedule", SCHEDULES)
def test_batch_order_does_not_change_the_encoding(tracker_size, schedule):
    machine = build("tree_lstm", tracker_size=tracker_size, schedule=schedule)
    derivations, embeddings = sentences()
    order = torch.randperm(len(LENGTHS), generator=torch.Generator().manual_seed(0))
    encoding = encode(machine, derivations, embeddings)
    shuffled = encode(machine, [derivations[i] for i in order], embeddings[order])
    assert_same(shuffled.roots, encoding.roots[order], 1e-12)
    for new, old in enumerate(order.tolist()):
        n = LENGTHS[old]
        assert_same(nodes_of(shuffled, new, n), nodes_of(encoding, old, n), 1e-12)
        if encoding.tracker is not None and shuffled.tracker is not None:
            assert_same(shuffled.tracker[new], encoding.tracker[old], 1e-12)


@pytest.mark.parametrize("tracker_size", [0, H])
@pytest.mark.parametrize("schedule", SCHEDULES)
def test_batch_size_does_not_change_the_encoding(tracker_size, schedule):
    """One by one, values and the sum of the gradients are those of the whole batch."""
    machine = build("gated", tracker_size=tracker_size, schedule=schedule)
    derivations, embeddings = sentences()
    leaf = embeddings.clone().requires_grad_()
    whole = encode(machine, derivations, leaf)
    (whole.roots**2).sum().backward()
    together = [leaf.grad, *(p.grad for p in machine.parameters())]
    machine.zero_grad()
    alone = embeddings.clone().requires_grad_()
    for row, derivation in enumerate(derivations):
        single = encode(machine, [derivation], alone[row : row + 1, : LENGTHS[row]])
        assert_same(single.roots[0], whole.roots[row], 1e-12)
        (single.roots**2).sum().backward()
    assert_same([alone.grad, *(p.grad for p in machine.parameters())], together)


@pytest.mark.parametrize("tracker_size", [0, H])
def test_one_token_sentences(tracker_size):
    machine = build("tree_lstm", tracker_size=tracker_size)
    embeddings = torch.randn(3, 1, E, dtype=torch.float64, requires_grad=True)
    encoding = encode(machine, [[0]] * 3, embeddings)
    assert_same(encoding.roots, machine.composition.leaf(embeddings[:, 0])[:, :D], 1e-15)
    assert encoding.layout.sizes == []
    encoding.roots.sum().backward()
    assert embeddings.grad is not None
    assert (embeddings.grad != 0).all()
    unused = machine.composition.combine.weight.grad
    assert unused is None or not unused.any()


@pytest.mark.parametrize(("tracker_size", "n"), [(0, 1000), (H, 60)])
def test_long_chains(tracker_size, n):
    """No recursion limit: values and gradients of left and right chains of a thousand tokens."""
    machine = build("tree_rnn", tracker_size=tracker_size)
    derivations = [left_branching(n), right_branching(n)]
    embeddings = torch.randn(2, n, E, dtype=torch.float64)
    fast = values_and_gradients(machine, derivations, embeddings)
    slow = slow_values_and_gradients(machine, derivations, embeddings)
    assert_same(fast[0], slow[0])
    assert_same(fast[1], slow[1], 1e-8)


# -------------------------------------------------------------------------------------------- words that recur


@pytest.mark.parametrize("name", COMPOSITIONS)
@pytest.mark.parametrize("tracker_size", [0, H])
@pytest.mark.parametrize("schedule", SCHEDULES)
def test_a_word_that_recurs_needs_one_leaf(name, tracker_size, schedule):
    """Values and gradients are those of a leaf for every token."""
    machine = build(name, tracker_size=tracker_size, schedule=schedule)
    derivations, _ = sentences()
    lengths = torch.tensor(LENGTHS)
    rng = torch.Generator().manual_seed(2)
    tokens = torch.randint(1, 9, (len(LENGTHS), max(LENGTHS)), generator=rng)
    tokens[torch.arange(max(LENGTHS)) >= lengths.unsqueeze(1)] = 0
    trace = lockstep.trace(padded(derivations), lengths)
    weights = torch.randn(12, E, dtype=torch.float64, generator=rng)
    one_each, shared = (weights.clone().requires_grad_() for _ in range(2))
    apart: Encoding = machine(one_each[tokens], trace)
    types, words = distinct_words(tokens, 12)
    together: Encoding = machine(shared[types], trace, words)
    assert (
        together.layout.n_leaves
        == len(set(tokens.flatten().tolist()))
        < apart.layout.n_leaves
        == sum(LENGTHS)
    )
    values = []
    for encoding in (apart, together):
        nodes = [nodes_of(encoding, row, n) for row, n in enumerate(LENGTHS)]
        tracked = [] if encoding.tracker is None else [encoding.tracker]
        values.append([encoding.roots, *nodes, *tracked])
    assert_same(values[1], values[0], 1e-13)
    assert_same(gradients(machine, values[1], shared), gradients(machine, values[0], one_each))


def test_distinct_words_are_the_types_of_a_batch():
    tokens = torch.tensor([[5, 2, 5], [7, 0, 0]])
    types, words = distinct_words(tokens, 9)
    assert types.tolist() == [0, 2, 5, 7]
    assert torch.equal(types[words], tokens)


# ---------------------------------------------------------------------------------------- both kinds of kernels


MIXED = {
    "random": [random_derivation(n, torch.Generator().manual_seed(n)) for n in (12, 3, 31, 7, 50, 18, 5, 24)],
    "one token": [[0], [0], [0]],
    "mixed": [[0], left_branching(40), [0, 0, 1], right_branching(33), balanced(64, split="floor"), [0]],
    "left chain": [left_branching(2000)],
    "right chain": [right_branching(2000), [0, 0, 1]],
}


@pytest.mark.parametrize("trees", MIXED)
@pytest.mark.parametrize("name", COMPOSITIONS)
@pytest.mark.parametrize("schedule", SCHEDULES)
def test_single_precision_agrees_with_one_sentence_at_a_time(name, schedule, trees):
    """Values to 1e-5 of the largest, gradients to 1e-4, against the slow reference in double precision."""
    check_in_single_precision(name, 0, schedule, MIXED[trees])


@pytest.mark.parametrize("trees", ["random", "one token", "mixed"])
@pytest.mark.parametrize("name", COMPOSITIONS)
def test_single_precision_with_a_tracker(name, trees):
    check_in_single_precision(name, 8, "by_step", MIXED[trees])


def check_in_single_precision(
    name: str, tracker_size: int, schedule: str, derivations: list[list[int]]
) -> None:
    torch.manual_seed(1)
    cell = build_composition(name, 16, 16, tracker_size=tracker_size)
    machine = StackMachine(cell, Tracker(16, tracker_size) if tracker_size else None, schedule=schedule)
    lengths = [(len(d) + 1) // 2 for d in derivations]
    embeddings = torch.randn(len(lengths), max(lengths), 16)
    values, grads = values_and_gradients(machine, derivations, embeddings)
    slow_values, slow_grads = slow_values_and_gradients(machine.double(), derivations, embeddings.double())
    for kind, fast, slow, tolerance in (
        ("value", values, slow_values, 1e-5),
        ("gradient", grads, slow_grads, 1e-4),
    ):
        for number, (one, other) in enumerate(zip(fast, slow, strict=True)):
            scale = max(1.0, float(other.detach().abs().max()))
            torch.testing.assert_close(
                one.double(),
                other,
                rtol=0,
                atol=tolerance * scale,
                msg=lambda m: f"{kind} {number}: {m}",  # noqa: B023
            )


@pytest.mark.parametrize("bad", [math.nan, math.inf])
def test_what_is_not_finite_is_seen_at_the_root(bad):
    """Or a broken run would go on unnoticed."""
    machine = StackMachine(build_composition("tree_lstm", 16, 16))
    embeddings = torch.randn(2, 5, 16)
    embeddings[0, 3, 7] = bad
    encoding = encode(machine, [left_branching(5), right_branching(5)], embeddings)
    assert encoding.roots[0].isnan().any()
    assert encoding.roots[1].isfinite().all()


# ------------------------------------------------------------------------------- choosing transitions on the way


def following(derivations: Sequence[Sequence[int]]) -> Chooser:
    """Choose what the derivations say, and check what the chooser is told of every state."""
    order = sorted(range(len(derivations)), key=lambda row: -len(derivations[row]))
    step = 0

    def choose(hidden: Tensor, stack_sizes: Tensor, buffer_sizes: Tensor) -> Tensor:
        nonlocal step
        running = [derivations[row] for row in order if len(derivations[row]) > step]
        assert hidden.shape == (len(running), H)
        assert not hidden.requires_grad
        shifts = [d[:step].count(0) for d in running]
        assert stack_sizes.tolist() == [2 * s - step for s in shifts]
        assert buffer_sizes.tolist() == [(len(d) + 1) // 2 - s for d, s in zip(running, shifts, strict=True)]
        actions = torch.tensor([d[step] for d in running])
        step += 1
        return actions

    return choose


@pytest.mark.parametrize("name", COMPOSITIONS)
def test_sampling_gives_what_encoding_the_sampled_trees_gives(name):
    machine = build(name, tracker_size=H)
    derivations, embeddings = sentences()
    known_leaf, leaf = (embeddings.clone().requires_grad_() for _ in range(2))
    known = encode(machine, derivations, known_leaf)
    sampled, transitions = machine.sample(leaf, torch.tensor(LENGTHS), following(derivations))
    assert torch.equal(transitions, padded(derivations))
    assert known.tracker is not None
    assert sampled.tracker is not None
    values = [sampled.roots, sampled.tracker, sampled.table]
    assert_same(values, [known.roots, known.tracker, known.table], 1e-13)
    assert_same(sampled.layout, known.layout)
    assert_same(sampled.trace, known.trace)
    known_values = [known.roots, known.tracker, known.table]
    assert_same(gradients(machine, values, leaf), gradients(machine, known_values, known_leaf))


@pytest.mark.parametrize("lengths", [(1,), (1, 1), (2, 2), (5, 1, 3)])
def test_sampled_trees_are_complete(lengths):
    machine = build("tree_lstm", tracker_size=H)
    rng = torch.Generator().manual_seed(0)
    embeddings = torch.randn(len(lengths), max(lengths) + 2, E, dtype=torch.float64, generator=rng)

    def choose(hidden: Tensor, stack_sizes: Tensor, buffer_sizes: Tensor) -> Tensor:
        coins = torch.rand(len(hidden), generator=rng) < 0.5
        return (((coins & (stack_sizes >= 2)) | (buffer_sizes == 0)) * 1).long()

    encoding, transitions = machine.sample(embeddings, torch.tensor(lengths), choose)
    slow = [
        encode_one(machine.composition, row[:n], d[: 2 * n - 1].tolist(), machine.tracker)[0][-1, :D]
        for row, n, d in zip(embeddings, lengths, transitions, strict=True)
    ]
    assert_same(encoding.roots, torch.stack(slow))
    assert transitions.shape == (len(lengths), 2 * max(lengths) + 3)


@pytest.mark.parametrize(
    ("action", "message"), [(0, "row 0: SHIFT at step 3 needs"), (1, "row 0: REDUCE at step 0 needs 2")]
)
def test_a_chooser_may_not_break_the_rules(action, message):
    machine = build("tree_lstm", tracker_size=H)
    embeddings = torch.zeros(2, 3, E, dtype=torch.float64)
    with pytest.raises(IllegalTransitionError, match=message):
        machine.sample(
            embeddings, torch.tensor([3, 2]), lambda hidden, *_: torch.full((len(hidden),), action)
        )


def test_sampling_needs_a_tracker_and_fitting_shapes():
    embeddings = torch.zeros(2, 3, E, dtype=torch.float64)
    with pytest.raises(ValueError, match="was built without one"):
        build("tree_lstm").sample(embeddings, torch.tensor([3, 2]), following([]))
    with pytest.raises(ValueError, match=r"embeddings must be \[R, N, E\] with R = 3, got \(2, 3, 3\)"):
        build("tree_lstm", tracker_size=H).sample(embeddings, torch.tensor([3, 2, 1]), following([]))


# ------------------------------------------------------------------------------------------- layout and memory


@pytest.mark.parametrize("schedule", SCHEDULES)
def test_groups_come_after_their_children_and_say_whose_they_are(schedule):
    derivations, _ = sentences()
    trace = lockstep.trace(padded(derivations), torch.tensor(LENGTHS))
    layout = lay_out(trace, schedule)
    assert layout.n_leaves == sum(LENGTHS)
    assert sum(layout.sizes) == len(layout.children) == len(layout.rows) == sum(LENGTHS) - len(LENGTHS)
    start = layout.n_leaves
    for size in layout.sizes:
        group = slice(start - layout.n_leaves, start - layout.n_leaves + size)
        assert (layout.children[group] < start).all()
        start += size
    places = layout.position[layout.position < start]
    assert sorted(places.tolist()) == list(range(start))  # every node has a place of its own
    assert (layout.position == start).sum() == layout.position.numel() - start
    for m, row in enumerate(layout.rows.tolist()):
        assert layout.n_leaves + m in layout.position[row].tolist()


def test_the_layout_of_a_tracked_batch_is_that_of_its_own_order():
    machine = build("tree_lstm", tracker_size=H)
    encoding = encode(machine, *sentences())
    layout = encoding.layout
    for m, row in enumerate(layout.rows.tolist()):
        assert layout.n_leaves + m in layout.position[row].tolist()
        assert all(child in layout.position[row] for child in layout.children[m])


def test_by_level_needs_as_many_groups_as_the_highest_tree_has_levels():
    derivations = [balanced(16, split="floor")] * 5 + [left_branching(4)]
    trace = lockstep.trace(padded(derivations), torch.tensor([16] * 5 + [4]))
    assert lay_out(trace, "by_level").sizes == [8 * 5 + 1, 4 * 5 + 1, 2 * 5 + 1, 5]
    by_step = lay_out(trace, "by_step").sizes
    assert len(by_step) == len({step for d in derivations for step, t in enumerate(d) if t == 1}) == 16


def test_no_graph_is_kept_of_the_single_compositions():
    """Between the embeddings of the tokens and the table there is one node in the graph."""
    machine = build("tree_lstm")
    derivations, embeddings = sentences()
    table = encode(machine, derivations, embeddings.requires_grad_()).table
    assert table.grad_fn is not None
    assert table.grad_fn.name() == "_ComposeGroupsBackward"
    parents = {type(parent).__name__ for parent, _ in table.grad_fn.next_functions if parent is not None}
    assert parents == {"_PickBackward", "AccumulateGrad"}


@pytest.mark.parametrize("tracker_size", [0, H])
def test_without_gradient_the_values_are_the_same(tracker_size):
    machine = build("tree_lstm", tracker_size=tracker_size)
    derivations, embeddings = sentences()
    with_gradient = encode(machine, derivations, embeddings)
    with torch.no_grad():
        without = encode(machine, derivations, embeddings)
    assert not without.table.requires_grad
    assert torch.equal(with_gradient.roots, without.roots)


@pytest.mark.parametrize("tracker_size", [0, H])
@pytest.mark.parametrize("frozen", ["project", "combine", "all"])
def test_frozen_parameters_get_no_gradient_and_the_rest_keeps_its_own(tracker_size, frozen):
    machine = build("tree_lstm", tracker_size=tracker_size)
    for name, parameter in machine.named_parameters():
        parameter.requires_grad_(frozen != "all" and frozen not in name)
    derivations, embeddings = sentences()
    fast = values_and_gradients(machine, derivations, embeddings)
    slow = slow_values_and_gradients(machine, derivations, embeddings)
    assert_same(fast, slow)


@pytest.mark.parametrize("tracker_size", [0, H])
def test_single_precision_and_frozen_embeddings(tracker_size):
    machine = build("tree_lstm", tracker_size=tracker_size).float()
    derivations, embeddings = sentences()
    encoding = encode(machine, derivations, embeddings.float())
    assert encoding.roots.dtype == torch.float32
    encoding.roots.sum().backward()
    assert all(p.grad is not None for p in machine.composition.parameters())


@pytest.mark.parametrize("tracker_size", [0, H])
def test_backward_leaves_the_gradient_it_is_given_alone(tracker_size):
    """It may be another node's too."""
    machine = build("tree_lstm", tracker_size=tracker_size)
    table = encode(machine, *sentences()).table
    given = torch.randn_like(table)
    kept = given.clone()
    table.backward(given)
    assert torch.equal(given, kept)


@pytest.mark.parametrize("tracker_size", [0, H])
def test_double_backward_is_refused(tracker_size):
    machine = build("tree_lstm", tracker_size=tracker_size)
    derivations, embeddings = sentences()
    roots = encode(machine, derivations, embeddings).roots
    weight = machine.composition.combine.weight
    with pytest.raises(NotImplementedError, match=r"written by hand .* \(create_graph=True\) are not there"):
        torch.autograd.grad((roots**2).sum(), weight, create_graph=True)


@pytest.mark.parametrize("tracker_size", [0, H])
@pytest.mark.parametrize("name", COMPOSITIONS)
def test_a_graph_that_is_kept_gives_the_same_gradients_again(name, tracker_size):
    """Backward overwrites what forward kept, and fills it again when it is asked a second time."""
    machine = build(name, tracker_size=tracker_size)
    derivations, embeddings = sentences()
    roots = encode(machine, derivations, embeddings).roots
    weights = list(machine.composition.parameters())
    first, second, third = (
        torch.autograd.grad((roots**2).sum(), weights, retain_graph=True) for _ in range(3)
    )
    assert_same(first, second, 1e-12)
    assert_same(first, third, 1e-12)


# ------------------------------------------------------------------------------------------------------- errors


@pytest.mark.parametrize("shape", [(2, 3), (2, 4, E), (3, 3, E), (2, 3, E, 1)])
@pytest.mark.parametrize("tracker_size", [0, H])
def test_embeddings_must_fit_the_derivations(shape, tracker_size):
    machine = build("tree_rnn", tracker_size=tracker_size)
    trace = lockstep.trace(padded([[0, 0, 0, 1, 1], [0, 0, 1]]), torch.tensor([3, 2]))
    message = r"embeddings must be \[R, N, E\] with R = 2 and N = 3 as the derivations have it, got \("
    with pytest.raises(ValueError, match=message):
        machine(torch.zeros(shape, dtype=torch.float64), trace)


def test_tracker_and_composition_must_fit():
    with pytest.raises(ValueError, match="reads a tracker of width 4, got one of width 0"):
        StackMachine(build_composition("tree_rnn", E, D, tracker_size=4))
    with pytest.raises(ValueError, match="reads a tracker of width 4, got one of width 5"):
        StackMachine(build_composition("tree_rnn", E, D, tracker_size=4), Tracker(D, 5))
    with pytest.raises(ValueError, match="reads a tracker of width 0, got one of width 5"):
        StackMachine(build_composition("tree_rnn", E, D), Tracker(D, 5))


def test_unknown_schedule():
    message = "unknown schedule 'by_row'; known: by_step, by_level"
    with pytest.raises(ValueError, match=message):
        StackMachine(build_composition("tree_rnn", E, D), schedule="by_row")
    trace = lockstep.trace(torch.tensor([[0]]), torch.tensor([1]))
    with pytest.raises(ValueError, match=message):
        lay_out(trace, "by_row")


def test_a_tracker_needs_the_schedule_by_step():
    assert build("tree_rnn", tracker_size=H, schedule="by_level").schedule == "by_step"
    assert build("tree_rnn", schedule="by_level").schedule == "by_level"
