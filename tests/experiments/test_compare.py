"""`rlparse compare`: hand-made files give the figures worked out by hand; files that do not fit are refused."""

from __future__ import annotations

import json
import re
import subprocess
import sys

import pytest

from rlparse.errors import ConfigError, CorpusError
from rlparse.parse_scores import find_convention
from rlparse_experiments.cli import main
from rlparse_experiments.compare import CompareConfig, run_compare
from rlparse_experiments.parse_comparison import compare_parses, tables
from rlparse_experiments.parse_files import ParseRecord, write_parses
from rlparse_experiments.parse_sources import read_sources

FULL_STOP = ("a", "b", "c", ".")
THREE = ("a", "b", "c")
LEFT3, RIGHT3 = (0, 0, 1, 0, 1), (0, 0, 0, 1, 1)
GOLD4 = (0, 0, 0, 1, 1, 0, 1)  # ((a(bc)).)
RIGHT4 = (0, 0, 0, 0, 1, 1, 1)  # (a(b(c.)))
LEFT4 = (0, 0, 1, 0, 1, 0, 1)  # (((ab)c).)


def records(four, three, *, gold=True, phrases=None):
    """Parses of ``a b c .`` and ``a b c``, whose gold trees are ((a(bc)).) and ((ab)c)."""
    return [
        ParseRecord.of("0.0", FULL_STOP, four, GOLD4 if gold else None, phrases),
        ParseRecord.of("0.1", THREE, three, LEFT3 if gold else None),
    ]


@pytest.fixture
def runs(tmp_path):
    """Run folders ``right`` and ``left`` with parses of the dev set."""
    write_parses(tmp_path / "right" / "parses" / "dev.jsonl", records(RIGHT4, RIGHT3))
    write_parses(tmp_path / "left" / "parses" / "dev.jsonl", records(LEFT4, LEFT3))
    return tmp_path


@pytest.fixture
def compared(runs, capsys):
    """Run the command with a JSON file; return what it printed and wrote."""

    def run(*paths, **options):
        target = runs / "out" / "scores.json"
        code = run_compare(CompareConfig(tuple(runs / path for path in paths), json=target, **options))
        assert code == 0
        return capsys.readouterr().out, json.loads(target.read_text(encoding="utf-8"))

    return run


def f1s(scores):
    return {name: score["f1"] for name, score in scores.items()}


def test_runs_are_scored_against_gold_and_each_other(compared):
    out, found = compared("right", "left")
    # right shares (0, 4) of 3 and (0, 3) of 2 with gold; without root and stop (a(bc)) is right, (a(bc)) wrong.
    right = {"nyu": (1 / 3 + 1 / 2) / 2, "prpn": (1 + 0) / 2, "evalb": 2 / 5}
    # left shares (0, 3) (0, 4) of 3 and all of 2; without root and stop ((ab)c) is wrong, ((ab)c) right.
    left = {"nyu": (2 / 3 + 1) / 2, "prpn": (0 + 1) / 2, "evalb": 4 / 5}
    assert f1s(found["against_gold"]["right"]) == pytest.approx(right)
    assert f1s(found["against_gold"]["left"]) == pytest.approx(left)
    assert found["against_gold"]["left"]["nyu"]["exact_match"] == 0.5
    # Sources that are called like a kind of trivial tree stay apart from it.
    assert f1s(found["trivial_against_gold"]["left"]) == pytest.approx(left)
    assert f1s(found["trivial_against_gold"]["right_final_stop"]) == pytest.approx(
        {"nyu": (1 + 1 / 2) / 2, "prpn": 1 / 2, "evalb": 4 / 5}
    )
    each_other = {"nyu": (1 / 3 + 1 / 2) / 2, "prpn": 0.0, "evalb": 2 / 5}
    (pair,) = found["pairs"]
    assert pair["sources"] == ["right", "left"]
    assert f1s(pair["scores"]) == pytest.approx(each_other)
    assert found["self_f1"] == pytest.approx(each_other)
    assert f1s(found["against_trivial"]["right"]["right"]) == {"nyu": 1.0, "prpn": 1.0, "evalb": 1.0}
    assert f1s(found["against_trivial"]["right"]["left"]) == pytest.approx(each_other)
    # Depths of ((a(bc)).): 2 3 3 1, of ((ab)c): 2 2 1; of (a(b(c.))): 1 2 3 3.
    assert found["mean_depth"]["gold"] == pytest.approx((9 / 4 + 5 / 3) / 2)
    assert found["mean_depth"]["sources"]["right"] == pytest.approx((9 / 4 + 5 / 3) / 2)
    assert (found["n_sentences"], found["n_gold"], found["recall_by_label"]) == (2, 2, {})
    assert found["conventions"]["prpn"] == "mean over sentences, root excluded, punctuation removed"

    flat = " ".join(re.sub("[│┃]", " ", out).split())
    assert "F1 against gold trees, % (2 of 2 sentences) " in flat
    assert "right 41.67 50.00 40.00 0.00 1.96 left 83.33 50.00 80.00 50.00" in flat
    assert "right – left 41.67 0.00 40.00" in flat
    assert "self-F1 (mean of pairs) 41.67 0.00 40.00" in flat
    for convention in ("nyu", "prpn", "evalb"):
        assert f"F1 against trivial trees, % ({convention}) " in flat
    assert "evalb: spans of the corpus pooled, root counts, punctuation kept" in flat


