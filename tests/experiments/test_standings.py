"""Systems over seeds: which runs belong together, what is computed of them, and what is said to be missing."""

from __future__ import annotations

import csv
import io
import json
import subprocess
import sys

import numpy as np
import pytest

from made_runs import LEFT, MIXED, RIGHT, WORDS, make_measured, make_run
from rlparse.errors import ConfigError, CorpusError
from rlparse.parse_scores import score_parses
from rlparse_experiments.cli import main
from rlparse_experiments.compare import CompareConfig, compare_systems, find_conventions, run_compare
from rlparse_experiments.prediction_files import Prediction, read_predictions, write_predictions
from rlparse_experiments.standings_tables import latex_escaped, standings_tables
from rlparse_experiments.systems import by_system, by_task, read_run

NYU = find_conventions(("nyu",))


def systems_of(*paths):
    """Task to system to the names of its runs."""
    tasks = by_task([read_run(path) for path in paths])
    return {
        task: {s.name: [run.name for run in s.runs] for s in by_system(runs)} for task, runs in tasks.items()
    }


def standings_of(*paths, **options):
    return compare_systems(paths, NYU, n_draws=200, **options)[0]


# ----------------------------------------------------------------------------------------------------- grouping


def test_runs_that_differ_in_seed_only_are_one_system(tmp_path):
    for seed in (2, 0, 1):
        make_run(
            tmp_path / f"r{seed}",
            seed=seed,
            run__name=f"r{seed}",
            threads=seed,
            device="cpu",
            corpus__seed=seed,
        )
    assert systems_of(*(tmp_path / f"r{i}" for i in (2, 0, 1))) == {"logic": {"tracker": ["r0", "r1", "r2"]}}


def test_systems_are_called_after_agent_parser_or_encoder(tmp_path):
    paths = [
        make_run(tmp_path / "a", agent__system="ppo"),
        make_run(tmp_path / "b", parser__kind="right"),
        make_run(tmp_path / "c", parser__kind="none", encoder__architecture="gru", parses=None),
    ]
    assert list(systems_of(*paths)["logic"]) == ["ppo", "right", "gru"]


def test_namesakes_are_told_apart_by_what_differs(tmp_path):
    paths = [
        make_run(tmp_path / "a", agent__system="ppo", agent__n_parses=2),
        make_run(tmp_path / "b", agent__system="ppo", agent__n_parses=8, encoder__hide_premise=True),
        make_run(tmp_path / "d", parser__kind="left"),
    ]
    assert list(systems_of(*paths)["logic"]) == [
        "ppo, n_parses 2, no hide_premise",
        "ppo, n_parses 8, hide_premise",
        "left",
    ]


def test_what_most_namesakes_have_is_not_said(tmp_path):
    paths = [
        make_run(tmp_path / "whole", agent__system="ppo", agent__n_parses=8),
        make_run(tmp_path / "a", agent__system="ppo", agent__n_parses=2),
        make_run(tmp_path / "b", agent__system="ppo", agent__n_parses=8, encoder__hide_premise=True),
        make_run(tmp_path / "c", agent__system="ppo", agent__n_parses=4, parser__learning_rate=0.1),
        make_run(tmp_path / "d", agent__system="ppo", agent__n_parses=8, encoder__hidden_size=8),
    ]
    assert list(systems_of(*paths)["logic"]) == [
        "ppo",
        "ppo, n_parses 2",
        "ppo, hide_premise",
        "ppo, n_parses 4, learning_rate 0.1",
        "ppo, hidden_size 8",
    ]


def test_settings_of_one_name_keep_their_section(tmp_path):
    a = make_run(tmp_path / "a", parser__hidden_size=8, encoder__hidden_size=8)
    b = make_run(tmp_path / "b", parser__hidden_size=16, encoder__hidden_size=16)
    assert next(iter(systems_of(a, b)["logic"])) == "tracker, encoder.hidden_size 8, parser.hidden_size 8"


