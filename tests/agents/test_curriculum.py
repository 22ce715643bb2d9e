"""A curriculum admits what is easy, and more of it once that is mastered."""

from __future__ import annotations

import numpy as np
import pytest

from rlparse.errors import CheckpointError
from rlparse_agents.curriculum import Curriculum

DIFFICULTY = np.array([5, 2, 9, 3, 2, 12, 5])


def build(**options) -> Curriculum:
    return Curriculum(DIFFICULTY, **{"start": 3, "grow": 2, "competence": 0.75, "memory": 3, **options})


def test_what_is_easy_enough_is_admitted_easiest_first():
    assert build().admitted().tolist() == [1, 4, 3]
    assert build(start=2).admitted().tolist() == [1, 4]
    assert build(start=100).admitted().tolist() == [1, 4, 3, 0, 6, 2, 5]
    assert build().admitted().dtype == np.int64


def test_the_limit_rises_when_the_average_is_above_competence():
    curriculum = build()
    assert [curriculum.observe(1.0) for _ in range(3)] == [False, False, True]
    assert curriculum.limit == 5
    assert curriculum.admitted().tolist() == [1, 4, 3, 0, 6]
    assert curriculum.average is None  # starts again
    assert [curriculum.observe(1.0) for _ in range(3)] == [False, False, True]
    assert curriculum.limit == 9  # 7 would have admitted nothing new


def test_competence_itself_is_not_enough():
    curriculum = build()
    assert not any(curriculum.observe(0.75) for _ in range(50))
    assert curriculum.average == 0.75
    assert curriculum.limit == 3


def test_the_average_is_even_at_first_and_forgets_then():
    curriculum = build(competence=0.99, memory=4)
    accuracies = [0.0, 0.4, 0.8, 0.4, 0.9, 0.1, 0.5]
    averages = []
    for accuracy in accuracies:
        curriculum.observe(accuracy)
        averages.append(curriculum.average)
    assert averages[:4] == pytest.approx([0.0, 0.2, 0.4, 0.4])
    slow = 0.4
    for accuracy, average in zip(accuracies[4:], averages[4:], strict=True):
        slow = 0.75 * slow + 0.25 * accuracy
        assert average == pytest.approx(slow)


def test_one_lucky_batch_does_not_raise_the_limit():
    curriculum = build(memory=20)
    assert not any(curriculum.observe(1.0) for _ in range(19))
    assert curriculum.observe(1.0)


def test_it_ends_with_every_example():
    curriculum = build(memory=1)
    moves = [curriculum.observe(1.0) for _ in range(6)]
    assert moves == [True, True, True, False, False, False]
    assert curriculum.complete
    assert not build().complete
    assert sorted(curriculum.admitted().tolist()) == list(range(7))
    assert curriculum.limit == 13  # from 3 on in steps of 2


def test_an_admitted_example_keeps_its_place():
    curriculum = build(memory=1)
    before = curriculum.admitted()
    while curriculum.observe(1.0):
        after = curriculum.admitted()
        assert len(after) > len(before)
        assert np.array_equal(after[: len(before)], before)
        before = after


def test_the_result_may_be_changed():
    curriculum = build()
    curriculum.admitted()[:] = 0
    assert curriculum.admitted().tolist() == [1, 4, 3]


def test_a_continued_curriculum_goes_on_as_if_never_stopped():
    accuracies = np.random.default_rng(0).uniform(0.5, 1.0, 60)
    whole = build()
    expected = [(whole.observe(a), whole.limit, whole.average) for a in accuracies]
    assert whole.complete
    for stop in (0, 1, 7, 20):
        first, second = build(), build()
        found = [(first.observe(a), first.limit, first.average) for a in accuracies[:stop]]
        second.load_state_dict(first.state_dict())
        found += [(second.observe(a), second.limit, second.average) for a in accuracies[stop:]]
        assert found == expected


def test_the_state_of_something_else():
    with pytest.raises(
        CheckpointError, match=r"a curriculum has \['average', 'limit', 'n_observed'\], found \['x'\]"
    ):
        build().load_state_dict({"x": 1})
    with pytest.raises(
        CheckpointError, match="the stored curriculum admits examples up to 3, this one begins with 5"
    ):
        build(start=5).load_state_dict(build().state_dict())


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"start": 1}, "start=1 admits no example, the easiest has difficulty 2; raise it"),
        ({"grow": 0}, "grow and memory must be at least 1, got 0 and 3"),
        ({"memory": 0}, "grow and memory must be at least 1, got 2 and 0"),
        ({"competence": 1.0}, r"competence is an accuracy to get above, in \[0, 1\), got 1.0"),
        ({"competence": -0.1}, r"competence is an accuracy to get above, in \[0, 1\), got -0.1"),
    ],
)
def test_options_out_of_range(options, message):
    with pytest.raises(ValueError, match=message):
        build(**options)


@pytest.mark.parametrize("difficulty", [np.zeros((2, 2), np.int64), np.zeros(0, np.int64)])
def test_every_example_has_one_difficulty(difficulty):
    with pytest.raises(ValueError, match=r"difficulty must be \[n\] with n >= 1 examples, got shape"):
        Curriculum(difficulty, start=1)


@pytest.mark.parametrize("accuracy", [float("nan"), float("inf")])
def test_an_accuracy_is_finite(accuracy):
    with pytest.raises(ValueError, match=f"a curriculum needs finite accuracies, got {accuracy}"):
        build().observe(accuracy)
