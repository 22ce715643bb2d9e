from __future__ import annotations

import json
import math
import os
import subprocess
import sys
import typing

import numpy as np
import pytest
import torch

from rlparse import compiled, lockstep
from rlparse.models.composition import BinaryTreeLSTM
from rlparse.transitions import ParserState
from rlparse_experiments.bench import encoder, epoch, kernels, memory, rollout, switches, targets
from rlparse_experiments.bench.command import SECTIONS, why_not_judged
from rlparse_experiments.bench.dynet_tree_lstm import DynetTreeLSTM
from rlparse_experiments.bench.list_spinn import parse_with_lists
from rlparse_experiments.bench.measuring import (
    Clock,
    Contender,
    Figure,
    Measured,
    Section,
    Unavailable,
    measure,
)
from rlparse_experiments.bench.page import performance_tables
from rlparse_experiments.bench.report import number
from rlparse_experiments.bench.rl_spinn import RLSpinn, parse_with_machine, step_loss
from rlparse_experiments.bench.workload import (
    LISTOPS_LONGEST,
    LISTOPS_SHORTEST,
    LONGEST,
    SHORTEST,
    WORDS,
    draw_corpus,
    draw_sentences,
    draw_words,
    listops_lengths,
    snli_lengths,
)
from rlparse_experiments.cli import main
from rlparse_experiments.config import BenchConfig, BenchName
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
    assert measured.values == {"slow": (2.0, 4.0, 1.0), "fast": (4.0, 8.0, 8.0)}
    assert measured.figure("slow") == Figure(2.0, 1.0, 4.0)
    assert measured.ratio("fast", "slow") == Figure(2.0, 2.0, 8.0)  # of 2, 2 and 8; not 8 / 2
    assert measured.failures == {}
    assert measured.as_json()["contenders"][0] == {
        "name": "slow",
        "value": 2.0,
        "least": 1.0,
        "greatest": 4.0,
        "values": [2.0, 4.0, 1.0],
    }


def test_short_work_is_repeated_until_the_timing_is_long_enough():
    time = FakeTime()
    quick = time.contender("quick", [1.0] * 7, 5)
    measured = measure(section(quick), rounds=2, least_seconds=2.5, clock=time.clock)
    assert len(time.seen) == 1 + 2 * 3
    assert measured.values == {"quick": (5.0, 5.0)}


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
    assert measured.values == {"good": (1.0, 1.0, 1.0)}
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
    assert set(measured.values) == {"good"}
    with pytest.raises(Unavailable, match="other was left out"):
        measured.figure("other")


def test_figures_that_are_counted_are_taken_once():
    time = FakeTime()
    counted = section(time.contender("a", [1], 40), time.contender("b", [1], 60))._replace(timed=False)
    measured = measure(counted, rounds=5, clock=time.clock)
    assert time.seen == ["a", "b"]
    assert measured.values == {"a": (40,), "b": (60,)}
    assert measured.deviation() == pytest.approx((20, 20, 20))  # 40 and 60 are 20 % off 50


def test_deviation_is_the_costs_greatest_distance_from_their_median():
    rates = {"short": (1.0, 2.0), "middle": (2.0, 1.0), "long": (4.0, 4.0)}
    measured = Measured(section(), rates, {}, 1.0)
    # Costs of the first round 1, 1/2, 1/4 with median 1/2; of the second 1/2, 1, 1/4 with the same median.
    assert measured.deviation() == Figure(100.0, 100.0, 100.0)
    with pytest.raises(Unavailable, match="A job: fewer than two sizes were measured"):
        Measured(section(), {"short": (1.0,)}, {}, 1.0).deviation()
    with pytest.raises(Unavailable, match="long: failed with MemoryError"):
        Measured(section(), rates, {"long": "failed with MemoryError"}, 1.0).deviation()


# ------------------------------------------------------------------------------------------------------ targets


def results_of(**rates: float) -> dict[str, Measured]:
    found = {name: (rate, rate) for name, rate in rates.items()}
    return {"job/1": Measured(section(), found, {"absent": "it is not installed"}, 1.0)}


OURS, RATIO = targets.figure("ours"), targets.ratio("ours", "theirs")


