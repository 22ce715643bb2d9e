"""Every official format is read, and every malformed line is named with what was expected and found."""

from __future__ import annotations

import gzip
import json
import re
import zipfile

import pytest

from rlparse.corpora.examples import Example, Sentence
from rlparse.corpora.nli_files import ReadingReport, detect_format, read_examples
from rlparse.errors import CorpusError

GOOD = {
    "gold_label": "neutral",
    "sentence1": "Two cats sleep.",
    "sentence1_binary_parse": "( ( Two cats ) ( sleep . ) )",
    "sentence1_parse": "(ROOT (S (NP (CD Two) (NNS cats)) (VP (VBP sleep)) (. .)))",
    "sentence2": "Cats",
    "sentence2_binary_parse": "Cats",
    "sentence2_parse": "(ROOT (NP (NNS Cats)))",
}
PARSED = Example(
    (
        Sentence(
            ("Two", "cats", "sleep", "."),
            (0, 0, 1, 0, 0, 1, 1),
            ((0, 2, "NP"), (2, 3, "VP"), (0, 4, "S"), (0, 4, "ROOT")),
        ),
        Sentence(("Cats",), (0,), ((0, 1, "NP"), (0, 1, "ROOT"))),
    ),
    "neutral",
)
SNLI_HEADER = (
    "gold_label\tsentence1_binary_parse\tsentence2_binary_parse\tsentence1_parse\tsentence2_parse\t"
    "sentence1\tsentence2\tcaptionID\tpairID\tlabel1\tlabel2\tlabel3\tlabel4\tlabel5"
)


def write(path, *lines: str | bytes):
    path.write_bytes(b"".join((line if isinstance(line, bytes) else line.encode()) + b"\n" for line in lines))
    return path


def read(path, **options) -> tuple[list[Example], ReadingReport]:
    examples, report = read_examples(path, **options)
    return list(examples), report


def json_line(**changes) -> str:
    row = {key: value for key, value in (GOOD | changes).items() if value is not None}
    return json.dumps(row)


def without_parses(example: Example) -> Example:
    return Example(tuple(Sentence(sentence.tokens) for sentence in example.sentences), example.label)


def without_spans(example: Example) -> Example:
    return Example(tuple(Sentence(s.tokens, s.transitions) for s in example.sentences), example.label)


# Formats


def test_jsonl_with_parses_without_and_without_label(tmp_path):
    path = write(
        tmp_path / "x.jsonl",
        json_line(),
        "",
        json_line(gold_label="-", sentence1_binary_parse="( broken"),
        json.dumps({"gold_label": "entailment", "sentence1": "It isn't.", "sentence2": "No!"}),
        json_line(sentence2_binary_parse="", sentence2_parse=None),
    )
    examples, report = read(path)
    half_parsed = Example((PARSED.sentences[0], Sentence(("Cats",))), "neutral")
    unparsed = Example((Sentence(("It", "is", "n't", ".")), Sentence(("No", "!"))), "entailment")
    assert examples == [PARSED, unparsed, half_parsed]
    assert report == ReadingReport(
        str(path), "jsonl", n_lines=5, n_examples=3, n_unlabelled=1, n_parsed=3, n_tokenized=3
    )
    assert str(report) == (
        f"{path}: 3 examples (jsonl, 3 sentences parsed, 3 not), 1 dropped without gold label"
    )
    assert read(path, labelled_spans=False)[0] == [without_spans(example) for example in examples]


@pytest.mark.parametrize("packing", ["plain", "gz", "zip"])
def test_snli_text_files_name_their_columns(tmp_path, packing):
    row = "\t".join(str(GOOD.get(name, "x")) for name in SNLI_HEADER.split("\t"))
    short = row.rsplit("\t", 4)[0]  # some rows have fewer annotator labels
    content = f"{SNLI_HEADER}\n{row}\n{short}\n".encode()
    path = tmp_path / "snli_1.0_dev.txt"
    if packing == "plain":
        path.write_bytes(content)
    elif packing == "gz":
        path = tmp_path / "snli_1.0_dev.txt.gz"
        path.write_bytes(gzip.compress(content))
    else:
        with zipfile.ZipFile(tmp_path / "snli_1.0.zip", "w") as archive:
            archive.writestr("snli_1.0/snli_1.0_dev.txt", content)
        path = tmp_path / "snli_1.0.zip" / "snli_1.0" / "snli_1.0_dev.txt"
    examples, report = read(path)
    assert examples == [PARSED, PARSED]
    assert report.format == "tsv"
    assert report.n_lines == 3


