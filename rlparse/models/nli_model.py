"""The classifier that rewards parses: embeddings, an encoder, and a head for pairs or for single sentences."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from rlparse import lockstep
from rlparse.corpora.batching import Batch
from rlparse.lockstep import Trace
from rlparse.models.composition import build_composition
from rlparse.models.sequence_encoders import (
    CELLS,
    SEQUENCE_ENCODERS,
    BagOfWords,
    RecurrentEncoder,
    build_sequence_encoder,
)
from rlparse.models.stack_machine import Encoding, StackMachine, distinct_words
from rlparse.models.tracker import Tracker

ARCHITECTURES = ("tree", *SEQUENCE_ENCODERS)
"""How `NLIModel` may encode a sentence."""


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

    def pair_crosswise(self, vectors: Tensor, n_parses: int, *, dropout: bool | None = None) -> Tensor:
        """Score every parse of a premise with every parse of its hypothesis: K * K examples of 2 K encodings.

        Args:
            vectors: [2 * B * K, D] float, row s * B * K + b * K + k is parse k of sentence s of example b.
            n_parses: K.
            dropout: Force dropout on or off; None follows ``training``.

        Returns:
            [B * K * K, C] float logits; row (b * K + i) * K + j is premise parse i with hypothesis parse j.

        Raises:
            ValueError: The head is for single sentences, or the rows are not those of K parses of pairs.
        """
        if self.n_sides != 2:
            raise ValueError("only pairs can be scored crosswise, this head is for single sentences")
        if n_parses < 1 or len(vectors) % (2 * n_parses):
            raise ValueError(
                f"vectors must have 2 * B * K rows with K = {n_parses} parses of each sentence, got {len(vectors)}"
            )
        p, h = vectors.view(2, -1, n_parses, vectors.shape[1]).unbind(0)  # [B, K, D]
        shape = (-1, n_parses, n_parses, -1)
        pairs = torch.stack((p.unsqueeze(2).expand(shape), h.unsqueeze(1).expand(shape)))
        logits: Tensor = self(pairs.flatten(0, 3), dropout=dropout)
        return logits


class NLIModel(nn.Module):
    """Embed the tokens, encode every sentence, classify the example.

    The encoder composes a sentence along its derivation, or, for controls, reads its words in their order and no tree.

    Args:
        n_tokens: Size of the vocabulary; id 0 is padding.
        n_classes: C.
        n_sides: 2 for NLI pairs, 1 for single sentences.
        embedding_size: E.
        embedding_std: Standard deviation of the untrained word embeddings. Small ones (0.1) keep the many rare words
            of natural language from drowning what is learned; a dozen symbols want 1.
        embedding_dropout: Probability of zeroing an entry of a word's vector while training, see `embed`.
        hidden_size: D, of each direction where there are two.
        architecture: ``tree``, or one of `rlparse.models.sequence_encoders`, which read no tree: ``bag_of_words``,
            ``rnn``, ``lstm``, ``gru``, ``peephole_lstm``.
        bidirectional: Read from both ends; vectors are 2 D wide then. Recurrent architectures only.
        truncate: Words that back-propagation through time goes back, 0 for all. Recurrent architectures only.
        composition: ``tree_rnn``, ``tree_lstm`` or ``gated``.
        layer_norm: None keeps the composition's own default.
        tracker_size: Width of a tracker that feeds the composition (SPINN), 0 for none.
        mlp_size: Width of the head's hidden layer.
        dropout: In the head.
        schedule: ``by_step`` or ``by_level``: same values, different grouping of the work.
        hide_premise: Encode premises as zeros: the hypothesis-only control.

    Attributes:
        machine: What composes trees; only where ``architecture`` is ``tree``.
        sequence: What reads words; None where ``architecture`` is ``tree``.

    Raises:
        ValueError: The architecture is unknown, or an option does not fit another.
    """

    machine: StackMachine

    def __init__(
        self,
        n_tokens: int,
        n_classes: int,
        *,
        n_sides: int = 2,
        embedding_size: int = 100,
        embedding_std: float = 1.0,
        embedding_dropout: float = 0.0,
        hidden_size: int = 100,
        architecture: str = "tree",
        bidirectional: bool = False,
        truncate: int = 0,
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
            raise ValueError(
                "hide_premise needs pairs of sentences, this corpus has single ones; leave it out"
            )
        if architecture not in ARCHITECTURES:
            raise ValueError(f"unknown architecture {architecture!r}; known: {', '.join(ARCHITECTURES)}")
        self.n_sides = n_sides
        self.hide_premise = hide_premise
        self.architecture = architecture
        if not 0.0 <= embedding_dropout < 1.0:
            raise ValueError(f"embedding_dropout must be in [0, 1), got {embedding_dropout}")
        self.embedding_dropout = embedding_dropout
        self.embedding = nn.Embedding(n_tokens, embedding_size, padding_idx=0)
        with torch.no_grad():
            self.embedding.weight.mul_(embedding_std)
        self.sequence: BagOfWords | RecurrentEncoder | None = None
        if architecture == "tree":
            for option, wanted in (("bidirectional", bidirectional), ("truncate", truncate)):
                if wanted:
                    raise ValueError(
                        f"architecture='tree' composes along a derivation, so {option}={wanted!r} means nothing to it; "
                        f"leave {option} out or take one of {', '.join(CELLS)}"
                    )
            cell = build_composition(
                composition, embedding_size, hidden_size, tracker_size=tracker_size, layer_norm=layer_norm
            )
            tracker = Tracker(hidden_size, tracker_size) if tracker_size else None
            self.machine = StackMachine(cell, tracker, schedule=schedule)
            self.vector_size = hidden_size
        else:
            for option, wanted in (("tracker_size", tracker_size), ("layer_norm", bool(layer_norm))):
                if wanted:
                    raise ValueError(
                        f"architecture={architecture!r} composes nothing, so {option}={wanted!r} means nothing to it; "
                        f"leave {option} out or take architecture='tree'"
                    )
            self.sequence = build_sequence_encoder(
                architecture,
                embedding_size,
                hidden_size,
                bidirectional=bidirectional,
                truncate=truncate,
            )
            self.vector_size = self.sequence.output_size
        self.head = ClassifierHead(self.vector_size, n_sides, n_classes, mlp_size=mlp_size, dropout=dropout)

    @property
    def reads_trees(self) -> bool:
        """Whether the parses make a difference to this model."""
        return self.sequence is None

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

    def embed(self, types: Tensor) -> Tensor:
        """Give the vectors of words, while training with dropout.

        A word loses the same entries wherever it stands in the batch, as in Gal & Ghahramani 2016, "A Theoretically
        Grounded Application of Dropout in Recurrent Neural Networks": so equal phrases stay equal, and all parses of a
        sentence are compared under the same noise.

        Args:
            types: [U] int64, every word once.

        Returns:
            [U, E] float.
        """
        vectors: Tensor = self.embedding(types)
        if self.embedding_dropout and self.training:
            vectors = F.dropout(vectors, self.embedding_dropout)
        return vectors

    def encode(self, tokens: Tensor, trace: Trace) -> Tensor:
        """Encode sentences along their derivations, or word by word.

        Args:
            tokens: [R, N] int64.
            trace: What `lockstep.trace` makes of the derivations; a model that reads no trees takes only the lengths
                from it.

        Returns:
            [R, D] float, D being ``vector_size``. Hidden vector of each sentence's root, or after its last word.
        """
        vectors: Tensor
        types, words = distinct_words(tokens, self.embedding.num_embeddings)
        if self.sequence is None:
            encoding: Encoding = self.machine(self.embed(types), trace, words)
            vectors = encoding.roots
        else:
            vectors = self.sequence(self.embed(types)[words], trace.lengths)
        return self.shown(vectors)

    def shown(self, vectors: Tensor) -> Tensor:
        """Give what the head is shown of sentences' vectors, [R, D]: zeros for premises that are to be hidden."""
        if not self.hide_premise:
            return vectors
        premises, hypotheses = vectors.chunk(2)
        return torch.cat((torch.zeros_like(premises), hypotheses))

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
