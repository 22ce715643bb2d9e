"""Sequence encoders agree with loops over single sentences, word by word."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor, nn

from rlparse.models.sequence_encoders import (
    CELLS,
    SEQUENCE_ENCODERS,
    BagOfWords,
    PeepholeLSTM,
    RecurrentEncoder,
    build_sequence_encoder,
)

E, D = 3, 2
LENGTHS = [4, 1, 6, 2, 6, 3]


def build(name: str, *, seed: int = 0, **options) -> BagOfWords | RecurrentEncoder:
    """An encoder in double precision with weights large enough to matter."""
    torch.manual_seed(seed)
    encoder = build_sequence_encoder(name, E, D, **options).double()
    with torch.no_grad():
        for parameter in encoder.parameters():
            parameter.normal_(std=0.7)
    return encoder


def sentences(lengths: list[int] = LENGTHS, seed: int = 0) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(seed)
    words = torch.randn(len(lengths), max(lengths), E, generator=generator, dtype=torch.float64)
    return words.requires_grad_(), torch.tensor(lengths)


def slow_step(network: nn.Module, x: Tensor, h: Tensor, c: Tensor) -> tuple[Tensor, Tensor]:
    """Read one word, after the textbook: [E], [D], [D] to hidden and cell."""
    if isinstance(network, PeepholeLSTM):
        p_i, p_f, p_o = network.peepholes
        a = network.weight_ih @ x + network.weight_hh @ h + network.bias
        i, f = torch.sigmoid(a[:D] + p_i * c), torch.sigmoid(a[D : 2 * D] + p_f * c)
        c = f * c + i * torch.tanh(a[2 * D : 3 * D])
        return torch.sigmoid(a[3 * D :] + p_o * c) * torch.tanh(c), c
    w_x, w_h, b_x, b_h = (getattr(network, f"{name}_l0") for name in WEIGHTS)
    x, h_in = w_x @ x + b_x, w_h @ h + b_h
    if isinstance(network, nn.RNN):
        return torch.tanh(x + h_in), c
    if isinstance(network, nn.LSTM):
        i, f, g, o = (x + h_in).chunk(4)
        c = torch.sigmoid(f) * c + torch.sigmoid(i) * torch.tanh(g)
        return torch.sigmoid(o) * torch.tanh(c), c
    assert isinstance(network, nn.GRU)
    (x_r, x_z, x_n), (h_r, h_z, h_n) = x.chunk(3), h_in.chunk(3)
    z = torch.sigmoid(x_z + h_z)
    return (1 - z) * torch.tanh(x_n + torch.sigmoid(x_r + h_r) * h_n) + z * h, c


WEIGHTS = ("weight_ih", "weight_hh", "bias_ih", "bias_hh")


def slow_reading(network: nn.Module, words: list[Tensor], truncate: int) -> Tensor:
    h = c = torch.zeros(D, dtype=torch.float64)
    for k, word in enumerate(words):
        if truncate and k == len(words) - truncate:
            h, c = h.detach(), c.detach()
        h, c = slow_step(network, word, h, c)
    return h


def slow_encode(encoder: BagOfWords | RecurrentEncoder, words: Tensor, lengths: Tensor) -> Tensor:
    vectors = []
    for row, n in zip(words, lengths.tolist(), strict=True):
        sentence = list(row[:n])
        if isinstance(encoder, BagOfWords):
            linear = encoder.project
            vectors.append(sum(torch.tanh(linear.weight @ word + linear.bias) for word in sentence))
            continue
        vector = slow_reading(encoder.onward, sentence, encoder.truncate)
        if encoder.reverse is not None:
            vector = torch.cat((vector, slow_reading(encoder.reverse, sentence[::-1], encoder.truncate)))
        vectors.append(vector)
    return torch.stack(vectors)


def assert_same_with_gradients(encoder, words: Tensor, lengths: Tensor) -> None:
    fast, slow = encoder(words, lengths), slow_encode(encoder, words, lengths)
    assert fast.shape == (len(lengths), encoder.output_size)
    torch.testing.assert_close(fast, slow, rtol=0, atol=1e-12)
    weights = torch.randn(fast.shape, generator=torch.Generator().manual_seed(1), dtype=fast.dtype)
    wanted = [words, *encoder.parameters()]
    for_fast, for_slow = (torch.autograd.grad((vectors * weights).sum(), wanted) for vectors in (fast, slow))
    torch.testing.assert_close(for_fast, for_slow, rtol=0, atol=1e-12)


@pytest.mark.parametrize("lengths", [LENGTHS, [1], [3, 3, 3], [1, 5]])
def test_a_bag_of_words_is_the_sum_of_its_words(lengths):
    assert_same_with_gradients(build("bag_of_words"), *sentences(lengths))


@pytest.mark.parametrize("name", CELLS)
@pytest.mark.parametrize("bidirectional", [False, True])
@pytest.mark.parametrize("truncate", [0, 1, 2, 5, 6, 100])
def test_vectors_and_gradients_agree_with_one_word_at_a_time(name, bidirectional, truncate):
    assert_same_with_gradients(build(name, bidirectional=bidirectional, truncate=truncate), *sentences())


@pytest.mark.parametrize("lengths", [[1], [3, 3, 3], [1, 5], [7, 6, 5, 4, 3, 2, 1]])
@pytest.mark.parametrize("truncate", [0, 2])
def test_a_peephole_lstm_reads_batches_of_any_lengths(lengths, truncate):
    encoder = build("peephole_lstm", bidirectional=True, truncate=truncate)
    assert_same_with_gradients(encoder, *sentences(lengths))


def test_peepholes_look_at_the_cell():
    """Without them the gates are an LSTM's; with them the cell alone can tell two states apart."""
    torch.manual_seed(0)
    peephole, plain = PeepholeLSTM(E, D).double(), nn.LSTM(E, D).double()
    with torch.no_grad():
        plain.weight_ih_l0.copy_(peephole.weight_ih)
        plain.weight_hh_l0.copy_(peephole.weight_hh)
        plain.bias_ih_l0.copy_(peephole.bias)
        plain.bias_hh_l0.zero_()
    words, lengths = sentences([5, 4])
    packed = nn.utils.rnn.pack_padded_sequence(words, lengths, batch_first=True)
    (_, (expected, _)), (_, (found, _)) = plain(packed), peephole(packed)
    assert (found - expected).abs().max() > 1e-3
    with torch.no_grad():
        peephole.peepholes.zero_()
    _, (found, cells) = peephole(packed)
    torch.testing.assert_close(found, expected, rtol=0, atol=1e-12)
    assert cells.shape == expected.shape == (1, 2, D)


