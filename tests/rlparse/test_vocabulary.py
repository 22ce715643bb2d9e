"""A vocabulary numbers tokens the same way everywhere, and survives being saved."""

from __future__ import annotations

import json

import numpy as np
import pytest

from rlparse.vocabulary import PAD_INDEX, UNKNOWN_INDEX, Vocabulary

COUNTS = {"the": 5, "The": 2, "cat": 3, "dog": 3, "axolotl": 1}


def test_frequent_tokens_come_first_and_ties_are_alphabetical():
    vocabulary = Vocabulary.build(COUNTS)
    assert vocabulary.tokens == ("<pad>", "<unk>", "the", "cat", "dog", "The", "axolotl")
    assert vocabulary.index("<pad>") == PAD_INDEX == 0
    assert len(vocabulary) == 7


def test_the_order_of_the_counts_changes_nothing():
    assert Vocabulary.build(COUNTS) == Vocabulary.build(dict(reversed(COUNTS.items())))


def test_rare_and_new_tokens_are_unknown():
    vocabulary = Vocabulary.build(COUNTS, min_count=2)
    assert "axolotl" not in vocabulary
    encoded = vocabulary.encode(["the", "axolotl", "unicorn"])
    np.testing.assert_array_equal(encoded, [2, UNKNOWN_INDEX, UNKNOWN_INDEX])
    assert encoded.dtype == np.int64


def test_size_limit_counts_padding_and_unknown():
    assert Vocabulary.build(COUNTS, max_size=4).tokens == ("<pad>", "<unk>", "the", "cat")


def test_lower_case_merges_spellings():
    vocabulary = Vocabulary.build(COUNTS, lowercase=True, min_count=7)
    assert vocabulary.tokens[2:] == ("the",)
    assert vocabulary.index("THE") == vocabulary.index("the") == 2
    assert "The" in vocabulary


def test_special_tokens_in_the_corpus_get_no_second_index():
    assert Vocabulary.build({"<unk>": 9, "a": 1, "<pad>": 3}).tokens == ("<pad>", "<unk>", "a")


@pytest.mark.parametrize("lowercase", [False, True])
def test_json_round_trip(lowercase):
    vocabulary = Vocabulary.build(COUNTS, lowercase=lowercase)
    restored = Vocabulary.from_json(json.loads(json.dumps(vocabulary.to_json())))
    assert restored == vocabulary
    assert hash(restored) == hash(vocabulary)
    assert restored.lowercase is lowercase


def test_equality_looks_at_case_handling():
    assert Vocabulary(["a"]) != Vocabulary(["a"], lowercase=True)
    assert Vocabulary(["a"]) != ["<pad>", "<unk>", "a"]
    assert repr(Vocabulary(["a"], lowercase=True)) == "Vocabulary(3 tokens, lowercase)"


def test_repeated_token_is_refused():
    with pytest.raises(ValueError, match=r"must be new.*repeated: \['a'"):
        Vocabulary(["a", "b", "a"])
    with pytest.raises(ValueError, match="repeated"):
        Vocabulary(["<pad>"])


def test_upper_case_in_a_lower_case_vocabulary_is_refused():
    with pytest.raises(ValueError, match=r"lower-case tokens only, found \['B'\]"):
        Vocabulary(["a", "B"], lowercase=True)


def test_limits_are_checked():
    with pytest.raises(ValueError, match="min_count must be at least 1, got 0"):
        Vocabulary.build(COUNTS, min_count=0)
    with pytest.raises(ValueError, match="max_size must leave room for <pad> and <unk>, got 1"):
        Vocabulary.build(COUNTS, max_size=1)


@pytest.mark.parametrize(
    ("data", "message"),
    [
        ({"tokens": ["a"]}, "has 'tokens' .list. and 'lowercase' .bool., found"),
        ({"tokens": "abc", "lowercase": False}, "has 'tokens'"),
        ({"tokens": ["a", 3], "lowercase": False}, "must all be strings"),
    ],
)
def test_broken_json_is_refused(data, message):
    with pytest.raises(ValueError, match=message):
        Vocabulary.from_json(data)
