"""`rlparse evaluate RUN`: the run's own figures again, and those on other data."""

from __future__ import annotations

import json
import math
from pathlib import Path

import numpy as np
import pytest

from rlparse.corpora.corpus import Corpus
from rlparse.corpora.examples import Example, Sentence
from rlparse.corpora.listops import write_listops
from rlparse.corpora.logic import write_logic
from rlparse.parse_scores import mean_depth, recall_by_label, score_parses, trivial_trees
from rlparse.trees import random_merges
from rlparse_experiments import evaluate
from rlparse_experiments.cli import main
from rlparse_experiments.evaluate import REPORTED, SHOWN_TREES, ParseScorer
from rlparse_experiments.parse_files import read_parses


def results_of(folder: Path) -> dict:
    return json.loads((folder / "results.json").read_text())


def evaluated(run: Path, out: Path, *options: str) -> dict:
    assert main(["evaluate", str(run), "--out", str(out), *options]) == 0
    return results_of(out)


@pytest.mark.parametrize("run", ["logic_run", "listops_run"])
def test_the_runs_own_figures_come_out_again(request, tmp_path, run):
    run = request.getfixturevalue(run)
    stored, found = results_of(run), evaluated(run, tmp_path / "out")
    assert found["accuracy"] == stored["dev_accuracy"]
    assert found["cross_entropy"] == stored["dev_cross_entropy"]
    assert found["parses"] == stored["parses"]
    assert (tmp_path / "out" / "parses.jsonl").read_bytes() == (run / "parses" / "dev.jsonl").read_bytes()


def test_random_trees_come_out_again(runs, tmp_path):
    run = runs.train("run", {"parser.kind": "random", "agent.epochs": 1})
    found = evaluated(run, tmp_path / "out")
    assert found["accuracy"] == results_of(run)["dev_accuracy"]
    assert found["parses"] == results_of(run)["parses"]


def test_labelled_recall_comes_out_again(runs, write_snli, tmp_path):
    run = runs.train("run", {"data": write_snli(), "corpus.generator": None, "agent.epochs": 1})
    found = evaluated(run, tmp_path / "out")
    assert found["parses"]["recall"] == results_of(run)["parses"]["recall"] != {}


@pytest.mark.parametrize("size", [1, 5, 1000])
def test_the_batch_size_changes_no_parse(logic_run, tmp_path, size):
    found = evaluated(logic_run, tmp_path / "out", "--batch-size", str(size))
    stored = results_of(logic_run)
    assert found["accuracy"] == stored["dev_accuracy"]
    assert found["parses"] == stored["parses"]
    assert found["cross_entropy"] == pytest.approx(stored["dev_cross_entropy"], rel=1e-5)


def test_the_output_is_the_table_of_training(logic_run, capsys):
    assert main(["evaluate", str(logic_run)]) == 0
    out = capsys.readouterr().out
    assert "logic-dev: 12 examples" in out
    assert str(logic_run) in out
    for row in ("learned", "gold", "left", "right", "balanced (floor)", "balanced (ceil)", "random"):
        assert f"\n  {row} " in out
    assert f"cross-entropy {results_of(logic_run)['dev_cross_entropy']:.4f} nats" in out
    assert max(map(len, out.replace(str(logic_run), "RUN").splitlines())) <= 100


def test_evaluating_leaves_the_run_alone(logic_run):
    before = {path: path.stat().st_mtime_ns for path in logic_run.rglob("*")}
    assert main(["evaluate", str(logic_run)]) == 0
    assert {path: path.stat().st_mtime_ns for path in logic_run.rglob("*")} == before


def test_the_test_split_is_another_set(logic_run, tmp_path, capsys):
    found = evaluated(logic_run, tmp_path / "out", "--split", "test")
    assert "logic-test: 12 examples" in capsys.readouterr().out
    assert len(read_parses(tmp_path / "out" / "parses.jsonl").records) == found["parses"]["n_sentences"] == 24
    assert (tmp_path / "out" / "parses.jsonl").read_bytes() != (
        logic_run / "parses" / "dev.jsonl"
    ).read_bytes()


def test_a_missing_test_split_is_bad_usage(runs, write_snli, capsys):
    run = runs.train("run", {"data": write_snli(), "corpus.generator": None, "agent.epochs": 1})
    assert main(["evaluate", str(run), "--split", "test"]) == 2
    assert f"the data of {run} have no test part; give files with --data" in capsys.readouterr().err