def test_chosen_conventions_keep_their_full_names(compared):
    out, found = compared("right", convention=("nyu-root", "evalb-punctuation"))
    assert list(found["conventions"]) == ["nyu-root", "evalb-punctuation"]
    assert f1s(found["against_gold"]["right"]) == pytest.approx({"nyu-root": 0.0, "evalb-punctuation": 3 / 4})
    assert (found["pairs"], found["self_f1"]) == ([], None)
    assert "same tree (nyu-root)" in out
    assert "F1 against each other" not in out


def test_bracketed_text_is_compared_with_runs_and_gold_files(runs, compared):
    (runs / "theirs.txt").write_text("( ( a ( b c ) ) . )\n( a ( b c ) )\n")
    _, found = compared("theirs.txt", "left")
    assert f1s(found["against_gold"]["theirs"])["evalb"] == pytest.approx(4 / 5)  # gold from the run's file
    (runs / "gold.txt").write_text("( ( ( a b ) c ) . )\n( ( a b ) c )\n")
    _, found = compared("theirs.txt", "left", gold=runs / "gold.txt")
    assert f1s(found["against_gold"]["left"]) == {"nyu": 1.0, "prpn": 1.0, "evalb": 1.0}
    assert f1s(found["against_gold"]["theirs"])["evalb"] == pytest.approx(3 / 5)
    # A run as gold: its gold trees count, not its parses.
    _, found = compared("theirs.txt", gold=runs / "right")
    assert f1s(found["against_gold"]["theirs"])["evalb"] == pytest.approx(4 / 5)
    # Without gold fields a JSONL file's parses are the gold trees.
    write_parses(runs / "no_gold.jsonl", records(LEFT4, LEFT3, gold=False))
    _, found = compared("left", gold=runs / "no_gold.jsonl")
    assert f1s(found["against_gold"]["left"])["nyu"] == 1.0


def test_without_gold_there_is_no_score_against_it(runs, compared):
    (runs / "theirs.txt").write_text("( a ( b c ) )\n")
    out, found = compared("theirs.txt")
    assert "No gold trees: none inside the files, and no --gold FILE." in out
    assert "against gold" not in out
    assert (found["against_gold"], found["n_gold"], found["mean_depth"]["gold"]) == ({}, 0, None)
    # No sentence ends in a full stop, so that there is no tree that looks for it.
    assert "right_final_stop" not in found["against_trivial"]["theirs"]


def test_only_sentences_with_gold_are_scored_against_it(runs, compared):
    some = [records(RIGHT4, RIGHT3)[0], records(RIGHT4, RIGHT3, gold=False)[1]]
    write_parses(runs / "some.jsonl", some)
    out, found = compared("some.jsonl")
    assert found["against_gold"]["some"]["nyu"]["f1"] == pytest.approx(1 / 3)
    assert found["against_trivial"]["some"]["right"]["nyu"]["n_sentences"] == 2
    assert (found["n_sentences"], found["n_gold"]) == (2, 1)
    assert "(1 of 2 sentences)" in out


