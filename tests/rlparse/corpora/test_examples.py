"""Labels get the same class numbers whatever part of a data set they were found in."""

from __future__ import annotations

import pytest

from rlparse.corpora.examples import LISTOPS_LABELS, NLI_LABELS, RELATION_LABELS, label_order


@pytest.mark.parametrize(
    ("found", "order"),
    [
        (["neutral", "contradiction"], ("entailment", "neutral", "contradiction")),
        (["non-entailment", "entailment"], ("entailment", "non-entailment")),
        (["non-entailment"], ("entailment", "non-entailment")),
        (["#", "="], RELATION_LABELS),
        (["7"], LISTOPS_LABELS),
        (["zebra", "ape"], ("ape", "zebra")),
        (["entailment"], NLI_LABELS),
    ],
)
def test_known_label_sets_keep_their_order(found, order):
    assert label_order(found) == order
