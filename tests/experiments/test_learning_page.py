"""The page of what agents have learned is made from run folders: tables, pictures, and the place they go to."""

from __future__ import annotations

import json

import pytest

from made_runs import LEFT, make_measured, make_run
from rlparse.errors import CheckpointError, ConfigError
from rlparse_experiments.measured_figures import read_measured
from rlparse_experiments.report import learning_page as module
from rlparse_experiments.report.learning_page import learning_page, main, points_of
from rlparse_experiments.systems import read_run

LISTOPS = {
    "task": "listops",
    "corpus__generator": "listops",
    "corpus__max_tokens": 40,
    "corpus__test_max_tokens": 100,
    "threads": 1,
}


def with_history(run):
    """Two evaluations on dev."""
    results = json.loads((run / "results.json").read_text())
    points = [
        {"iteration": i, "eval/accuracy": i / 20, "eval/f1_gold_nyu": 0.5, "step": 9 * i} for i in (5, 10)
    ]
    (run / "results.json").write_text(json.dumps(results | {"history": points}))
    return run


@pytest.fixture
def folders(tmp_path):
    """An ablation of two seeds each, and a control that reads no trees."""
    found = []
    for seed in (0, 1):
        for warmup in (0, 100):
            run = make_run(
                tmp_path / f"w{warmup}s{seed}",
                seed=seed,
                agent__system="ours",
                pacing__warmup=warmup,
                accuracy=0.9,
                parser__kind="boundary",
                **LISTOPS,
            )
            accuracy = 0.75 + 0.25 * seed - warmup / 1000
            figures = {"f1_nyu": 0.5 + seed / 4, "f1_lists_nyu": 0.75, "exact": 0.25}
            found.append(make_measured(with_history(run), accuracy=accuracy, parses=LEFT, **figures))
    lstm = make_run(
        tmp_path / "lstm", agent__system="lstm", parser__kind="none", parses=None, accuracy=0.3, **LISTOPS
    )
    return [*found, make_measured(with_history(lstm), accuracy=0.25, parses=None)]


def rows_of(lines):
    return [[cell.strip() for cell in line.strip("|").split(" | ")] for line in lines if line.startswith("|")]


def test_systems_of_an_ablation_stand_side_by_side(folders):
    lines = learning_page(folders)
    rows = rows_of(lines)
    assert "### listops" in lines
    assert (
        "Trained on 1,000 examples of at most 40 tokens, tested on 3 of at most 100 tokens. Minutes are of 1 thread."
        in lines
    )
    assert rows[0] == [
        *("system", "seeds", "accuracy", "F1 nyu", "lists", "exact", "self-F1", "minutes", "commit")
    ]
    assert rows[2] == [
        *("ours, warmup 0", "0-1", "87.50 ± 17.68 (75.00)", "62.50 ± 17.68 (50.00)"),
        *("75.00 ± 0.00 (75.00)", "25.00 ± 0.00 (25.00)", "100.00", "1.5 ± 0.0", "c0ffee012"),
    ]
    assert rows[3][:3] == ["ours, warmup 100", "0-1", "77.50 ± 17.68 (65.00)"]
    assert rows[4] == ["lstm", "0", "25.00", "–", "–", "–", "–", "1.5", "c0ffee012"]
    assert ["ours, warmup 100", "1", "90.00", "75.00", "75.00", "25.00", "90.00", "1.5"] in rows
    assert ["lstm", "0", "25.00", "–", "–", "–", "30.00", "1.5"] in rows
    assert ["accuracy of", "examples", "ours, warmup 0", "ours, warmup 100", "lstm"] in rows
    assert ["length ≤ 3", "2", "43.75 (37.50)", "38.75 (32.50)", "12.50"] in rows
    assert ["nesting 1", "3", "87.50 (75.00)", "77.50 (65.00)", "25.00"] in rows
    assert ["F1 nyu of", "examples", "ours, warmup 0", "ours, warmup 100"] in rows
    assert ["all", "3", "62.50 (50.00)", "62.50 (50.00)"] in rows
    assert lines[-2] == "rlparse train listops --seed 0"
    assert not any("![" in line for line in lines)


def test_a_brief_page_has_no_tables_by_group(folders, capsys):
    assert main([*map(str, folders), "--brief"]) == 0
    heads = {row[0] for row in rows_of(capsys.readouterr().out.splitlines())}
    assert {"system", "ours, warmup 100", "lstm"} <= heads
    assert not {"accuracy of", "F1 nyu of", "nesting 1"} & heads


