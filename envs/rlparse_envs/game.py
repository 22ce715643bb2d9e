"""What the parsing game is played with, however many parsers play it: examples, rewards, what may be typed."""

from __future__ import annotations

import functools
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, Literal, NamedTuple

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from rlparse.corpora.batching import Batch
from rlparse.corpora.corpus import Corpus
from rlparse.corpora.examples import Example, Sentence
from rlparse.corpora.logic import embedded_logic
from rlparse.corpora.tokenizer import tokenize
from rlparse.transitions import Transition
from rlparse.trees import parse_binary
from rlparse.vocabulary import Vocabulary
from rlparse_envs.observations import GameSize
from rlparse_envs.rendering import bracketed
from rlparse_envs.rewards import (
    AccuracyReward,
    BranchingF1Reward,
    GoldF1Reward,
    LogLikelihoodReward,
    ModelReward,
    Reward,
    RewardName,
    make_reward,
)

if TYPE_CHECKING:
    from rlparse.models.nli_model import NLIModel

Order = Literal["random", "sequential"]
FloatArray = npt.NDArray[np.float64]

EMBEDDED_EXAMPLES = 1000
TYPED = -1
"""Stands where the index of a corpus example would, for an example that was typed in."""

OPTIONS = ("example", "sentences", "label")
_ROLES = {1: ("sentence",), 2: ("premise", "hypothesis")}


@functools.cache
def embedded_corpus() -> Corpus:
    """Generate the corpus of an environment that is given none: pairs of formulas, the same every time."""
    return embedded_logic(EMBEDDED_EXAMPLES, 1, 1, seed=0)[0]


class Played(NamedTuple):
    """One example to parse.

    Attributes:
        position: In the corpus, or TYPED.
        sentences: Its words, with gold parses where known.
        label: None for a typed example without one.
        batch: The same as one-example tensors.
    """

    position: int
    sentences: tuple[Sentence, ...]
    label: str | None
    batch: Batch


class Verdict(NamedTuple):
    """What the finished parses of B examples are worth.

    Attributes:
        rewards: [B].
        model_parts: "accuracy" and "log_likelihood", each [B], where a model was asked.
        predictions: [B] class indices that the model gives, or None.
        successes: [B] bool, or None where the reward does not tell.
    """

    rewards: FloatArray
    model_parts: dict[str, FloatArray]
    predictions: npt.NDArray[np.int64] | None
    successes: npt.NDArray[np.bool_] | None


