"""Rewards: what the finished parses of an example are worth. Higher is better, and never a gradient."""

from __future__ import annotations

import math
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, ClassVar, Literal, Protocol

import torch
from torch import Tensor
from torch.nn import functional as F

from rlparse.batched_trees import BRANCHINGS, Branching, bracketing_f1
from rlparse.corpora.batching import Batch
from rlparse.parse_scores import Convention, find_convention

if TYPE_CHECKING:
    from rlparse.models.nli_model import NLIModel

RewardName = Literal["gold_f1", "accuracy", "log_likelihood", "clipped_log_likelihood", "surprisal", "margin"]


class Reward(Protocol):
    """Anything that judges complete derivations of a whole batch at once."""

    def __call__(self, batch: Batch, transitions: Tensor) -> Tensor:
        """Judge every example.

        Args:
            batch: R = S * B rows, S sentences of each of B examples.
            transitions: [R, T] int64. One complete derivation a row, PAD after its end.

        Returns:
            [B] float32. Higher is better.
        """
        ...


@contextmanager
def _evaluating(model: torch.nn.Module) -> Iterator[None]:
    """Switch dropout off without gradients, and leave every submodule's mode as it was."""
    training = [module for module in model.modules() if module.training]
    try:
        for module in training:
            module.training = False
        with torch.no_grad():
            yield
    finally:
        for module in training:
            module.training = True


class ModelReward:
    """What the classifier says on top of the parses; the subclasses read it differently.

    The model always judges in evaluation mode, so that the same parses earn the same reward.

    Args:
        model: Encodes derivations and classifies the example; its batches come from its own vocabulary.
    """

    def __init__(self, model: NLIModel) -> None:
        self.model = model

    @staticmethod
    def from_logits(logits: Tensor, labels: Tensor) -> Tensor:
        """Turn logits that are already there into rewards."""
        raise NotImplementedError

    def logits(self, batch: Batch, transitions: Tensor) -> Tensor:
        """Classify every example under these parses.

        Returns:
            [B, C] float32, on the model's device.
        """
        with _evaluating(self.model):
            logits: Tensor = self.model(batch.to(self.model.device), transitions.to(self.model.device))
        return logits

    def __call__(self, batch: Batch, transitions: Tensor) -> Tensor:
        """Judge every example; see `Reward`."""
        logits = self.logits(batch, transitions)
        return self.from_logits(logits, batch.labels.to(logits.device))


class AccuracyReward(ModelReward):
    """1 where the model finds the right class from these parses, else 0."""

    @staticmethod
    def from_logits(logits: Tensor, labels: Tensor) -> Tensor:
        """Reward logits that are already there, as a training step has them.

            R[b] = [argmax_c logits[b, c] == labels[b]]

        Args:
            logits: [B, C] float.
            labels: [B] int64.

        Returns:
            [B] float32, 0 or 1, without gradient.
        """
        return (logits.detach().argmax(dim=1) == labels).float()


class LogLikelihoodReward(ModelReward):
    """The log-probability, in nats, that the model gives the right class: -log(C) for a blind guess."""

    @staticmethod
    def from_logits(logits: Tensor, labels: Tensor) -> Tensor:
        """Reward logits that are already there, as a training step has them.

            R[b] = log softmax(logits[b])[labels[b]]

        Args:
            logits: [B, C] float.
            labels: [B] int64.

        Returns:
            [B] float32, without gradient.
        """
        return -F.cross_entropy(logits.detach().float(), labels, reduction="none")


class ClippedLogLikelihoodReward(LogLikelihoodReward):
    """The log-probability of the right class, but never less than `LEAST`.

    The few examples that a model is sure to have right and has wrong would otherwise drown all others, above all where
    advantages are divided by their spread.
    """

    LEAST: ClassVar[float] = -4.0
    """In nats: a probability of 1.8 %."""

    @staticmethod
    def from_logits(logits: Tensor, labels: Tensor) -> Tensor:
        """Reward logits that are already there, as a training step has them.

            R[b] = max(log softmax(logits[b])[labels[b]], LEAST)

        Args:
            logits: [B, C] float.
            labels: [B] int64.

        Returns:
            [B] float32 from `LEAST` to 0, without gradient.
        """
        rewards = LogLikelihoodReward.from_logits(logits, labels)
        return rewards.clamp_min(ClippedLogLikelihoodReward.LEAST)


class SurprisalReward(ModelReward):
    """How surprising it would be, in nats, to see any other class: RL-SPINN's second reward.

    Accuracy ends at 1 and log-likelihood at 0; this one goes on growing with confidence, and steeply where the model
    is nearly certain: an example that is almost mastered counts most. -log(1 - 1 / C) for a blind guess.

    Reference: Williams et al. 2018, "Do Latent Tree Learning Models Identify Meaningful Structure in Sentences?"
    """

    LARGEST: ClassVar[float] = -math.log(torch.finfo(torch.float32).eps)
    """About 15.9: the surprisal of what float32 cannot tell from certainty. Rewards beyond it are cut to it."""

    @staticmethod
    def from_logits(logits: Tensor, labels: Tensor) -> Tensor:
        """Reward logits that are already there, as a training step has them.

            R[b] = min(-log(1 - softmax(logits[b])[labels[b]]), LARGEST)

        Args:
            logits: [B, C] float.
            labels: [B] int64.

        Returns:
            [B] float32 from 0 to `LARGEST`, without gradient.
        """
        logits = logits.detach().float()
        others = logits.scatter(1, labels.unsqueeze(1), -math.inf)
        surprisal = logits.logsumexp(dim=1) - others.logsumexp(dim=1)
        return surprisal.clamp(0.0, SurprisalReward.LARGEST)