def test_every_task_has_its_own_tables(folders, tmp_path):
    other = make_measured(
        make_run(
            tmp_path / "other", **{**LISTOPS, "corpus__test_max_tokens": -1}, parser__kind="left", parses=LEFT
        )
    )
    logic = make_measured(make_run(tmp_path / "logic", threads=2))
    lines = learning_page([*folders, other, logic])
    heads = [line for line in lines if line.startswith("### ")]
    assert heads == ["### listops, test_max_tokens 100", "### listops, test_max_tokens -1", "### logic"]
    described = "Trained on 1,000 examples of 1 to 4 operators, tested on 3. Minutes are of 2 threads."
    assert any("tested on 3 of any length. Minutes are of 1 thread." in line for line in lines)
    assert any(line == described for line in lines)


def test_the_section_of_a_page_is_replaced(folders, tmp_path, capsys):
    page = tmp_path / "docs" / "page.md"
    page.parent.mkdir()
    page.write_text("# Page\n\n<!-- begin learning -->\nof yesterday\n<!-- end learning -->\n\nbelow\n")
    assert main([*map(str, folders), "--into", str(page)]) == 0
    assert capsys.readouterr().out == f"written: {page}\n"
    first = page.read_text()
    picture = page.parent / "images" / "learning-listops.png"
    drawn = picture.read_bytes()
    assert drawn[:8] == b"\x89PNG\r\n\x1a\n"
    assert "](images/learning-listops.png)\n" in first
    assert first.startswith("# Page\n\n<!-- begin learning -->\nFigures are of the test set")
    assert first.endswith("```\n<!-- end learning -->\n\nbelow\n")
    assert "of yesterday" not in first
    assert main([*map(str, folders), "--into", str(page)]) == 0
    assert (page.read_text(), picture.read_bytes()) == (first, drawn)


def test_sections_have_names_of_their_own(folders, tmp_path, capsys):
    page = tmp_path / "page.md"
    page.write_text("<!-- begin ablation -->\n<!-- end ablation -->\n")
    pictures = tmp_path / "elsewhere"
    options = ["--into", str(page), "--section", "ablation", "--pictures", str(pictures)]
    assert main([*map(str, folders), *options]) == 0
    assert "](elsewhere/ablation-listops.png)" in page.read_text()
    assert main(list(map(str, folders))) == 0
    assert "| lstm | 0 | 25.00 |" in capsys.readouterr().out


@pytest.mark.parametrize("text", ["", "<!-- end learning -->\n<!-- begin learning -->\n"])
def test_a_page_without_markers_is_refused(folders, tmp_path, text):
    page = tmp_path / "page.md"
    page.write_text(text)
    with pytest.raises(
        ConfigError, match=r"page\.md: expected the line <!-- begin learning --> and, below it"
    ):
        main([*map(str, folders), "--into", str(page)])
    assert page.read_text() == text
    assert not (tmp_path / "images").exists()


def test_curves_count_sampled_parses(folders):
    assert [point["parses"] for point in points_of(read_run(folders[0]))] == [5 * 64 * 4, 10 * 64 * 4]
    assert [point["parses"] for point in points_of(read_run(folders[-1]))] == [5 * 64, 10 * 64]


def test_every_seed_is_a_line_of_the_picture(folders, tmp_path, monkeypatch):
    drawn = {}
    monkeypatch.setattr(module, "plot_seeds", lambda systems, picture: drawn.update(systems))
    learning_page(folders, pictures=tmp_path / "pictures")
    assert {name: len(seeds) for name, seeds in drawn.items()} == {
        "ours, warmup 0": 2,
        "ours, warmup 100": 2,
        "lstm": 1,
    }


def test_what_cannot_be_shown_is_refused(folders, tmp_path):
    with pytest.raises(ConfigError, match="nothing is not the folder of a run"):
        learning_page([tmp_path / "nothing"])
    plain = make_run(tmp_path / "plain", **LISTOPS)
    with pytest.raises(ConfigError, match=r"1 of 1 runs were not measured on test: .*plain; measure each by"):
        learning_page([plain])
    with pytest.raises(
        ConfigError,
        match=r"plain was not measured on test; measure it by rlparse evaluate .*/plain --split test",
    ):
        read_measured(plain)
    make_measured(plain, detail=False)
    with pytest.raises(
        ConfigError, match=r"test/results\.json has no figures in detail; measure the run again"
    ):
        learning_page([plain])
    (plain / "test" / "results.json").write_text('{"accuracy": 0.5, "diagnosis": {"all": {"n": 1}}}')
    with pytest.raises(
        CheckpointError, match=r"test/results\.json is damaged: expected figures by group: Key"
    ):
        learning_page([plain])
