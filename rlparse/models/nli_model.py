"""The classifier that rewards parses: embeddings, a tree encoder, and a head for pairs or for single sentences."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from rlparse import lockstep
from rlparse.corpora.batching import Batch
from rlparse.lockstep import Trace
from rlparse.models.composition import build_composition
from rlparse.models.stack_machine import Encoding, StackMachine, distinct_words
from rlparse.models.tracker import Tracker


def resolve_device(name: str) -> torch.device:
    """Turn ``auto``, ``cpu`` or ``cuda`` (or ``cuda:1``) into a device; ``auto`` takes CUDA where there is one.

    Raises:
        ValueError: The name is none of these, or CUDA was asked for and is not there.
    """
    if name == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    kind = name.split(":")[0]
    if kind not in ("cpu", "cuda"):
        raise ValueError(f"device must be auto, cpu, cuda or cuda:N, got {name!r}")
    if kind == "cuda" and not torch.cuda.is_available():
        raise ValueError(
            f"device {name!r} was asked for, but torch sees no CUDA device; use device=auto or cpu"
        )
    return torch.device(name)


class ClassifierHead(nn.Module):
    """Classify one or two sentence vectors.

    A pair is joined as ``[p, h, |p - h|, p * h]`` (Mou et al. 2016), a single sentence is taken as it is; then an
    MLP of one ReLU layer with dropout before each linear map.

    Args:
        input_size: D.
        n_sides: Sentences an example has, 1 or 2.
        n_classes: C.
        mlp_size: Width of the hidden layer.
        dropout: Probability of zeroing an input of either linear map while training.

    Raises:
        ValueError: ``n_sides`` is neither 1 nor 2.
    """

    def __init__(
        self, input_size: int, n_sides: int, n_classes: int, *, mlp_size: int, dropout: float
    ) -> None:
        super().__init__()
        if n_sides not in (1, 2):
            raise ValueError(f"an example has 1 or 2 sentences, got n_sides={n_sides}")
        self.n_sides = n_sides
        self.dropout = dropout
        self.widen = nn.Linear(4 * input_size if n_sides == 2 else input_size, mlp_size)
        self.classify = nn.Linear(mlp_size, n_classes)

    def forward(self, vectors: Tensor, *, dropout: bool | None = None) -> Tensor:
        """Score the classes.

        Args:
            vectors: [R, D] float, R = S * B, side by side: all first sentences, then all second ones.
            dropout: Force dropout on or off; None follows ``training``.

        Returns:
            [B, C] float logits.
        """
        active = self.training if dropout is None else dropout
        if self.n_sides == 2:
            p, h = vectors.chunk(2)
            vectors = torch.cat((p, h, (p - h).abs(), p * h), dim=1)
        hidden = torch.relu(self.widen(F.dropout(vectors, self.dropout, active)))
        logits: Tensor = self.classify(F.dropout(hidden, self.dropout, active))
        return logits


class NLIModel(nn.Module):
    """Embed the tokens, compose every sentence along a derivation, classify the example.

    Args:
        n_tokens: Size of the vocabulary; id 0 is padding.
        n_classes: C.
        n_sides: 2 for NLI pairs, 1 for single sentences.
        embedding_size: E.
        embedding_std: Standard deviation of the untrained word embeddings. Small ones (0.1) keep the many rare words
            of natural language from drowning what is learned; a dozen symbols want 1.
        hidden_size: D.
        composition: ``tree_rnn``, ``tree_lstm`` or ``gated``.
        layer_norm: None keeps the composition's own default.
        tracker_size: Width of a tracker that feeds the composition (SPINN), 0 for none.
        mlp_size: Width of the head's hidden layer.
        dropout: In the head.
        schedule: ``by_step`` or ``by_level``: same values, different grouping of the work.
        hide_premise: Encode premises as zeros: the hypothesis-only control.
    """

    def __init__(
        self,
        n_tokens: int,
        n_classes: int,
        *,
        n_sides: int = 2,
        embedding_size: int = 100,
        embedding_std: float = 1.0,
        hidden_size: int = 100,
        composition: str = "tree_lstm",
        layer_norm: bool | None = None,
        tracker_size: int = 0,
        mlp_size: int = 256,
        dropout: float = 0.25,
        schedule: str = "by_level",
        hide_premise: bool = False,
    ) -> None:
        super().__init__()
        if hide_premise and n_sides != 2:
            raise ValueError("hide_premise needs pairs of sentences, this corpus has single ones")
        self.n_sides = n_sides
        self.hide_premise = hide_premise
        self.embedding = nn.Embedding(n_tokens, embedding_size, padding_idx=0)
        with torch.no_grad():
            self.embedding.weight.mul_(embedding_std)
        cell = build_composition(
            composition, embedding_size, hidden_size, tracker_size=tracker_size, layer_norm=layer_norm
        )
        tracker = Tracker(hidden_size, tracker_size) if tracker_size else None
        self.machine = StackMachine(cell, tracker, schedule=schedule)
        self.head = ClassifierHead(hidden_size, n_sides, n_classes, mlp_size=mlp_size, dropout=dropout)

    @property
    def device(self) -> torch.device:
        """Where the weights are."""
        return self.embedding.weight.device

    def set_embeddings(self, vectors: Tensor, *, trainable: bool = True) -> None:
        """Start from given word vectors.

        Args:
            vectors: [V, E] float, one for every vocabulary entry.
            trainable: Go on learning them.

        Raises:
            ValueError: The shape is another one than the embedding's.
        """
        if vectors.shape != self.embedding.weight.shape:
            raise ValueError(
                f"word vectors must be {tuple(self.embedding.weight.shape)} (vocabulary x embedding size), "
                f"got {tuple(vectors.shape)}"
            )
        with torch.no_grad():
            self.embedding.weight.copy_(vectors)
            self.embedding.weight[0] = 0.0
        self.embedding.weight.requires_grad_(trainable)

    def encode(self, tokens: Tensor, trace: Trace) -> Tensor:
        """Encode sentences along their derivations.

        Args:
            tokens: [R, N] int64.
            trace: What `lockstep.trace` makes of the derivations.

        Returns:
            [R, D] float. Hidden vector of each sentence's root.
        """
        types, words = distinct_words(tokens, self.embedding.num_embeddings)
        encoding: Encoding = self.machine(self.embedding(types), trace, words)
        vectors = encoding.roots
        if self.hide_premise:
            premises, hypotheses = vectors.chunk(2)
            vectors = torch.cat((torch.zeros_like(premises), hypotheses))
        return vectors

    def forward(self, batch: Batch, transitions: Tensor) -> Tensor:
        """Classify examples as parsed by ``transitions``.

        Args:
            batch: Of R = S * B rows.
            transitions: [R, T] int derivations.

        Returns:
            [B, C] float logits.
        """
        logits: Tensor = self.head(self.encode(batch.tokens, lockstep.trace(transitions, batch.lengths)))
        return logits