def test_a_peephole_lstm_starts_as_torch_starts_its_own():
    torch.manual_seed(0)
    bound = 1 / math.sqrt(50)
    for parameter in PeepholeLSTM(40, 50).parameters():
        assert parameter.abs().max() <= bound
        assert parameter.mean().abs() < bound / 5
        assert parameter.abs().max() > 0.9 * bound


@pytest.mark.parametrize("options", [{}, {"bidirectional": True}, {"bidirectional": True, "truncate": 2}])
@pytest.mark.parametrize("name", SEQUENCE_ENCODERS)
def test_padding_and_batch_order_change_no_vector(name, options):
    encoder = build(name, **(options if name != "bag_of_words" else {}))
    words, lengths = sentences()
    vectors = encoder(words, lengths)
    padding = torch.arange(words.shape[1]) >= lengths.unsqueeze(1)
    spoilt = words.detach().masked_fill(padding.unsqueeze(2), math.inf)
    wider = torch.cat((spoilt, torch.full((len(lengths), 3, E), math.nan, dtype=torch.float64)), dim=1)
    assert torch.equal(encoder(wider, lengths), vectors)
    for row, n in enumerate(LENGTHS):
        alone = encoder(words[row : row + 1, :n], lengths[row : row + 1])
        torch.testing.assert_close(alone[0], vectors[row], rtol=0, atol=1e-12)
    order = torch.tensor([3, 0, 5, 1, 2, 4])
    shuffled = encoder(words[order], lengths[order])
    torch.testing.assert_close(shuffled, vectors[order], rtol=0, atol=1e-12)


@pytest.mark.parametrize("name", SEQUENCE_ENCODERS)
def test_only_a_bag_does_not_care_for_the_order_of_words(name):
    encoder = build(name)
    words, lengths = sentences([4])
    difference = (encoder(words.flip(1), lengths) - encoder(words, lengths)).abs().max()
    assert (difference < 1e-12) == (name == "bag_of_words")