def test_settings_that_an_older_run_lacks_have_their_defaults(tmp_path):
    new, old = make_run(tmp_path / "new"), make_run(tmp_path / "old", seed=1)
    described = json.loads((old / "config.json").read_text())
    del described["settings"]["agent"]["entropy_coef"], described["settings"]["precision"]
    (old / "config.json").write_text(json.dumps(described))
    assert systems_of(new, old) == {"logic": {"tracker": ["new", "old"]}}


def test_tasks_of_one_name_are_told_apart_by_their_data(tmp_path):
    listops = {"task": "listops", "corpus__generator": "listops"}
    paths = [
        make_run(tmp_path / "a", **listops, corpus__max_tokens=25),
        make_run(tmp_path / "b", **listops, corpus__max_tokens=100),
        make_run(tmp_path / "c", corpus__max_tokens=25, corpus__operators=[1, 3]),
        make_run(tmp_path / "d", task="snli", data=["snli"], corpus__max_tokens=25),
        make_run(tmp_path / "e", task="snli", data=["snli"], corpus__max_tokens=50),
        make_run(
            tmp_path / "f",
            corpus__max_tokens=25,
            corpus__operators=[1, 3],
            corpus__test_operators=[7, 12],
        ),
    ]
    found = systems_of(*paths)
    assert list(found) == [
        *("listops, max_tokens 25", "listops, max_tokens 100"),
        *("logic, test_operators 0-0", "snli", "logic, test_operators 7-12"),
    ]
    # Of files, the longest sentence is a choice in training; every run is measured on the same ones.
    assert list(found["snli"]) == ["tracker, max_tokens 25", "tracker, max_tokens 50"]


def test_the_same_seeds_at_two_commits_are_two_systems(tmp_path):
    paths = [make_run(tmp_path / f"{c}{s}", seed=s, commit=c * 12) for c in "ab" for s in (0, 1)]
    assert systems_of(*paths) == {
        "logic": {"tracker, commit aaaaaaaaa": ["a0", "a1"], "tracker, commit bbbbbbbbb": ["b0", "b1"]}
    }
    again = make_run(tmp_path / "again", seed=1, commit="b" * 12)
    with pytest.raises(
        ConfigError, match=r"b1 and .*again have the same settings, seed and commit: .* leave one out"
    ):
        systems_of(*paths, again)


# --------------------------------------------------------------------------------------------------- statistics


@pytest.fixture
def three(tmp_path):
    """Three seeds of ppo with predictions, two of an LSTM, one run with right-branching trees."""
    right = [1, 1, 0, 1], [1, 0, 0, 1], [1, 1, 1, 1]
    ppo = [
        make_run(tmp_path / f"ppo{s}", seed=s, accuracy=np.mean(c), parses=p, correct=c, agent__system="ppo")
        for s, (p, c) in enumerate(zip((LEFT, MIXED, RIGHT), right, strict=True))
    ]
    lstm = [
        make_run(
            tmp_path / f"lstm{s}",
            seed=s,
            accuracy=0.5,
            correct=[0, 1, 0, 1],
            parses=None,
            agent__system="lstm",
        )
        for s in (0, 1)
    ]
    single = make_run(
        tmp_path / "right", accuracy=0.25, parses=RIGHT, correct=[0, 0, 0, 1], parser__kind="right"
    )
    return [*ppo, *lstm, single]


def test_figures_are_summarised_over_seeds(three):
    (task,) = standings_of(*three).tasks
    ppo, lstm, single = task.systems
    accuracy = ppo.metrics["accuracy"]
    assert accuracy.scores == (0.75, 0.5, 1.0)
    assert (accuracy.mean, accuracy.sd, accuracy.iqm) == pytest.approx((0.75, 0.25, 0.75))
    assert 0.5 <= accuracy.interval.low < 0.75 < accuracy.interval.high <= 1.0
    f1 = [score_parses(parses, LEFT, WORDS).f1 for parses in (LEFT, MIXED, RIGHT)]
    assert ppo.metrics["f1_nyu"].scores == pytest.approx(f1)
    pairs = [score_parses(a, b, WORDS).f1 for a, b in ((LEFT, MIXED), (LEFT, RIGHT), (MIXED, RIGHT))]
    assert ppo.self_f1 == {"nyu": pytest.approx(np.mean(pairs))}
    assert set(lstm.metrics) == {"accuracy", "cross_entropy", "minutes"}
    assert lstm.self_f1 == single.self_f1 == {}
    assert (single.metrics["f1_nyu"].sd, single.metrics["f1_nyu"].interval) == (None, None)


