"""The native agent: REINFORCE over whole batches of parses, with the classifier trained beside it."""

from __future__ import annotations

import time
from collections.abc import Callable
from contextlib import closing
from typing import Any, ClassVar, NamedTuple, Self

import gymnasium
import numpy as np
import torch
from gymnasium import spaces
from stable_baselines3.common.base_class import BaseAlgorithm
from stable_baselines3.common.callbacks import BaseCallback, ConvertCallback, ProgressBarCallback
from stable_baselines3.common.policies import BasePolicy
from stable_baselines3.common.type_aliases import GymEnv, MaybeCallback, Schedule
from stable_baselines3.common.utils import FloatSchedule
from torch import Tensor
from torch.nn import functional as F

from rlparse import lockstep
from rlparse.corpora.batch_stream import BatchStream
from rlparse.corpora.batching import Batch, BatchOrder
from rlparse.corpora.corpus import Corpus
from rlparse.errors import NonFiniteLossError
from rlparse.lockstep import Trace
from rlparse.models.nli_model import NLIModel
from rlparse_agents.baselines import BASELINES
from rlparse_agents.fixed import FixedTreePolicy
from rlparse_agents.losses import mean_over_free, policy_gradient_loss
from rlparse_agents.parsing_policy import LearningPolicy, ParsingPolicy
from rlparse_agents.policy import TrackerPolicy
from rlparse_agents.rollout import Rollout
from rlparse_envs.rewards import ModelReward, Reward


class Iteration(NamedTuple):
    """What one training iteration did, for callbacks: ``algorithm.last_iteration``.

    Attributes:
        batch: The examples, each K times.
        transitions: [R, T] int64. The parses, R = S * B * K.
        trace: The same, replayed.
        rewards: [B * K] float.
        logits: [B * K, C] float, without dropout; None where no classifier is trained.
        seconds: Wall time of the iteration.
    """

    batch: Batch
    transitions: Tensor
    trace: Trace
    rewards: Tensor
    logits: Tensor | None
    seconds: float


class TransitionBar(ProgressBarCallback):
    """Stable-Baselines3's progress bar, moved by the transitions that an iteration took."""

    def _on_training_start(self) -> None:
        super()._on_training_start()
        self._before = self.model.num_timesteps

    def _on_step(self) -> bool:
        self.pbar.update(self.model.num_timesteps - self._before - self.pbar.n)
        return True


