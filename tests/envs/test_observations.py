"""Observations say what the parser says."""

from __future__ import annotations

from functools import partial

import numpy as np
import pytest

from rlparse import PAD, trees
from rlparse.transitions import ParserState
from rlparse_envs.observations import (
    FeatureObserver,
    GameSize,
    HashedVectors,
    Situation,
    SymbolicObserver,
    TableVectors,
    make_observer,
    model_vectors,
    node_heights,
)

SIZE = GameSize(max_tokens=6, n_sides=2, n_types=20)
TOKENS = ("the", "old", "man", "sleeps")
IDS = np.array([5, 7, 9, 11])


def situation(*transitions, side=1):
    parser = ParserState(len(TOKENS))
    for transition in transitions:
        parser.apply(transition)
    return Situation(parser, TOKENS, IDS, side)


def test_symbolic_observation():
    seen = SymbolicObserver(SIZE).observe(situation(0, 0, 0, 1))
    assert {key: value.tolist() for key, value in seen.items()} == {
        "tokens": [5, 7, 9, 11, 0, 0],
        "length": [4],
        "transitions": [0, 0, 0, 1] + [PAD] * 7,
        "stack_spans": [0, 1, 1, 3] + [0] * 8,
        "stack_size": [2],
        "buffer_front": [3],
        "side": [1],
        "action_mask": [1, 1],
    }


def test_symbolic_observation_shares_nothing_with_the_parser():
    observer, now = SymbolicObserver(SIZE), situation(0, 0)
    first, second = observer.observe(now), observer.observe(now)
    assert not any(np.shares_memory(first[key], second[key]) for key in first)
    assert not np.shares_memory(first["tokens"], IDS)


@pytest.mark.parametrize("n_sides", [1, 2])
@pytest.mark.parametrize("observer", [SymbolicObserver, FeatureObserver])
def test_every_situation_lies_in_the_space(observer, n_sides):
    rng = np.random.default_rng(0)
    size = SIZE._replace(n_sides=n_sides)
    made = observer(size)
    for n in range(1, 7):
        for _ in range(5):
            parser = ParserState(n)
            for transition in [*trees.uniform_tree(n, rng), None]:
                now = Situation(
                    parser, tuple("abcdef"[:n]), rng.integers(1, 20, n), int(rng.integers(n_sides))
                )
                assert made.space.contains(made.observe(now))
                if transition is not None:
                    parser.apply(transition)


def features(*transitions, side=1, **options):
    """Components of the feature observation by name."""
    observer = FeatureObserver(SIZE, **options)
    values = observer.observe(situation(*transitions, side=side))
    assert values.shape == (len(observer.names),) == observer.space.shape
    assert values.dtype == np.float32
    return dict(zip(observer.names, values.tolist(), strict=True))


def test_feature_names_are_unique_and_as_many_as_documented():
    names = FeatureObserver(SIZE, stack_items=3, buffer_items=2, vectors=HashedVectors(16)).names
    assert len(set(names)) == len(names) == 9 + 3 * (4 + 3 * 16) + 2 * (1 + 16)


def test_features_of_the_parser():
    seen = features(0, 0, 0, 1)
    expected = {
        "side": 1,
        "length": 4 / 6,
        "progress": 4 / 7,
        "stack_size": 2 / 4,
        "buffer_size": 1 / 4,
        "may_shift": 1,
        "may_reduce": 1,
        "last_shift": 0,
        "last_reduce": 1,
        "stack0.present": 1,
        "stack0.start": 1 / 4,
        "stack0.size": 2 / 4,
        "stack0.height": 1 / 3,
        "stack1.present": 1,
        "stack1.start": 0,
        "stack1.size": 1 / 4,
        "stack1.height": 0,
        "stack2.present": 0,
        "stack2.size": 0,
        "buffer0.present": 1,
        "buffer1.present": 0,
    }
    assert {name: seen[name] for name in expected} == pytest.approx(expected)


