"""Files of parses: what is written is read, whole or not at all, and a bad line is named."""

from __future__ import annotations

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from rlparse.errors import CorpusError, MalformedTreeError
from rlparse_experiments import parse_files
from rlparse_experiments.parse_files import ParseRecord, read_parses, replace_file, write_parses

LINE = '{"sentence_id": "0.0", "tokens": ["a", "b"], "parse": "( a b )", "gold": null}'
LEFT, RIGHT = (0, 0, 1, 0, 1), (0, 0, 0, 1, 1)


def test_line_has_the_documented_format(tmp_path):
    path = tmp_path / "made" / "parses" / "dev.jsonl"
    write_parses(
        path,
        [
            ParseRecord.of("3.0", ["a", "b", "c"], list(LEFT), list(RIGHT), [(1, 3, "NP")]),
            ParseRecord.of("3.1", ["é"], [0]),
        ],
    )
    assert path.read_text(encoding="utf-8") == (
        '{"sentence_id": "3.0", "tokens": ["a", "b", "c"], "parse": "( ( a b ) c )", '
        '"gold": "( a ( b c ) )", "phrases": [[1, 3, "NP"]]}\n'
        '{"sentence_id": "3.1", "tokens": ["é"], "parse": "é", "gold": null}\n'
    )
    assert [file.name for file in path.parent.iterdir()] == ["dev.jsonl"]


TOKENS = st.text(min_size=1, max_size=5).filter(
    lambda token: not any(c in token for c in " \t\n\r\f\v\x1c\x1d\x1e\x1f")
)


@given(st.lists(st.lists(TOKENS, min_size=1, max_size=4), min_size=1, max_size=4))
def test_what_is_written_is_read(tmp_path_factory, sentences):
    path = tmp_path_factory.mktemp("parses") / "dev.jsonl"
    records = []
    for i, tokens in enumerate(sentences):
        n = len(tokens)
        left, right = [0] + [0, 1] * (n - 1), [0] * n + [1] * (n - 1)
        records.append(
            ParseRecord.of(f"{i}.0", tokens, left, right if i % 2 else None, [(0, n, "S")] if i else None)
        )
    write_parses(path, records)
    found = read_parses(path)
    assert found.records == records
    assert found.has_ids
    assert found.lines == [i + 1 for i in range(len(records))]


def test_tokens_that_are_brackets_are_escaped_in_the_trees_only(tmp_path):
    path = tmp_path / "dev.jsonl"
    record = ParseRecord.of("0.0", ["(", "a", ")"], LEFT, RIGHT)
    write_parses(path, [record])
    assert '"tokens": ["(", "a", ")"], "parse": "( ( -LRB- a ) -RRB- )"' in path.read_text()
    assert read_parses(path).records == [record]


def test_bracketed_text_is_read_by_lines(tmp_path):
    path = tmp_path / "parses.txt"
    path.write_text("\ufeff( a b )\r\n\n( ( a b ) c )\n  word  \n", encoding="utf-8")
    found = read_parses(path)
    assert not found.has_ids
    assert found.records == [
        ParseRecord("0", ("a", "b"), (0, 0, 1)),
        ParseRecord("1", ("a", "b", "c"), LEFT),
        ParseRecord("2", ("word",), (0,)),
    ]
    assert found.lines == [1, 3, 4]
    assert found.where(1) == f"{path}, line 3"


@pytest.mark.parametrize("name", ["parses.jsonl", "parses.txt"])
def test_jsonl_is_known_by_its_first_line(tmp_path, name):
    path = tmp_path / name
    path.write_text("\n" + LINE + "\n", encoding="utf-8")
    assert read_parses(path).records == [ParseRecord("0.0", ("a", "b"), (0, 0, 1))]


