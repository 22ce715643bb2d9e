"""`rlparse evaluate --detail`: the tables, the JSON, and what they agree with."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from rlparse.corpora.listops import write_listops
from rlparse_experiments import evaluate
from rlparse_experiments.assembly import evaluation_corpus, open_run
from rlparse_experiments.cli import main
from rlparse_experiments.diagnosis import diagnoser as diagnoser_module
from rlparse_experiments.diagnosis.diagnoser import Diagnoser
from rlparse_experiments.evaluate import measure

LISTOPS: dict[str, Any] = {"corpus.generator": "listops", "corpus.max_tokens": 12, "agent.epochs": 1}


def detailed(run: Path, out: Path, *options: str) -> dict[str, Any]:
    assert main(["evaluate", str(run), "--detail", "--out", str(out), *options]) == 0
    found: dict[str, Any] = json.loads((out / "results.json").read_text())
    return found


@pytest.mark.parametrize("run", ["logic_run", "listops_run"])
def test_the_figures_of_all_examples_are_those_of_the_evaluation(request, tmp_path, run):
    found = detailed(request.getfixturevalue(run), tmp_path / "out")
    diagnosis = found["diagnosis"]
    everything = diagnosis["all"]
    assert everything["accuracy"] == pytest.approx(found["accuracy"])
    assert everything["scores"]["f1_nyu"] == pytest.approx(found["parses"]["against_gold"]["learned"]["nyu"])
    assert everything["scores"]["exact"] == pytest.approx(found["parses"]["exact"])
    for by, rows in diagnosis["groups"].items():
        if by not in ("length, up to", "operators present"):  # whose groups overlap
            assert sum(row["n"] for row in rows) == everything["n"] == 12
            right = sum(row["n"] * row["accuracy"] for row in rows)
            assert right == pytest.approx(12 * found["accuracy"])
    assert sum(row["n"] for row in diagnosis["states"]) == sum(row["n"] for row in diagnosis["tops"]) > 0


def test_listops_has_what_only_it_has(listops_run, tmp_path):
    diagnosis = detailed(listops_run, tmp_path / "out")["diagnosis"]
    assert set(diagnosis["groups"]) == {
        *("length", "length, up to", "depth", "nesting", "outermost operator", "operators present")
    }
    assert {"f1_lists_nyu", "f1_lists_nyu_root_out"} < set(diagnosis["all"]["scores"])
    assert set(diagnosis["lists"]) <= {"[MIN", "[MAX", "[MED", "[SM"}
    assert {row["top"] for row in diagnosis["tops"]} <= {
        *("operator", "digit", "bracket", "open", "closed", "other")
    }


def test_the_tables_are_printed_below_the_others(runs, capsys):
    run = runs.train("run", LISTOPS | {"corpus.max_tokens": 40})
    capsys.readouterr()
    assert main(["evaluate", str(run)]) == 0
    plain = capsys.readouterr().out
    assert main(["evaluate", str(run), "--detail"]) == 0
    out = capsys.readouterr().out
    assert "in detail" not in plain
    for text in (
        "in detail (%): accuracy, F1 (nyu) of the parses, of complete lists only (each with and without the root)",
        "\n  length, up to ",
        "\n    with [M",
        "lists inside others that are nodes of the parses: [M",
        "decisions along these parses, by what lies on the stack: mean probability of REDUCE (%), entropy",
        "\n  top ",
        "ReLU units of the classifier: 8, of which ",
    ):
        assert text in out, text
    assert max(map(len, out.replace(str(run), "RUN").splitlines())) <= 110


def test_only_so_many_kinds_of_states_are_printed(listops_run, capsys, monkeypatch):
    from rlparse_experiments.report import diagnosis_tables

    monkeypatch.setattr(diagnosis_tables, "SHOWN_STATES", 2)
    assert main(["evaluate", str(listops_run), "--detail"]) == 0
    assert "rarer kinds of states" in capsys.readouterr().out


def test_parsers_without_probabilities_say_so(runs, capsys):
    for kind in ("easy_first", "left"):
        run = runs.train(kind, LISTOPS | {"parser.kind": kind})
        capsys.readouterr()
        assert main(["evaluate", str(run), "--detail"]) == 0
        out = capsys.readouterr().out
        assert f"parser {kind} gives no probabilities of SHIFT and REDUCE: no table of decisions" in out
        assert "top " not in out


def test_the_gated_composition_has_units_of_its_own(runs, tmp_path, capsys):
    run = runs.train("gated", LISTOPS | {"encoder.composition": "gated"})
    units = detailed(run, tmp_path / "out")["diagnosis"]["units"]
    assert {layer: found["n"] for layer, found in units.items()} == {"classifier": 8, "composition": 32}
    assert "ReLU units of the composition: 32" in capsys.readouterr().out


def test_an_encoder_without_trees_has_accuracies_only(runs, tmp_path, capsys):
    lstm = {"parser.kind": "none", "encoder.architecture": "lstm", "encoder.composition": None}
    run = runs.train("lstm", LISTOPS | lstm)
    capsys.readouterr()
    diagnosis = detailed(run, tmp_path / "out")["diagnosis"]
    assert diagnosis["all"]["scores"] == {}
    assert diagnosis["states"] is diagnosis["tops"] is None
    assert set(diagnosis["units"]) == {"classifier"}
    assert "in detail (%): accuracy\n" in capsys.readouterr().out


def test_sentences_without_gold_parses_have_no_scores(runs, write_snli, tmp_path):
    data = {"data": write_snli(parsed=False), "corpus.generator": None, "agent.epochs": 1}
    diagnosis = detailed(runs.train("run", data), tmp_path / "out")["diagnosis"]
    assert diagnosis["all"]["scores"] == {}
    assert set(diagnosis["groups"]) == {"length", "length, up to"}
    assert {row["gold"] for row in diagnosis["states"]} == {None}
    assert {row["top"] for row in diagnosis["states"]} <= {"word", "phrase"}


def test_the_batches_make_no_difference(listops_run, monkeypatch):
    run = open_run(listops_run)
    corpus, _ = evaluation_corpus(run, (), split="dev")
    measured = measure(run.model, run.policy, corpus)
    whole = Diagnoser(corpus).diagnose(run.model, run.policy, measured)
    monkeypatch.setattr(diagnoser_module, "MAX_TOKENS", 40)
    pieces = Diagnoser(corpus, batch_size=5).diagnose(run.model, run.policy, measured)
    assert pieces[:3] == whole[:3]
    assert pieces.units == whole.units
    for one, other in zip(pieces.states or (), whole.states or (), strict=True):
        assert one[:3] == other[:3]
        assert one[3:] == pytest.approx(other[3:], abs=1e-5)


def test_long_sentences_are_evaluated_in_small_batches(listops_run, tmp_path, monkeypatch):
    _, file = write_listops(tmp_path / "listops", n_train=10, n_test=30, seed=1)
    seen = []
    whole = detailed(listops_run, tmp_path / "whole", "--data", str(file))
    monkeypatch.setattr(evaluate, "MAX_TOKENS", 500)
    original = evaluate.decode

    def watching(policy, batch, *arguments, **options):
        seen.append((len(batch.lengths), int(batch.lengths.max())))
        return original(policy, batch, *arguments, **options)

    monkeypatch.setattr(evaluate, "decode", watching)
    pieces = detailed(listops_run, tmp_path / "pieces", "--data", str(file))
    assert sum(rows for rows, _ in seen) == 30
    assert all(rows * longest <= 500 or rows == 1 for rows, longest in seen)
    assert max(longest for _, longest in seen) > 100
    assert pieces["accuracy"] == whole["accuracy"]
    assert (tmp_path / "pieces" / "parses.jsonl").read_bytes() == (
        tmp_path / "whole" / "parses.jsonl"
    ).read_bytes()


def test_beams_count_every_parse_they_keep(listops_run, tmp_path, monkeypatch):
    seen = []
    original = evaluate.sequential_batches

    def watching(lengths, batch_size, *, max_tokens):
        seen.append(max_tokens)
        return original(lengths, batch_size, max_tokens=max_tokens)

    monkeypatch.setattr(evaluate, "sequential_batches", watching)
    for options in ([], ["--decode", "beam", "--width", "4"]):
        assert main(["evaluate", str(listops_run), *options]) == 0
    assert seen == [evaluate.MAX_TOKENS, evaluate.MAX_TOKENS // 4]


def test_diagnosing_changes_no_weight_and_no_mode(listops_run):
    run = open_run(listops_run)
    corpus, _ = evaluation_corpus(run, (), split="dev")
    measured = measure(run.model, run.policy, corpus)
    before = {name: value.clone() for name, value in run.model.state_dict().items()}
    run.model.train()
    Diagnoser(corpus).diagnose(run.model, run.policy, measured)
    assert run.model.training
    assert all(np.array_equal(before[name], value) for name, value in run.model.state_dict().items())