def test_differences_are_bootstrapped_over_sentences_and_over_runs(three):
    (task,) = standings_of(*three).tasks
    found = {(d.metric, d.ours, d.theirs): d for d in task.differences}
    assert list(found) == [
        ("accuracy", "ppo", "lstm"),
        ("accuracy", "ppo", "right"),
        ("accuracy", "lstm", "right"),
        ("f1_nyu", "ppo", "right"),
    ]
    d = found["accuracy", "ppo", "lstm"]
    # The mean over seeds of every example, ours less theirs: 1, -1/3, 1/3, 0. All draws of 4 of them:
    values = np.array([1, -1 / 3, 1 / 3, 0])
    drawn = values[np.array(np.meshgrid(*[range(4)] * 4)).reshape(4, -1)].mean(axis=0)
    assert d.difference == pytest.approx(0.25)
    assert d.over_sentences == pytest.approx(tuple(np.quantile(drawn, [0.025, 0.975])), abs=0.1)
    assert d.p == pytest.approx(2 * (drawn <= 1e-9).mean(), abs=0.1)
    assert d.over_runs.low >= 0.0
    assert (d.improvement, found["accuracy", "lstm", "right"].improvement) == (pytest.approx(5 / 6), 1.0)
    assert d.improvement_interval is not None
    assert found["accuracy", "ppo", "right"].over_runs is None
    assert found["accuracy", "ppo", "right"].improvement_interval is None
    f1 = found["f1_nyu", "ppo", "right"]
    assert 0.0 <= f1.over_sentences.low < f1.difference < f1.over_sentences.high


def test_a_system_that_does_the_same_differs_by_nothing(tmp_path):
    a, b = (make_run(tmp_path / n, parses=MIXED, correct=[1, 0], agent__system=n) for n in "ab")
    for d in standings_of(a, b).tasks[0].differences:
        assert (d.difference, d.over_sentences, d.p, d.improvement) == (0.0, (0.0, 0.0), 1.0, 0.5)


def test_a_reference_limits_the_pairs(three):
    (task,) = standings_of(*three, reference="lstm").tasks
    assert [(d.ours, d.theirs) for d in task.differences] == [("ppo", "lstm"), ("right", "lstm")]
    with pytest.raises(ConfigError, match="--reference: expected one of ppo, lstm, right, got 'gru'"):
        standings_of(*three, reference="gru")


def test_systems_of_every_task_are_pooled_with_the_tasks_as_strata(tmp_path):
    paths = []
    for task, base in (("logic", 0.8), ("listops", 0.4)):
        for name, more in (("ppo", 0.1), ("rloo", 0.0)):
            for seed in (0, 1, 2):
                paths.append(
                    make_run(
                        tmp_path / f"{task}-{name}{seed}",
                        task=task,
                        corpus__generator=task,
                        seed=seed,
                        accuracy=base + more + 0.01 * seed,
                        agent__system=name,
                    )
                )
    paths.append(make_run(tmp_path / "alone", agent__system="alone"))
    across = standings_of(*paths).across
    assert across.task == "logic + listops"
    ppo, _ = across.systems
    assert ppo.metrics["accuracy"].mean == pytest.approx((0.91 + 0.51) / 2)
    assert ppo.metrics["accuracy"].sd is None
    # Drawn by task, the pooled mean can move by a hundredth, not by the difference of the tasks.
    low, high = ppo.metrics["accuracy"].interval
    assert 0.69 < low < 0.71 < high < 0.73
    (d,) = [d for d in across.differences if d.metric == "accuracy"]
    assert (d.ours, d.theirs, d.improvement) == ("ppo", "rloo", 1.0)
    assert d.difference == pytest.approx(0.1)
    assert d.over_runs.low > 0.08
    assert (d.over_sentences, d.p) == (None, None)


# ------------------------------------------------------------------------------------------ what is not computed


