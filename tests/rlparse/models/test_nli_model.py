"""The classifier: with and without trees, pairs, crosswise, dropout, hypothesis only, word vectors, devices."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor
from torch.nn import functional as F

from rlparse import lockstep
from rlparse.corpora.batching import Batch
from rlparse.models.composition import COMPOSITIONS
from rlparse.models.nli_model import ARCHITECTURES, ClassifierHead, NLIModel, resolve_device
from rlparse.models.sequence_encoders import SEQUENCE_ENCODERS
from slow_reference import classify_one, padded, plain_batch, random_derivation

PAIRS = [
    [[2, 3, 4, 5], [3, 6]],
    [[7], [4, 4, 8, 2, 9]],
    [[9, 2, 3], [5]],
]
SINGLES = [[sentence] for pair in PAIRS for sentence in pair]
N_WORDS, C = 10, 3


def build(*, n_sides: int = 2, seed: int = 0, **options) -> NLIModel:
    """A model in double precision with weights large enough to matter."""
    torch.manual_seed(seed)
    model = NLIModel(
        N_WORDS, C, n_sides=n_sides, embedding_size=4, hidden_size=3, mlp_size=5, **options
    ).double()
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if name != "embedding.weight":
                parameter.normal_(std=0.7)
        model.embedding.weight[1:].normal_()
    return model


def parses_of(batch: Batch, seed: int = 0) -> list[list[int]]:
    rng = torch.Generator().manual_seed(seed)
    return [random_derivation(n, rng) for n in batch.lengths.tolist()]


def logits_of(model: NLIModel, batch: Batch, seed: int = 0) -> Tensor:
    logits: Tensor = model(batch, padded(parses_of(batch, seed), batch.tokens.shape[1]))
    return logits


# ------------------------------------------------------------------------------------------------- reference


@pytest.mark.parametrize("composition", COMPOSITIONS)
@pytest.mark.parametrize("examples", [PAIRS, SINGLES])
@pytest.mark.parametrize("tracker_size", [0, 2])
def test_logits_and_gradients_agree_with_one_example_at_a_time(composition, examples, tracker_size):
    n_sides = len(examples[0])
    model = build(n_sides=n_sides, composition=composition, tracker_size=tracker_size).eval()
    batch = plain_batch(examples, labels=[k % C for k in range(len(examples))])
    parses = parses_of(batch)
    fast = logits_of(model, batch)
    slow = torch.stack(
        [
            classify_one(model, example, [parses[s * len(examples) + b] for s in range(n_sides)])
            for b, example in enumerate(examples)
        ]
    )
    assert fast.shape == (len(examples), C)
    torch.testing.assert_close(fast, slow, rtol=0, atol=1e-10)
    wanted = list(model.parameters())
    for_fast, for_slow = (
        torch.autograd.grad(F.cross_entropy(logits, batch.labels), wanted) for logits in (fast, slow)
    )
    torch.testing.assert_close(for_fast, for_slow, rtol=0, atol=1e-10)


@pytest.mark.parametrize("schedule", ["by_step", "by_level"])
@pytest.mark.parametrize("layer_norm", [None, False, True])
def test_schedule_and_layer_norm_are_passed_on(schedule, layer_norm):
    model = build(schedule=schedule, layer_norm=layer_norm, composition="gated")
    assert model.machine.schedule == schedule
    assert model.machine.composition.layer_norm is (layer_norm is None or layer_norm)


def test_the_head_joins_a_pair_by_difference_and_product():
    """With an MLP that copies, the classifier's input is [p, h, |p - h|, p * h]."""
    head = ClassifierHead(2, 2, 8, mlp_size=8, dropout=0.0).double()
    with torch.no_grad():
        head.widen.weight.copy_(torch.eye(8))
        head.widen.bias.fill_(100.0)  # keeps the ReLU open
        head.classify.weight.copy_(torch.eye(8))
        head.classify.bias.fill_(-100.0)
    p, h = torch.tensor([[[1.0, -2.0], [3.0, 0.5]], [[4.0, 5.0], [-1.0, 0.5]]], dtype=torch.float64)
    features = head(torch.cat((p, h)))
    expected = [
        [1, -2, 4, 5, 3, 7, 4, -10],
        [3, 0.5, -1, 0.5, 4, 0, -3, 0.25],
    ]
    torch.testing.assert_close(features, torch.tensor(expected, dtype=torch.float64))


