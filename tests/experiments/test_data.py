from __future__ import annotations

import re

import pytest

from rlparse.corpora.corpus import Corpus
from rlparse.corpora.examples import Example, Sentence
from rlparse.errors import ConfigError
from rlparse_experiments.cli import main
from rlparse_experiments.data import InspectData, ListOpsData, LogicData, describe, show_examples

RIGHT_OF_4 = (0, 0, 0, 0, 1, 1, 1)


@pytest.fixture
def corpus() -> Corpus:
    """Two pairs; one sentence has no gold parse, the others branch to the right."""
    sides = [
        (Sentence(("a", "b", "c", "d"), RIGHT_OF_4), Sentence(("a", "b"), (0, 0, 1))),
        (Sentence(("a", "b", "c", "."), RIGHT_OF_4), Sentence(("x",))),
    ]
    return Corpus.from_examples([Example(s, "neutral") for s in sides], name="tiny")


def rows(text: str) -> dict[str, str]:
    """The rows of a description by their name."""
    lines = (line.strip().split("  ", 1) for line in text.splitlines()[1:])
    return {name: rest.strip() for name, rest in lines}


def test_description_counts_what_is_there(corpus):
    text = describe(corpus)
    assert text.splitlines()[0] == "tiny"
    found = rows(text)
    assert found["examples"] == "2 of 2 sentences"
    assert found["tokens"] == "11 of 6 types"
    assert found["length"] == "mean 2.75, median 3, 90 % up to 4, 99 % up to 4, longest 4"
    assert found["labels"] == "neutral 100.0%"
    assert found["gold parses"] == "3 (75.0% of the sentences)"
    # Leaves of the tree over four tokens have the depths 1, 2, 3, 3, those of the other tree 1, 1.
    assert found["gold depth"] == f"mean {(2.25 + 2.25 + 1) / 3:.2f}"
    # Of the three spans of a right-branching tree over four tokens the left-branching one has the whole only.
    assert found["F1, nyu"].startswith(f"left {(1 / 3 + 1 / 3 + 1) / 3:.1%}, right 100.0%, balanced_floor ")


def test_description_without_gold_parses_scores_none():
    corpus = Corpus.from_examples([Example((Sentence(("a", "b")),), "1")], name="flat")
    found = rows(describe(corpus))
    assert found["examples"] == "1 of 1 sentence"
    assert found["gold parses"] == "0 (0.0% of the sentences)"
    assert "F1, nyu" not in found


def test_examples_show_brackets_where_they_are_known(corpus):
    assert show_examples(corpus, 5).splitlines() == [
        "  neutral",
        "    ( a ( b ( c d ) ) )",
        "    ( a b )",
        "  neutral",
        "    ( a ( b ( c . ) ) )",
        "    x",
    ]
    assert len(show_examples(corpus, 1).splitlines()) == 3


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda out: ListOpsData(out, train_size=0), "train_size must be at least 1, got 0"),
        (lambda out: ListOpsData(out, test_size=-3), "test_size must be at least 1, got -3"),
        (lambda out: ListOpsData(out, max_tokens=0), "max_tokens must be at least 1, got 0"),
        (lambda out: ListOpsData(out, seed=-1), "seed must be at least 0, got -1"),
        (lambda out: LogicData(out, draws=0), "draws must be at least 1, got 0"),
        (lambda out: LogicData(out, seed=-1), "seed must be at least 0, got -1"),
    ],
)
def test_sizes_are_checked(make, message, tmp_path):
    with pytest.raises(ConfigError, match=message):
        make(tmp_path)


def test_listops_files_are_written_and_described(tmp_path, capsys):
    out = tmp_path / "new" / "listops"
    assert main(["data", "listops", "--out", str(out), "--train-size", "40", "--test-size", "10"]) == 0
    assert sorted(path.name for path in out.iterdir()) == ["test_d20s.tsv", "train_d20s.tsv"]
    lines = (out / "train_d20s.tsv").read_text(encoding="utf-8").splitlines()
    assert len(lines) == 40
    assert all(len(line.split("\t")) == 2 for line in lines)
    text = capsys.readouterr().out
    assert f"{out / 'train_d20s.tsv'}: 40 examples" in text
    assert f"{out / 'test_d20s.tsv'}: 10 examples" in text


def test_logic_files_are_written_by_bin(tmp_path, capsys):
    assert main(["data", "logic", "--out", str(tmp_path), "--draws", "2000"]) == 0
    names = {path.name for path in tmp_path.iterdir()}
    assert {"train1", "test1", "train4", "test4"} <= names
    assert all(len(line.split("\t")) == 3 for line in (tmp_path / "train4").read_text().splitlines())
    assert f"{tmp_path / 'train4'}: " in capsys.readouterr().out