class Game:
    """The corpus, the reward and the size of a game; see `ShiftReduceEnv` for what the arguments mean.

    Attributes:
        eligible: Positions of the examples that may be drawn.
        size: What fixes the shapes of observations.
    """

    def __init__(
        self,
        corpus: Corpus | None,
        *,
        reward: RewardName | str | Reward,
        model: NLIModel | None,
        order: Order,
        max_tokens: int | None,
    ) -> None:
        if order not in ("random", "sequential"):
            raise ValueError(f"order must be random or sequential, got {order!r}")
        self.order = order
        self.reward = make_reward(reward, model)
        self.reward_name = reward if isinstance(reward, str) else _name_of(reward)
        self.model = model
        # Whom to ask for the class: the reward's own model, else the one that is there.
        self._asked: ModelReward | None = None
        if isinstance(self.reward, ModelReward):
            self._asked = self.reward
        elif model is not None:
            self._asked = AccuracyReward(model)
        self.corpus = _with_vocabulary(embedded_corpus() if corpus is None else corpus, model)
        longest = self.corpus.lengths.max(axis=1)  # [n]
        self.max_tokens = int(longest.max()) if max_tokens is None else max_tokens
        if self.max_tokens < 1:
            raise ValueError(f"max_tokens must be at least 1, got {max_tokens}")
        self.eligible = self._find_eligible(longest)
        if model is not None:
            _check_fit(model, self.corpus, len(self.vocabulary))
        self.size = GameSize(self.max_tokens, self.corpus.n_sides, len(self.vocabulary))

    @property
    def vocabulary(self) -> Vocabulary:
        """Of the corpus."""
        assert self.corpus.vocabulary is not None
        return self.corpus.vocabulary

    def _find_eligible(self, longest: npt.NDArray[np.int64]) -> npt.NDArray[np.int64]:
        """Positions of the examples that may be drawn."""
        short = longest <= self.max_tokens
        if not short.any():
            raise ValueError(
                f"corpus {self.corpus.name!r} has no example with at most max_tokens={self.max_tokens} "
                f"tokens a sentence; the shortest needs {int(longest.min())}"
            )
        if isinstance(self.reward, GoldF1Reward):
            short &= self.corpus.has_gold.all(axis=1)
            if not short.any():
                raise ValueError(
                    f"reward 'gold_f1' needs gold parses, but corpus {self.corpus.name!r} has no example "
                    f"with one for every sentence and at most {self.max_tokens} tokens a sentence"
                )
        return np.flatnonzero(short)

    def asked_for(self, options: Mapping[str, Any] | None) -> Played | None:
        """Find the example that reset options ask for; None where one is to be drawn.

        Raises:
            ValueError: Unknown options, or an example that this game cannot play.
            IndexError: No such example in the corpus.
            MalformedTreeError: A typed sentence begins with a bracket but is not a binary tree.
        """
        options = dict(options or {})
        unknown = [key for key in options if key not in OPTIONS]
        if unknown:
            raise ValueError(f"reset options are {', '.join(OPTIONS)}; got {', '.join(map(repr, unknown))}")
        if "sentences" in options:
            if "example" in options:
                raise ValueError("reset options name either an example of the corpus or sentences, got both")
            return self._typed(options["sentences"], options.get("label"))
        if "label" in options:
            raise ValueError("reset option 'label' belongs to 'sentences', which are missing")
        if "example" in options:
            return self.example(self._checked_position(options["example"]))
        return None

    def _checked_position(self, index: Any) -> int:
        """Check the position of an example that the caller chose."""
        if isinstance(index, bool) or not isinstance(index, (int, np.integer)):
            raise ValueError(f"reset option 'example' must be a position in the corpus (int), got {index!r}")
        position = int(index)
        if not 0 <= position < len(self.corpus):
            raise IndexError(
                f"reset option 'example' must be from 0 to {len(self.corpus) - 1} in corpus "
                f"{self.corpus.name!r}, got {position}"
            )
        if position not in self.eligible:
            lengths = self.corpus.lengths[position]
            why = (
                f"it has {int(lengths.max())} tokens in a sentence, max_tokens is {self.max_tokens}"
                if lengths.max() > self.max_tokens
                else "reward 'gold_f1' needs a gold parse of every sentence"
            )
            raise ValueError(f"example {position} of corpus {self.corpus.name!r} cannot be played: {why}")
        return position

    def example(self, index: int) -> Played:
        """Take one example of the corpus."""
        sentences, label = self.corpus.example(index)
        return Played(index, sentences, label, self.corpus.batch([index]))

    def _typed(self, texts: Any, label: str | None) -> Played:
        """Read an example that the caller typed."""
        n_sides, labels = self.corpus.n_sides, self.corpus.labels
        if (
            isinstance(texts, str)
            or not isinstance(texts, Sequence)
            or not all(isinstance(t, str) for t in texts)
        ):
            raise ValueError(f"reset option 'sentences' must be a list of {n_sides} texts, got {texts!r}")
        if len(texts) != n_sides:
            raise ValueError(
                f"reset option 'sentences' must have {n_sides} ({' and '.join(roles(n_sides))}) in corpus "
                f"{self.corpus.name!r}, got {len(texts)}"
            )
        if label is None and isinstance(self.reward, ModelReward):
            raise ValueError(
                f"reward {self.reward_name!r} needs the right class of typed sentences: "
                f"reset option 'label', one of {', '.join(labels)}"
            )
        if label is not None and label not in labels:
            raise ValueError(f"reset option 'label' must be one of {', '.join(labels)}, got {label!r}")
        sentences = tuple(self._read(text, role) for text, role in zip(texts, roles(n_sides), strict=True))
        example = Example(sentences, labels[0] if label is None else label)
        corpus = Corpus.from_examples([example], labels=labels, name="typed").with_vocabulary(self.vocabulary)
        batch = corpus.batch([0])._replace(indices=torch.tensor([TYPED]))
        return Played(TYPED, sentences, label, batch)

    def _read(self, text: str, role: str) -> Sentence:
        """Turn a typed text into a sentence, with its gold parse if it has brackets."""
        words = tuple(text.split())
        if not words:
            raise ValueError(f"the {role} has no words: {text!r}")
        if words[0] == "(" and words[-1] == ")":
            sentence = Sentence(*parse_binary(text))
        elif all(word in self.vocabulary for word in words):
            sentence = Sentence(words)
        else:
            sentence = Sentence(tuple(tokenize(text)))
        if len(sentence.tokens) == 1:  # there is only one tree over one word
            sentence = sentence._replace(transitions=(int(Transition.SHIFT),))
        if len(sentence.tokens) > self.max_tokens:
            raise ValueError(
                f"the {role} has {len(sentence.tokens)} tokens, this environment takes {self.max_tokens}; "
                f"make it with max_tokens={len(sentence.tokens)} or more"
            )
        if sentence.transitions is None and isinstance(self.reward, GoldF1Reward):
            raise ValueError(
                f"reward 'gold_f1' needs a gold parse, but the {role} has none: type it in brackets, such as "
                "'( ( a man ) sleeps )', or use another reward"
            )
        return sentence

    def judge(self, batch: Batch, transitions: Tensor, *, labelled: bool = True) -> Verdict:
        """Give finished examples their rewards, and tell what a model said.

        Args:
            batch: B examples of the corpus, or typed ones.
            transitions: [R, T] int64. One complete derivation a row, PAD after its end.
            labelled: Their classes are known; False only where typed ones came without.

        Raises:
            ValueError: The reward is not a finite tensor [B].
        """
        model_parts: dict[str, FloatArray] = {}
        predictions = successes = None
        with torch.no_grad():
            asked = self._asked if labelled else None
            if asked is not None:
                logits = asked.logits(batch, transitions)
                labels = batch.labels.to(logits.device)
                model_parts["accuracy"] = _as_floats(AccuracyReward.from_logits(logits, labels))
                model_parts["log_likelihood"] = _as_floats(LogLikelihoodReward.from_logits(logits, labels))
                predictions = logits.argmax(dim=1).cpu().numpy()
                successes = model_parts["accuracy"] == 1.0
            if isinstance(self.reward, ModelReward):
                values = self.reward.from_logits(logits, labels)
            else:
                values = self.reward(batch, transitions)
        rewards = self._checked(values, batch.n_examples)
        if successes is None and isinstance(self.reward, (GoldF1Reward, BranchingF1Reward)):
            successes = rewards == 1.0
        return Verdict(rewards, model_parts, predictions, successes)

    def _checked(self, values: Any, n_examples: int) -> FloatArray:
        """Take the rewards out of what a reward returned."""
        if not isinstance(values, Tensor) or values.shape != (n_examples,):
            found = f"a tensor {tuple(values.shape)}" if isinstance(values, Tensor) else f"{values!r}"
            raise ValueError(
                f"reward {self.reward_name!r} must return a tensor [B], here [{n_examples}], got {found}"
            )
        rewards = _as_floats(values)
        if not np.isfinite(rewards).all():
            wrong = rewards[~np.isfinite(rewards)][0]
            raise ValueError(f"reward {self.reward_name!r} must be finite, got {wrong}")
        return rewards


