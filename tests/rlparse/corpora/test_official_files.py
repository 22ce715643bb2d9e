"""The right files are found by their official names, and unclear cases are refused."""

from __future__ import annotations

import zipfile

import pytest

from rlparse.corpora.official_files import as_files, find_files
from rlparse.errors import CorpusError

SNLI = [
    "snli_1.0_train.jsonl",
    "snli_1.0_dev.jsonl",
    "snli_1.0_test.jsonl",
    "snli_1.0_train.txt",
    "README.txt",
]


def folder(path, *names):
    path.mkdir(parents=True, exist_ok=True)
    for name in names:
        (path / name).write_text("x")
    return path


def names(found):
    return [[file.path.name if file.member is None else file.member for file in part] for part in found[1:4]]


@pytest.mark.parametrize(
    ("files", "name", "expected"),
    [
        (SNLI, "snli", [[SNLI[0]], [SNLI[1]], [SNLI[2]]]),
        (
            ["snli_1.0_train_b.jsonl.gz", "snli_1.0_train_a.jsonl", "snli_1.0_train_a.jsonl.gz"],
            "snli",
            [["snli_1.0_train_a.jsonl", "snli_1.0_train_b.jsonl.gz"], [], []],
        ),
        (
            [
                "multinli_1.0_train.jsonl",
                "multinli_1.0_dev_matched.jsonl",
                "multinli_1.0_dev_mismatched.jsonl",
            ],
            "multinli",
            [
                ["multinli_1.0_train.jsonl"],
                ["multinli_1.0_dev_matched.jsonl"],
                ["multinli_1.0_dev_mismatched.jsonl"],
            ],
        ),
        (
            ["SICK_train.txt", "SICK_trial.txt", "SICK_test.txt", "SICK_test_annotated.txt"],
            "sick",
            [["SICK_train.txt"], ["SICK_trial.txt"], ["SICK_test_annotated.txt"]],
        ),
        (
            ["heuristics_train_set.txt", "heuristics_evaluation_set.txt"],
            "hans",
            [["heuristics_train_set.txt"], [], ["heuristics_evaluation_set.txt"]],
        ),
        (
            [*(f"train{n}" for n in range(13)), *(f"test{n}" for n in range(13)), "train0.py"],
            "logic",
            [[f"train{n}" for n in range(7)], [], [f"test{n}" for n in range(7, 13)]],
        ),
        (["train_d20s.tsv", "test_d20s.tsv"], "listops", [["train_d20s.tsv"], [], ["test_d20s.tsv"]]),
    ],
)
def test_official_names(tmp_path, files, name, expected):
    found = find_files(folder(tmp_path, *files, ".hidden"))
    assert found.name == name
    assert names(found) == expected
    assert find_files([tmp_path]) == found  # a list of one folder is that folder


def test_an_archive_is_like_a_folder(tmp_path):
    with zipfile.ZipFile(tmp_path / "snli_1.0.zip", "w") as archive:
        for name in SNLI:
            archive.writestr(f"snli_1.0/{name}", "x")
        archive.writestr("__MACOSX/snli_1.0/._snli_1.0_train.jsonl", "x")
    expected = [[f"snli_1.0/{name}"] for name in SNLI[:3]]
    assert names(find_files(tmp_path / "snli_1.0.zip")) == expected
    assert names(find_files(tmp_path)) == expected  # the only data set in the folder
    single = find_files(tmp_path / "snli_1.0.zip" / "snli_1.0_train.txt")
    assert names(single) == [["snli_1.0/snli_1.0_train.txt"], [], []]


def test_one_folder_down_is_looked_at(tmp_path):
    folder(tmp_path / "snli_1.0", *SNLI)
    folder(tmp_path / "other", "notes.md")
    assert find_files(tmp_path).name == "snli"
    folder(tmp_path / "sick", "SICK_train.txt")
    with pytest.raises(CorpusError, match="expected one data set, found sick, snli; name one of them"):
        find_files(tmp_path)


def test_a_list_of_files_is_sorted_by_what_their_names_say(tmp_path):
    folder(tmp_path, "my.jsonl", "my_dev.jsonl", "my_TEST.jsonl", "more_train.jsonl", "SICK_trial.txt")
    found = find_files(
        [
            tmp_path / n
            for n in ("my.jsonl", "my_dev.jsonl", "my_TEST.jsonl", "more_train.jsonl", "SICK_trial.txt")
        ]
    )
    assert names(found) == [
        ["my.jsonl", "more_train.jsonl"],
        ["my_dev.jsonl", "SICK_trial.txt"],
        ["my_TEST.jsonl"],
    ]
    assert found.name == "my"
    assert names(find_files(tmp_path / "my.jsonl")) == [["my.jsonl"], [], []]
    assert as_files(tmp_path / "my.jsonl") == found.train[:1] == as_files([tmp_path / "my.jsonl"])


def test_what_is_not_clear_is_refused(tmp_path):
    folder(tmp_path / "both", *SNLI, "multinli_1.0_train.jsonl")
    with pytest.raises(
        CorpusError, match=r"one data set, found snli \(snli_1\.0_train\.jsonl\), multinli .*one by one"
    ):
        find_files(tmp_path / "both")
    folder(tmp_path / "none", "notes.md")
    with pytest.raises(CorpusError, match=r"expected the official files of snli, .*, found \['notes\.md'\]"):
        find_files(tmp_path / "none")
    folder(tmp_path / "empty")
    with pytest.raises(CorpusError, match="found no files"):
        find_files(tmp_path / "empty")
    folder(tmp_path / "odd", "train_dev.jsonl", "dev.jsonl")
    with pytest.raises(CorpusError, match="a name that says train, dev or test, found train and dev in it"):
        find_files([tmp_path / "odd" / "train_dev.jsonl", tmp_path / "odd" / "dev.jsonl"])
    with pytest.raises(CorpusError, match=r"expected at least one training file, found \['.*dev\.jsonl'"):
        find_files([tmp_path / "odd" / "dev.jsonl"] * 2)
    with pytest.raises(CorpusError, match="found nothing there"):
        find_files(tmp_path / "missing")