def test_logic_files_can_be_measured_on(logic_run, tmp_path, capsys):
    files = {path.name: path for path in write_logic(tmp_path / "logic", n_draws=120, seed=1)}
    found = evaluated(logic_run, tmp_path / "out", "--data", str(files["train2"]), str(files["train3"]))
    lines = sum(len(files[name].read_text().splitlines()) for name in ("train2", "train3"))
    assert f"{lines} examples from 2 files" in capsys.readouterr().out
    assert found["parses"]["n_sentences"] == found["parses"]["n_gold"] == 2 * lines
    assert all(math.isfinite(value) for value in (found["accuracy"], found["cross_entropy"]))


def test_listops_files_can_be_measured_on(listops_run, tmp_path):
    _, test = write_listops(tmp_path / "listops", n_train=20, n_test=20, seed=1, max_tokens=30)
    assert evaluated(listops_run, tmp_path / "out", "--data", str(test))["parses"]["n_sentences"] == 20


def test_files_without_parses_can_be_measured_on(runs, write_snli, tmp_path):
    run = runs.train("run", {"data": write_snli(), "corpus.generator": None, "agent.epochs": 1})
    file = write_snli("plain", parsed=False) / "snli_1.0_dev.jsonl"
    found = evaluated(run, tmp_path / "out", "--data", str(file))
    assert found["accuracy"] == results_of(run)["dev_accuracy"]
    assert found["parses"]["against_gold"] == {}


def test_another_number_of_sentences_is_bad_input(logic_run, listops_run, tmp_path, capsys):
    listops = write_listops(tmp_path / "listops", n_train=20, n_test=20, seed=1)[1]
    assert main(["evaluate", str(logic_run), "--data", str(listops)]) == 2
    assert f"{logic_run} was trained on examples of 2 sentences, these have 1" in capsys.readouterr().err
    logic = write_logic(tmp_path / "logic", n_draws=60, seed=1)[2]
    assert main(["evaluate", str(listops_run), "--data", str(logic)]) == 2
    assert f"{listops_run} was trained on examples of 1 sentences, these have 2" in capsys.readouterr().err


def test_unknown_labels_are_bad_input(logic_run, write_snli, capsys):
    file = write_snli() / "snli_1.0_dev.jsonl"
    assert main(["evaluate", str(logic_run), "--data", str(file)]) == 2
    error = capsys.readouterr().err
    assert "entailment" in error
    assert "fault" not in error


def test_bad_lines_stop_or_are_skipped(logic_run, tmp_path, capsys):
    file = write_logic(tmp_path / "logic", n_draws=60, seed=1)[2]
    first, rest = file.read_text().split("\n", 1)
    file.write_text(f"{first}\n=\t( not a )\n{rest}")
    assert main(["evaluate", str(logic_run), "--data", str(file)]) == 2
    assert f"{file}, line 2" in capsys.readouterr().err
    assert main(["evaluate", str(logic_run), "--data", str(file), "--skip-bad-lines"]) == 0
    assert "line 2" in capsys.readouterr().out


def test_a_missing_file_is_bad_input(logic_run, tmp_path, capsys):
    assert main(["evaluate", str(logic_run), "--data", str(tmp_path / "nowhere.jsonl")]) == 2
    assert "nowhere.jsonl" in capsys.readouterr().err


def test_a_fixed_parser_that_needs_gold_says_so(runs, write_snli, capsys):
    run = runs.train("run", {"data": write_snli(), "corpus.generator": None, "parser.kind": "gold"})
    capsys.readouterr()
    file = write_snli("plain", parsed=False) / "snli_1.0_dev.jsonl"
    assert main(["evaluate", str(run), "--data", str(file)]) == 2
    assert "parser 'gold' needs a gold parse for every sentence" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("changes", "why"),
    [
        ({"parser.kind": "left"}, "gives none"),
        ({"parser.kind": "gumbel"}, "chooses while the classifier composes, one parse at a time"),
    ],
)
def test_parsers_that_rank_no_parses_say_so(runs, capsys, changes, why):
    run = runs.train("run", changes)
    assert main(["evaluate", str(run), "--decode", "beam"]) == 2
    kind = changes["parser.kind"]
    assert (
        f"--decode beam ranks parses by their probability, and parser {kind} of {run} {why}; use --decode greedy\n"
        in capsys.readouterr().err
    )


