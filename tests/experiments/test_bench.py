from __future__ import annotations

import json
import math

import numpy as np
import pytest
import torch

from rlparse.models.composition import BinaryTreeLSTM
from rlparse.transitions import ParserState
from rlparse_experiments.bench import encoder, targets
from rlparse_experiments.bench.dynet_tree_lstm import DynetTreeLSTM
from rlparse_experiments.bench.list_spinn import RLSpinn, parse_with_lists, step_loss
from rlparse_experiments.bench.measuring import (
    Clock,
    Contender,
    Figure,
    Measured,
    Section,
    Unavailable,
    measure,
)
from rlparse_experiments.bench.workload import (
    LISTOPS_LONGEST,
    LISTOPS_SHORTEST,
    LONGEST,
    SHORTEST,
    WORDS,
    draw_corpus,
    draw_sentences,
    listops_lengths,
    snli_lengths,
)
from rlparse_experiments.cli import main
from slow_reference import encode_one

# ---------------------------------------------------------------------------------------------------- measuring


class FakeTime:
    """Time that passes only when work is done."""

    def __init__(self) -> None:
        self.now = 0.0
        self.seen: list[str] = []

    @property
    def clock(self) -> Clock:
        return Clock("fake seconds", lambda: self.now)

    def contender(self, name: str, seconds: list[float], units: int) -> Contender:
        """Something that takes the given times, one after the other, and then breaks."""
        times = iter(seconds)

        def work() -> int:
            self.seen.append(name)
            try:
                self.now += next(times)
            except StopIteration:
                raise RuntimeError("out of time\nand more") from None
            return units

        return Contender(name, lambda: work)


def section(*contenders: Contender) -> Section:
    return Section("job/1", "A job", "things/s", lambda: contenders)


def test_contenders_are_timed_in_turns_after_one_warm_up():
    time = FakeTime()
    slow = time.contender("slow", [100, 4, 2, 8], 8)
    fast = time.contender("fast", [100, 2, 1, 1], 8)
    measured = measure(section(slow, fast), rounds=3, least_seconds=0.0, clock=time.clock)
    assert time.seen == ["slow", "fast"] * 4
    assert measured.rates == {"slow": (2.0, 4.0, 1.0), "fast": (4.0, 8.0, 8.0)}
    assert measured.rate("slow") == Figure(2.0, 1.0, 4.0)
    assert measured.ratio("fast", "slow") == Figure(2.0, 2.0, 8.0)  # of 2, 2 and 8; not 8 / 2
    assert measured.failures == {}
    assert measured.as_json()["contenders"]["slow"] == {
        "value": 2.0,
        "least": 1.0,
        "greatest": 4.0,
        "rates": [2.0, 4.0, 1.0],
    }


def test_short_work_is_repeated_until_the_timing_is_long_enough():
    time = FakeTime()
    quick = time.contender("quick", [1.0] * 7, 5)
    measured = measure(section(quick), rounds=2, least_seconds=2.5, clock=time.clock)
    assert len(time.seen) == 1 + 2 * 3
    assert measured.rates == {"quick": (5.0, 5.0)}


def test_what_fails_is_named_with_its_reason_and_the_others_go_on():
    def missing():
        raise Unavailable("it is not installed")

    time = FakeTime()
    contenders = (
        Contender("absent", missing),
        time.contender("at once", [], 1),
        time.contender("later", [1, 1], 1),
        time.contender("good", [1, 1, 1, 1], 1),
    )
    measured = measure(section(*contenders), rounds=3, least_seconds=0.0, clock=time.clock)
    assert measured.rates == {"good": (1.0, 1.0, 1.0)}
    assert measured.failures == {
        "absent": "it is not installed",
        "at once": "failed with RuntimeError: out of time",
        "later": "failed with RuntimeError: out of time",
    }
    with pytest.raises(Unavailable, match="later: failed with RuntimeError: out of time"):
        measured.ratio("good", "later")


def test_contenders_can_be_left_out():
    time = FakeTime()
    contenders = (time.contender("good", [1, 1], 1), time.contender("other", [1, 1], 1))
    measured = measure(
        section(*contenders),
        rounds=1,
        least_seconds=0.0,
        clock=time.clock,
        wanted=lambda name: name == "good",
    )
    assert set(measured.rates) == {"good"}
    with pytest.raises(Unavailable, match="other was left out"):
        measured.rate("other")


# ------------------------------------------------------------------------------------------------------ targets


def results_of(**rates: float) -> dict[str, Measured]:
    found = {name: (rate, rate) for name, rate in rates.items()}
    return {"job/1": Measured(section(), found, {"absent": "it is not installed"}, 1.0)}


