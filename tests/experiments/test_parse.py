"""`rlparse parse`: sentences that were typed."""

from __future__ import annotations

import io
import json
from pathlib import Path

import pytest

from rlparse.trees import check_derivation, parse_binary
from rlparse.vocabulary import Vocabulary
from rlparse_experiments import parse as parse_module
from rlparse_experiments.cli import main
from rlparse_experiments.parse import words_of
from rlparse_experiments.parse_files import read_parses

SENTENCES = ("a or b and c", "d", "not a")


def parsed(capsys: pytest.CaptureFixture[str], run: Path, *words: str) -> list[str]:
    capsys.readouterr()
    assert main(["parse", "--run", str(run), *words]) == 0
    return capsys.readouterr().out.splitlines()


def test_brackets_are_one_line_a_sentence(logic_run, capsys):
    lines = parsed(capsys, logic_run, *SENTENCES)
    trees = [parse_binary(line) if line != "d" else None for line in lines]
    assert [" ".join(tree.tokens) if tree else "d" for tree in trees] == list(SENTENCES)
    assert capsys.readouterr().err == ""


def test_trees_are_drawn(logic_run, capsys):
    lines = parsed(capsys, logic_run, *SENTENCES, "--format", "tree")
    blocks = "\n".join(lines).split("\n\n")
    assert [[line.split()[0] for line in block.splitlines()] for block in blocks] == [
        s.split() for s in SENTENCES
    ]
    assert "┐" in blocks[0]


def test_jsonl_is_what_compare_reads(logic_run, capsys, tmp_path):
    lines = parsed(capsys, logic_run, *SENTENCES, "--format", "jsonl")
    (tmp_path / "typed.jsonl").write_text("\n".join(lines) + "\n")
    records = read_parses(tmp_path / "typed.jsonl").records
    assert [" ".join(record.tokens) for record in records] == list(SENTENCES)
    assert [record.sentence_id for record in records] == ["0.0", "1.0", "2.0"]
    for record in records:
        check_derivation(record.transitions, len(record.tokens))


def test_all_formats_show_the_same_tree(logic_run, capsys):
    (line,) = parsed(capsys, logic_run, SENTENCES[0])
    (record,) = parsed(capsys, logic_run, SENTENCES[0], "--format", "jsonl")
    assert json.loads(record)["parse"] == line


def test_parses_are_those_of_the_dev_set(logic_run, capsys):
    stored = [json.loads(line) for line in (logic_run / "parses" / "dev.jsonl").read_text().splitlines()]
    lines = parsed(capsys, logic_run, *(" ".join(record["tokens"]) for record in stored))
    assert lines == [record["parse"] for record in stored]


def test_sentences_come_from_standard_input(logic_run, capsys, monkeypatch):
    expected = parsed(capsys, logic_run, *SENTENCES)
    monkeypatch.setattr("sys.stdin", io.StringIO("\n".join(SENTENCES) + "\n\n   \n"))
    assert parsed(capsys, logic_run) == expected


def test_many_sentences_are_parsed_batch_by_batch(logic_run, capsys, monkeypatch):
    expected = parsed(capsys, logic_run, *SENTENCES, "--format", "jsonl")
    monkeypatch.setattr(parse_module, "BATCH_SIZE", 2)
    assert parsed(capsys, logic_run, *SENTENCES, "--format", "jsonl") == expected


def test_unknown_words_are_noted_and_parsed(logic_run, capsys):
    assert main(["parse", "--run", str(logic_run), "a or zebra", "yak or a"]) == 0
    captured = capsys.readouterr()
    assert captured.err == "unknown words, read as <unk>: yak zebra\n"
    assert [parse_binary(line).tokens for line in captured.out.splitlines()] == [
        ("a", "or", "zebra"),
        ("yak", "or", "a"),
    ]


def test_not_all_unknown_words_are_listed(logic_run, capsys):
    assert main(["parse", "--run", str(logic_run), " ".join(f"word{i:02}" for i in range(23))]) == 0
    assert capsys.readouterr().err.endswith(" word19 and 3 more\n")


@pytest.mark.parametrize("sentences", [("",), ("a or b", "  ")])
def test_an_empty_sentence_is_bad_usage(logic_run, capsys, sentences):
    assert main(["parse", "--run", str(logic_run), *sentences]) == 2
    assert "a sentence to parse needs at least one word, got an empty one" in capsys.readouterr().err


def test_nothing_to_parse_is_bad_usage(logic_run, capsys, monkeypatch):
    monkeypatch.setattr("sys.stdin", io.StringIO("\n"))
    assert main(["parse", "--run", str(logic_run)]) == 2
    assert "there is no sentence to parse" in capsys.readouterr().err


def test_listops_keeps_its_brackets(listops_run, capsys):
    (line,) = parsed(capsys, listops_run, "[MAX 2 9 77 ]")
    assert parse_binary(line).tokens == ("[MAX", "2", "9", "77", "]")


@pytest.mark.parametrize(
    ("kind", "tree"),
    [
        ("left", "( ( ( a or ) b ) and )"),
        ("right", "( a ( or ( b and ) ) )"),
        ("balanced", "( ( a or ) ( b and ) )"),
        ("gold_or_right", "( a ( or ( b and ) ) )"),
    ],
)
def test_fixed_parsers_build_their_trees(runs, capsys, kind, tree):
    run = runs.train("run", {"parser.kind": kind, "agent.epochs": 1})
    assert parsed(capsys, run, "a or b and") == [tree]


def test_random_trees_are_the_runs_own(runs, capsys):
    run = runs.train("run", {"parser.kind": "random", "agent.epochs": 1})
    sentence = "a or b and c or d and e or f and a or b"
    assert parsed(capsys, run, sentence) == parsed(capsys, run, sentence)


def test_random_trees_differ_from_sentence_to_sentence(runs, capsys):
    run = runs.train("run", {"parser.kind": "random", "agent.epochs": 1})
    trees = parsed(capsys, run, *["a or b and c or d and e or f and a or b"] * 8)
    assert len(set(trees)) > 4


def test_a_gold_parser_cannot_parse_what_was_typed(runs, capsys):
    run = runs.train("run", {"parser.kind": "gold", "agent.epochs": 1})
    capsys.readouterr()
    assert main(["parse", "--run", str(run), "a or b"]) == 2
    error = capsys.readouterr().err
    assert "has a gold parser" in error
    assert "fault" not in error


@pytest.mark.parametrize(
    ("known", "sentence", "words"),
    [
        (["The", "dog", "barks", "."], "The dog barks.", "The dog barks ."),
        (["The", "dog", "barks", "."], "The dog barks .", "The dog barks ."),
        (["do", "n't"], "don't", "do n't"),
        (["a.b.c"], "a.b.c d.e", "a.b.c d.e"),
        (["[MAX", "]"], "[MAX 3 ]", "[MAX 3 ]"),
        (["(", ")", "a"], "( a )", "( a )"),
        (["-LRB-", "-RRB-", "a"], "( a )", "-LRB- a -RRB-"),
        (["``", "''"], '"Yes", she said "no"', "`` Yes '' , she said `` no ''"),
        (['"', "a"], '" a "', '" a "'),
    ],
)
def test_sentences_are_split_as_the_corpora_are(known, sentence, words):
    assert " ".join(words_of(sentence, Vocabulary(known))) == words