def test_a_width_without_a_parse_is_bad_usage(logic_run, capsys):
    assert main(["evaluate", str(logic_run), "--decode", "sample", "--width", "0"]) == 2
    assert "--width must be at least 1, got 0" in capsys.readouterr().err


def test_settings_that_do_not_fit_the_weights_say_so(runs, capsys):
    run = runs.train("run", {"agent.epochs": 1})
    config = json.loads((run / "config.json").read_text())
    config["settings"]["encoder"]["hidden_size"] = 4
    (run / "config.json").write_text(json.dumps(config))
    assert main(["evaluate", str(run)]) == 2
    assert "the checkpoint's model does not fit the run's settings" in capsys.readouterr().err


@pytest.mark.parametrize("file", ["corpus.json", "vocabulary.json"])
def test_a_missing_part_of_the_run_is_named(runs, capsys, file):
    run = runs.train("run", {"agent.epochs": 1})
    (run / file).unlink()
    capsys.readouterr()
    assert main(["evaluate", str(run)]) == 2
    assert f"{run}/{file} is missing" in capsys.readouterr().err


def test_compare_reads_what_runs_and_evaluations_wrote(logic_run, tmp_path, capsys):
    evaluated(logic_run, tmp_path / "out")
    capsys.readouterr()
    assert main(["compare", str(logic_run), str(tmp_path / "out" / "parses.jsonl")]) == 0
    assert "100.0" in capsys.readouterr().out


# ----------------------------------------------------------------------------------------------- the scores


def corpus_of(n: int, *, gold: str) -> Corpus:
    """Pairs of sentences of 1 to 8 words, of which `all`, `some` or `none` have a gold parse and a phrase."""
    rng = np.random.default_rng(0)
    examples = []
    for number in range(n):
        sentences = []
        for side in range(2):
            words = tuple(rng.choice(["a", "b", ".", ","], rng.integers(1, 9)))
            known = gold == "all" or (gold == "some" and (number + side) % 3 == 0)
            spans = ((0, len(words), "S"),) if known and number % 2 else None
            tree = tuple(random_merges(len(words), rng)) if known else None
            sentences.append(Sentence(words, tree, spans))
        examples.append(Example(tuple(sentences), "neutral"))
    return Corpus.from_examples(examples)


@pytest.mark.parametrize("gold", ["all", "some", "none"])
def test_a_scorer_gives_what_scoring_anew_gives_for_every_parser(gold):
    corpus = corpus_of(40, gold=gold)
    sentences = [corpus.sentence(i, side) for i in range(40) for side in range(2)]
    words = [s.tokens for s in sentences]
    parsed = [i for i, s in enumerate(sentences) if s.transitions is not None]
    scorer = ParseScorer(corpus, seed=5)
    rng = np.random.default_rng(1)
    for _ in range(3):
        learned = [random_merges(len(w), rng) for w in words]
        table = scorer.table(learned)
        kinds = trivial_trees([len(w) for w in words], seed=5)
        found = {"learned": learned, **{name: kinds[name] for name in SHOWN_TREES}}
        assert (table.n_gold, table.n_sentences) == (len(parsed), 80)
        for name in SHOWN_TREES:
            for c in REPORTED:
                assert table.agreement[name][c] == score_parses(learned, found[name], words, c).f1
        depth = {name: mean_depth(trees) for name, trees in found.items()}
        if parsed:
            truth = [sentences[i].transitions or () for i in parsed]
            known = [words[i] for i in parsed]
            depth["gold"] = mean_depth(truth)
            for name, trees in found.items():
                chosen = [trees[i] for i in parsed]
                for c in REPORTED:
                    assert table.against_gold[name][c] == score_parses(chosen, truth, known, c).f1
            phrases = [sentences[i].labelled_spans for i in parsed]
            recalls = recall_by_label([learned[i] for i in parsed], phrases, known)
            assert table.recall == {label: (r.recall, r.n_gold) for label, r in recalls.items()} != {}
            assert table.exact == score_parses([learned[i] for i in parsed], truth, known).exact_match
        else:
            assert (table.against_gold, table.recall, table.exact) == ({}, {}, None)
        assert table.depth == depth


def test_a_run_builds_and_scores_the_trivial_trees_once(runs, monkeypatch):
    built = []
    build = evaluate.trivial_trees

    def counting(*args, **kwargs):
        built.append(args)
        return build(*args, **kwargs)

    monkeypatch.setattr(evaluate, "trivial_trees", counting)
    run = runs.train("run")
    assert len(results_of(run)["history"]) == 2
    assert len(built) == 1
