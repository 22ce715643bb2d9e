"""The sampling loop: what it draws is what the distribution says, in all its forms, and it costs no graph."""

from __future__ import annotations

import copy
import itertools
import math
from collections.abc import Callable

import numpy as np
import pytest
import torch
from gymnasium import spaces
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

from rlparse.corpora.batching import Batch
from rlparse.models.composition import COMPOSITIONS
from rlparse.models.nli_model import NLIModel
from rlparse.trees import check_derivation
from rlparse_agents.graphs import CapturedPlay, PlayGraphs
from rlparse_agents.policy import SAMPLERS, TrackerPolicy
from rlparse_agents.rollout import Rollout
from rlparse_agents.sampling import Draw, Played, Reading, Stretch, play_dense, stretches_of
from slow_reference import PAD, SHIFT, all_derivations, derivation_log_prob, plain_batch

N_WORDS = 12
FORMS = ("dropping", "dense")
MIXED = [
    [[2, 3, 4, 5, 6, 7], [3, 6]],
    [[7], [4, 4, 8, 2, 9, 10]],
    [[9, 2, 3], [5, 11, 5]],
    [[9, 2, 3, 7], [5]],
]


def build(*, seed: int = 0, scale: float = 1.0, double: bool = True, **options) -> TrackerPolicy:
    """A policy of random weights in double precision."""
    torch.manual_seed(seed)
    sizes = {"embedding_size": 3, "hidden_size": 4, "tracker_size": 3} | options
    space = spaces.Dict({"tokens": spaces.Box(0, N_WORDS, (1,), np.int64)})
    policy = TrackerPolicy(space, spaces.Discrete(2), n_tokens=N_WORDS, **sizes)
    if double:
        policy = policy.double()
    with torch.no_grad():
        for parameter in policy.parameters():
            parameter.normal_(std=scale)
    return policy


def encoder_of(**options) -> NLIModel:
    torch.manual_seed(7)
    model = NLIModel(N_WORDS, 3, embedding_size=3, hidden_size=4, mlp_size=5, **options).double()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.normal_()
    return model


def sentences(lengths: list[int], *, seed: int = 0) -> Batch:
    rng = torch.Generator().manual_seed(seed)
    return plain_batch([[torch.randint(2, N_WORDS, (n,), generator=rng).tolist()] for n in lengths])


def uniforms_for(batch: Batch, *, seed: int = 0) -> Tensor:
    """One number for every step of every row: [T, R] float64."""
    shape = (2 * batch.tokens.shape[1] - 1, len(batch.lengths))
    return torch.rand(shape, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))


def drawing(batch: Batch, uniforms: Tensor) -> Draw:
    """Hand every step of every row its own number, in whichever form they are asked for."""

    def draw(shape: tuple[int, ...]) -> Tensor:
        if len(shape) == 2:
            return torch.logit(
                torch.nn.functional.pad(uniforms, (0, 0, 0, shape[0] - len(uniforms)), value=0.5)
            )
        lengths, order = torch.sort(batch.lengths, descending=True, stable=True)
        packed = [uniforms[t, order[2 * lengths - 1 > t]] for t in range(len(uniforms))]
        assert shape == (sum(map(len, packed)),)
        return torch.logit(torch.cat(packed))

    return draw


def parse(policy: TrackerPolicy, batch: Batch, uniforms: Tensor, form: str) -> Tensor:
    policy.sampler = form
    return policy._play(batch, drawing(batch, uniforms)).transitions()