def test_hans_in_all_its_shapes(tmp_path, shared_data):
    row = GOOD | {
        "gold_label": "non-entailment",
        "pairID": "ex0",
        "heuristic": "h",
        "subcase": "s",
        "template": "t",
    }
    expected = PARSED._replace(label="non-entailment")
    assert read(write(tmp_path / "hans.jsonl", json.dumps(row)))[0] == [expected]
    names = list(row)
    official = write(tmp_path / "heuristics_train_set.txt", "\t".join(names), "\t".join(row.values()))
    assert read(official)[0] == [expected]
    short = write(tmp_path / "hans.tsv", "entailment\tlexical_overlap\tTwo cats sleep .\tCats")
    assert read(short)[0] == [without_parses(PARSED)._replace(label="entailment")]
    examples, report = read(shared_data / "hans" / "hans_train.tsv")
    assert (len(examples), report.format, report.n_tokenized) == (30_000, "hans", 60_000)
    assert sum(example.label == "entailment" for example in examples) == 15_000


def test_sick_parsed_and_official(tmp_path, shared_data):
    parses = "( ( Two cats ) ( sleep . ) )\tCats"
    parsed = [without_spans(PARSED)]
    assert read(write(tmp_path / "a.txt", f"NEUTRAL\t{parses}"))[0] == parsed
    headed = write(
        tmp_path / "b.txt", "%entailment_judgment\tsentence_A\tsentence_B", f"NEUTRAL\t{parses}\t2.7\t6592"
    )
    with pytest.raises(CorpusError, match="line 2: expected 3 columns, found 5"):
        read(headed)
    header = "%entailment_judgment\tsentence_A\tsentence_B\trelatedness_score\tpair_ID"
    first, second = read(write(tmp_path / "b.txt", header, f"NEUTRAL\t{parses}\t2.7\t6592"))[0][0].sentences
    assert (first, second) == (parsed[0].sentences[0], Sentence(("Cats",)))
    for official in (
        (
            "pair_ID\tsentence_A\tsentence_B\trelatedness_score\tentailment_judgment",
            "1\tTwo cats sleep.\tCats\t4.5\tNEUTRAL",
        ),
        (
            "pair_ID\tsentence_A\tsentence_B\tentailment_label\tSemEval_set",
            "1\tTwo cats sleep.\tCats\tNEUTRAL\tTRAIN",
        ),
    ):
        assert read(write(tmp_path / "SICK.txt", *official))[0] == [without_parses(PARSED)]
    for name, n in (("train", 4500), ("trial", 500)):
        examples, report = read(shared_data / "sick" / f"SICK_{name}_parsed.txt")
        assert len(examples) == n
        assert (report.n_parsed, report.n_tokenized) == (2 * n, 0)


def test_logical_inference_with_and_without_bracket_tokens(tmp_path, shared_data):
    path = write(tmp_path / "train2", "|\t( a ( and b ) )\t( not a )", "v\ta\tb")
    formulas, variables = read(path)[0]
    assert formulas.label == "|"
    assert formulas.sentences[0] == Sentence(("a", "and", "b"), (0, 0, 0, 1, 1))
    assert variables == Example((Sentence(("a",), (0,)), Sentence(("b",), (0,))), "v")
    with_tokens = read(path, brackets="tokens")[0][0].sentences[1]
    assert with_tokens == Sentence(("(", "not", "a", ")"), (0, 0, 1, 0, 1, 0, 1))
    counts = [len(read(shared_data / "logic" / f"train{n}")[0]) for n in range(3)]
    assert counts == [30, 2319, 12451]


def test_listops_with_and_without_brackets(tmp_path):
    path = write(tmp_path / "train.tsv", "9\t( ( ( [MAX 2 ) 9 ) ] )", "9\t[MAX 2 9 ]", "3\t3")
    examples, report = read(path)
    assert examples[0] == examples[1]
    assert examples[0].sentences[0] == Sentence(("[MAX", "2", "9", "]"), (0, 0, 1, 0, 1, 0, 1))
    assert examples[2].sentences[0] == Sentence(("3",), (0,))
    assert report.format == "listops"


@pytest.mark.parametrize(
    ("line", "format"),
    [
        ('{"gold_label": "-"}', "jsonl"),
        (SNLI_HEADER, "tsv"),
        ("entailment\tlexical_overlap\tA b .\tC d .", "hans"),
        ("ENTAILMENT\t( a b )\t( c d )\t4.5", "sick"),
        ("#\ta\tb", "logic"),
        ("4\t( ( ( [SM 1 ) 3 ) ] )", "listops"),
    ],
)
def test_the_first_line_tells_the_format(line, format):
    assert detect_format(line, "x") == format