# ------------------------------------------------------------------------------------------ what matters, or not


def test_the_order_of_a_pair_matters():
    model = build().eval()
    batch = plain_batch([[[2, 3, 4], [5, 6, 7]], [[5, 6, 7], [2, 3, 4]]])
    logits = model(batch, padded([[0, 0, 1, 0, 1]] * 4))
    assert (logits[0] - logits[1]).abs().max() > 1e-3


def test_the_parse_matters():
    model = build().eval()
    batch = plain_batch([[[2, 3, 4], [5, 6, 7]]] * 2)
    left, right = [0, 0, 1, 0, 1], [0, 0, 0, 1, 1]
    logits = model(batch, padded([left, right, left, left]))
    assert (logits[0] - logits[1]).abs().max() > 1e-3


def test_batch_order_batch_size_and_padding_change_nothing():
    model = build().eval()
    batch = plain_batch(PAIRS)
    parses = parses_of(batch)
    logits = model(batch, padded(parses))
    for b, example in enumerate(PAIRS):
        alone = plain_batch([example])
        own = padded([parses[b], parses[len(PAIRS) + b]])
        torch.testing.assert_close(model(alone, own)[0], logits[b], rtol=0, atol=1e-12)
    order = [2, 0, 1]
    shuffled = plain_batch([PAIRS[b] for b in order])
    rows = [parses[s * 3 + b] for s in range(2) for b in order]
    torch.testing.assert_close(model(shuffled, padded(rows)), logits[order], rtol=0, atol=1e-12)
    wider = batch._replace(tokens=F.pad(batch.tokens, (0, 2)))
    width = batch.tokens.shape[1] + 2
    torch.testing.assert_close(model(wider, padded(parses, width)), logits, rtol=0, atol=1e-12)


def test_padding_has_no_vector_and_never_learns_one():
    model = build()
    assert not model.embedding.weight[0].any()
    batch = plain_batch(PAIRS)
    logits_of(model, batch).sum().backward()
    assert model.embedding.weight.grad is not None
    assert not model.embedding.weight.grad[0].any()
    assert model.embedding.weight.grad[2].any()


@pytest.mark.parametrize("std", [0.1, 1.0])
def test_words_begin_as_small_as_asked(std):
    torch.manual_seed(0)
    weight = NLIModel(500, C, embedding_std=std).embedding.weight.detach()
    assert weight[1:].std().item() == pytest.approx(std, rel=0.05)
    assert not weight[0].any()


# ---------------------------------------------------------------------------------------------------- dropout


def test_dropout_acts_in_training_only():
    model = build(dropout=0.5)
    batch = plain_batch(PAIRS)
    model.train()
    assert not torch.equal(logits_of(model, batch), logits_of(model, batch))
    model.eval()
    clean = logits_of(model, batch)
    assert torch.equal(clean, logits_of(model, batch))
    model.head.dropout = 0.0
    model.train()
    torch.testing.assert_close(logits_of(model, batch), clean)


def test_dropout_can_be_forced():
    model = build(dropout=0.5).train()
    batch = plain_batch(PAIRS)
    trace = lockstep.trace(padded(parses_of(batch)), batch.lengths)
    vectors = model.encode(batch.tokens, trace)
    clean = model.head(vectors, dropout=False)
    assert torch.equal(clean, model.eval().head(vectors))
    assert not torch.equal(model.head(vectors, dropout=True), clean)


def test_dropout_stands_only_in_the_head():
    """Encoding draws no random number, so that one encoding can be judged with and without it."""
    model = build(dropout=0.5, tracker_size=2).train()
    batch = plain_batch(PAIRS)
    trace = lockstep.trace(padded(parses_of(batch)), batch.lengths)
    before = torch.get_rng_state()
    assert torch.equal(model.encode(batch.tokens, trace), model.encode(batch.tokens, trace))
    assert torch.equal(torch.get_rng_state(), before)