def line(**changes):
    fields = {"sentence_id": "0.0", "tokens": ["a", "b"], "parse": "( a b )", "gold": None} | changes
    return json.dumps({key: value for key, value in fields.items() if value != "missing"})


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("( a b )\n( a b\n", r"line 2: expected 1 more '\)' at the end"),
        ("( a b )\n" + LINE, "line 2: expected the end of the text after a complete tree"),
        (LINE + "\n( a b )", r"line 2: expected a JSON object, found '\( a b \)'"),
        (
            LINE + '\n{"sentence_id": ',
            "line 2: expected a JSON object, found '{\"sentence_id\":': Expecting value",
        ),
        (LINE + "\n[1, 2]", r"line 2: expected a JSON object, found '\[1, 2\]'"),
        (LINE + "\n\n" + LINE, "line 3: sentence_id '0.0' was given in line 1; expected every sentence once"),
        (
            line(parse="missing", tokens="missing"),
            "line 1: expected the fields sentence_id, tokens, parse and perhaps gold, phrases; "
            "tokens, parse missing, found sentence_id, gold",
        ),
        ("{}", "tokens, parse missing, found none"),
        (line(sentence_id=7), "line 1: expected a text as sentence_id, found 7"),
        (line(tokens="a b"), "line 1: expected a list of texts as tokens, found 'a b'"),
        (line(tokens=["a", 1]), r'line 1: expected a list of texts as tokens, found \["a", 1\]'),
        (line(parse=[0, 0, 1]), r"line 1: expected a bracketed tree as parse, found \[0, 0, 1\]"),
        (line(parse="( a b"), r"line 1: parse: expected 1 more '\)' at the end"),
        (
            line(gold="( a ( b c ) )"),
            r'line 1: expected the tree in gold .* over the tokens \["a", "b"\], found',
        ),
        (line(parse="( a c )"), r'in parse to be over the tokens \["a", "b"\], found one over \["a", "c"\]'),
        (line(gold=3), "line 1: expected a bracketed tree as gold, found 3"),
        (
            line(phrases=[[0, 3, "S"]]),
            r'line 1: expected \[start, end, label\] inside the 2 tokens .*\[0, 3, "S"\]',
        ),
        (line(phrases=[[0, 2]]), r"as phrases, found \[0, 2\]"),
        (line(phrases="NP"), "as phrases, found 'NP'"),
        (line(tokens=["word"] * 50), r"over the tokens .{80}…, found one over"),
        ("\n \n", "parses.txt: expected parses, one a line, found none"),
        ("", "parses.txt: expected parses, one a line, found none"),
    ],
)
def test_bad_line_is_named(tmp_path, text, message):
    path = tmp_path / "parses.txt"
    path.write_text(text, encoding="utf-8")
    with pytest.raises(CorpusError, match=message) as caught:
        read_parses(path)
    assert str(caught.value).startswith(str(path))


def test_broken_encoding_is_named(tmp_path):
    path = tmp_path / "parses.txt"
    path.write_bytes(b"( a b )\n( caf\xe9 b )\n")
    with pytest.raises(CorpusError, match="line 2: expected UTF-8, found byte 0xe9"):
        read_parses(path)


@pytest.mark.parametrize(
    ("record", "message"),
    [
        (ParseRecord.of("5.1", ["a", "b"], [0, 1]), "sentence 5.1: REDUCE at step 1 needs 2 items"),
        (
            ParseRecord.of("5.1", ["a", "b c"], [0, 0, 1]),
            "sentence 5.1: token 1 cannot stand in a bracketed text",
        ),
        (
            ParseRecord.of("5.1", ["a", "b"], [0, 0, 1], [0]),
            "sentence 5.1: expected a derivation over 2 tokens",
        ),
    ],
)
def test_failed_write_leaves_the_old_file(tmp_path, record, message):
    path = tmp_path / "dev.jsonl"
    good = ParseRecord.of("0.0", ["a", "b"], [0, 0, 1])
    write_parses(path, [good])
    with pytest.raises(MalformedTreeError, match=message):
        write_parses(path, [good._replace(sentence_id="9.9"), record])
    assert read_parses(path).records == [good]
    assert [file.name for file in tmp_path.iterdir()] == ["dev.jsonl"]


def test_file_is_on_disk_before_it_gets_its_name(tmp_path, monkeypatch):
    events = []
    fsync = parse_files.os.fsync

    def noting_fsync(handle):
        events.append("final" if (tmp_path / "x").exists() else "draft")
        fsync(handle)

    monkeypatch.setattr(parse_files.os, "fsync", noting_fsync)
    replace_file(tmp_path / "x", ["some ", "text\n"])
    assert events == ["draft", "final"]
    assert (tmp_path / "x").read_text() == "some text\n"