# ------------------------------------------------------------------------------------ what is drawn, and how often


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("catalan_prior", [False, True])
@pytest.mark.parametrize("composition", COMPOSITIONS)
@pytest.mark.parametrize("reads", ["own", "encoder"])
def test_every_choice_is_the_one_that_the_distribution_implies(form, catalan_prior, composition, reads):
    """SHIFT exactly where the uniform number is not above P(SHIFT), wherever there is a choice."""
    encoder = encoder_of(composition=composition) if reads == "encoder" else None
    policy = build(composition=composition, catalan_prior=catalan_prior, reads=reads, encoder=encoder)
    batch = plain_batch(MIXED).repeat(24)
    uniforms = uniforms_for(batch)
    transitions = parse(policy, batch, uniforms, form)
    judged = policy.judge(Rollout.of(batch.tokens, batch.lengths, transitions)).distribution
    implied = torch.where(uniforms.t() <= judged.log_probs[..., SHIFT].exp(), 0, 1)
    assert judged.free.sum() > 300
    assert torch.equal(transitions[judged.free], implied[judged.free])
    assert 0.2 < transitions[judged.free].double().mean() < 0.8


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("n", range(1, 7))
def test_all_parses_come_as_often_as_they_are_likely(form, n):
    """Frequencies lie within five standard deviations of the probabilities, which are those of a slow parser."""
    policy = build(seed=n)
    policy.sampler = form
    tokens, n_rows = list(range(2, 2 + n)), 4000
    derivations = all_derivations(n)
    log_probs = [derivation_log_prob(policy, tokens, d).item() for d in derivations]
    assert math.fsum(map(math.exp, log_probs)) == pytest.approx(1.0, abs=1e-6)
    rollout = policy.sample(plain_batch([[tokens]] * n_rows), generator=torch.Generator().manual_seed(n))
    assert rollout.log_probs is not None
    seen = 0
    for derivation, log_prob in zip(derivations, log_probs, strict=True):
        rows = (rollout.transitions == torch.tensor(derivation)).all(dim=1)
        p = math.exp(log_prob)
        assert abs(int(rows.sum()) - n_rows * p) < 5 * math.sqrt(n_rows * p * (1 - p)) + 1
        own = rollout.log_probs[rows].sum(1)
        torch.testing.assert_close(own, torch.full_like(own, log_prob), rtol=0, atol=1e-6)
        seen += len(own)
    assert seen == n_rows


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("reads", ["own", "encoder"])
def test_log_probs_of_the_rollout_are_those_of_a_judge(form, reads):
    policy = build(reads=reads, encoder=encoder_of() if reads == "encoder" else None, sampler=form)
    batch = plain_batch(MIXED).repeat(8)
    rollout = policy.sample(batch, generator=torch.Generator().manual_seed(0))
    judged = policy.judge(rollout).distribution
    again = judged.log_prob(rollout.transitions)
    torch.testing.assert_close(again, rollout.log_probs, rtol=0, atol=1e-12)
    assert (again[judged.free] < 0).all()
    assert (again[~judged.free] == 0).all()


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("temperature", [0.4, 2.5])
def test_a_temperature_is_sampled_as_it_is_judged(form, temperature):
    policy = build(sampler=form)
    policy.temperature = temperature
    batch = sentences([6] * 200)
    rollout = policy.sample(batch, generator=torch.Generator().manual_seed(3))
    judged = policy.judge(rollout).distribution
    torch.testing.assert_close(judged.log_prob(rollout.transitions), rollout.log_probs, rtol=0, atol=1e-12)
    # Rows of one length are drawn for step by step in both forms.
    uniforms = torch.rand(11, 200, generator=torch.Generator().manual_seed(3)).t()
    implied = torch.where(uniforms <= judged.log_probs[..., SHIFT].exp(), 0, 1)
    assert torch.equal(rollout.transitions[judged.free], implied[judged.free])


@pytest.mark.parametrize(
    "lengths", [[1], [2], [1] * 70, [5] * 70, [9], [1, 6] * 40], ids=lambda x: f"{len(x)}x{x[:2]}"
)
@pytest.mark.parametrize("reads", ["own", "encoder"])
def test_batches_of_every_shape_are_judged_as_they_were_sampled(lengths, reads):
    """One row, one token, rows of equal length, and enough rows to be judged in groups."""
    policy = build(reads=reads, encoder=encoder_of() if reads == "encoder" else None)
    rollout = policy.sample(sentences(lengths), generator=torch.Generator().manual_seed(0))
    log_probs = policy.judge(rollout).distribution.log_prob(rollout.transitions)
    torch.testing.assert_close(log_probs, rollout.log_probs, rtol=0, atol=1e-12)
    log_probs.sum().backward()
    assert all(p.grad is None or p.grad.isfinite().all() for p in policy.parameters())