def test_notes_say_what_is_missing(three, tmp_path):
    more = make_run(tmp_path / "more", seed=7, agent__system="lstm", parses=None, commit="feed" * 4)
    notes = standings_of(*three, more).notes
    assert "logic: one run each, hence no sd, no interval over runs, no self-F1: right" in notes
    assert "logic: fewer than 5 runs, hence intervals over runs that are too narrow: ppo, lstm" in notes
    assert "logic: the runs of lstm were made at commits c0ffee012, feedfeedf" in notes
    assert (
        "logic: 1 of 7 runs have no predictions of dev: no bootstrap of their accuracy over examples" in notes
    )


def test_names_with_commas_are_listed_apart(tmp_path):
    a = make_run(tmp_path / "a", agent__system="ppo", agent__n_parses=2)
    b = make_run(tmp_path / "b", agent__system="ppo", agent__n_parses=3)
    notes = standings_of(a, b).notes
    assert any(note.endswith("no self-F1: ppo, n_parses 2; ppo, n_parses 3") for note in notes)


def test_titles_are_not_broken_at_narrow_tables(tmp_path, capsys):
    assert main(["compare", str(make_run(tmp_path / "a", parses=None))]) == 0
    assert capsys.readouterr().out.startswith("Systems on logic: mean ± sd over runs; shares in %\n")


def test_each_needs_runs_of_one_task(tmp_path, capsys):
    a = make_run(tmp_path / "a")
    b = make_run(tmp_path / "b", corpus__generator="listops")
    assert main(["compare", str(a), str(b), "--each"]) == 0
    assert "--each compares the parses of one task; these are of 2" in capsys.readouterr().out


def test_runs_on_other_sentences_are_compared_without_pairing(tmp_path):
    words = [tuple("klmn"), tuple("opq"), tuple("rst")]
    a = make_run(tmp_path / "a", correct=[1, 1])
    b = make_run(tmp_path / "b", seed=1, words=words, parses=RIGHT, correct=[1, 0, 1])
    standings = standings_of(a, b)
    (system,) = standings.tasks[0].systems
    assert system.metrics["f1_nyu"].scores == pytest.approx((1.0, score_parses(RIGHT, LEFT, WORDS).f1))
    assert system.self_f1 == {}
    assert any(
        "measured on different sentences: no self-F1 and no bootstrap" in note for note in standings.notes
    )
    assert any("runs classified different examples" in note for note in standings.notes)
    other = make_run(tmp_path / "other", words=words, parser__kind="left")
    assert standings_of(a, other).tasks[0].differences[-1].over_sentences is None
    # A file among them has to be of the same sentences.
    with pytest.raises(CorpusError, match="expected the sentence of"):
        standings_of(a, b / "parses" / "dev.jsonl")


def test_another_part_than_dev_takes_its_accuracy_from_predictions(tmp_path):
    run = make_run(tmp_path / "a", correct=[1, 0], accuracy=0.9)
    for folder in ("parses", "predictions"):
        (run / folder / "dev.jsonl").rename(run / folder / "test.jsonl")
    (task,) = standings_of(run, split="test").tasks
    assert task.systems[0].metrics["accuracy"].mean == 0.5
    assert "cross_entropy" not in task.systems[0].metrics