class MarginReward(ModelReward):
    """By how much probability the right class leads the best other one: positive where the model is right."""

    @staticmethod
    def from_logits(logits: Tensor, labels: Tensor) -> Tensor:
        """Reward logits that are already there, as a training step has them.

            p = softmax(logits[b]),   R[b] = p[y] - max_{c != y} p[c],   y = labels[b]

        Args:
            logits: [B, C] float.
            labels: [B] int64.

        Returns:
            [B] float32 from -1 to 1, without gradient.
        """
        probs = logits.detach().float().softmax(dim=1)
        right = labels.unsqueeze(1)
        best_other = probs.scatter(1, right, 0.0).amax(dim=1)
        return probs.gather(1, right).squeeze(1) - best_other


class GoldF1Reward:
    """Unlabelled F1 of the parses against the gold trees: the upper bound that no learner without them has.

    The mean over an example's sentences of the F1 of each, as `rlparse.parse_scores` counts it one by one.

    Args:
        convention: "nyu", or another one of `rlparse.parse_scores` that takes the mean over sentences and
            keeps punctuation, such as "nyu-root": a reward judges sentences one by one and sees no words.

    Raises:
        ValueError: Unknown or unfit convention, or, when called, a row without a gold parse.
    """

    def __init__(self, convention: str | Convention = "nyu") -> None:
        self.convention = find_convention(convention)
        if self.convention.level != "sentence" or not self.convention.punctuation:
            raise ValueError(
                "a reward needs a convention that takes the mean over sentences and keeps punctuation, such "
                f"as nyu or nyu-root, got {self.convention.name!r}"
            )

    def __call__(self, batch: Batch, transitions: Tensor) -> Tensor:
        """Judge every example; see `Reward`."""
        if not bool(batch.has_gold.all()):
            rows = (~batch.has_gold).nonzero().squeeze(1).tolist()
            side, example = divmod(rows[0], batch.n_examples)
            raise ValueError(
                f"gold_f1 needs a gold parse of every sentence, {len(rows)} of {len(batch.has_gold)} rows "
                f"have none; the first is row {rows[0]}, sentence {side} of corpus example "
                f"{int(batch.indices[example])}"
            )
        return mean_over_sides(
            bracketing_f1(transitions, batch.gold, root=self.convention.root), batch.n_sides
        )


class BranchingF1Reward:
    """F1 against a trivial tree over the same tokens ("nyu"): what every learner must be able to earn.

    Args:
        branching: "right", "left" or "balanced" (split at floor(n / 2)).

    Raises:
        ValueError: Unknown branching.
    """

    def __init__(self, branching: Branching) -> None:
        if branching not in BRANCHINGS:
            raise ValueError(f"branching must be one of {', '.join(BRANCHINGS)}, got {branching!r}")
        self.branching: Branching = branching

    def __call__(self, batch: Batch, transitions: Tensor) -> Tensor:
        """Judge every example; see `Reward`."""
        target = BRANCHINGS[self.branching](batch.lengths, transitions.shape[1])
        return mean_over_sides(bracketing_f1(transitions, target), batch.n_sides)


def make_reward(reward: RewardName | str | Reward, model: NLIModel | None = None) -> Reward:
    """Look up a reward by its name; anything callable is one already.

    Raises:
        ValueError: Unknown name, or a reward that needs a model without one.
    """
    if not isinstance(reward, str):
        if not callable(reward):
            raise ValueError(f"a reward is a name or a callable (batch, transitions) -> [B], got {reward!r}")
        return reward
    if reward == "gold_f1":
        return GoldF1Reward()
    if reward not in _MODEL_REWARDS:
        raise ValueError(
            f"reward must be one of gold_f1, {', '.join(_MODEL_REWARDS)} or a callable, got {reward!r}"
        )
    if model is None:
        raise ValueError(f"reward {reward!r} is what a model says of the parses: pass model=, an NLIModel")
    return _MODEL_REWARDS[reward](model)


_MODEL_REWARDS: dict[str, type[ModelReward]] = {
    "accuracy": AccuracyReward,
    "log_likelihood": LogLikelihoodReward,
    "clipped_log_likelihood": ClippedLogLikelihoodReward,
    "surprisal": SurprisalReward,
    "margin": MarginReward,
}


def mean_over_sides(values: Tensor, n_sides: int) -> Tensor:
    """Average the rows of each example.

    Args:
        values: [R] float, side-major: row s * B + b is sentence s of example b.
        n_sides: S.

    Returns:
        [B] float.
    """
    return values.view(n_sides, -1).mean(dim=0)