@pytest.mark.parametrize(
    ("figure", "bound", "at_most", "status"),
    [
        (targets.rate("job/1", "ours"), 6.0, False, targets.REACHED),
        (targets.rate("job/1", "ours"), 6.1, False, targets.NOT_REACHED),
        (targets.rate("job/1", "ours"), 6.0, True, targets.REACHED),
        (targets.rate("job/1", "ours"), 5.9, True, targets.NOT_REACHED),
        (targets.ratio("job/1", "ours", "theirs"), 2.0, False, targets.REACHED),
        (targets.ratio("job/1", "ours", "theirs"), 2.1, False, targets.NOT_REACHED),
    ],
)
def test_a_target_is_reached_or_not(figure, bound, at_most, status):
    target = targets.Target("a job", "here", bound, figure, at_most)
    verdict = targets.judge(target, results_of(ours=6.0, theirs=3.0))
    assert verdict.status == status
    assert verdict.as_json()["measured"]["value"] in (6.0, 2.0)


@pytest.mark.parametrize(
    ("figure", "reason"),
    [
        (targets.ratio("job/1", "ours", "absent"), "absent: it is not installed"),
        (targets.ratio("job/1", "ours", "theirs"), "theirs was left out"),
        (targets.rate("job/2", "ours"), "job/2 was left out"),
    ],
)
def test_a_target_that_was_not_measured_says_why(figure, reason):
    verdict = targets.judge(targets.Target("a job", "here", 1.0, figure), results_of(ours=1.0))
    assert (verdict.status, verdict.reason) == (targets.NOT_MEASURED, reason)
    assert verdict.as_json()["measured"] is None


# ----------------------------------------------------------------------------------------------------- workload


def test_drawn_sentences_have_the_lengths_they_are_said_to_have():
    lengths = snli_lengths(4000, np.random.default_rng(0))
    assert lengths.min() >= SHORTEST
    assert lengths.max() <= LONGEST
    assert 11.5 < lengths.mean() < 12.5
    assert math.isclose(np.log(lengths).std(), 0.5, abs_tol=0.05)


def test_drawn_listops_lengths_have_a_mean_of_sixty():
    lengths = listops_lengths(2000, 0)
    assert lengths.min() >= LISTOPS_SHORTEST
    assert lengths.max() <= LISTOPS_LONGEST
    assert 55 < lengths.mean() < 67
    assert len(listops_lengths(5, 0)) == 5


def test_drawn_pairs_know_their_words_and_trees():
    corpus = draw_corpus(20, np.random.default_rng(0))
    assert corpus.lengths.shape == (20, 2)
    assert corpus.has_gold.all()
    assert corpus.vocabulary is not None
    assert len(corpus.vocabulary) == WORDS + 2


# ----------------------------------------------------------------------------------------------------- encoders


@pytest.fixture
def batch():
    rng = np.random.default_rng(1)
    return draw_sentences(np.array([4, 1, 9, 2, 7]), 6, rng)


@pytest.fixture
def cell():
    torch.manual_seed(0)
    return BinaryTreeLSTM(6, 6)


def expected(cell, batch):
    """Roots and the gradients of embeddings and weights, by the slow reference."""
    roots = torch.stack(
        [
            encode_one(cell, row[:n], derivation)[0][-1, :6]
            for row, n, derivation in zip(
                batch.embeddings, batch.lengths.tolist(), batch.derivations, strict=True
            )
        ]
    )
    wanted = (batch.embeddings, *cell.parameters())
    return roots, torch.autograd.grad((roots * batch.weights).sum(), wanted)


@pytest.mark.parametrize(
    "name", [encoder.BY_LEVEL, encoder.BY_STEP, encoder.LISTS, encoder.LEAN_LISTS, encoder.RECURSION]
)
def test_tree_encoders_that_are_compared_compute_the_same(name, cell, batch):
    roots, gradients = expected(cell, batch)
    found = encoder.tree_encoders(cell)[name].encode(batch)
    torch.testing.assert_close(found, roots)
    theirs = torch.autograd.grad((found * batch.weights).sum(), (batch.embeddings, *cell.parameters()))
    for one, other in zip(theirs, gradients, strict=True):
        torch.testing.assert_close(one, other)