def test_a_word_loses_the_same_entries_all_over_a_batch_and_only_in_training():
    model = build(embedding_dropout=0.5).train()
    types = torch.arange(N_WORDS)
    own = model.embedding.weight.detach()
    torch.manual_seed(3)
    dropped = model.embed(types).detach()
    kept = dropped != 0
    assert 0 < kept[1:].sum() < kept[1:].numel()
    torch.testing.assert_close(dropped, torch.where(kept, 2 * own, 0.0), rtol=0, atol=0)
    torch.testing.assert_close(model.eval().embed(types), own, rtol=0, atol=0)


@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_words_are_dropped_before_any_encoder(architecture):
    model = build(architecture=architecture, embedding_dropout=0.5)
    batch = plain_batch([([2, 3], [3, 2]), ([2, 3], [3, 2])], labels=[0, 1])
    trace = lockstep.trace(padded([[0, 0, 1]] * 4, 2), batch.lengths)
    torch.manual_seed(0)
    first, second, third, _ = model.train().encode(batch.tokens, trace)
    torch.testing.assert_close(first, second, rtol=0, atol=0)  # equal sentences stay equal
    again = model.encode(batch.tokens, trace)
    assert not torch.equal(again[0], first)
    assert not torch.equal(model.eval().encode(batch.tokens, trace)[2], third)


@pytest.mark.parametrize("share", [-0.1, 1.0])
def test_dropout_of_words_out_of_range(share):
    with pytest.raises(ValueError, match=r"embedding_dropout must be in \[0, 1\), got"):
        build(embedding_dropout=share)


def test_dropout_keeps_the_mean_of_its_input():
    torch.manual_seed(0)
    head = ClassifierHead(3, 1, 2, mlp_size=4, dropout=0.5).double().train()
    with torch.no_grad():
        head.widen.weight.fill_(1.0)
        head.widen.bias.fill_(10.0)
    vectors = torch.rand(1, 3, dtype=torch.float64)
    drawn = torch.stack([head(vectors) for _ in range(4000)]).mean(0)
    clean = head.eval()(vectors)
    torch.testing.assert_close(drawn, clean, rtol=0.1, atol=0.1)


# ------------------------------------------------------------------------------------------ hypothesis only


def test_without_the_premise_only_the_hypothesis_counts():
    model = build(hide_premise=True).eval()
    batch = plain_batch(PAIRS)
    logits = logits_of(model, batch)
    other = plain_batch([[[*premise[::-1], 9], hypothesis] for premise, hypothesis in PAIRS])
    torch.testing.assert_close(model(other, same_hypothesis_parses(batch, other)), logits, rtol=0, atol=1e-12)
    logits.sum().backward()
    assert model.embedding.weight.grad is not None
    only_in_premises = {token for premise, _ in PAIRS for token in premise} - {
        token for _, hypothesis in PAIRS for token in hypothesis
    }
    assert only_in_premises
    assert not model.embedding.weight.grad[sorted(only_in_premises)].any()
    changed = plain_batch([[premise, [*hypothesis, 9]] for premise, hypothesis in PAIRS])
    assert (logits_of(model, changed) - logits).abs().max() > 1e-3


def same_hypothesis_parses(batch: Batch, other: Batch) -> Tensor:
    """Parses of ``other`` whose hypotheses are parsed as those of ``batch`` in `logits_of`."""
    kept = parses_of(batch)[batch.n_examples :]
    return padded([*parses_of(other, seed=9)[: other.n_examples], *kept], other.tokens.shape[1])


def test_hiding_the_premise_needs_pairs():
    with pytest.raises(
        ValueError, match="hide_premise needs pairs of sentences, this corpus has single ones; leave it out"
    ):
        build(n_sides=1, hide_premise=True)


@pytest.mark.parametrize("n_sides", [0, 3])
def test_an_example_has_one_or_two_sentences(n_sides):
    with pytest.raises(ValueError, match=f"an example has 1 or 2 sentences, got n_sides={n_sides}"):
        build(n_sides=n_sides)


def test_single_sentences_and_pairs_have_heads_of_their_own_width():
    assert build(n_sides=1).head.widen.in_features == 3
    assert build(n_sides=2).head.widen.in_features == 12


# ------------------------------------------------------------------------------------------- sequence encoders