# Malformed lines


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ('{"gold_label": "neutral",', r"expected a JSON object, found '\{.*Expecting property name"),
        ("[1, 2]", r"expected a JSON object, found '\[1, 2\]'"),
        (json_line(gold_label=None), "expected a field 'gold_label', found"),
        (json_line(gold_label="maybe"), r"expected a label of \['entailment', .*found 'maybe'"),
        (json_line(gold_label=3), "expected text in the field 'gold_label', found 3"),
        (json_line(sentence2=None, sentence2_binary_parse=None), "expected a field 'sentence2', found"),
        (json_line(sentence2="  ", sentence2_binary_parse=None), "expected a sentence, found '  '"),
        (json_line(sentence1_binary_parse="( ( Two cats ) ( sleep . )"), r"expected 1 more '\)'"),
        (json_line(sentence1_binary_parse="( Two cats ) ( sleep . ) )"), "expected the end of the text"),
        (json_line(sentence1_binary_parse="( Two cats sleep . )"), "found a third item in this bracket"),
        (
            json_line(sentence1_binary_parse="( ( Two ) ( cats ( sleep . ) ) )"),
            "expected 2 items in this bracket",
        ),
        (
            json_line(sentence1_binary_parse="( ( Two dogs ) ( sleep . ) )"),
            r"expected the tokens of 'Two cats sleep\.', found 'Two dogs sleep \.' in the parse",
        ),
        (
            json_line(sentence1_parse="(ROOT (NP (CD Two) (NNS dogs)))"),
            "both parses, found 'dogs' instead of 'cats' at token 1",
        ),
        (json_line(sentence1_parse="(ROOT (NP (CD Two)))"), "both parses, found 1 tokens instead of 4"),
        (json_line(sentence1_parse="(ROOT (NP (CD Two))"), r"expected 1 more '\)'"),
        (json_line().encode("utf-16-le"), "expected UTF-8|expected a JSON object"),
        (json_line().encode().replace(b"Cats", b"Ca\xe9ts"), r"expected UTF-8, found b'\\xe9' at byte \d+"),
    ],
)
def test_malformed_json_lines_are_named_or_skipped(tmp_path, line, message):
    path = write(tmp_path / "bad.jsonl", json_line(), line, json_line())
    with pytest.raises(CorpusError, match=rf"bad\.jsonl, line 2: .*({message})"):
        read(path)
    examples, report = read(path, skip_bad_lines=True)
    assert examples == [PARSED, PARSED]
    assert report.n_bad == 1
    assert report.bad_lines[0].number == 2
    assert re.search(message, report.bad_lines[0].message)
    assert str(report).endswith("1 malformed lines skipped")


@pytest.mark.parametrize(
    ("format", "good", "bad", "message"),
    [
        ("tsv", "gold_label\tsentence1\tsentence2", "neutral\ta", "expected a field 'sentence2'"),
        ("tsv", "gold_label\tsentence1\tsentence2", "neutral\ta\tb\tc", "expected 3 columns, found 4"),
        ("tsv", "gold_label\tsentence1\tsentence2", "what\ta\tb", "expected a label"),
        (
            "sick",
            "NEUTRAL\t( a b )\t( c d )",
            "NEUTRAL\t( a b )",
            r"expected 3 columns \(label, parse, parse\), found 2",
        ),
        ("sick", "NEUTRAL\t( a b )\t( c d )", "YES\t( a b )\tc", "expected a label of .*found 'yes'"),
        ("sick", "NEUTRAL\t( a b )\t( c d )", "NEUTRAL\t( a b c )\td", "a third item"),
        ("hans", "entailment\th\ta\tb", "entailment\th\ta", "expected 4 columns"),
        (
            "hans",
            "entailment\th\ta\tb",
            "neutral\th\ta\tb",
            r"\['entailment', 'non-entailment'\], found 'neutral'",
        ),
        ("logic", "=\ta\ta", "=\ta", "expected 3 columns"),
        ("logic", "=\ta\ta", "?\ta\ta", "expected a label"),
        ("logic", "=\ta\ta", "=\t( a ( and b )\ta", r"expected 1 more '\)'"),
        ("listops", "3\t3", "3", r"expected 2 columns \(label, expression\), found 1"),
        ("listops", "3\t3", "x\t3", "expected a label"),
        (
            "listops",
            "3\t3",
            "4\t( ( ( [MAX 2 ) 3 ) ] )",
            "expected the value of the expression, 3, found the label 4",
        ),
        ("listops", "3\t3", "3\t( ( [MAX 2 ) 3 ) ] )", "expected the end of the text"),
        ("listops", "3\t3", "3\t[MAX 2 3", "4 tokens end|3 tokens end with 1 open brackets"),
    ],
)
def test_malformed_rows_are_named_or_skipped(tmp_path, format, good, bad, message):
    rows = ("neutral\tA b.\tC d.",) if format == "tsv" else (good,)
    path = write(tmp_path / "rows", good, bad, *rows)
    for asked in ("auto", format):
        with pytest.raises(CorpusError, match=rf"rows, line 2: .*({message})"):
            read(path, format=asked)
    examples, report = read(path, skip_bad_lines=True)
    assert report.format == format
    assert report.n_bad == 1
    assert len(examples) == (1 if format == "tsv" else 2)