def test_sentences_are_matched_by_id(runs, compared):
    write_parses(runs / "turned.jsonl", reversed(records(LEFT4, LEFT3)))
    _, found = compared("turned.jsonl", "left")
    assert f1s(found["pairs"][0]["scores"]) == {"nyu": 1.0, "prpn": 1.0, "evalb": 1.0}
    # A gold file may have more sentences than are compared.
    write_parses(runs / "one.jsonl", records(LEFT4, LEFT3, gold=False)[1:])
    _, found = compared("one.jsonl", gold=runs / "right")
    assert found["against_gold"]["one"]["nyu"]["f1"] == 1.0


def test_tokens_that_are_brackets_match_their_escapes(runs, compared):
    write_parses(runs / "ours.jsonl", [ParseRecord.of("0.0", ["(", "a", ")"], LEFT3)])
    (runs / "theirs.txt").write_text("( -LRB- ( a -RRB- ) )\n")
    _, found = compared("theirs.txt", "ours.jsonl")
    assert found["pairs"][0]["scores"]["nyu"]["f1"] == 0.5


def test_recall_by_label_is_shown_where_phrases_are_known(runs, compared):
    phrases = [(1, 3, "NP"), (0, 3, "VP"), (0, 4, "S"), (0, 4, "ROOT")]
    write_parses(runs / "labelled.jsonl", records(LEFT4, LEFT3, phrases=phrases))
    out, found = compared("right", "labelled.jsonl", convention=("nyu",))
    recall = found["recall_by_label"]
    assert {label: r["recall"] for label, r in recall["labelled"].items()} == {"NP": 0.0, "S": 1.0, "VP": 1.0}
    assert {label: r["recall"] for label, r in recall["right"].items()} == {"NP": 0.0, "S": 1.0, "VP": 0.0}
    assert "Gold phrases found, % (nyu)" in out


def test_random_trees_repeat_with_the_seed(runs):
    words = [tuple("abcdefghijkl")] * 5
    write_parses(
        runs / "long.jsonl", [ParseRecord.of(str(i), w, [0] * 12 + [1] * 11) for i, w in enumerate(words)]
    )
    sentences = read_sources([runs / "long.jsonl"])
    conventions = [find_convention("nyu")]
    first, again, other = (compare_parses(sentences, conventions, seed=seed) for seed in (1, 1, 2))
    assert first == again
    assert first.against_trivial != other.against_trivial


def test_names_are_made_unique(runs):
    write_parses(runs / "more" / "right" / "parses" / "dev.jsonl", records(LEFT4, LEFT3))
    write_parses(runs / "right[1].jsonl", records(LEFT4, LEFT3))
    paths = [runs / "right", runs / "more" / "right", runs / "right[1].jsonl"]
    sentences = read_sources(paths)
    names = [str(runs / "right"), str(runs / "more" / "right"), "right[1]"]
    assert [source.name for source in sentences.sources] == names
    titles = [table.title for table in tables(compare_parses(sentences, [find_convention("nyu")]))]
    assert titles[1] == "F1 against each other, %"


def test_another_split_of_a_run_is_read(runs, compared):
    write_parses(runs / "right" / "parses" / "test.jsonl", records(GOLD4, LEFT3))
    _, found = compared("right", split="test")
    assert found["against_gold"]["right"]["nyu"]["f1"] == 1.0
    _, found = compared("right/parses", split="test")
    assert found["against_gold"]["parses"]["nyu"]["f1"] == 1.0


def write_other(runs, what):
    """Write ``other.jsonl``, which does not fit to the runs."""
    good = records(LEFT4, LEFT3)
    if what == "missing":
        good = good[:1]
    elif what == "surplus":
        good.append(ParseRecord.of("7.0", ("x",), (0,)))
    elif what == "tokens":
        good[1] = good[1]._replace(tokens=("a", "b", "d"))
    elif what == "gold":
        good[1] = good[1]._replace(gold=RIGHT3)
    write_parses(runs / "other.jsonl", good)