class PolicyGradient(BaseAlgorithm):
    """Train a parsing policy by the score function, and the classifier that rewards it by cross-entropy.

    Every iteration takes a batch of B examples, samples K parses of each sentence in lockstep, encodes and
    classifies all B * K of them, and updates encoder and policy once. All decisions of an example's sentences
    share its reward. ``num_timesteps`` counts transitions, which are the environment's steps. Callbacks are
    called once per iteration: ``on_step`` before the logger is dumped, ``on_rollout_end`` after it.

    Args:
        policy: ``TrackerPolicy`` (learns), ``FixedTreePolicy`` (a control), or a class with their interface.
        env: A `ShiftReduceEnv` (or its id), which brings corpus, reward and model.
        learning_rate: Of the policy's Adam; a number or a schedule of the remaining progress (1 to 0).
        encoder_learning_rate: The same for the classifier and its encoder.
        batch_size: B.
        n_parses: K.
        baseline: ``leave_one_out`` or ``none``.
        normalise_advantages: Divide advantages by their standard deviation over the batch.
        entropy_coef: Weight of the normalised entropy, averaged over free decisions.
        policy_weight_decay: Decoupled weight decay of the policy.
        encoder_weight_decay: Of classifier and encoder.
        max_grad_norm: Clip the norm of either gradient.
        train_encoder: Train the environment's model; None does so if there is one.
        log_interval: Iterations between two dumps of the logger.
        stats_window_size: Passed to Stable-Baselines3.
        policy_kwargs: For the policy's constructor.
        tensorboard_log: Folder for TensorBoard when no logger is set.
        verbose: 0 silent, 1 prints.
        seed: Of data order, sampling and initial weights.
        device: ``auto``, ``cpu`` or ``cuda``.

    Raises:
        ValueError: An option is unknown or does not fit another.
    """

    policy_aliases: ClassVar[dict[str, type[BasePolicy]]] = {
        "TrackerPolicy": TrackerPolicy,
        "FixedTreePolicy": FixedTreePolicy,
    }
    policy: ParsingPolicy

    def __init__(
        self,
        policy: str | type[BasePolicy],
        env: GymEnv | str,
        learning_rate: float | Schedule = 1e-3,
        *,
        encoder_learning_rate: float | Schedule = 1e-3,
        batch_size: int = 64,
        n_parses: int = 4,
        baseline: str = "leave_one_out",
        normalise_advantages: bool = False,
        entropy_coef: float = 0.01,
        policy_weight_decay: float = 0.0,
        encoder_weight_decay: float = 0.0,
        max_grad_norm: float = 1.0,
        train_encoder: bool | None = None,
        log_interval: int = 20,
        stats_window_size: int = 100,
        policy_kwargs: dict[str, Any] | None = None,
        tensorboard_log: str | None = None,
        verbose: int = 0,
        seed: int | None = None,
        device: torch.device | str = "auto",
        _init_setup_model: bool = True,
    ) -> None:
        super().__init__(
            policy,
            gymnasium.make(env) if isinstance(env, str) else env,  # SB3 would ask for a picture of it
            learning_rate,
            policy_kwargs=policy_kwargs,
            stats_window_size=stats_window_size,
            tensorboard_log=tensorboard_log,
            verbose=verbose,
            device=device,
            support_multi_env=True,
            seed=seed,
            supported_action_spaces=(spaces.Discrete,),
        )
        if baseline not in BASELINES:
            raise ValueError(f"unknown baseline {baseline!r}; known: {', '.join(BASELINES)}")
        if baseline == "leave_one_out" and n_parses < 2 and self.policy_class is not FixedTreePolicy:
            raise ValueError(
                f"baseline='leave_one_out' compares the parses of one example and needs n_parses >= 2, got {n_parses}; "
                "raise n_parses or use baseline='none'"
            )
        if batch_size < 1 or n_parses < 1:
            raise ValueError(f"batch_size and n_parses must be at least 1, got {batch_size} and {n_parses}")
        self.encoder_learning_rate = encoder_learning_rate
        self.batch_size = batch_size
        self.n_parses = n_parses
        self.baseline = baseline
        self.normalise_advantages = normalise_advantages
        self.entropy_coef = entropy_coef
        self.policy_weight_decay = policy_weight_decay
        self.encoder_weight_decay = encoder_weight_decay
        self.max_grad_norm = max_grad_norm
        self.train_encoder = train_encoder
        self.log_interval = log_interval
        self.n_iterations = 0
        self.last_iteration: Iteration | None = None
        self._measured: dict[str, Tensor] = {}
        if _init_setup_model:
            self._setup_model()

    def _setup_model(self) -> None:
        assert self.env is not None
        self.corpus: Corpus = self.env.get_attr("corpus")[0]
        self.reward: Reward = self.env.get_attr("reward")[0]
        self.model: NLIModel | None = self.env.get_attr("model")[0]
        if isinstance(self.reward, ModelReward) and self.reward.model is not self.model:
            raise ValueError(
                "the environment's reward judges by another model than the environment's own, which is the one that is "
                "trained; build the reward with the model that you pass to ShiftReduceEnv"
            )
        trains = self.model is not None if self.train_encoder is None else self.train_encoder
        if trains and self.model is None:
            raise ValueError(
                "train_encoder=True needs an environment with a model; pass model= to ShiftReduceEnv"
            )
        self._setup_lr_schedule()
        self._encoder_schedule = FloatSchedule(self.encoder_learning_rate)
        self.set_random_seed(self.seed)
        seed = 0 if self.seed is None else self.seed
        self.generator = torch.Generator(device=self.device).manual_seed(seed)
        self.order = BatchOrder(self.corpus.lengths, self.batch_size, seed=seed)
        self.batches = BatchStream(self.corpus, self.order, repeats=self.n_parses, device=self.device)
        policy = self.policy_class(
            self.observation_space, self.action_space, self.lr_schedule, **self.policy_kwargs
        ).to(self.device)
        if not isinstance(policy, ParsingPolicy):
            raise ValueError(
                f"policy must be a ParsingPolicy, which parses whole batches, got {type(policy).__name__}"
            )
        self.policy = policy
        if self.model is not None:
            self.model.to(self.device)
        self.policy_optimizer: torch.optim.Optimizer | None = None
        if isinstance(self.policy, LearningPolicy):
            self.policy_optimizer = torch.optim.AdamW(
                self.policy.parameters(),
                lr=self.lr_schedule(1.0),
                weight_decay=self.policy_weight_decay,
                fused=True,
            )
        self.encoder_optimizer: torch.optim.Optimizer | None = None
        if trains and self.model is not None:
            self.encoder_optimizer = torch.optim.AdamW(
                [p for p in self.model.parameters() if p.requires_grad],
                lr=self._encoder_schedule(1.0),
                weight_decay=self.encoder_weight_decay,
                fused=True,
            )

    def learn(
        self,
        total_timesteps: int,
        callback: MaybeCallback = None,
        log_interval: int | None = None,
        tb_log_name: str = "PolicyGradient",
        reset_num_timesteps: bool = True,
        progress_bar: bool = False,
    ) -> Self:
        """Train until at least ``total_timesteps`` transitions were taken.

        Args:
            total_timesteps: In transitions; a sentence of n tokens takes 2n - 1, times K.
            callback: Stable-Baselines3 callbacks; ``on_step`` is called once per iteration.
            log_interval: Iterations between two dumps; None keeps the constructor's.
            tb_log_name: Name of the run in TensorBoard.
            reset_num_timesteps: False continues counting.
            progress_bar: Show a bar of transitions with reward.

        Raises:
            NonFiniteLossError: A loss or gradient is not finite; all weights are as before that iteration.
        """
        if log_interval is not None:
            self.log_interval = log_interval
        if progress_bar:
            given = callback if isinstance(callback, list) else [] if callback is None else [callback]
            callback = [
                *(c if isinstance(c, BaseCallback) else ConvertCallback(c) for c in given),
                TransitionBar(),
            ]
        total_timesteps, callbacks = self._setup_learn(
            total_timesteps, callback, reset_num_timesteps, tb_log_name, progress_bar=False
        )
        callbacks.on_training_start(locals(), globals())
        going = True
        with closing(self.batches):
            while going and self.num_timesteps < total_timesteps:
                callbacks.on_rollout_start()
                self._update_current_progress_remaining(self.num_timesteps, total_timesteps)
                self._iterate()
                callbacks.update_locals(locals())
                going = callbacks.on_step()
                if self.n_iterations % self.log_interval == 0:
                    self.dump_logs()
                callbacks.on_rollout_end()
        callbacks.on_training_end()
        return self

    def _iterate(self) -> None:
        """Sample, encode, reward and update once."""
        start = time.perf_counter()
        self._measured.clear()  # an iteration that raised leaves what it had measured
        K = self.n_parses
        batch = next(self.batches)
        self.policy.set_training_mode(True)
        rollout = self._roll_out(batch)
        # Both gradients are of the weights that made these parses, so that nothing moves before both are there.
        logits = self._update_encoder(batch, rollout.trace)
        rewards = self._rewards(batch, rollout.transitions, logits)
        if self.policy_optimizer is not None:
            self._update_policy(batch, rollout, rewards)
        self._measure("rollout/reward", rewards.mean())
        self._measure("rollout/depth", lockstep.mean_depth(rollout.trace).mean())
        self._measure("transitions", (2 * batch.lengths - 1).sum())
        measured = self._read_measured()
        taken = int(measured.pop("transitions"))
        self._step()
        self.n_iterations += 1
        self.num_timesteps += taken
        seconds = time.perf_counter() - start
        self.last_iteration = Iteration(batch, rollout.transitions, rollout.trace, rewards, logits, seconds)
        record = self.logger.record_mean
        for tag, value in measured.items():
            record(tag, value)
        record("time/examples_per_second", batch.n_examples / K / seconds)
        record("time/transitions_per_second", taken / seconds)
        record("time/data_wait", self.batches.seconds_waited / seconds)

    def _roll_out(self, batch: Batch) -> Rollout:
        """Parse every row of a batch, and keep what the policy's update needs."""
        if isinstance(self.policy, LearningPolicy):
            return self.policy.sample(batch, generator=self.generator)
        transitions = self.policy.derive(batch, generator=self.generator)
        return Rollout.of(batch.tokens, batch.lengths, transitions)

    def _measure(self, tag: str, value: Tensor) -> None:
        """Put a number aside where it was computed, to be read with all others."""
        self._measured[tag] = value.detach()

    def _read_measured(self) -> dict[str, float]:
        """Read all numbers of an iteration at once: a GPU is waited for once, instead of once for each.

        An iteration waits for it elsewhere only where what comes next depends on values: the replay and the layout of
        the derivations, and a batch's distinct words.

        Raises:
            NonFiniteLossError: A loss, or the norm of a gradient, is not finite.
        """
        values = torch.stack([value.double() for value in self._measured.values()]).tolist()
        measured = dict(zip(self._measured, values, strict=True))
        self._measured.clear()
        for whose in ("encoder", "policy"):
            loss, norm = measured.pop(f"loss_{whose}", 0.0), measured.get(f"train/grad_norm_{whose}", 0.0)
            if not np.isfinite(loss):
                raise NonFiniteLossError(
                    f"the {whose}'s loss is {loss} at iteration {self.n_iterations}; no weights were "
                    "changed. A smaller learning rate or max_grad_norm usually mends it"
                )
            if not np.isfinite(norm):
                raise NonFiniteLossError(
                    f"the norm of the {whose}'s gradient is {norm} at iteration {self.n_iterations}; no weights were "
                    "changed. A smaller learning rate usually mends it"
                )
        return measured

    def _update_encoder(self, batch: Batch, trace: Trace) -> Tensor | None:
        """Set the gradient of the cross-entropy over all sampled parses, and give the logits without dropout."""
        if self.model is None:
            return None
        if self.encoder_optimizer is None:
            with torch.no_grad():
                logits: Tensor = self.model.head(self.model.encode(batch.tokens, trace), dropout=False)
                return logits
        self.model.train()
        vectors = self.model.encode(batch.tokens, trace)
        loss = F.cross_entropy(self.model.head(vectors, dropout=True), batch.labels)
        # Dropout stands only in the head, so that the reward can judge the same vectors without its noise.
        with torch.no_grad():
            clean: Tensor = self.model.head(vectors, dropout=False)
        self._backward(self.encoder_optimizer, loss, "encoder")
        self.model.eval()
        self._measure("train/cross_entropy", loss)
        self._measure("rollout/accuracy", (clean.argmax(dim=1) == batch.labels).float().mean())
        return clean

    def _rewards(self, batch: Batch, transitions: Tensor, logits: Tensor | None) -> Tensor:
        from_logits: Callable[[Tensor, Tensor], Tensor] | None = getattr(self.reward, "from_logits", None)
        if from_logits is not None and logits is not None:
            return from_logits(logits, batch.labels)
        with torch.no_grad():
            return self.reward(batch, transitions)

    def _update_policy(self, batch: Batch, rollout: Rollout, rewards: Tensor) -> None:
        """Set the gradient of the policy's loss."""
        assert self.policy_optimizer is not None
        self._backward(self.policy_optimizer, self._policy_loss(batch, rollout, rewards), "policy")

    def _policy_loss(self, batch: Batch, rollout: Rollout, rewards: Tensor) -> Tensor:
        """Give the score-function surrogate less the entropy term, and measure what they are made of."""
        assert isinstance(self.policy, LearningPolicy)
        advantages = BASELINES[self.baseline](rewards.view(-1, self.n_parses))
        spread = advantages.std(correction=0)
        if self.normalise_advantages:
            advantages = advantages / spread.clamp_min(1e-8)
        distribution = self.policy.judge(rollout).distribution
        free = distribution.free
        of_rows = advantages.flatten().repeat(
            batch.n_sides
        )  # [R]: both sentences of an example share its reward
        gain = policy_gradient_loss(distribution.log_prob(rollout.transitions), of_rows, free)
        entropy = mean_over_free(distribution.normalised_entropy(), free)
        loss = gain - self.entropy_coef * entropy
        self._measure("rollout/entropy", entropy)
        self._measure("train/policy_loss", gain)
        self._measure("train/advantage_mean", advantages.mean())
        self._measure("train/advantage_std", spread)
        return loss

    def _backward(self, optimizer: torch.optim.Optimizer, loss: Tensor, whose: str) -> None:
        """Set the clipped gradient of a loss, and measure the loss and the norm before clipping."""
        self._measure(f"loss_{whose}", loss)
        optimizer.zero_grad(set_to_none=True)
        loss.backward()
        weights = [p for group in optimizer.param_groups for p in group["params"]]
        norm = torch.nn.utils.clip_grad_norm_(weights, self.max_grad_norm)
        self._measure(f"train/grad_norm_{whose}", norm)

    def _step(self) -> None:
        """Follow the gradients that were set, at the learning rates of now."""
        for optimizer, schedule, whose in (
            (self.encoder_optimizer, self._encoder_schedule, "encoder"),
            (self.policy_optimizer, self.lr_schedule, "policy"),
        ):
            if optimizer is None:
                continue
            rate = schedule(self._current_progress_remaining)
            for group in optimizer.param_groups:
                group["lr"] = rate
            optimizer.step()
            self.logger.record(f"train/learning_rate_{whose}", rate)

    def dump_logs(self) -> None:
        """Write what was recorded since the last time as one point of the curves."""
        self.logger.record("time/iterations", self.n_iterations)
        self.logger.record(
            "time/epochs", self.order.epoch + self.order.position / self.order.batches_per_epoch
        )
        self.logger.record("time/total_timesteps", self.num_timesteps)
        self.logger.dump(step=self.num_timesteps)

    def _excluded_save_params(self) -> list[str]:
        return [
            *super()._excluded_save_params(),
            "corpus",
            "reward",
            "model",
            "order",
            "batches",
            "generator",
            "last_iteration",
        ]

    def _get_torch_save_params(self) -> tuple[list[str], list[str]]:
        optimizers = ["policy_optimizer"] if self.policy_optimizer is not None else []
        parts = ["policy", *optimizers]
        if self.encoder_optimizer is not None:
            parts += ["model", "encoder_optimizer"]
        return parts, []