def test_the_figures_of_the_test_set_are_compared(tmp_path, capsys):
    runs = [
        make_measured(
            make_run(tmp_path / f"a{seed}", seed=seed, accuracy=0.9, correct=[1, 1, 1], agent__system="a"),
            accuracy=(1 + seed) / 3,
            correct=[1, seed, 0],
        )
        for seed in (0, 1)
    ]
    lstm = make_run(tmp_path / "l", accuracy=0.9, correct=[1, 1, 1], parses=None, agent__system="lstm")
    make_measured(lstm, accuracy=1.0, correct=[1, 1, 1], parses=None)
    standings = standings_of(*runs, lstm, split="test")
    ours, theirs = standings.tasks[0].systems
    assert ours.metrics["accuracy"].scores == pytest.approx((1 / 3, 2 / 3))
    assert theirs.metrics["cross_entropy"].scores == (2.5,)
    assert ours.metrics["f1_nyu"].scores == pytest.approx((2.5 / 3, 2.5 / 3))  # MIXED: 1, 1 and 1/2
    assert ours.self_f1["nyu"] == 1.0
    assert standings.tasks[0].differences[0].over_sentences is not None
    assert standings.as_json()["split"] == "test"
    assert standings_of(*runs, lstm).tasks[0].systems[0].metrics["accuracy"].scores == (0.9, 0.9)
    options = {"draws": 20, "latex": tmp_path / "out.tex"}
    assert run_compare(CompareConfig((*runs, lstm), split="test", **options)) == 0
    out = capsys.readouterr().out
    for title in (
        "Systems on test of logic",
        "Interquartile mean on test of logic",
        "Differences on test of logic",
    ):
        assert title in out
    assert "% systems on test of logic: mean" in (tmp_path / "out.tex").read_text()


def test_runs_that_were_not_measured_on_the_test_set_are_named(tmp_path):
    measured = make_measured(make_run(tmp_path / "a", seed=0))
    others = [make_run(tmp_path / name, seed=seed) for seed, name in enumerate("bc", start=1)]
    with pytest.raises(ConfigError) as refusal:
        standings_of(measured, *others, split="test")
    assert str(refusal.value) == (
        f"2 of 3 runs were not measured on test: {others[0]}, {others[1]}; measure each by "
        f"rlparse evaluate {others[0]} --split test --detail --out {others[0]}/test"
    )
    with pytest.raises(
        ConfigError, match=r"3 of 3 runs were .* rlparse evaluate .*/a --data FILES --detail --out"
    ):
        standings_of(measured, *others, split="long")


def test_runs_that_cannot_be_compared_are_refused(tmp_path, three):
    with pytest.raises(ConfigError, match="ppo0 is given 2 times, expected different runs"):
        standings_of(three[0], three[1], three[0])
    listops = make_run(tmp_path / "l", task="listops", corpus__generator="listops")
    with pytest.raises(
        ConfigError, match=r"dev\.jsonl can be compared with runs of one task, got runs of 2: logic"
    ):
        standings_of(three[0], listops, three[1] / "parses" / "dev.jsonl")
    (three[0] / "results.json").unlink()
    with pytest.raises(
        ConfigError, match=r"ppo0 is not finished: there is no results\.json; go on with rlparse train"
    ):
        standings_of(three[0])
    one_word = make_run(tmp_path / "w", words=[("a",)] * 3, parses=[(0,)] * 3, gold=False)
    lines = (one_word / "parses" / "dev.jsonl").read_text().replace('"gold": null', '"gold": "a"')
    (one_word / "parses" / "dev.jsonl").write_text(lines)
    with pytest.raises(CorpusError, match=r"w: no span counts under evalb \(choose another --convention\)"):
        compare_systems([one_word], find_conventions(("evalb",)))


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("nonsense\n", r"dev\.jsonl, line 1: expected a JSON object"),
        ('{"example": 1}\n', "line 1: expected an object with the texts example, gold, predicted, found"),
        ('{"example": "1", "gold": "a", "predicted": "b"}\n' * 2, "line 2: example '1' is there already"),
        ("", "expected predictions, one a line, found none"),
    ],
)
def test_malformed_predictions_are_refused(tmp_path, text, message):
    (tmp_path / "dev.jsonl").write_text(text)
    with pytest.raises(CorpusError, match=message):
        read_predictions(tmp_path / "dev.jsonl")


def test_predictions_read_as_written(tmp_path):
    predictions = [Prediction("0", "ja", "nein"), Prediction("1", "⊏", "⊏")]
    write_predictions(tmp_path / "new" / "dev.jsonl", predictions)
    assert read_predictions(tmp_path / "new" / "dev.jsonl") == predictions


# ------------------------------------------------------------------------------------------------------- output