# --------------------------------------------------------------------------------------------------- two forms


@pytest.mark.parametrize(
    "lengths",
    [[1], [2], [9], [1, 1, 1], [4, 4, 4, 4], [1, 7], [7, 1], [3, 12, 1, 5, 12, 2, 8, 1, 4], [2, 3] * 20],
    ids=str,
)
@pytest.mark.parametrize("composition", COMPOSITIONS)
def test_both_forms_give_the_same_parses_from_the_same_numbers(lengths, composition):
    for seed in range(3):
        policy, batch = build(seed=seed, composition=composition), sentences(lengths, seed=seed)
        uniforms = uniforms_for(batch, seed=seed)
        dropping, dense = (parse(policy, batch, uniforms, form) for form in FORMS)
        assert torch.equal(dropping, dense)
        for row, n in zip(dropping.tolist(), lengths, strict=True):
            check_derivation(row[: 2 * n - 1], n)
            assert set(row[2 * n - 1 :]) <= {PAD}


@pytest.mark.parametrize("form", FORMS)
def test_more_padding_changes_nothing(form):
    policy, batch = build(), plain_batch(MIXED)
    wide = batch._replace(tokens=torch.nn.functional.pad(batch.tokens, (0, 5), value=3))
    uniforms = uniforms_for(wide)
    n_steps = batch.gold.shape[1]
    narrow_parses = parse(policy, batch, uniforms[:n_steps], form)
    wide_parses = parse(policy, wide, uniforms, form)
    assert torch.equal(wide_parses[:, :n_steps], narrow_parses)
    assert (wide_parses[:, n_steps:] == PAD).all()


@pytest.mark.parametrize("greedy", [False, True])
def test_weights_that_are_not_finite_still_give_complete_parses(greedy):
    for form, bad in itertools.product(FORMS, (math.nan, math.inf, -math.inf)):
        policy, batch = build(sampler=form), plain_batch(MIXED)
        with torch.no_grad():
            policy.head.weight[0, 0] = bad
        for row, n in zip(policy.derive(batch, greedy=greedy).tolist(), batch.lengths.tolist(), strict=True):
            check_derivation(row[: 2 * n - 1], n)


def test_lengths_must_fit_the_tokens():
    policy, batch = build(), plain_batch(MIXED)
    for lengths in ([7] + [1] * 7, [6] * 7 + [0]):
        with pytest.raises(ValueError, match=r"lengths must be from 1 to 6, got lengths from [01] to [67]"):
            policy.derive(batch._replace(lengths=torch.tensor(lengths)))


@pytest.mark.parametrize("form", FORMS)
def test_compiled_kernels_choose_as_torch_does(form, monkeypatch):
    """In single precision, where they serve; without a compiler this compares torch with itself."""
    policy, batch = build(double=False, hidden_size=21, tracker_size=19), sentences([9, 1, 12, 4, 12, 7] * 8)
    policy.sampler = form
    uniforms = uniforms_for(batch)
    found = []
    for choice in ("auto", "torch"):
        monkeypatch.setenv("RLPARSE_KERNELS", choice)
        played = policy._play(batch, drawing(batch, uniforms))
        found.append((played.transitions(), played.logits()))
    assert torch.equal(found[0][0], found[1][0])
    torch.testing.assert_close(found[0][1], found[1][1], rtol=1e-5, atol=2e-5)