@pytest.mark.parametrize("architecture", SEQUENCE_ENCODERS)
@pytest.mark.parametrize("examples", [PAIRS, SINGLES])
def test_a_model_without_trees_reads_the_words_alone(architecture, examples):
    options = {} if architecture == "bag_of_words" else {"bidirectional": True}
    model = build(n_sides=len(examples[0]), architecture=architecture, dropout=0.0, **options)
    batch = plain_batch(examples)
    logits = logits_of(model, batch)
    assert not model.reads_trees
    assert torch.equal(logits_of(model, batch, seed=1), logits)
    vectors = model.sequence(model.embedding(batch.tokens), batch.lengths)
    assert vectors.shape == (len(batch.tokens), model.vector_size)
    torch.testing.assert_close(logits, model.head(vectors), rtol=0, atol=1e-12)
    logits.sum().backward()
    assert all(p.grad is not None and p.grad.any() for p in model.parameters())
    assert not model.embedding.weight.grad[0].any()


def test_a_model_with_trees_says_so():
    model = build()
    assert model.reads_trees
    assert model.sequence is None
    assert model.vector_size == 3


@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_every_architecture_can_hide_the_premise(architecture):
    model = build(architecture=architecture, hide_premise=True)
    batch = plain_batch(PAIRS)
    vectors = model.encode(batch.tokens, lockstep.trace(padded(parses_of(batch)), batch.lengths))
    assert not vectors[:3].any()
    assert vectors[3:].any()


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (
            {"architecture": "cnn"},
            "unknown architecture 'cnn'; known: tree, bag_of_words, rnn, lstm, gru, peep",
        ),
        (
            {"bidirectional": True},
            "architecture='tree' composes along a derivation, so bidirectional=True means",
        ),
        (
            {"truncate": 2},
            "architecture='tree' composes along a derivation, so truncate=2 means nothing to it",
        ),
        (
            {"architecture": "bag_of_words", "bidirectional": True},
            "architecture='bag_of_words' reads words in no order, so bidirectional=True means nothing to it",
        ),
        (
            {"architecture": "lstm", "tracker_size": 2},
            "architecture='lstm' composes nothing, so tracker_size=2 means nothing to it; leave tracker_size out",
        ),
        (
            {"architecture": "gru", "layer_norm": True},
            "architecture='gru' composes nothing, so layer_norm=True means nothing to it; leave layer_norm out",
        ),
    ],
)
def test_options_that_do_not_fit_the_architecture(options, message):
    with pytest.raises(ValueError, match=message):
        build(**options)


def test_truncation_is_passed_on():
    model = build(architecture="rnn", truncate=2)
    assert model.sequence.truncate == 2
    assert not build(architecture="rnn", layer_norm=False).reads_trees


# -------------------------------------------------------------------------------------------------- crosswise


@pytest.mark.parametrize("n_parses", [1, 2, 3])
def test_pairs_are_scored_crosswise(n_parses):
    model = build().eval()
    B, K = 4, n_parses
    vectors = torch.randn(2 * B * K, 3, dtype=torch.float64, requires_grad=True)
    crosswise = model.head.pair_crosswise(vectors, K)
    assert crosswise.shape == (B * K * K, C)
    slow = [
        model.head(torch.stack((vectors[b * K + i], vectors[B * K + b * K + j])))[0]
        for b in range(B)
        for i in range(K)
        for j in range(K)
    ]
    torch.testing.assert_close(crosswise, torch.stack(slow), rtol=0, atol=1e-12)
    (fast_gradient,) = torch.autograd.grad(crosswise.square().sum(), vectors)
    (slow_gradient,) = torch.autograd.grad(torch.stack(slow).square().sum(), vectors)
    torch.testing.assert_close(fast_gradient, slow_gradient, rtol=0, atol=1e-12)


def test_the_diagonal_of_crosswise_is_the_head():
    model = build(dropout=0.5).train()
    vectors = torch.randn(2 * 5 * 3, 3, dtype=torch.float64)
    crosswise = model.head.pair_crosswise(vectors, 3, dropout=False).view(5, 3, 3, C)
    plain = model.head(vectors, dropout=False).view(5, 3, C)
    torch.testing.assert_close(crosswise.diagonal(dim1=1, dim2=2).transpose(1, 2), plain)
    assert not torch.equal(model.head.pair_crosswise(vectors, 3).view_as(crosswise), crosswise)
    assert not torch.equal(
        model.eval().head.pair_crosswise(vectors, 3, dropout=True).view_as(crosswise), crosswise
    )