def test_same_seed_writes_the_same_files(tmp_path):
    def write(folder: str, seed: int) -> str:
        argv = f"data listops --train-size 30 --test-size 5 --seed {seed} --out".split()
        assert main([*argv, str(tmp_path / folder)]) == 0
        return (tmp_path / folder / "train_d20s.tsv").read_text(encoding="utf-8")

    assert write("a", 1) == write("b", 1)
    assert write("c", 2) != write("a2", 1)


def test_longest_expression_is_kept_to(tmp_path):
    argv = ["data", "listops", "--train-size", "30", "--test-size", "5", "--max-tokens", "9", "--out"]
    assert main([*argv, str(tmp_path)]) == 0
    lines = (tmp_path / "train_d20s.tsv").read_text(encoding="utf-8").splitlines()
    lengths = [len([t for t in line.split("\t")[1].split() if t not in "()"]) for line in lines]
    assert 1 < max(lengths) <= 9


def test_files_are_replaced_only_by_force(tmp_path, capsys):
    argv = ["data", "logic", "--out", str(tmp_path)]
    assert main([*argv, "--draws", "3000"]) == 0
    (tmp_path / "notes.txt").write_text("mine", encoding="utf-8")
    before = {path.name: path.read_bytes() for path in tmp_path.iterdir()}
    capsys.readouterr()

    assert main([*argv, "--draws", "30"]) == 2
    assert "holds test0, test1, test10, ... already; --force replaces them" in capsys.readouterr().err
    assert {path.name: path.read_bytes() for path in tmp_path.iterdir()} == before

    assert main([*argv, "--draws", "30", "--force"]) == 0
    after = {path.name: path.read_bytes() for path in tmp_path.iterdir()}
    assert after["notes.txt"] == b"mine"
    assert sum(content.count(b"\n") for name, content in after.items() if name != "notes.txt") <= 30


def test_failure_leaves_no_files(tmp_path, capsys):
    """There are fewer than 100 different expressions of at most two tokens: ten digits."""
    argv = ["data", "listops", "--train-size", "90", "--test-size", "10", "--max-tokens", "2", "--out"]
    assert main([*argv, str(tmp_path)]) == 2
    assert "found only 10 of 100" in capsys.readouterr().err
    assert list(tmp_path.iterdir()) == []


def test_inspect_reads_files_and_prints_them(tmp_path, capsys):
    (tmp_path / "train2").write_text("<\t( a ( and b ) )\ta\n#\ta\tb\n", encoding="utf-8")
    assert main(["data", "inspect", str(tmp_path / "train2"), "--examples", "1"]) == 0
    text = capsys.readouterr().out
    assert "  examples     2 of 2 sentences\n" in text
    assert "( a ( and b ) )" in text


def test_inspect_lists_the_lines_it_skips(tmp_path, capsys):
    path = tmp_path / "train2"
    path.write_text("<\t( a ( and b ) )\ta\n?\ta\tb\n", encoding="utf-8")
    assert main(["data", "inspect", str(path)]) == 2
    captured = capsys.readouterr()
    assert captured.out == ""
    assert "train2" in captured.err
    assert "line 2" in captured.err
    assert main(["data", "inspect", str(path), "--skip-bad-lines"]) == 0
    text = capsys.readouterr().out
    assert "1 malformed lines skipped" in text
    assert re.search(r"skipped: .*line 2", text)


def test_inspect_of_a_folder_tells_training_from_development(shared_data, capsys):
    assert main(["data", "inspect", str(shared_data / "sick"), "--examples", "0"]) == 0
    text = capsys.readouterr().out
    assert re.search(r"^sick-train\n  examples +4,\d\d\d of 2 sentences$", text, re.MULTILINE)
    assert re.search(r"^sick-dev\n  examples +\d\d\d of 2 sentences$", text, re.MULTILINE)


def test_inspect_needs_a_path(capsys):
    assert main(["data", "inspect"]) == 2
    assert "name at least one file or folder to inspect" in capsys.readouterr().err
    assert InspectData(()).paths == ()


def test_inspect_of_a_missing_file_is_bad_input(tmp_path, capsys):
    assert main(["data", "inspect", str(tmp_path / "nothing.jsonl")]) == 2
    assert "nothing.jsonl" in capsys.readouterr().err