def test_steps_are_cut_where_rows_finish():
    assert stretches_of([5, 3, 3, 1]) == [Stretch(0, 1, 4), Stretch(1, 5, 3), Stretch(5, 9, 1)]
    assert stretches_of([4, 4]) == [Stretch(0, 7, 2)]
    assert stretches_of([1]) == [Stretch(0, 1, 1)]


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("chain", ["right", "left"])
def test_long_chains_beside_short_sentences(form, chain):
    n = 2000
    policy = build(double=False, catalan_prior=False, composition="tree_rnn", sampler=form)
    with torch.no_grad():
        policy.head.weight.zero_()
        policy.head.bias.copy_(torch.tensor([50.0, -50.0] if chain == "right" else [-50.0, 50.0]))
    batch = sentences([n, 1, 6, 2])
    rollout = policy.sample(batch)
    for row, m in zip(rollout.transitions.tolist(), (n, 1, 6, 2), strict=True):
        wanted = [0] * m + [1] * (m - 1) if chain == "right" else [0] + [0, 1] * (m - 1)
        assert row == wanted + [PAD] * (2 * n - 1 - len(wanted))
    if form == "dropping":  # short sentences take no more memory beside a long one
        made = policy._play(batch, policy.head.weight.new_zeros).parses.items
        assert len(made) == 4 + sum(2 * m - 1 for m in (n, 1, 6, 2))
    judged = policy.judge(rollout).distribution
    assert judged.log_prob(rollout.transitions).abs().max() < 1e-6
    judged.log_prob(rollout.transitions).sum().backward()
    assert all(p.grad is None or p.grad.isfinite().all() for p in policy.parameters())


# ---------------------------------------------------------------------------------------------- no graph, no waiting


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("reads", ["own", "encoder"])
def test_sampling_never_builds_a_graph(form, reads):
    policy = build(reads=reads, encoder=encoder_of() if reads == "encoder" else None, sampler=form)
    policy.set_training_mode(True)

    def refuse(tensor: Tensor) -> Tensor:
        raise AssertionError(f"a {tuple(tensor.shape)} tensor was saved for backward")

    assert torch.is_grad_enabled()
    with torch.autograd.graph.saved_tensors_hooks(refuse, lambda x: x):
        rollout = policy.sample(plain_batch(MIXED), generator=torch.Generator().manual_seed(0))
    parts = [rollout.tokens, rollout.transitions, *rollout.trace, rollout.log_probs, *(rollout.seen or ())]
    assert all(part.grad_fn is None and not part.requires_grad for part in parts)
    assert (rollout.seen is None) == (reads == "own")


class Listing(TorchDispatchMode):
    """Writes down every operation: its name, tags and the shapes of its tensors."""

    def __init__(self) -> None:
        super().__init__()
        self.calls: list[tuple[str, tuple[tuple[int, ...], ...]]] = []
        self.tags: set[torch.Tag] = set()

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        made = func(*args, **(kwargs or {}))
        flat = torch.utils._pytree.tree_leaves((args, kwargs, made))
        self.calls.append((str(func), tuple(tuple(x.shape) for x in flat if isinstance(x, Tensor))))
        self.tags |= set(func.tags)
        return made


def listed(policy: TrackerPolicy, batch: Batch, form: str, seed: int) -> Listing:
    uniforms = uniforms_for(batch, seed=seed)
    parse(policy, batch, uniforms, form)  # fills what is made once
    thresholds = torch.logit(uniforms)
    policy.sampler = form
    mode = Listing()
    draw = drawing(batch, uniforms) if form == "dropping" else lambda _: thresholds
    with mode:
        policy._play(batch, draw)
    return mode


@pytest.mark.parametrize("composition", COMPOSITIONS)
@pytest.mark.parametrize("reads", ["own", "encoder"])
def test_nothing_in_the_dense_form_depends_on_data(composition, reads):
    """The same operations on the same shapes for other words, lengths and numbers; none gives a value to Python."""
    encoder = encoder_of(composition=composition) if reads == "encoder" else None
    policy = build(composition=composition, reads=reads, encoder=encoder)
    batches = sentences([1, 9, 4, 2, 9]), sentences([3, 9, 1, 6, 5], seed=5)
    one, other = (listed(policy, batch, "dense", seed) for seed, batch in enumerate(batches))
    assert one.calls == other.calls
    waiting = {torch.Tag.data_dependent_output, torch.Tag.dynamic_output_shape}
    assert not one.tags & waiting
    assert not {"aten._local_scalar_dense.default", "aten.nonzero.default", "aten.masked_select.default"} & {
        name for name, _ in one.calls
    }
    # The list can tell: the other form does all of this.
    dropping = listed(policy, batches[0], "dropping", 0)
    assert dropping.tags & waiting