@pytest.mark.parametrize(
    ("what", "message"),
    [
        (
            "missing",
            r"1 sentences of .*left/parses/dev.jsonl are not in .*other.jsonl, the first is '0.1' in line 2",
        ),
        (
            "surplus",
            r"1 sentences of .*other.jsonl are not in .*left/parses/dev.jsonl, the first is '7.0' in line 3",
        ),
        (
            "tokens",
            r"other.jsonl, line 2: expected the sentence of .*dev.jsonl, line 2, 'a b c', found 'a b d'",
        ),
        (
            "gold",
            r"other.jsonl, line 2: expected the gold tree of .*dev.jsonl, line 2, found .* say with --gold FILE",
        ),
    ],
)
def test_files_of_other_sentences_are_refused(runs, what, message):
    write_other(runs, what)
    with pytest.raises(CorpusError, match=message):
        run_compare(CompareConfig((runs / "left", runs / "other.jsonl")))


def test_text_with_another_number_of_lines_is_refused(runs):
    (runs / "theirs.txt").write_text("( ( ( a b ) c ) . )\n")
    with pytest.raises(
        CorpusError, match=r"theirs.txt has 1 sentences, .*dev.jsonl has 2; expected the same"
    ):
        run_compare(CompareConfig((runs / "theirs.txt", runs / "left")))
    with pytest.raises(CorpusError, match=r"theirs.txt has 1 sentences"):
        run_compare(CompareConfig((runs / "left",), gold=runs / "theirs.txt"))


def test_long_sentences_are_cut_in_errors(runs):
    (runs / "a.txt").write_text("( " + " ( ".join(["word"] * 39) + " word" + " )" * 39 + "\n")
    (runs / "b.txt").write_text("( a b )\n")
    with pytest.raises(CorpusError, match=r"expected .*, '(word ){12}…', found 'a b'"):
        run_compare(CompareConfig((runs / "a.txt", runs / "b.txt")))


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"parses": ()}, "expected run folders or files of parses to compare, got none"),
        ({"convention": ("f1",)}, "--convention: unknown convention 'f1', expected nyu, prpn, evalb"),
        ({"convention": ("nyu", "nyu")}, "--convention: expected different conventions, got nyu, nyu"),
        (
            {"split": "test"},
            r"right has no parses 'test': expected .*test.jsonl; there are dev: choose one with",
        ),
        (
            {"parses": ("right", "right")},
            r"right/parses/dev.jsonl is given 2 times, expected different parses",
        ),
        ({"parses": ("empty",)}, r"empty has no parses 'dev': .*a run writes its parses when it ends"),
    ],
)
def test_what_cannot_be_compared_is_refused(runs, options, message):
    (runs / "empty").mkdir()
    paths = tuple(runs / path for path in options.pop("parses", ("right",)))
    with pytest.raises(ConfigError, match=message):
        run_compare(CompareConfig(paths, **options))


def test_nothing_to_count_is_refused(runs):
    (runs / "words.txt").write_text("a\nb\n")
    with pytest.raises(
        CorpusError, match=r"no span to score: none of 2 .* under evalb \(choose another --convention"
    ):
        run_compare(CompareConfig((runs / "words.txt",)))
    assert run_compare(CompareConfig((runs / "words.txt",), convention=("nyu", "prpn"))) == 0


def test_command_line_reaches_it(runs, capsys):
    arguments = [
        "compare",
        str(runs / "right"),
        str(runs / "left"),
        "--convention",
        "nyu",
        "--convention",
        "evalb",
    ]
    assert main(arguments) == 0
    out = capsys.readouterr().out
    assert "right – left" in out
    assert "prpn" not in out
    assert main(["compare", str(runs / "nowhere.txt")]) == 2
    assert "nowhere.txt" in capsys.readouterr().err
    assert main(["compare"]) == 2
    assert "expected run folders or files of parses to compare, got none" in capsys.readouterr().err


def test_comparing_needs_no_torch(runs):
    code = (
        "import sys; from rlparse_experiments.cli import main; "
        f"code = main(['compare', {str(runs / 'right')!r}]); sys.exit(code or 'torch' in sys.modules)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