def test_text_json_csv_and_latex_hold_the_same_figures(three, tmp_path, capsys):
    files = {name: tmp_path / "out" / f"all.{name}" for name in ("json", "csv", "latex")}
    assert run_compare(CompareConfig(tuple(three), convention=("nyu",), draws=200, **files)) == 0
    out = capsys.readouterr().out
    assert "│ ppo    │    3 │ 75.00 ± 25.00 │" in out
    assert "│ lstm   │    2 │  50.00 ± 0.00 │             – │" in out
    assert "note: logic: one run each" in out
    assert "F1 against gold trees" in out  # of the single runs with parses
    task = json.loads(files["json"].read_text())["standings"]["tasks"][0]
    accuracy = task["systems"][0]["metrics"]["accuracy"]
    assert (task["systems"][0]["seeds"], accuracy["mean"], accuracy["scores"]) == (
        [0, 1, 2],
        0.75,
        [0.75, 0.5, 1],
    )
    rows = list(csv.DictReader(io.StringIO(files["csv"].read_text())))
    (row,) = [r for r in rows if (r["system"], r["metric"]) == ("ppo", "accuracy")]
    assert (row["runs"], row["mean"], row["sd"], row["scores"]) == ("3", "0.75", "0.25", "0.75 0.5 1.0")
    assert float(row["iqm_low"]) == accuracy["interval"][0]
    (alone,) = [r for r in rows if (r["system"], r["metric"]) == ("right", "accuracy")]
    assert (alone["sd"], alone["iqm_low"]) == ("", "")
    (agreement,) = [r for r in rows if r["metric"] == "self_f1_nyu"]
    assert float(agreement["mean"]) == task["systems"][0]["self_f1"]["nyu"]
    differences = list(csv.DictReader(io.StringIO((tmp_path / "out" / "all-differences.csv").read_text())))
    assert [d["difference"] for d in differences] == [str(d["difference"]) for d in task["differences"]]
    assert differences[1]["runs_low"] == ""
    latex = files["latex"].read_text()
    assert r"ppo & 3 & $75.00 \pm 25.00$ &" in latex
    assert latex.count(r"\begin{tabular}") == latex.count(r"\end{tabular}") == 2
    assert all(line.endswith(r"\\") for line in latex.splitlines() if " & " in line)


def test_latex_shows_names_as_they_are():
    assert latex_escaped(r"a_b 5% {x} \y & $ # ~^") == (
        r"a\_b 5\% \{x\} \textbackslash{}y \& \$ \# \textasciitilde{}\textasciicircum{}"
    )


def test_many_systems_are_shown_against_the_first(tmp_path, capsys):
    paths = [make_run(tmp_path / f"r{i}", agent__system=f"s{i}", accuracy=0.1 * i) for i in range(9)]
    run_compare(CompareConfig(tuple(paths), draws=20))
    out = capsys.readouterr().out
    assert "with s0 only, the files have all 144 (--reference NAME: others)" in " ".join(out.split())
    assert "s0 – s8" in out
    assert "s1 – s2" not in out
    assert "--each also compares the parses of each of the 9 sources." in out
    assert "F1 against gold trees" not in out
    run_compare(CompareConfig(tuple(paths), draws=20, each=True, convention=("nyu",)))
    assert "F1 against gold trees" in capsys.readouterr().out


def test_files_of_parses_are_systems_too(three):
    standings = standings_of(three[0], three[-1] / "parses" / "dev.jsonl")
    assert [s.name for s in standings.tasks[0].systems] == ["ppo", "dev"]
    assert [d.metric for d in standings.tasks[0].differences] == ["f1_nyu"]
    only_files = standings_of(*(path / "parses" / "dev.jsonl" for path in (three[0], three[-1])))
    titles = [str(table.title) for table in standings_tables(only_files)]
    assert titles == ["Differences, in points [95 % of a bootstrap]"]


def test_draws_are_counted(three):
    with pytest.raises(ConfigError, match="--draws must be at least 1, got 0"):
        run_compare(CompareConfig(tuple(three), draws=0))


def test_comparing_runs_needs_no_torch(three):
    arguments = ["compare", *map(str, three), "--draws", "10"]
    code = (
        "import sys, rlparse_experiments.seeds; from rlparse_experiments.cli import main; "
        f"code = main({arguments!r}); sys.exit(code or 'torch' in sys.modules)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
