"""The classifier learns from the parses that an algorithm of Stable-Baselines3 finishes while it plays."""

from __future__ import annotations

import math
from typing import NamedTuple

import torch
from stable_baselines3.common.callbacks import BaseCallback
from stable_baselines3.common.type_aliases import Schedule
from stable_baselines3.common.utils import FloatSchedule
from stable_baselines3.common.vec_env import SubprocVecEnv
from torch import Tensor
from torch.nn import functional as F

from rlparse import PAD
from rlparse.corpora.corpus import Corpus
from rlparse.errors import NonFiniteLossError
from rlparse.models.nli_model import NLIModel
from rlparse_envs.game import TYPED
from rlparse_envs.rewards import ModelReward


class FinishedParse(NamedTuple):
    """What one episode ended with.

    Attributes:
        example: Position in the corpus.
        derivations: The transitions of each of its sentences.
    """

    example: int
    derivations: tuple[tuple[int, ...], ...]


class EncoderTrainingCallback(BaseCallback):
    """Train the environment's model by cross-entropy on the parses that the agent finishes.

        env = ShiftReduceVecEnv(ShiftReduceVectorEnv(64, corpus, reward="accuracy", model=model, ...))
        PPO("MultiInputPolicy", env).learn(100_000, callback=EncoderTrainingCallback())

    Every time ``batch_size`` episodes have ended, the model takes one step on their examples as they were parsed, and
    every parse is used once, as the native agent does it. The rewards of the next episodes come from the model
    as it is then. The policy's weights are not touched: its gradient is the algorithm's own affair. So this goes with
    any algorithm, on-policy or not, and with rewards that do not read the model as well (``is_success`` does always).

    It logs ``train/cross_entropy``, ``train/grad_norm_encoder`` and ``train/learning_rate_encoder``, which are the
    native agent's tags, and ``train/encoder_updates``.

    Args:
        learning_rate: Of the model's AdamW; a number or a schedule of the remaining progress (1 to 0).
        batch_size: Examples a step.
        weight_decay: Decoupled.
        max_grad_norm: Clip the gradient's norm.
        verbose: For `BaseCallback`.

    Attributes:
        n_updates: Steps so far.

    Raises:
        ValueError: ``batch_size`` < 1; when training starts, an environment without a model, with several, in other
            processes, or that does not tell derivations, or a reward that reads another model.
        NonFiniteLossError: A loss or gradient is not finite; the model is as before that step.
    """

    def __init__(
        self,
        learning_rate: float | Schedule = 1e-3,
        *,
        batch_size: int = 64,
        weight_decay: float = 0.0,
        max_grad_norm: float = 1.0,
        verbose: int = 0,
    ) -> None:
        super().__init__(verbose)
        if batch_size < 1:
            raise ValueError(f"batch_size must be at least 1, got {batch_size}")
        self.schedule = FloatSchedule(learning_rate)
        self.batch_size = batch_size
        self.weight_decay = weight_decay
        self.max_grad_norm = max_grad_norm
        self.n_updates = 0
        self._finished: list[FinishedParse] = []
        self._learner: tuple[Corpus, NLIModel, torch.optim.Optimizer] | None = None

    def _on_training_start(self) -> None:
        corpus, model = self._find()
        if self._learner is None or self._learner[1] is not model:
            weights = [p for p in model.parameters() if p.requires_grad]
            optimizer = torch.optim.AdamW(weights, lr=self.schedule(1.0), weight_decay=self.weight_decay)
            self._learner = (corpus, model, optimizer)

    def _find(self) -> tuple[Corpus, NLIModel]:
        """Find what to train on what."""
        env = self.training_env
        if isinstance(env.unwrapped, SubprocVecEnv):
            raise ValueError(
                "the environments of a SubprocVecEnv hold copies of the model in other processes, which training here "
                "would not change; use ShiftReduceVecEnv or DummyVecEnv"
            )
        models, corpora, rewards = (env.get_attr(name) for name in ("model", "corpus", "reward"))
        model, corpus = models[0], corpora[0]
        if model is None:
            raise ValueError("the environment has no model to train; pass model= to it")
        if any(other is not model for other in models) or any(other is not corpus for other in corpora):
            raise ValueError(
                "the environments must share one model and one corpus that has a vocabulary, found several"
            )
        if isinstance(rewards[0], ModelReward) and rewards[0].model is not model:
            raise ValueError(
                "the environment's reward judges by another model than the environment's own, which is the one that is "
                "trained; build the reward with the model that you pass to the environment"
            )
        if env.has_attr("episode_info") and not env.get_attr("episode_info")[0]:
            raise ValueError(
                "EncoderTrainingCallback reads the derivations of finished episodes, which episode_info=False leaves "
                "out; make the environment with episode_info=True"
            )
        return corpus, model

    def _on_step(self) -> bool:
        self._finished += [
            FinishedParse(info["example"], info["derivations"])
            for info in self.locals["infos"]
            if "derivations" in info and info["example"] != TYPED
        ]
        while len(self._finished) >= self.batch_size:
            self._update(self._finished[: self.batch_size])
            del self._finished[: self.batch_size]
        return True

    def _update(self, finished: list[FinishedParse]) -> None:
        """Take one step on some parses."""
        assert self._learner is not None
        corpus, model, optimizer = self._learner
        batch = corpus.batch([parse.example for parse in finished])
        transitions = transitions_of([parse.derivations for parse in finished], batch.tokens.shape[1])
        was_training = model.training
        model.train()
        batch = batch.to(model.device)
        loss = F.cross_entropy(model(batch, transitions.to(model.device)), batch.labels)
        optimizer.zero_grad(set_to_none=True)
        loss.backward()
        model.train(was_training)
        weights = [p for group in optimizer.param_groups for p in group["params"]]
        norm = torch.nn.utils.clip_grad_norm_(weights, self.max_grad_norm)
        measured, length = torch.stack((loss.detach(), norm)).tolist()
        if not (math.isfinite(measured) and math.isfinite(length)):
            raise NonFiniteLossError(
                f"the encoder's loss is {measured} and the norm of its gradient {length} at update {self.n_updates}; "
                "no weights were changed. A smaller learning rate usually mends it"
            )
        rate = self.schedule(self.model._current_progress_remaining)
        for group in optimizer.param_groups:
            group["lr"] = rate
        optimizer.step()
        self.n_updates += 1
        self.logger.record_mean("train/cross_entropy", measured)
        self.logger.record_mean("train/grad_norm_encoder", length)
        self.logger.record("train/learning_rate_encoder", rate)
        self.logger.record("train/encoder_updates", self.n_updates)


def transitions_of(derivations: list[tuple[tuple[int, ...], ...]], n_tokens: int) -> Tensor:
    """Line up the derivations of B examples of S sentences as batches have them.

    Args:
        derivations: Of every example, of every sentence.
        n_tokens: N.

    Returns:
        [S * B, 2N - 1] int64, side by side: all first sentences, then all second ones; PAD after each end.
    """
    by_side = [derivation for side in zip(*derivations, strict=True) for derivation in side]
    transitions = torch.full((len(by_side), 2 * n_tokens - 1), PAD, dtype=torch.int64)
    for row, derivation in enumerate(by_side):
        transitions[row, : len(derivation)] = torch.tensor(derivation)
    return transitions