def test_dynet_computes_the_same(cell, batch):
    pytest.importorskip("dynet_config", reason="DyNet is not installed")
    roots, gradients = expected(cell, batch)
    machine = DynetTreeLSTM(cell)
    table = machine.load(batch)
    for _ in range(2):  # gradients do not add up from one time to the next
        total = machine.forward_backward(table, batch)
    assert math.isclose(total, (roots * batch.weights).sum().item(), rel_tol=1e-4, abs_tol=1e-5)
    token_mask = torch.arange(batch.embeddings.shape[1]) < batch.lengths.unsqueeze(1)
    wanted = (gradients[0][token_mask], *gradients[1:])
    for parameter, gradient in zip((table, *machine.parameters), wanted, strict=True):
        found = torch.from_numpy(parameter.grad_as_array()).float()
        torch.testing.assert_close(found, gradient, rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize("kind", [torch.nn.LSTM, torch.nn.GRU])
def test_sequence_encoders_give_the_last_hidden_vector_of_every_sentence(kind, batch):
    rnn = kind(6, 6, batch_first=True)
    found = encoder.sequence_encoder(rnn).encode(batch)
    for row, n, vector in zip(batch.embeddings, batch.lengths.tolist(), found, strict=True):
        torch.testing.assert_close(vector, rnn(row[None, :n])[0][0, -1])


def test_matrix_precision_is_restored():
    before = torch.get_float32_matmul_precision()
    with encoder.matmul_precision("medium"):
        assert torch.get_float32_matmul_precision() == "medium"
    assert torch.get_float32_matmul_precision() == before


# ------------------------------------------------------------------------------------------------- a whole step


@pytest.fixture
def sorted_batch():
    return draw_sentences(np.array([9, 7, 7, 2, 1]), 6, np.random.default_rng(2))


def spoken(model, batch, derivations):
    """Roots and summed log-probabilities of given parses, one sentence at a time."""
    roots, log_probs, n_free = [], [], 0
    for row, n, derivation in zip(batch.embeddings, batch.lengths.tolist(), derivations, strict=True):
        nodes, tracked = encode_one(model.cell, row[:n], derivation, model.tracker)
        total = row.new_zeros(())
        parser = ParserState(n)
        for transition, hidden in zip(derivation, tracked, strict=True):
            if all(parser.legal):
                logits = model.head.weight @ hidden + model.head.bias
                total = total + logits[transition] - torch.log(torch.exp(logits).sum())
                n_free += 1
            parser.apply(transition)
        roots.append(nodes[-1, :6])
        log_probs.append(total)
    return torch.stack(roots), torch.stack(log_probs), n_free


@pytest.mark.parametrize("running_only", [False, True])
@pytest.mark.parametrize("given", [False, True])
def test_list_spinn_computes_what_one_sentence_at_a_time_does(running_only, given, sorted_batch):
    torch.manual_seed(0)
    model = RLSpinn(6, 5, 3)
    parsed = parse_with_lists(
        model,
        sorted_batch,
        running_only=running_only,
        generator=torch.Generator().manual_seed(1),
        derivations=sorted_batch.derivations if given else None,
    )
    if given:
        assert parsed.derivations == sorted_batch.derivations
    roots, log_probs, n_free = spoken(model, sorted_batch, parsed.derivations)
    torch.testing.assert_close(parsed.roots, roots)
    torch.testing.assert_close(parsed.log_probs, log_probs)
    assert parsed.n_free == n_free
    wanted = (sorted_batch.embeddings, *model.parameters())
    found = torch.autograd.grad(step_loss(model, *parsed[:3], sorted_batch.labels), wanted)
    gradients = torch.autograd.grad(step_loss(model, roots, log_probs, n_free, sorted_batch.labels), wanted)
    for one, other in zip(found, gradients, strict=True):
        torch.testing.assert_close(one, other)


def test_list_spinn_samples_from_its_policy():
    torch.manual_seed(0)
    model = RLSpinn(4, 4, 3)
    batch = draw_sentences(np.full(2000, 3), 4, np.random.default_rng(0))
    batch = batch._replace(embeddings=batch.embeddings[:1].expand(2000, -1, -1))
    parsed = parse_with_lists(model, batch, generator=torch.Generator().manual_seed(0))
    left = [0, 0, 1, 0, 1]
    share = sum(derivation == left for derivation in parsed.derivations) / 2000
    probability = parsed.log_probs[parsed.derivations.index(left)].exp().item()
    assert 0.2 < probability < 0.8
    assert abs(share - probability) < 5 * math.sqrt(probability * (1 - probability) / 2000)


# -------------------------------------------------------------------------------------------------- the command


def test_bench_prints_tables_and_writes_all_figures(tmp_path, capsys):
    threads = torch.get_num_threads()
    file = tmp_path / "bench.json"
    assert main(["bench", "encoder", "--quick", "--json", str(file)]) == 0
    assert torch.get_num_threads() == threads
    printed = capsys.readouterr().out
    found = json.loads(file.read_text(encoding="utf-8"))
    assert found["machine"]["torch"] == torch.__version__
    assert found["settings"]["quick"] is True
    assert [s["key"] for s in found["sections"]] == [
        "encoder/8/highest",
        "encoder/8/medium",
        "encoder/listops",
    ]
    for measured in found["sections"]:
        for name, contender in measured["contenders"].items():
            assert len(contender["rates"]) == 2
            assert 0 < contender["least"] <= contender["value"] <= contender["greatest"] < math.inf
            assert name in printed
    assert len(found["targets"]) == len(targets.TARGETS)
    assert {t["status"] for t in found["targets"]} <= {
        targets.REACHED,
        targets.NOT_REACHED,
        targets.NOT_MEASURED,
    }
    assert "sizes too small to mean anything" in printed


@pytest.mark.parametrize(
    ("option", "value"),
    [
        ("hidden-size", "0"),
        ("batch-size", "1"),
        ("repeats", "0"),
        ("threads", "0"),
        ("seed", "-1"),
    ],
)
def test_sizes_that_measure_nothing_are_refused(option, value, capsys):
    assert main(["bench", f"--{option}", value]) == 2
    assert f"{option.replace('-', '_')} must be at least" in capsys.readouterr().err