def test_features_at_the_start_of_a_sentence():
    seen = features(side=0)
    assert (seen["side"], seen["progress"], seen["stack0.present"], seen["buffer1.present"]) == (0, 0, 0, 1)
    assert (seen["last_shift"], seen["last_reduce"], seen["may_shift"], seen["may_reduce"]) == (0, 0, 1, 0)


def test_features_of_the_words():
    table = np.zeros((20, 2))
    table[IDS] = [[1, 2], [3, 4], [-5, 6], [7, -8]]
    seen = features(0, 0, 0, 1, vectors=TableVectors(table))

    def vector(name):
        return [8 * seen[f"{name}[{e}]"] for e in range(2)]

    assert vector("stack0.first") == [3, 4]
    assert vector("stack0.last") == [-5, 6]
    assert vector("stack0.mean") == [-1, 5]
    assert vector("stack1.first") == vector("stack1.last") == vector("stack1.mean") == [1, 2]
    assert vector("stack2.first") == vector("buffer1.vector") == [0, 0]
    assert vector("buffer0.vector") == [7, -8]


@pytest.mark.parametrize(("stack_items", "buffer_items"), [(0, 0), (0, 2), (1, 0), (6, 6)])
@pytest.mark.parametrize("embedding_size", [0, 3])
def test_sizes_of_the_feature_observation(stack_items, buffer_items, embedding_size):
    seen = features(
        *(0, 0, 0, 1),
        stack_items=stack_items,
        buffer_items=buffer_items,
        vectors=HashedVectors(embedding_size),
    )
    assert len(seen) == 9 + stack_items * (4 + 3 * embedding_size) + buffer_items * (1 + embedding_size)
    assert sum(seen.get(f"stack{k}.present", 0) for k in range(6)) == min(2, stack_items)
    assert sum(seen.get(f"buffer{k}.present", 0) for k in range(6)) == min(1, buffer_items)


def test_negative_sizes():
    with pytest.raises(ValueError, match="stack_items and buffer_items must be 0 or more, got -1 and 2"):
        FeatureObserver(SIZE, stack_items=-1)
    with pytest.raises(ValueError, match="the size of token vectors must be 0 or more, got -2"):
        HashedVectors(-2)


def test_hashed_vectors_never_change():
    """Written down here, so that agents trained on them stay usable; Python's own hash differs by process."""
    assert HashedVectors(8)(["man", "dog"], np.array([0, 0])).tolist() == [
        [1, 1, 1, -1, 1, -1, -1, 1],
        [1, -1, 1, -1, 1, -1, 1, -1],
    ]


def test_table_is_copied_and_scaled(model):
    vectors = model_vectors(model)
    before = vectors((), np.array([3, 4]))
    weight = model.embedding.weight.detach().numpy()
    np.testing.assert_allclose(before, weight[[3, 4]] / np.abs(weight).max(), rtol=1e-6)
    model.embedding.weight.data.zero_()
    np.testing.assert_array_equal(vectors((), np.array([3, 4])), before)
    assert not TableVectors(np.zeros((3, 2)))((), np.array([1])).any()


def test_bad_tables():
    with pytest.raises(ValueError, match=r"must be \[V, E\], got shape \(3,\)"):
        TableVectors(np.ones(3))
    with pytest.raises(ValueError, match="must be finite, row 1 is not"):
        TableVectors([[1.0, 2.0], [np.nan, 0.0]])


def test_heights_of_nodes():
    parser = situation(*trees.right_branching(4)).parser
    assert node_heights(parser) == [0, 0, 0, 0, 1, 2, 3]


def test_observers_by_name(model):
    assert isinstance(make_observer("symbolic", SIZE), SymbolicObserver)
    assert len(make_observer("features", SIZE).names) == 9 + 3 * 52 + 2 * 17
    assert len(make_observer("features", SIZE, model).names) == 9 + 3 * (4 + 18) + 2 * 7
    own = make_observer(partial(FeatureObserver, stack_items=5), SIZE)
    assert "stack4.present" in own.names


def test_unknown_observation():
    with pytest.raises(
        ValueError, match=r"observation must be symbolic, features or a callable .*, got 'pixels'"
    ):
        make_observer("pixels", SIZE)