@pytest.mark.parametrize("composition", COMPOSITIONS)
def test_the_dense_form_runs_where_there_are_no_values(composition):
    """On the meta device whatever asks for a value, or moves one to the host, raises."""
    policy = build(composition=composition, sampler="dense").to("meta")
    batch = sentences([3, 5, 1]).to("meta")
    played = policy._play(batch, lambda shape: torch.empty(shape, device="meta"))
    assert played.transitions().shape == (3, 9)
    assert played.transitions().is_meta
    assert played.seen().slots.shape == (3, 9, 3)


# ---------------------------------------------------------------------------------- replaying what was captured


class Twin:
    """Stands in for CUDA graphs: replaying does the captured work again and overwrites the same tensors."""

    def __init__(self) -> None:
        self.captures: list[tuple[int, int]] = []
        self.pools: list[int | None] = []  # that every capture was to share
        self.replays = 0

    def capture(
        self,
        rows: int,
        n_tokens: int,
        device: torch.device,
        read: Callable[[Tensor, Tensor], Reading],
        pool: int | None,
    ) -> CapturedPlay:
        self.captures.append((rows, n_tokens))
        self.pools.append(pool)
        own_pool = len(self.captures) if pool is None else pool
        tokens = torch.zeros(rows, n_tokens, dtype=torch.int64, device=device)
        lengths = torch.ones(rows, dtype=torch.int64, device=device)
        thresholds = torch.zeros(2 * n_tokens - 1, rows, dtype=torch.float64, device=device)

        def run() -> Played:
            return play_dense(tokens, lengths, read, lambda _: thresholds)

        played, twin = run(), self

        class Graph:
            def pool(self) -> int:
                return own_pool

            def replay(self) -> None:
                twin.replays += 1
                new = run()
                for old, made in zip(played.parses, new.parses, strict=True):
                    old.copy_(made)
                for old, made in zip(played.reading.leaves, new.reading.leaves, strict=True):
                    old.copy_(made)

        return CapturedPlay(Graph(), tokens, lengths, thresholds, played)


def replayed(policy: TrackerPolicy, graphs: PlayGraphs, batch: Batch, uniforms: Tensor) -> Tensor:
    from rlparse_agents.sampling import read

    parts = policy.embedding, policy.machine.composition, policy.tracker, policy.head

    def reading(tokens: Tensor, lengths: Tensor) -> Reading:
        return read(tokens, lengths, *parts, catalan_prior=policy.catalan_prior)

    with torch.no_grad():
        played = graphs.play(
            batch.tokens, batch.lengths, reading, drawing(batch, uniforms), parts, (policy.catalan_prior,)
        )
        return played.transitions()


def test_replayed_parses_are_those_of_the_dense_form():
    policy, twin = build(), Twin()
    graphs = PlayGraphs(capture=twin.capture)
    for seed, lengths in enumerate(([6, 2, 5], [1, 1, 8], [7, 7, 1], [3, 2, 1], [9, 4, 4])):
        batch = sentences(lengths, seed=seed)
        uniforms = uniforms_for(batch, seed=seed)
        expected = parse(policy, batch, uniforms, "dense")
        assert torch.equal(replayed(policy, graphs, batch, uniforms), expected)
    assert twin.captures == [(3, 8), (3, 4), (3, 12)]  # 6, 8 and 7 tokens share one
    assert twin.replays == 5
    assert graphs.shapes == [(3, 8), (3, 4), (3, 12)]


def test_replaying_follows_weights_in_place_and_captures_anew_when_they_move():
    policy, twin = build(), Twin()
    graphs = PlayGraphs(capture=twin.capture)
    batch = sentences([6, 5, 6, 3])
    uniforms = uniforms_for(batch)
    replayed(policy, graphs, batch, uniforms)
    with torch.no_grad():
        for parameter in policy.parameters():
            parameter.mul_(-1.5)
    assert torch.equal(replayed(policy, graphs, batch, uniforms), parse(policy, batch, uniforms, "dense"))
    assert len(twin.captures) == 1
    policy.head.weight = torch.nn.Parameter(policy.head.weight.detach() * -2)
    assert torch.equal(replayed(policy, graphs, batch, uniforms), parse(policy, batch, uniforms, "dense"))
    assert len(twin.captures) == 2