@pytest.mark.parametrize("name", CELLS)
def test_truncation_keeps_the_vectors_and_stops_the_gradient(name):
    words, lengths = sentences()
    whole, truncated = build(name), build(name, truncate=2)
    assert torch.equal(whole(words, lengths), truncated(words, lengths))
    (gradient,) = torch.autograd.grad(truncated(words, lengths).sum(), words)
    reached = gradient.abs().sum(2) > 0
    steps = torch.arange(words.shape[1])
    last, end = (lengths - 2).unsqueeze(1), lengths.unsqueeze(1)
    assert torch.equal(reached, (steps >= last) & (steps < end))


@pytest.mark.parametrize("name", CELLS)
def test_a_backward_reading_learns_from_the_first_words(name):
    words, lengths = sentences()
    encoder = build(name, bidirectional=True, truncate=2)
    (gradient,) = torch.autograd.grad(encoder(words, lengths)[:, D:].sum(), words)
    steps = torch.arange(words.shape[1])
    assert torch.equal(gradient.abs().sum(2) > 0, (steps < 2) & (steps < lengths.unsqueeze(1)))


@pytest.mark.parametrize("name", SEQUENCE_ENCODERS)
@pytest.mark.parametrize("device", ["cpu", pytest.param("cuda", marks=pytest.mark.gpu)])
def test_single_precision_is_close_on_every_device(name, device):
    options = {} if name == "bag_of_words" else {"bidirectional": True, "truncate": 3}
    encoder = build(name, **options)
    words, lengths = sentences()
    expected = encoder(words, lengths)
    moved = encoder.float().to(device)(words.detach().float().to(device), lengths.to(device))
    assert moved.device.type == device
    torch.testing.assert_close(moved.double().cpu(), expected, rtol=0, atol=1e-4)


def accuracy_on_order(name: str, **options) -> float:
    """Train to tell `a b` from `b a`, each within three to six words of no meaning, and count what is learned."""
    generator = torch.Generator().manual_seed(0)
    lengths = torch.randint(3, 7, (64,), generator=generator)
    words = torch.randn(64, 6, E, generator=generator) * 0.1
    labels = torch.arange(64) % 2
    words[:, 0, 0], words[torch.arange(64), lengths - 1, 0] = 1.0 - 2.0 * labels, 2.0 * labels - 1.0
    torch.manual_seed(0)
    encoder = build_sequence_encoder(name, E, 8, **options)
    classify = nn.Linear(encoder.output_size, 1)
    optimizer = torch.optim.Adam([*encoder.parameters(), *classify.parameters()], lr=0.05)
    for _ in range(60):
        scores = classify(encoder(words, lengths)).squeeze(1)
        optimizer.zero_grad()
        nn.functional.binary_cross_entropy_with_logits(scores, labels.float()).backward()
        optimizer.step()
    return float(((scores > 0) == labels.bool()).float().mean())


@pytest.mark.parametrize("options", [{}, {"bidirectional": True, "truncate": 2}])
@pytest.mark.parametrize("name", CELLS)
def test_recurrent_encoders_learn_the_order_of_words(name, options):
    assert accuracy_on_order(name, **options) > 0.98


def test_a_bag_of_words_does_not():
    assert accuracy_on_order("bag_of_words") < 0.9


def test_unknown_names():
    with pytest.raises(
        ValueError, match="unknown sequence encoder 'cnn'; known: bag_of_words, rnn, lstm, gru, p"
    ):
        build_sequence_encoder("cnn", E, D)
    with pytest.raises(
        ValueError, match="unknown recurrent cell 'cnn'; known: rnn, lstm, gru, peephole_lstm"
    ):
        RecurrentEncoder("cnn", E, D)


def test_truncation_counts_words():
    with pytest.raises(ValueError, match=r"truncate counts words and must be 0 \(never\) or more, got -1"):
        build_sequence_encoder("gru", E, D, truncate=-1)


@pytest.mark.parametrize(("option", "value"), [("bidirectional", True), ("truncate", 3)])
def test_a_bag_has_no_order_to_read_in(option, value):
    message = (
        f"architecture='bag_of_words' reads words in no order, so {option}={value!r} means nothing to it"
    )
    with pytest.raises(ValueError, match=message):
        build_sequence_encoder("bag_of_words", E, D, **{option: value})