def test_only_pairs_of_k_parses_can_be_scored_crosswise():
    with pytest.raises(ValueError, match="only pairs can be scored crosswise, this head is for single sent"):
        build(n_sides=1).head.pair_crosswise(torch.zeros(4, 3), 2)
    for n_parses, rows in ((3, 8), (0, 8), (2, 6)):
        message = f"2 . B . K rows with K = {n_parses} parses of each sentence, got {rows}"
        with pytest.raises(ValueError, match=message):
            build().head.pair_crosswise(torch.zeros(rows, 3), n_parses)


# --------------------------------------------------------------------------------------------- word vectors


def test_given_word_vectors_are_copied():
    model = build()
    vectors = torch.randn(N_WORDS, 4, dtype=torch.float64)
    kept = vectors.clone()
    model.set_embeddings(vectors)
    assert torch.equal(model.embedding.weight[1:], vectors[1:])
    assert not model.embedding.weight[0].any()
    assert torch.equal(vectors, kept)
    assert model.embedding.weight.requires_grad
    vectors.zero_()
    assert model.embedding.weight.any()


def test_fixed_word_vectors_stay_as_they_are_while_the_rest_learns():
    model = build()
    model.set_embeddings(torch.randn(N_WORDS, 4), trainable=False)
    before = {name: p.detach().clone() for name, p in model.named_parameters()}
    optimizer = torch.optim.SGD([p for p in model.parameters() if p.requires_grad], lr=0.1)
    logits_of(model, plain_batch(PAIRS)).square().sum().backward()
    optimizer.step()
    for name, parameter in model.named_parameters():
        assert torch.equal(parameter, before[name]) == (name == "embedding.weight")
    model.set_embeddings(torch.randn(N_WORDS, 4))
    assert model.embedding.weight.requires_grad


@pytest.mark.parametrize("shape", [(N_WORDS, 5), (N_WORDS - 1, 4), (4,)])
def test_word_vectors_must_fit(shape):
    message = r"word vectors must be \(10, 4\) \(vocabulary x embedding size\), got \("
    with pytest.raises(ValueError, match=message):
        build().set_embeddings(torch.zeros(shape))


# --------------------------------------------------------------------------------------------------- devices


@pytest.mark.parametrize(("there", "expected"), [(False, "cpu"), (True, "cuda")])
def test_auto_takes_cuda_where_there_is_one(monkeypatch, there, expected):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: there)
    assert resolve_device("auto") == torch.device(expected)
    assert resolve_device("cpu") == torch.device("cpu")


def test_cuda_must_be_there(monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    for name in ("cuda", "cuda:1"):
        with pytest.raises(ValueError, match=f"device '{name}' was asked for, but torch sees no CUDA device"):
            resolve_device(name)
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    assert resolve_device("cuda:1") == torch.device("cuda", 1)


@pytest.mark.parametrize("name", ["gpu", "mps", "", "CPU"])
def test_unknown_device(name):
    with pytest.raises(ValueError, match=f"device must be auto, cpu, cuda or cuda:N, got '{name}'"):
        resolve_device(name)


def test_a_model_is_where_its_weights_are():
    model = build()
    assert model.device == torch.device("cpu")
    assert model.to("meta").device == torch.device("meta")


# -------------------------------------------------------------------------------------------------- learning


def test_a_model_learns_what_only_the_tree_tells():
    """Two trees over the same words, one label each: a bag of words could not tell them apart."""
    torch.manual_seed(0)
    model = NLIModel(4, 2, n_sides=1, embedding_size=8, hidden_size=8, mlp_size=16, dropout=0.0)
    batch = plain_batch([[[2, 3, 2]]] * 2, labels=[0, 1])
    transitions = padded([[0, 0, 1, 0, 1], [0, 0, 0, 1, 1]])
    optimizer = torch.optim.Adam(model.parameters(), lr=0.02)
    first = last = math.nan
    for step in range(80):
        loss = F.cross_entropy(model(batch, transitions), batch.labels)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        last = loss.item()
        first = last if step == 0 else first
    assert first > 0.6
    assert last < 0.05