@pytest.fixture
def _product_settings():
    """Put back how torch multiplies: its older switch and its newer ones do not mix."""
    before = torch.get_float32_matmul_precision()
    of_cuda = torch.backends.cuda.matmul.fp32_precision
    yield
    torch.backends.cuda.matmul.fp32_precision = of_cuda
    torch.set_float32_matmul_precision(before)


def change_prior(policy: TrackerPolicy, monkeypatch: pytest.MonkeyPatch) -> None:
    policy.catalan_prior = not policy.catalan_prior


def change_kernels(policy: TrackerPolicy, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("RLPARSE_KERNELS", "torch")


def change_precision(policy: TrackerPolicy, monkeypatch: pytest.MonkeyPatch) -> None:
    torch.set_float32_matmul_precision("high")


def change_precision_of_cuda(policy: TrackerPolicy, monkeypatch: pytest.MonkeyPatch) -> None:
    torch.backends.cuda.matmul.fp32_precision = "tf32"
    with pytest.raises(RuntimeError, match="mix of the legacy and new APIs"):
        torch.get_float32_matmul_precision()


@pytest.mark.usefixtures("_product_settings")
@pytest.mark.parametrize(
    "change",
    [change_prior, change_kernels, change_precision, change_precision_of_cuda],
    ids=lambda f: f.__name__,
)
def test_graphs_are_captured_anew_when_what_they_hold_fast_has_changed(change, monkeypatch):
    monkeypatch.delenv("RLPARSE_KERNELS", raising=False)
    policy, twin = build(scale=0.3), Twin()
    graphs = PlayGraphs(capture=twin.capture)
    batch = sentences([6, 5, 6, 3])
    uniforms = uniforms_for(batch)
    for n_captures in (1, 2):
        for _ in range(2):
            found = replayed(policy, graphs, batch, uniforms)
            assert torch.equal(found, parse(policy, batch, uniforms, "dense"))
        assert len(twin.captures) == n_captures
        change(policy, monkeypatch)


def test_a_policys_prior_reaches_its_graphs(monkeypatch):
    """Whatever a policy on a GPU asks its graphs for names all that they would otherwise hold fast."""
    policy, batch, given = build(sampler="graph"), sentences([2]), []

    class OnGPU:
        is_cuda = True

    monkeypatch.setattr(policy._graphs, "play", lambda *arguments: given.append(arguments[5:]))
    for policy.catalan_prior in (True, False):
        policy._play(batch._replace(tokens=OnGPU()), uniforms_for(batch))
    assert given == [((True,),), ((False,),)]


def test_graphs_share_the_memory_of_one_that_still_exists():
    policy, twin = build(), Twin()
    graphs = PlayGraphs(1, capture=twin.capture)
    for lengths in ([2], [6], [9]):
        batch = sentences(lengths)
        replayed(policy, graphs, batch, uniforms_for(batch))
    policy.head.weight = torch.nn.Parameter(
        policy.head.weight.detach().clone()
    )  # nothing is left to share with
    for lengths in ([2], [6]):
        batch = sentences(lengths)
        replayed(policy, graphs, batch, uniforms_for(batch))
    assert twin.pools == [None, 1, 1, None, 4]


def test_few_graphs_are_kept():
    policy, twin = build(), Twin()
    graphs = PlayGraphs(2, capture=twin.capture)
    for lengths in ([2], [6], [3], [9], [2], [6]):
        batch = sentences(lengths)
        replayed(policy, graphs, batch, uniforms_for(batch))
    assert twin.captures == [(1, 4), (1, 8), (1, 12), (1, 8)]
    assert graphs.shapes == [(1, 4), (1, 8)]


def test_a_copied_policy_begins_without_graphs():
    policy, twin = build(), Twin()
    policy._graphs = PlayGraphs(5, capture=twin.capture)
    batch = sentences([2])
    replayed(policy, policy._graphs, batch, uniforms_for(batch))
    other = copy.deepcopy(policy)
    assert other._graphs.shapes == []
    assert other._graphs.most == 5
    assert policy._graphs.shapes == [(1, 4)]
    replayed(other, other._graphs, batch, uniforms_for(batch))  # captured in the way that it was given
    assert other._graphs.shapes == [(1, 4)]


def test_samplers_by_name():
    assert SAMPLERS == ("auto", "dropping", "dense", "graph")
    with pytest.raises(ValueError, match="unknown sampler 'fast'; known: auto, dropping, dense, graph"):
        build(sampler="fast")
    with pytest.raises(
        ValueError, match="sampler='graph' replays CUDA graphs, the batch is on cpu; use sampler='auto'"
    ):
        build(sampler="graph").derive(sentences([2]))
    batch = plain_batch(MIXED)
    found = [
        build(sampler=name).derive(batch, generator=torch.Generator().manual_seed(0))
        for name in ("auto", "dropping")
    ]
    assert torch.equal(*found)


@pytest.mark.gpu
@pytest.mark.parametrize("reads", ["own", "encoder"])
@pytest.mark.parametrize("composition", COMPOSITIONS)
def test_cuda_graphs_give_the_parses_of_the_cpu(composition, reads):
    encoder = encoder_of(composition=composition) if reads == "encoder" else None
    policy = build(composition=composition, reads=reads, encoder=encoder)
    on_gpu = build(
        composition=composition,
        reads=reads,
        encoder=None if encoder is None else copy.deepcopy(encoder).cuda(),
        sampler="graph",
    ).cuda()
    for seed, lengths in enumerate(([6, 2, 5], [1, 1, 8], [7, 7, 1], [3, 2, 1], [9, 4, 4])):
        batch = sentences(lengths, seed=seed)
        uniforms = uniforms_for(batch, seed=seed)
        expected = parse(policy, batch, uniforms, "dense")
        draw = drawing(batch, uniforms)
        played = on_gpu._play(batch.to("cuda"), lambda shape, draw=draw: draw(shape).float().cuda())
        assert torch.equal(played.transitions().cpu(), expected)
    assert on_gpu._graphs.shapes == [(3, 8), (3, 4), (3, 12)]


@pytest.mark.gpu
def test_a_rollout_on_a_gpu_is_judged_as_it_was_sampled():
    policy = build(double=False, scale=0.5).cuda()
    batch = plain_batch(MIXED).to("cuda")
    generator = torch.Generator(device="cuda").manual_seed(0)
    optimizer = torch.optim.AdamW(policy.parameters(), lr=0.1, fused=True)
    for _ in range(3):
        rollout = policy.sample(batch, generator=generator)
        judged = policy.judge(rollout).distribution.log_prob(rollout.transitions)
        torch.testing.assert_close(judged, rollout.log_probs, rtol=1e-4, atol=1e-4)
        optimizer.zero_grad()
        judged.sum().backward()
        optimizer.step()


@pytest.mark.gpu
def test_graphs_follow_a_temperature_without_being_captured_anew():
    policy, batch = build(sampler="graph").cuda(), plain_batch(MIXED).repeat(32).to("cuda")
    generator = torch.Generator(device="cuda").manual_seed(0)
    policy.derive(batch, generator=generator)
    captured = next(iter(policy._graphs._captured.values()))
    for temperature in (0.3, 1.0, 4.0):
        policy.temperature = temperature
        rollout = policy.sample(batch, generator=generator)
        judged = policy.judge(rollout).distribution
        torch.testing.assert_close(
            judged.log_prob(rollout.transitions), rollout.log_probs, rtol=1e-4, atol=1e-4
        )
        # What is sampled has the entropy of what is judged, up to chance.
        surprise = -rollout.log_probs[judged.free].mean().item()
        assert abs(surprise - judged.entropy()[judged.free].mean().item()) < 0.1
    assert list(policy._graphs._captured.values()) == [captured]