def test_only_ten_bad_lines_are_listed(tmp_path):
    examples, report = read(write(tmp_path / "x.jsonl", json_line(), *["{"] * 25), skip_bad_lines=True)
    assert len(examples) == 1
    assert report.n_bad == 25
    assert [line.number for line in report.bad_lines] == list(range(2, 12))
    assert ReadingReport.from_json(json.loads(json.dumps(report.to_json()))) == report


def test_a_truncated_file_is_named_or_ends_early(tmp_path):
    packed = gzip.compress("".join(json_line(pairID=str(i)) + "\n" for i in range(3000)).encode())
    path = tmp_path / "cut.jsonl.gz"
    path.write_bytes(packed[: len(packed) // 2])
    with pytest.raises(CorpusError, match=r"cut\.jsonl\.gz, after line \d+: expected more"):
        read(path)
    examples, report = read(path, skip_bad_lines=True)
    assert 100 < len(examples) < 3000
    assert report.n_bad == 1
    assert report.bad_lines[0].number == report.n_lines + 1


def test_quotes_brackets_and_entities_are_no_difference(tmp_path):
    rows = [
        ('He says "hi" (twice)', "( ( He says ) ( ( `` ( hi '' ) ) ( -LRB- ( twice -RRB- ) ) ) )"),
        ("A&amp;B's", "( A ( & ( B 's ) ) )"),
        ("the caf\u00e9", "( the cafe )"),
        ("1\u00a01/2 cats", "( 1\u00a01/2 cats )"),
    ]
    path = write(
        tmp_path / "x.jsonl",
        *(
            json_line(sentence1=text, sentence1_binary_parse=parse, sentence1_parse=None)
            for text, parse in rows
        ),
    )
    examples, _ = read(path)
    assert examples[3].sentences[0].tokens == ("1_1/2", "cats")


def test_labels_can_be_restricted(tmp_path):
    path = write(tmp_path / "x.jsonl", json_line())
    assert read(path, require_labels=["neutral"])[0] == [PARSED]
    with pytest.raises(CorpusError, match=r"line 1: expected a label of \['entailment'\], found 'neutral'"):
        read(path, require_labels=["entailment"])


def test_files_of_no_known_format_are_refused(tmp_path):
    with pytest.raises(CorpusError, match=r"x\.csv, line 1: expected a JSON object, a header .* found 'a,b'"):
        read_examples(write(tmp_path / "x.csv", "a,b"))
    with pytest.raises(CorpusError, match="expected examples, found an empty file"):
        read_examples(write(tmp_path / "empty.jsonl", "", "  "))
    with pytest.raises(
        CorpusError, match=r"x\.tsv, line 1: expected a header with a gold_label column, found \['a'\]"
    ):
        read_examples(write(tmp_path / "x.tsv", "a"), format="tsv")
    with pytest.raises(
        CorpusError, match=r"x\.tsv, line 1: expected a column sentence2 or sentence2_binary_parse, found"
    ):
        read_examples(write(tmp_path / "x.tsv", "gold_label\tsentence1"))
    with pytest.raises(CorpusError, match="found nothing there"):
        read_examples(tmp_path / "missing.jsonl")


def test_unknown_options_are_refused(tmp_path):
    path = write(tmp_path / "x.jsonl", json_line())
    with pytest.raises(ValueError, match=r"format must be one of .*'jsonl'.*got 'xml'"):
        read_examples(path, format="xml")
    with pytest.raises(ValueError, match=r"brackets must be one of \('dropped', 'tokens'\), got 'kept'"):
        read_examples(path, brackets="kept")