def roles(n_sides: int) -> tuple[str, ...]:
    """Name the sentences of an example."""
    return _ROLES.get(n_sides) or tuple(f"sentence {side + 1}" for side in range(n_sides))


def parse_texts(
    sentences: Sequence[Sentence], derivations: tuple[tuple[int, ...], ...]
) -> dict[str, tuple[Any, ...]]:
    """Write what an episode built, and what the gold trees are, as ``info`` tells it at the end."""
    words = [sentence.tokens for sentence in sentences]
    return {
        "derivations": derivations,
        "parses": tuple(bracketed(w, d) for w, d in zip(words, derivations, strict=True)),
        "gold_parses": tuple(
            None if gold is None else bracketed(tokens, gold) for tokens, gold, _ in sentences
        ),
    }


def _as_floats(values: Tensor) -> FloatArray:
    return values.detach().double().cpu().numpy()


def _name_of(reward: Reward) -> str:
    """Give a callable's own name, for ``reward_parts`` and messages."""
    return str(getattr(reward, "__name__", type(reward).__name__))


def _with_vocabulary(corpus: Corpus, model: NLIModel | None) -> Corpus:
    """Return the corpus with a vocabulary: its own words, unless a model has to understand the indices."""
    if corpus.vocabulary is not None:
        return corpus
    if model is not None:
        raise ValueError(
            f"corpus {corpus.name!r} has to share the model's vocabulary: pass "
            "corpus.with_vocabulary(vocabulary)"
        )
    return corpus.with_vocabulary(Vocabulary.build(corpus.token_counts()))


def _check_fit(model: NLIModel, corpus: Corpus, n_types: int) -> None:
    """Raise unless the model was built for examples like those of the corpus."""
    pairs = {
        "vocabulary entries": (model.embedding.num_embeddings, n_types),
        "classes": (model.head.classify.out_features, len(corpus.labels)),
        "sentences per example": (model.n_sides, corpus.n_sides),
    }
    wrong = [f"{has} {what}, corpus {needs}" for what, (has, needs) in pairs.items() if has != needs]
    if wrong:
        raise ValueError(f"the model does not fit corpus {corpus.name!r}: model {'; model '.join(wrong)}")
