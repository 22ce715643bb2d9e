"""The page of systems is made from what runs wrote: a row a system, a table a task."""

from __future__ import annotations

import pytest

from made_runs import LEFT, MIXED, RIGHT, make_run
from rlparse.errors import ConfigError
from rlparse_experiments.report.results_page import results_table
from rlparse_experiments.report.systems_page import main, systems_page


@pytest.fixture
def folders(tmp_path):
    """Two seeds of ppo, three of an LSTM, one of right-branching trees."""
    ppo = [
        make_run(tmp_path / f"ppo{s}", seed=s, accuracy=0.9 + 0.02 * s, parses=p, agent__system="ppo")
        for s, p in enumerate((LEFT, MIXED))
    ]
    lstm = [
        make_run(tmp_path / f"lstm{s}", seed=s, accuracy=0.7, parses=None, agent__system="lstm", minutes=s)
        for s in (0, 1, 5)
    ]
    right = make_run(
        tmp_path / "right", seed=4, accuracy=0.8, parses=RIGHT, parser__kind="right", commit=None
    )
    return [*ppo, *lstm, right]


def test_every_system_has_a_row(folders, capsys):
    assert main(list(map(str, folders))) == 0
    lines = capsys.readouterr().out.splitlines()
    assert lines[0] == "### logic"
    assert lines[2].startswith(
        "| system | dev accuracy | F1 (nyu) | self-F1 (nyu) | depth | minutes | seeds |"
    )
    # MIXED has (1 + 1 + 1/2) / 3 of gold, and as much of LEFT, which is gold.
    assert (
        lines[4]
        == "| ppo | 91.00 ± 1.41 | 91.67 ± 11.79 | 83.33 | 1.86 ± 0.00 | 1.5 ± 0.0 | 0-1 | c0ffee012 |"
    )
    assert lines[5] == "| lstm | 70.00 ± 0.00 | – | – | – | 2.0 ± 2.6 | 0, 1, 5 | c0ffee012 |"
    assert lines[6] == "| right | 80.00 | 44.44 | – | 1.86 | 1.5 | 4 | unknown |"
    assert lines[-5:] == ["```text", *(f"rlparse train logic --seed {s}" for s in (0, 0, 4)), "```"]


def test_rows_are_sorted_by_a_figure(folders):
    def names(by):
        return [line.split(" | ")[0] for line in systems_page(folders, by=by)[4:7]]

    assert names("accuracy") == ["| ppo", "| right", "| lstm"]
    assert names("minutes") == ["| lstm", "| ppo", "| right"]
    assert names("f1_nyu") == ["| ppo", "| right", "| lstm"]  # what has none goes last
    with pytest.raises(ConfigError, match=r"--by: expected one of minutes, accuracy, .*, got 'speed'"):
        systems_page(folders, by="speed")


def test_f1_is_shown_under_every_convention_asked_for(folders, capsys):
    assert main([*map(str, folders), "--convention", "prpn", "--convention", "nyu"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert lines[2].startswith("| system | dev accuracy | F1 (prpn) | F1 (nyu) | self-F1 (prpn) | depth |")
    # Without the root no span is left that RIGHT shares with gold, and MIXED has (1 + 1 + 0) / 3.
    assert lines[4].startswith("| ppo | 91.00 ± 1.41 | 83.33 ± 23.57 | 91.67 ± 11.79 | 66.67 |")
    assert lines[6].startswith("| right | 80.00 | 0.00 | 44.44 | – |")
    with pytest.raises(ConfigError, match="--convention: "):
        systems_page(folders, conventions=("f2",))


def test_every_task_has_a_table(folders, tmp_path):
    other = make_run(tmp_path / "other", task="listops", corpus__generator="listops")
    lines = systems_page([*folders, other])
    assert [line for line in lines if line.startswith("###")] == ["### logic", "### listops"]


def test_what_is_no_run_is_refused(tmp_path, folders):
    with pytest.raises(ConfigError, match="nothing is not the folder of a run"):
        systems_page([tmp_path / "nothing"])
    (folders[0] / "results.json").unlink()
    with pytest.raises(ConfigError, match=r"ppo0 is not finished: there is no results\.json; go on with"):
        systems_page(folders)


def test_the_page_of_single_runs_shows_encoders_without_trees(folders):
    row = results_table([folders[2]])[2]
    assert row.startswith("| lstm: learned (Tracker, policy gradient) | 1,000 | 70.00 | – | – | – | – |")
