"""The native agent: a policy gradient over whole batches of parses, with the classifier trained beside it."""

from __future__ import annotations

import math
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any, ClassVar, Literal, NamedTuple, Self

import gymnasium
import numpy as np
import torch
from gymnasium import spaces
from stable_baselines3.common.callbacks import BaseCallback, ConvertCallback
from stable_baselines3.common.policies import BasePolicy
from stable_baselines3.common.type_aliases import GymEnv, MaybeCallback, Schedule
from stable_baselines3.common.utils import FloatSchedule
from torch import Tensor
from torch.nn import functional as F

from rlparse import lockstep
from rlparse.corpora.batch_stream import BatchStream
from rlparse.corpora.batching import POOL_BATCHES, Batch, BatchOrder
from rlparse.corpora.corpus import Corpus
from rlparse.lockstep import Trace
from rlparse.models.nli_model import NLIModel
from rlparse_agents.agreement import check_agreement, check_explorer
from rlparse_agents.averaging import WeightAverage
from rlparse_agents.boundary_policy import BoundaryPolicy
from rlparse_agents.critics import SentenceCritic, StepCritic
from rlparse_agents.curriculum import Curriculum
from rlparse_agents.easy_first import EasyFirstPolicy
from rlparse_agents.estimator import Estimator
from rlparse_agents.examiner import Examiner
from rlparse_agents.exploration import EntropyTarget
from rlparse_agents.exploration import Schedule as ProgressSchedule
from rlparse_agents.fixed import FixedTreePolicy, fixed_derivations
from rlparse_agents.fresh_start import PHASES, FreshStart, Phase
from rlparse_agents.gumbel_policy import GumbelPolicy
from rlparse_agents.iteration import Iteration, TransitionBar
from rlparse_agents.measurements import Measurements
from rlparse_agents.optimizers import OptimizerName, make_optimizer
from rlparse_agents.pacing import Pacing, difficulty_of
from rlparse_agents.parsing_policy import Encoded, EncodingPolicy, Judgement, LearningPolicy, ParsingPolicy
from rlparse_agents.policy import TrackerPolicy
from rlparse_agents.policy_loss import PolicyLoss, Weighed
from rlparse_agents.rollout import Rollout
from rlparse_agents.shared_tracker import SharedTrackerPolicy
from rlparse_agents.zipped_agent import OF_ENVIRONMENT, ZippedAgent
from rlparse_envs.rewards import ModelReward, Reward

CRITIC_SIZE = 32
"""Width of a critic's embeddings and layers."""


_SEEDS_APART = 7919
"""A curriculum's stages draw their batches in orders that have nothing in common."""

_OF_THE_LAST_UPDATE = (
    "train/clip_fraction",
    "train/approx_kl",
    "train/kl_reference",
    "train/value_loss",
)
"""What says how far several updates went; the rest is said of the first one."""


class Outcome(NamedTuple):
    """What setting an iteration's gradients leaves.

    Attributes:
        rollout: The parses.
        rewards: [B * K] float.
        logits: [B * K, C] float, without dropout; None where there is no model.
        again: What more updates of the policy need, if there are to be any.
    """

    rollout: Rollout
    rewards: Tensor
    logits: Tensor | None
    again: Weighed | None = None