@pytest.mark.parametrize(
    ("figure", "bound", "at_most", "status"),
    [
        (OURS, 6.0, False, targets.REACHED),
        (OURS, 6.1, False, targets.NOT_REACHED),
        (OURS, 6.0, True, targets.REACHED),
        (OURS, 5.9, True, targets.NOT_REACHED),
        (RATIO, 2.0, False, targets.REACHED),
        (RATIO, 2.1, False, targets.NOT_REACHED),
    ],
)
def test_a_target_is_reached_or_not(figure, bound, at_most, status):
    target = targets.Target("job/1", "a job", "here", bound, figure, at_most)
    verdict = targets.judge(target, results_of(ours=6.0, theirs=3.0))
    assert verdict.status == status
    assert verdict.as_json()["measured"]["value"] in (6.0, 2.0)


@pytest.mark.parametrize(
    ("key", "figure", "void", "reason"),
    [
        ("job/1", targets.ratio("ours", "absent"), "", "absent: it is not installed"),
        ("job/1", RATIO, "", "theirs was left out"),
        ("job/2", OURS, "", "job/2 was left out"),
        ("job/1", OURS, "only a rehearsal", "only a rehearsal"),
    ],
)
def test_a_target_that_was_not_measured_says_why(key, figure, void, reason):
    target = targets.Target(key, "a job", "here", 1.0, figure)
    verdict = targets.judge(target, results_of(ours=1.0), void=void)
    assert (verdict.status, verdict.reason) == (targets.NOT_MEASURED, reason)
    assert verdict.as_json()["measured"] is None


def test_a_target_is_also_held_against_what_is_not_compiled():
    target = targets.Target("job/1", "a job", "here", 5.0, OURS, not_compiled=targets.figure("theirs"))
    verdict = targets.judge(target, results_of(ours=6.0, theirs=3.0))
    assert verdict.status == targets.REACHED
    assert verdict.not_compiled.status == targets.NOT_REACHED
    assert verdict.as_json()["not_compiled"]["measured"]["value"] == 3.0
    verdict = targets.judge(target, results_of(ours=6.0))
    assert verdict.not_compiled.reason == "theirs was left out"


def test_every_target_is_about_something_that_is_measured():
    config = BenchConfig()
    sections = {section.key: section for make in SECTIONS.values() for section in make(config)}
    assert {target.key for target in targets.TARGETS} <= set(sections)
    rows = [(target.what, target.column) for target in targets.TARGETS]
    assert len(set(rows)) == len(rows)


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({}, ""),
        ({"hidden_size": (100,)}, ""),
        ({"quick": True}, "--quick measures nothing"),
        ({"batch_size": 64}, "the figures are for batches of 128 sentences and 1 thread"),
        ({"threads": 2}, "the figures are for batches of 128 sentences and 1 thread"),
    ],
)
def test_figures_are_held_against_their_own_settings_only(changes, reason):
    assert why_not_judged(BenchConfig(**changes)) == reason


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


def test_drawn_words_are_as_frequent_and_as_varied_as_those_of_snli():
    rng = np.random.default_rng(0)
    words = draw_words((100, 1501), rng)
    assert words.min() == 0
    assert words.max() < WORDS
    assert math.isclose((words == 0).mean(), 0.117, rel_tol=0.1)
    types = np.mean([len(np.unique(row)) for row in words])
    assert math.isclose(types, 492, rel_tol=0.03)


def test_sentences_hold_their_words_or_every_word_once():
    lengths = np.array([3, 1, 4])
    drawn = draw_sentences(lengths, 5, np.random.default_rng(0))
    assert ((drawn.tokens > 0).sum(1) == drawn.lengths).all()
    assert drawn.tokens.max() < drawn.n_types == WORDS + 1
    assert (drawn.n_tokens, drawn.n_transitions) == (8, 13)
    distinct = draw_sentences(lengths, 5, np.random.default_rng(0), distinct=True)
    found = distinct.tokens[distinct.tokens > 0]
    assert len(found.unique()) == 8
    assert found.max() < distinct.n_types


# ----------------------------------------------------------------------------------------------------- encoders


@pytest.fixture
def batch():
    rng = np.random.default_rng(1)
    return draw_sentences(np.array([4, 1, 9, 2, 7]), 6, rng)


@pytest.fixture
def cell():
    torch.manual_seed(0)
    return BinaryTreeLSTM(6, 6)


@pytest.fixture
def embedding(batch):
    torch.manual_seed(1)
    return torch.nn.Embedding(batch.n_types, 6)


def expected(embedding, cell, batch):
    """Roots and the gradients of all weights, by the slow reference."""
    rows = zip(batch.tokens, batch.lengths.tolist(), batch.derivations, strict=True)
    roots = torch.stack(
        [
            encode_one(cell, embedding.weight[tokens[:n]], derivation)[0][-1, :6]
            for tokens, n, derivation in rows
        ]
    )
    wanted = (*embedding.parameters(), *cell.parameters())
    return roots, torch.autograd.grad((roots * batch.weights).sum(), wanted)