class PolicyGradient(ZippedAgent):
    """Train a parsing policy by the score function, and the classifier that rewards it by cross-entropy.

    Every iteration takes a batch of B examples, samples K parses of each sentence in lockstep, encodes and
    classifies all B * K of them, and updates encoder and policy. All decisions of an example's sentences
    share its reward, unless the estimator says otherwise. ``num_timesteps`` counts transitions, which are the
    environment's steps. Callbacks are called once per iteration: ``on_step`` before the logger is dumped,
    ``on_rollout_end`` after it.

    Args:
        policy: ``TrackerPolicy``, ``BoundaryPolicy`` or ``EasyFirstPolicy`` (learn by the score function),
            ``SharedTrackerPolicy`` or ``GumbelPolicy`` (share the classifier's weights and optimiser),
            ``FixedTreePolicy`` (a control), or a class with the interface of one of them.
        env: A `ShiftReduceEnv` (or its id), which brings corpus, reward and model.
        learning_rate: Of the policy; a number or a schedule of the remaining progress (1 to 0).
        encoder_learning_rate: The same for the classifier and its encoder, and what shares weights with it.
        batch_size: B.
        n_parses: K.
        pool_batches: Batches whose examples are sorted by length together, see `BatchOrder`. Many save padding; 1 mixes
            lengths in every batch, without which a policy may be driven to and fro by long and short sentences.
        estimator: How rewards become a gradient; None takes the defaults of `Estimator`.
        entropy_coef: Weight of the normalised entropy, averaged over free decisions: a number, a schedule of the
            progress made (0 to 1), or an `EntropyTarget`, which is moved by what it sees.
        temperature: Of sampling: a number or a schedule of the progress made (0 to 1).
        pacing: Who learns when, and from what; None takes the defaults of `Pacing`.
        explorer: With a fresh start, the classifier that learns and rewards while the agent explores. A small one,
            which cannot make do with just any trees, says more about them. None: the environment's model does so.
        optimizer: Of the policy: ``adam``, ``adadelta``, ``rmsprop`` or ``sgd``.
        encoder_optimizer: Of classifier and encoder.
        policy_weight_decay: Of the policy; decoupled with ``adam``.
        encoder_weight_decay: Of classifier and encoder.
        max_grad_norm: Clip the norm of either gradient; 0 does not.
        grad_norm: ``l2``, or ``max`` for the largest entry.
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
        "BoundaryPolicy": BoundaryPolicy,
        "EasyFirstPolicy": EasyFirstPolicy,
        "SharedTrackerPolicy": SharedTrackerPolicy,
        "GumbelPolicy": GumbelPolicy,
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
        pool_batches: int = POOL_BATCHES,
        estimator: Estimator | None = None,
        entropy_coef: float | ProgressSchedule | EntropyTarget = 0.01,
        temperature: float | ProgressSchedule = 1.0,
        pacing: Pacing | None = None,
        explorer: NLIModel | None = None,
        optimizer: OptimizerName = "adam",
        encoder_optimizer: OptimizerName = "adam",
        policy_weight_decay: float = 0.0,
        encoder_weight_decay: float = 0.0,
        max_grad_norm: float = 1.0,
        grad_norm: Literal["l2", "max"] = "l2",
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
        if batch_size < 1 or n_parses < 1:
            raise ValueError(f"batch_size and n_parses must be at least 1, got {batch_size} and {n_parses}")
        if grad_norm not in ("l2", "max"):
            raise ValueError(f"unknown grad_norm {grad_norm!r}; known: l2, max")
        if max_grad_norm < 0:
            raise ValueError(f"max_grad_norm must not be negative, got {max_grad_norm} (0 does not clip)")
        self.encoder_learning_rate = encoder_learning_rate
        self.batch_size = batch_size
        self.n_parses = n_parses
        self.pool_batches = pool_batches
        self.estimator = Estimator() if estimator is None else estimator
        self.entropy_coef = entropy_coef
        self.temperature = temperature
        self.pacing = Pacing() if pacing is None else pacing
        self.explorer = explorer
        self.optimizer_names = (optimizer, encoder_optimizer)
        self.policy_weight_decay = policy_weight_decay
        self.encoder_weight_decay = encoder_weight_decay
        self.max_grad_norm = max_grad_norm
        self.grad_norm = grad_norm
        self.train_encoder = train_encoder
        self.log_interval = log_interval
        self.n_iterations = 0
        self.last_iteration: Iteration | None = None
        self._measured = Measurements()
        self._due: list[torch.optim.Optimizer] = []
        if _init_setup_model:
            self._setup_model()

    # ------------------------------------------------------------------------------------------------- set up

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
        self.fresh_start: FreshStart | None = None
        self.curriculum: Curriculum | None = None
        if self.pacing.curriculum != "none":
            self.curriculum = Curriculum(
                difficulty_of(self.corpus, self.pacing.curriculum),
                start=self.pacing.curriculum_start,
                grow=self.pacing.curriculum_step,
                competence=self.pacing.curriculum_competence,
            )
        self._draw()
        self.policy = self._make_policy()
        check_agreement(
            self.policy,
            self.estimator,
            self.pacing,
            self.corpus,
            self.reward,
            n_parses=self.n_parses,
            trains=trains,
        )
        if self.model is not None:
            self.model.to(self.device)
        if self.pacing.fresh_start and isinstance(self.policy, LearningPolicy):
            assert self.model is not None  # `check_agreement` has seen to it
            self.fresh_start = self.pacing.make_fresh_start()
            self._first_weights = _copied(self.model)
        if self.explorer is not None:
            check_explorer(self.reward, starts_afresh=self.fresh_start is not None)
            self.explorer.to(self.device)
        self._setup_estimator()
        self._setup_optimizers(trains)
        self._appoint()

    def _appoint(self) -> None:
        """Say which classifier learns and rewards: the explorer while exploring, the environment's model otherwise."""
        self.rewarder, reward = self.model, self.reward
        if self.explorer is not None and self._phase == "explore":
            assert isinstance(self.reward, ModelReward)
            self.rewarder, reward = self.explorer, type(self.reward)(self.explorer)
        self.examiner = Examiner(reward, self.rewarder)

    @property
    def _of_rewarder(self) -> torch.optim.Optimizer | None:
        """The optimiser of the classifier that rewards."""
        return self.encoder_optimizer if self.rewarder is self.model else self.explorer_optimizer

    def _draw(self) -> None:
        """Begin to draw batches, of all examples or of those that the curriculum admits: B with K parses, or B * K."""
        seed = 0 if self.seed is None else self.seed
        corpus = self.corpus
        if self.curriculum is not None:
            corpus = corpus.subset(self.curriculum.admitted())
            seed += _SEEDS_APART * self.curriculum.limit
        more, repeats = (1, self.n_parses) if self._compares else (self.n_parses, 1)
        self.order = BatchOrder(
            corpus.lengths, self.batch_size * more, seed=seed, pool_batches=self.pool_batches
        )
        self.batches = BatchStream(corpus, self.order, repeats=repeats, device=self.device)

    def _make_policy(self) -> ParsingPolicy:
        for name, value in self.policy_kwargs.items():
            if isinstance(value, str) and value == OF_ENVIRONMENT:
                self.policy_kwargs[name] = self.model
            elif isinstance(value, NLIModel) and self.model is not None and value is not self.model:
                raise ValueError(
                    f"the policy's {name} is another model than the environment's own, which is the one that is "
                    f"trained; pass the model of ShiftReduceEnv as policy_kwargs[{name!r}]"
                )
        policy = self.policy_class(
            self.observation_space, self.action_space, self.lr_schedule, **self.policy_kwargs
        ).to(self.device)
        if not isinstance(policy, ParsingPolicy):
            raise ValueError(
                f"policy must be a ParsingPolicy, which parses whole batches, got {type(policy).__name__}"
            )
        return policy

    def _setup_estimator(self) -> None:
        """Build what the estimator needs beside the policy: a critic, a reference, an average of weights."""
        estimator = self.estimator
        self.critic: SentenceCritic | StepCritic | None = None
        self.reference: LearningPolicy | None = None
        self.policy_average: WeightAverage | None = None
        learns = isinstance(self.policy, LearningPolicy | EncodingPolicy) and self.policy.judges
        judges = learns and estimator.objective != "supervised"
        if judges and estimator.baseline == "value":
            assert self.corpus.vocabulary is not None
            self.critic = SentenceCritic(
                len(self.corpus.vocabulary), CRITIC_SIZE, CRITIC_SIZE, self.corpus.n_sides
            )
        elif judges and estimator.baseline == "step_value":
            self.critic = StepCritic(self._state_size(), CRITIC_SIZE)
        if self.critic is not None:
            self.critic.to(self.device)
        if isinstance(self.policy, LearningPolicy):
            if estimator.kl_coef:
                made = self._make_policy()
                assert isinstance(made, LearningPolicy)
                self.reference = made
                self.reference.load_state_dict(self.policy.state_dict())
            if self.pacing.policy_average:
                self.policy_average = WeightAverage(self.policy, self.pacing.policy_average)
        self.policy_loss = PolicyLoss(estimator, self.critic)

    def _state_size(self) -> int:
        """Ask the policy how wide the states are that it gives to a critic."""
        batch = self.corpus.batch(np.zeros(1, dtype=np.int64)).to(self.device)
        generator = torch.Generator(device=self.device).manual_seed(0)
        with torch.no_grad():
            if isinstance(self.policy, EncodingPolicy):
                judgement = self.policy.parse_and_encode(batch, generator=generator).judgement
            else:
                assert isinstance(self.policy, LearningPolicy)
                judgement = self.policy.judge(self.policy.sample(batch, generator=generator))
        if judgement is None or judgement.states is None:
            raise ValueError(
                f"baseline='step_value' values what a policy knows before each decision, {type(self.policy).__name__} "
                "does not tell; use baseline='value'"
            )
        return judgement.states.shape[2]

    def _setup_optimizers(self, trains: bool) -> None:
        critic = [] if self.critic is None else list(self.critic.parameters())
        own = list(self.policy.parameters())
        of_policy, of_encoder = self.optimizer_names
        self.policy_optimizer: torch.optim.Optimizer | None = None
        if isinstance(self.policy, LearningPolicy):
            self.policy_optimizer = make_optimizer(
                of_policy, own + critic, self.lr_schedule(1.0), self.policy_weight_decay
            )
        self.encoder_optimizer: torch.optim.Optimizer | None = None
        if trains and self.model is not None:
            weights = [p for p in self.model.parameters() if p.requires_grad]
            if isinstance(self.policy, EncodingPolicy):
                there = {id(p) for p in self.model.parameters()}
                weights += [p for p in own if id(p) not in there] + critic
            self.encoder_optimizer = make_optimizer(
                of_encoder, weights, self._encoder_schedule(1.0), self.encoder_weight_decay
            )
        self.explorer_optimizer: torch.optim.Optimizer | None = None
        if trains and self.explorer is not None:
            weights = [p for p in self.explorer.parameters() if p.requires_grad]
            self.explorer_optimizer = make_optimizer(
                of_encoder, weights, self._encoder_schedule(1.0), self.encoder_weight_decay
            )

    # --------------------------------------------------------------------------------------------------- learn

    def learn(
        self,
        total_timesteps: int,
        callback: MaybeCallback = None,
        log_interval: int | None = None,
        tb_log_name: str = "PolicyGradient",
        reset_num_timesteps: bool = True,
        progress_bar: bool = False,
        *,
        total_iterations: int | None = None,
    ) -> Self:
        """Train until at least ``total_timesteps`` transitions were taken, or ``total_iterations`` were done.

        Args:
            total_timesteps: In transitions; a sentence of n tokens takes 2n - 1, times K.
            callback: Stable-Baselines3 callbacks; ``on_step`` is called once per iteration.
            log_interval: Iterations between two dumps; None keeps the constructor's.
            tb_log_name: Name of the run in TensorBoard.
            reset_num_timesteps: False continues counting.
            progress_bar: Show a bar of transitions with reward.
            total_iterations: Of the agent's whole life; schedules then follow iterations instead of transitions. How
                many transitions an iteration takes depends on the sentences, which a curriculum chooses.

        Raises:
            NonFiniteLossError: A loss or gradient is not finite; all weights are as before that update.
            ValueError: The temperature is not above 0.
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
        last = math.inf if total_iterations is None else total_iterations
        callbacks.on_training_start(locals(), globals())
        going = True
        try:
            while going and self.num_timesteps < total_timesteps and self.n_iterations < last:
                callbacks.on_rollout_start()
                if total_iterations is None:
                    self._update_current_progress_remaining(self.num_timesteps, total_timesteps)
                else:
                    self._update_current_progress_remaining(self.n_iterations, total_iterations)
                self._iterate()
                callbacks.update_locals(locals())
                going = callbacks.on_step()
                if self.n_iterations % self.log_interval == 0:
                    self.dump_logs()
                callbacks.on_rollout_end()
        finally:
            self.batches.close()
        callbacks.on_training_end()
        return self

    @property
    def progress(self) -> float:
        """Share of the training that was done before this iteration, from 0 to 1."""
        return 1.0 - self._current_progress_remaining

    @property
    def _explored(self) -> float:
        """What schedules of exploration follow: the progress, or that of the attempt that is being made."""
        return self.progress if self.fresh_start is None else self.fresh_start.explored(self.progress)

    def _iterate(self) -> None:
        """Sample, encode, reward and update."""
        start = time.perf_counter()
        self._measured.forget()  # an iteration that raised leaves what it had measured
        self._due.clear()
        K = self.n_parses
        batch = next(self.batches)
        examples = batch.thin(K)
        if not self._compares and not self._resting:
            batch = examples.repeat(K)
        self.policy.set_training_mode(True)
        if isinstance(self.policy, LearningPolicy | EncodingPolicy):
            heat = self.temperature(self._explored) if callable(self.temperature) else self.temperature
            if not heat > 0.0:
                raise ValueError(f"temperature must be above 0, got {heat} at progress {self.progress:.3g}")
            self.policy.temperature = heat
            if callable(self.temperature):
                self.logger.record("train/temperature", heat)
        # All gradients are of the weights that made these parses, so that nothing moves before they are there.
        together = isinstance(self.policy, EncodingPolicy)
        learned = self._learn_together(batch, examples) if together else self._learn_apart(batch, examples)
        rollout, rewards, logits, again = learned
        self._measured.put("rollout/reward", rewards.mean())
        if self.model is None or self.model.reads_trees:
            self._measured.put("rollout/depth", lockstep.mean_depth(rollout.trace).mean())
        self._measured.put("transitions", (2 * batch.lengths - 1).sum())
        measured = self._measured.read(self.n_iterations)
        taken = int(measured.pop("transitions"))
        self._step()
        if again is not None:
            measured |= self._update_again(rollout, again, examples)
        self._follow(measured, decides=batch.tokens.shape[1] > 2)
        self.n_iterations += 1
        self.num_timesteps += taken
        seconds = time.perf_counter() - start
        self.last_iteration = Iteration(batch, rollout.transitions, rollout.trace, rewards, logits, seconds)
        record = self.logger.record_mean
        for tag, value in measured.items():
            record(tag, value)
        record("time/examples_per_second", examples.n_examples / seconds)
        record("time/transitions_per_second", taken / seconds)
        record("time/data_wait", self.batches.seconds_waited / seconds)
        accuracy = measured.get("rollout/accuracy", measured["rollout/reward"])
        if self.curriculum is not None:
            self._advance_curriculum(accuracy)
        if self.fresh_start is not None:
            self._advance_phase(measured.get("rollout/entropy"), accuracy)

    @property
    def _phase(self) -> Phase | None:
        return None if self.fresh_start is None else self.fresh_start.phase

    @property
    def _compares(self) -> bool:
        """Whether batches hold K copies of every example, for parses that are compared with each other.

        Where the policy rests, the encoder learns more from as many different examples.
        """
        return self._phase not in ("relearn", "refine")

    @property
    def _resting(self) -> bool:
        """Whether the policy does not learn in this iteration."""
        if self._phase == "relearn":
            return True
        every = self.pacing.refine_every if self._phase == "refine" else self.pacing.policy_every
        return self.n_iterations < self.pacing.warmup or self.n_iterations % every > 0

    def _learn_apart(self, batch: Batch, examples: Batch) -> Outcome:
        """Set the gradients of a policy and an encoder that have no weights in common."""
        warming = self.n_iterations < self.pacing.warmup
        every = self.estimator.reference_every
        if self.reference is not None and every and self.n_iterations and self.n_iterations % every == 0:
            self.reference.load_state_dict(self.policy.state_dict())
        rollout = self._roll_out(batch, warming)
        vectors, logits = self._update_encoder(batch, rollout.trace, warming)
        rewards = self.examiner.rewards(batch, rollout.transitions, logits)
        if self.policy_optimizer is None or self._resting:
            return Outcome(rollout, rewards, logits)
        assert isinstance(self.policy, LearningPolicy)
        judgement = self.policy.judge(rollout)
        weighed = self._weigh(examples, rollout, judgement, rewards, vectors)
        self._backward(self.policy_optimizer, self._loss_of_policy(weighed, judgement, examples), "policy")
        return Outcome(rollout, rewards, logits, weighed if self.estimator.n_updates > 1 else None)

    def _learn_together(self, batch: Batch, examples: Batch) -> Outcome:
        """Set the one gradient of a policy that shares the classifier's weights."""
        assert isinstance(self.policy, EncodingPolicy)
        assert self.model is not None
        assert self.encoder_optimizer is not None
        gold = self.estimator.objective == "supervised"
        self.model.train()
        encoded: Encoded = self.policy.parse_and_encode(batch, generator=self.generator, gold=gold)
        rollout, judgement = encoded.rollout, encoded.judgement
        loss, logits = self._classify(batch, encoded.vectors)
        rewards = self.examiner.rewards(batch, rollout.transitions, logits)
        if judgement is not None:
            vectors = encoded.vectors.detach()
            weighed = self._weigh(examples, rollout, judgement, rewards, vectors)
            loss = loss + self.estimator.policy_coef * self._loss_of_policy(weighed, judgement, examples)
        self._backward(self.encoder_optimizer, loss, "encoder")
        self.model.eval()
        return Outcome(rollout, rewards, logits)

    def _roll_out(self, batch: Batch, warming: bool) -> Rollout:
        """Parse every row of a batch, and keep what the policy's update needs."""
        if isinstance(self.policy, LearningPolicy):
            if warming:
                derivations = fixed_derivations(batch, "random_per_epoch", self.generator)
                return Rollout.of(batch.tokens, batch.lengths, derivations)
            if self.estimator.objective == "supervised":
                return Rollout.of(batch.tokens, batch.lengths, batch.gold.long())
            if self._phase == "relearn":
                return Rollout.of(batch.tokens, batch.lengths, self.policy.derive(batch, greedy=True))
            return self.policy.sample(batch, generator=self.generator)
        transitions = self.policy.derive(batch, generator=self.generator)
        return Rollout.of(batch.tokens, batch.lengths, transitions)

    def _update_encoder(
        self, batch: Batch, trace: Trace, warming: bool
    ) -> tuple[Tensor | None, Tensor | None]:
        """Set the gradient of the cross-entropy over all sampled parses, unless the encoder rests.

        Returns:
            The vectors of the sentences [R, D], without gradient, and the logits without dropout.
        """
        model, optimizer = self.rewarder, self._of_rewarder
        if model is None:
            return None, None
        resting = not warming and self.n_iterations % self.pacing.encoder_every > 0
        if optimizer is None or resting:
            with torch.no_grad():
                vectors = model.encode(batch.tokens, trace)
                logits: Tensor = model.head(vectors, dropout=False)
            self._measured.put("rollout/accuracy", (logits.argmax(dim=1) == batch.labels).float().mean())
            return vectors, logits
        model.train()
        vectors = model.encode(batch.tokens, trace)
        loss, clean = self._classify(batch, vectors)
        self._backward(optimizer, loss, "encoder")
        model.eval()
        return vectors.detach(), clean

    def _classify(self, batch: Batch, vectors: Tensor) -> tuple[Tensor, Tensor]:
        """Give the cross-entropy and, without gradient, the logits without dropout."""
        assert self.rewarder is not None
        logits, labels = self.rewarder.head(vectors, dropout=True), batch.labels
        if self.pacing.explore_tokens and self._phase == "explore":
            short = batch.lengths.view(batch.n_sides, -1).amax(0) <= self.pacing.explore_tokens
            logits, labels = logits[short], labels[short]
        loss = F.cross_entropy(logits, labels) if len(labels) else logits.sum()  # of nothing: 0
        # Dropout stands only in the head, so that the reward can judge the same vectors without its noise.
        with torch.no_grad():
            clean: Tensor = self.rewarder.head(vectors, dropout=False)
        self._measured.put("train/cross_entropy", loss)
        self._measured.put("rollout/accuracy", (clean.argmax(dim=1) == batch.labels).float().mean())
        return loss, clean

    def _weigh(
        self,
        examples: Batch,
        rollout: Rollout,
        judgement: Judgement,
        rewards: Tensor,
        vectors: Tensor | None,
    ) -> Weighed:
        """Say what the rewards mean for every decision."""
        reference = None
        if self.reference is not None:
            assert isinstance(self.policy, LearningPolicy)
            self.reference.temperature = self.policy.temperature
            with torch.no_grad():
                reference = self.reference.judge(rollout).distribution
        if self.estimator.objective == "supervised":
            log_probs = judgement.distribution.log_prob(rollout.decisions).detach()
            return Weighed(rollout.decisions, None, log_probs, reference, None)
        returns = rewards.view(-1, self.n_parses)
        if self.estimator.pairing == "crosswise":
            assert vectors is not None
            returns = self.examiner.crosswise(examples, vectors, self.n_parses)
        greedy = None
        if self.estimator.baseline == "greedy":
            greedy = self.examiner.greedy(examples, self.policy)
            self._measured.put("rollout/reward_greedy", greedy.mean())
            greedy = greedy.repeat(len(returns) // len(greedy))
        weighed, measured = self.policy_loss.weigh(
            returns, rollout.decisions, judgement, examples=examples, greedy=greedy, reference=reference
        )
        for tag, value in measured.items():
            self._measured.put(tag, value)
        return weighed

    def _loss_of_policy(self, weighed: Weighed, judgement: Judgement, examples: Batch) -> Tensor:
        """Give the loss of one update, and measure what it is made of."""
        weight = self.entropy_coef
        if isinstance(weight, EntropyTarget):
            weight = weight.weight
        elif callable(weight):
            weight = weight(self._explored)
        loss, measured = self.policy_loss(weighed, judgement, examples=examples, entropy_coef=weight)
        for tag, value in measured.items():
            self._measured.put(tag, value)
        return loss

    def _update_again(self, rollout: Rollout, weighed: Weighed, examples: Batch) -> dict[str, float]:
        """Update the policy once more and more from the same parses; give what the last update measured."""
        assert isinstance(self.policy, LearningPolicy)
        assert self.policy_optimizer is not None
        measured: dict[str, float] = {}
        for number in range(1, self.estimator.n_updates):
            self._due.clear()
            judgement = self.policy.judge(rollout)
            self._backward(
                self.policy_optimizer, self._loss_of_policy(weighed, judgement, examples), "policy"
            )
            measured = self._measured.read(self.n_iterations, updated=number)
            self._step()
        return {tag: measured[tag] for tag in _OF_THE_LAST_UPDATE if tag in measured}

    def _follow(self, measured: Mapping[str, float], *, decides: bool) -> None:
        """Let what follows the policy catch up with it: its average, and the weight of its entropy.

        Args:
            measured: In this iteration.
            decides: Whether any sentence was long enough to leave a choice; if none was, the entropy says nothing.
        """
        if self.policy_average is not None and self.policy_optimizer in self._due:
            self.policy_average.update()
        if "rollout/entropy" not in measured:
            return
        weight = self.entropy_coef
        if isinstance(weight, EntropyTarget):
            self.logger.record("train/entropy_coef", weight.weight)
            if decides:
                weight.update(measured["rollout/entropy"], self._explored)
        elif callable(weight):
            self.logger.record("train/entropy_coef", weight(self._explored))

    def _advance_curriculum(self, accuracy: float) -> None:
        """Admit harder examples, if this batch has shown that it is time."""
        assert self.curriculum is not None
        if self.curriculum.observe(accuracy):
            self.batches.close()
            self._draw()
        self.logger.record("train/curriculum", self.curriculum.limit)

    def _advance_phase(self, entropy: float | None, accuracy: float) -> None:
        """Go on to the next phase of a fresh start, if this batch has shown that it is time."""
        assert self.fresh_start is not None
        begun = self.fresh_start.observe(self.progress, entropy=entropy, accuracy=accuracy)
        if begun == "relearn":
            self._begin_again_with_encoder()
            if self.policy_average is not None:
                self.policy_average.adopt()
        if begun is not None:
            self._appoint()
            self.batches.close()
            self._draw()
        self.logger.record("train/phase", PHASES.index(self.fresh_start.phase))
        self.logger.record("train/attempts", self.fresh_start.attempts)

    def _begin_again_with_encoder(self) -> None:
        """Give the classifier its first weights, and let its optimiser forget."""
        assert self.model is not None
        assert self.encoder_optimizer is not None
        self.model.load_state_dict(self._first_weights)
        self.encoder_optimizer.state.clear()

    @contextmanager
    def evaluated_policy(self) -> Iterator[ParsingPolicy]:
        """Lend the policy as it is to be measured: with the moving average of its weights, if there is one."""
        if self.policy_average is None:
            yield self.policy
        else:
            with self.policy_average.applied():
                yield self.policy

    # ------------------------------------------------------------------------------------------------ stepping

    def _backward(self, optimizer: torch.optim.Optimizer, loss: Tensor, whose: str) -> None:
        """Set the clipped gradient of a loss, and measure the loss and the norm before clipping."""
        self._measured.put(f"loss_{whose}", loss)
        optimizer.zero_grad(set_to_none=True)
        loss.backward()
        weights = [p for group in optimizer.param_groups for p in group["params"]]
        norm = torch.nn.utils.clip_grad_norm_(
            weights, self.max_grad_norm or math.inf, norm_type=math.inf if self.grad_norm == "max" else 2.0
        )
        self._measured.put(f"train/grad_norm_{whose}", norm)
        self._due.append(optimizer)

    def _step(self) -> None:
        """Follow the gradients that were set, at the learning rates of now."""
        remaining = self._current_progress_remaining
        if self.fresh_start is not None:
            remaining = self.fresh_start.unrefined(self.progress)
        for optimizer, schedule, whose in (
            (self._of_rewarder, self._encoder_schedule, "encoder"),
            (self.policy_optimizer, self.lr_schedule, "policy"),
        ):
            if optimizer is None or optimizer not in self._due:
                continue
            rate = schedule(remaining)
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

    def learning_state(self) -> dict[str, Any]:
        """Give what continuing needs beside weights of policy and model, optimisers, generators and the batch order."""
        state: dict[str, Any] = {"policy_loss": self.policy_loss.state_dict()}
        parts = {
            "critic": self.critic,
            "reference": self.reference,
            "policy_average": self.policy_average,
            "curriculum": self.curriculum,
            "fresh_start": self.fresh_start,
            "explorer": self.explorer,
            "explorer_optimizer": self.explorer_optimizer,
            "entropy": self.entropy_coef if isinstance(self.entropy_coef, EntropyTarget) else None,
        }
        return state | {name: part.state_dict() for name, part in parts.items() if part is not None}

    def load_learning_state(self, state: Mapping[str, Any]) -> None:
        """Continue from where a state was taken.

        The batch order has to be loaded after it, because the curriculum and the phase choose what it orders.
        """
        self.policy_loss.load_state_dict(state["policy_loss"])
        if isinstance(self.entropy_coef, EntropyTarget):
            self.entropy_coef.load_state_dict(state["entropy"])
        for name in ("critic", "reference", "policy_average"):
            part = getattr(self, name)
            if part is not None:
                part.load_state_dict(state[name])
        for name in ("fresh_start", "explorer", "explorer_optimizer"):
            part = getattr(self, name)
            if part is not None:
                part.load_state_dict(state[name])
        self._appoint()
        if self.curriculum is not None:
            self.curriculum.load_state_dict(state["curriculum"])
        self.batches.close()
        self._draw()


def _copied(module: torch.nn.Module) -> dict[str, Tensor]:
    """Give copies of a module's weights."""
    return {name: value.clone() for name, value in module.state_dict().items()}