@pytest.mark.parametrize(
    "name", [encoder.BY_LEVEL, encoder.BY_STEP, encoder.LISTS, encoder.LEAN_LISTS, encoder.RECURSION]
)
@pytest.mark.parametrize("kernels", ["auto", "torch"])
def test_tree_encoders_that_are_compared_compute_the_same(name, kernels, embedding, cell, batch, monkeypatch):
    monkeypatch.setenv("RLPARSE_KERNELS", kernels)
    roots, gradients = expected(embedding, cell, batch)
    found = encoder.tree_encoders(embedding, cell)[name].encode(batch)
    torch.testing.assert_close(found, roots)
    theirs = torch.autograd.grad((found * batch.weights).sum(), (*embedding.parameters(), *cell.parameters()))
    for one, other in zip(theirs, gradients, strict=True):
        torch.testing.assert_close(one, other)


def test_dynet_computes_the_same(embedding, cell, batch):
    pytest.importorskip("dynet_config", reason="DyNet is not installed")
    roots, gradients = expected(embedding, cell, batch)
    machine = DynetTreeLSTM(embedding, cell)
    for _ in range(2):  # gradients do not add up from one time to the next
        total = machine.forward_backward(batch)
    assert math.isclose(total, (roots * batch.weights).sum().item(), rel_tol=1e-4, abs_tol=1e-5)
    for parameter, gradient in zip((machine.table, *machine.parameters), gradients, strict=True):
        found = torch.from_numpy(parameter.grad_as_array()).float()
        torch.testing.assert_close(found, gradient, rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize("kind", [torch.nn.LSTM, torch.nn.GRU])
def test_sequence_encoders_give_the_last_hidden_vector_of_every_sentence(kind, embedding, batch):
    rnn = kind(6, 6, batch_first=True)
    found = encoder.sequence_encoder(embedding, rnn).encode(batch)
    for tokens, n, vector in zip(batch.tokens, batch.lengths.tolist(), found, strict=True):
        torch.testing.assert_close(vector, rnn(embedding(tokens[None, :n]))[0][0, -1])


def test_reading_padding_changes_nothing(embedding, batch):
    lstm = torch.nn.LSTM(6, 6, batch_first=True)
    padded = encoder.padded_encoder(embedding, lstm).encode(batch)
    torch.testing.assert_close(padded, encoder.sequence_encoder(embedding, lstm).encode(batch))


def test_autocast_is_the_same_up_to_rounding(embedding, batch):
    lstm = encoder.sequence_encoder(embedding, torch.nn.LSTM(6, 6, batch_first=True))
    short = encoder.autocast(lstm.encode)(batch)
    assert not torch.is_autocast_enabled("cpu")
    torch.testing.assert_close(short.float(), lstm.encode(batch), rtol=0.05, atol=0.05)


def test_what_is_switched_is_restored(monkeypatch):
    before = torch.get_num_threads()
    work = switches.under(lambda: switches.threads(before + 1), torch.get_num_threads)
    assert work() == before + 1
    assert torch.get_num_threads() == before
    with switches.threads(torch.get_num_threads() + 1):
        assert torch.get_num_threads() > 1
    for value in ("auto", None):
        if value is None:
            monkeypatch.delenv(switches.KERNELS)
        else:
            monkeypatch.setenv(switches.KERNELS, value)
        with switches.torch_kernels():
            assert os.environ[switches.KERNELS] == "torch"
        assert os.environ.get(switches.KERNELS) == value


def test_where_nothing_is_compiled_that_is_not_measured_twice(monkeypatch):
    monkeypatch.setattr(compiled, "load", lambda: "there is no C compiler")
    with pytest.raises(Unavailable, match="nothing is compiled on this machine"):
        switches.not_compiled(lambda: 1)


# ------------------------------------------------------------------------------------------------- a whole step


@pytest.fixture
def sorted_batch():
    return draw_sentences(np.array([9, 7, 7, 2, 1]), 6, np.random.default_rng(2))


def spoken(model, batch, derivations):
    """Roots and summed log-probabilities of given parses, one sentence at a time."""
    roots, log_probs, n_free = [], [], 0
    for tokens, n, derivation in zip(batch.tokens, batch.lengths.tolist(), derivations, strict=True):
        words = model.embedding.weight[tokens[:n]]
        nodes, tracked = encode_one(model.cell, words, derivation, model.tracker)
        total = words.new_zeros(())
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


def check_parsed(model, batch, parsed, derivations):
    """Compare values and gradients of a whole step."""
    roots, log_probs, n_free = spoken(model, batch, derivations)
    torch.testing.assert_close(parsed.roots, roots)
    torch.testing.assert_close(parsed.log_probs, log_probs)
    assert parsed.n_free == n_free
    wanted = tuple(model.parameters())
    found = torch.autograd.grad(step_loss(model, *parsed[:3], batch.labels), wanted)
    expected = torch.autograd.grad(step_loss(model, roots, log_probs, n_free, batch.labels), wanted)
    for one, other in zip(found, expected, strict=True):
        torch.testing.assert_close(one, other)


def test_stack_machine_computes_what_one_sentence_at_a_time_does(sorted_batch):
    torch.manual_seed(0)
    model = RLSpinn(sorted_batch.n_types, 6, 5, 3)
    parsed = parse_with_machine(model, sorted_batch, generator=torch.Generator().manual_seed(1))
    rows = zip(parsed.derivations.tolist(), sorted_batch.lengths.tolist(), strict=True)
    check_parsed(model, sorted_batch, parsed, [row[: 2 * n - 1] for row, n in rows])


@pytest.mark.parametrize("running_only", [False, True])
@pytest.mark.parametrize("given", [False, True])
def test_list_spinn_computes_what_one_sentence_at_a_time_does(running_only, given, sorted_batch):
    torch.manual_seed(0)
    model = RLSpinn(sorted_batch.n_types, 6, 5, 3)
    parsed = parse_with_lists(
        model,
        sorted_batch,
        running_only=running_only,
        generator=torch.Generator().manual_seed(1),
        derivations=sorted_batch.derivations if given else None,
    )
    if given:
        assert parsed.derivations == sorted_batch.derivations
    check_parsed(model, sorted_batch, parsed, parsed.derivations)


@pytest.mark.parametrize("parse", [parse_with_lists, parse_with_machine])
def test_spinn_samples_from_its_policy(parse):
    torch.manual_seed(0)
    batch = draw_sentences(np.full(2000, 3), 4, np.random.default_rng(0))
    batch = batch._replace(tokens=batch.tokens[:1].repeat(2000, 1))
    model = RLSpinn(batch.n_types, 4, 4, 3)
    parsed = parse(model, batch, generator=torch.Generator().manual_seed(0))
    is_left = torch.as_tensor(parsed.derivations)[:, 2] == 1
    share = is_left.float().mean().item()
    probability = parsed.log_probs[is_left][0].exp().item()
    assert 0.2 < probability < 0.8
    assert abs(share - probability) < 5 * math.sqrt(probability * (1 - probability) / 2000)


# ------------------------------------------------------------------------------------------ counts and memory


def test_operators_are_counted_without_views_and_allocations():
    x = torch.randn(4, 4, requires_grad=True)

    def step() -> None:
        torch.empty(3)
        torch.autograd.grad((x.t() @ x).view(-1).sum(), x)

    with kernels.OperatorCount() as counted:
        step()
    # One product forward, its sum, the gradient's first value and its two products, and their sum.
    assert counted.counts["mm"] == 3
    assert "t" not in counted.counts
    assert "view" not in counted.counts
    assert "empty" not in counted.counts
    assert kernels.count_kernels(step, torch.device("cpu")) == sum(counted.counts.values())


def test_peak_of_memory_grows_with_what_is_held():
    """In a new process: this one may have held more than it does now."""
    program = (
        "import torch\n"
        "from rlparse_experiments.bench.memory import resident_peak\n"
        "before = resident_peak()\n"
        "held = torch.ones(20_000_000)\n"
        "print((resident_peak() - before) / held.nbytes)"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert 0.5 < float(done.stdout) < 1.5


def test_a_process_that_cannot_measure_memory_says_why():
    with pytest.raises(Unavailable, match="the process that measures memory failed: "):
        memory.peak_bytes_per_token(2, 0, 4, 0)


def test_an_epoch_is_timed_over_batches_of_equal_lengths():
    batches = epoch.draw_batches(50, 16, 0)
    assert sum(batch.n_examples for batch in batches) == 50
    for batch in batches:
        lockstep.trace(batch.gold, batch.lengths)  # complete derivations
    assert epoch.epoch_seconds(batches, 4, torch.device("cpu"), "highest", 0) > 0


# -------------------------------------------------------------------------------------------------- the command


MAY_BE_MISSING = {
    encoder.DYNET,
    encoder.BY_LEVEL_TORCH,
    rollout.MACHINE_TORCH,
    epoch.FLOAT32,
    epoch.TF32,
}
"""What not every machine can measure: those without DyNet, a C compiler or a CUDA device."""

UNITS = {
    "encoder": ["sentences/s"] * 5,
    "rollout": ["transitions/s"] * 2,
    "env": ["steps/s"] * 2,
    "train": ["pairs/s"],
    "scaling": [*["tokens/s"] * 4, "bytes/token", "operators", "s"],
}


@pytest.mark.parametrize("what", UNITS)
def test_bench_prints_tables_and_writes_all_figures(what, tmp_path, capsys):
    if torch.cuda.is_available():
        pytest.skip("units and failures are those of a machine without a CUDA device")
    threads, precision = torch.get_num_threads(), torch.get_float32_matmul_precision()
    file = tmp_path / "bench.json"
    assert main(["bench", what, "--quick", "--json", str(file)]) == 0
    assert torch.get_num_threads() == threads
    assert torch.get_float32_matmul_precision() == precision
    printed = capsys.readouterr().out
    found = json.loads(file.read_text(encoding="utf-8"))
    assert found["machine"]["torch"] == torch.__version__
    assert found["settings"]["quick"] is True
    assert [section["unit"] for section in found["sections"]] == UNITS[what]
    for measured in found["sections"]:
        assert set(measured["failures"]) <= MAY_BE_MISSING
        for contender in measured["contenders"]:
            assert len(contender["values"]) == (1 if measured["unit"] in UNITS["scaling"][4:] else 2)
            assert 0 < contender["least"] <= contender["value"] <= contender["greatest"] < math.inf
            assert contender["name"] in printed
    assert all(target["status"] == targets.NOT_MEASURED for target in found["targets"])
    assert bool(found["targets"]) == (what != "train")
    assert "sizes too small to mean anything" in printed


def test_figures_become_a_page(tmp_path):
    file = tmp_path / "bench.json"
    assert main(["bench", "encoder", "--quick", "--only", "by level", "LSTM", "--json", str(file)]) == 0
    record = json.loads(file.read_text(encoding="utf-8"))
    record["targets"][0]["measured"] = {"value": 1.75, "least": 1.5, "greatest": 2}
    record["targets"][0]["status"] = targets.REACHED
    record["targets"][0]["not_compiled"]["measured"] = {"value": 1.25, "least": 1.0, "greatest": 2}
    page = performance_tables(record)
    assert (
        "| encoder ÷ packed nn.LSTM, float32 | hidden 100 | ≥ 1.6 | 1.75 [1.5–2] | reached | 1.25 |" in page
    )
    assert "| ≥ 1.15 | --quick measures nothing | not measured |  |" in page
    for found in record["sections"][0]["contenders"]:
        assert f"| {found['name']} | {number(found['value'])} [" in page
    widths = {line.count("|") for line in page.splitlines() if line.startswith("|")}
    assert widths == {3, 7}


@pytest.mark.parametrize(
    ("value", "written"),
    [
        (0.123456, "0.123"),
        (1.6, "1.6"),
        (20, "20"),
        (250, "250"),
        (1500, "1,500"),
        (58_123.4, "58,123"),
        (140_300, "140 k"),
        (12_800_000, "12.8 M"),
    ],
)
def test_numbers_have_about_three_digits(value, written):
    assert number(value) == written


def test_bench_measures_everything_it_has_a_word_for():
    assert {"all", *SECTIONS} == set(typing.get_args(BenchName))
    assert set(UNITS) == set(SECTIONS)


def test_bench_can_measure_some_contenders_and_draw_them(tmp_path, capsys):
    assert main(["bench", "encoder", "--quick", "--only", "LEVEL", "gru", "--plots", str(tmp_path)]) == 0
    assert sorted(file.name for file in tmp_path.iterdir()) == sorted(
        f"{axis}.{kind}" for axis in ("batch", "hidden", "length") for kind in ("png", "svg")
    )
    printed = capsys.readouterr().out
    assert encoder.BY_LEVEL in printed
    assert encoder.LSTM not in printed.partition("Figures to reach")[0]


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


def test_words_that_measure_nothing_are_refused(capsys):
    assert main(["bench", "decoder"]) == 2
    assert "decoder" in capsys.readouterr().err
