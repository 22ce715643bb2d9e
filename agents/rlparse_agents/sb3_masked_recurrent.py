"""Masked and recurrent at once: sb3-contrib's RecurrentPPO with a policy that never takes an illegal action."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, ClassVar

import numpy as np
import numpy.typing as npt
import torch
from gymnasium import spaces
from sb3_contrib import RecurrentPPO
from sb3_contrib.common.recurrent.policies import RecurrentMultiInputActorCriticPolicy
from sb3_contrib.common.recurrent.type_aliases import RNNStates
from stable_baselines3.common.distributions import Distribution
from stable_baselines3.common.policies import BasePolicy
from stable_baselines3.common.torch_layers import BaseFeaturesExtractor
from stable_baselines3.common.type_aliases import PyTorchObs, Schedule
from stable_baselines3.common.vec_env import VecEnv, VecEnvWrapper
from stable_baselines3.common.vec_env.base_vec_env import VecEnvObs, VecEnvStepReturn
from torch import Tensor

from rlparse_agents.sb3_features import TrackerFeatures

MASK = "action_mask"
"""Where in the observation the legal actions are: [A], 1 where legal."""

_NEVER = -1e8
"""Logit of an illegal action: its probability is exactly 0 in float32, and its product with it is not NaN."""

LstmState = tuple[Tensor, Tensor]
Arrays = npt.NDArray[Any] | dict[str, npt.NDArray[Any]]
States = tuple[npt.NDArray[Any], ...]


class MaskedMultiInputLstmPolicy(RecurrentMultiInputActorCriticPolicy):
    """sb3-contrib's ``MultiInputLstmPolicy`` that reads from ``observation["action_mask"]`` what is legal.

    The mask is a part of the observation. So it lies in the rollout buffer with everything else, padded like the
    sequences it belongs to; it is there when minibatches are judged anew; and whoever calls ``predict`` without
    knowing of masks, such as ``EvalCallback`` and ``evaluate_policy``, gets legal actions too. Masked logits make the
    distribution, from which samples, log-probabilities, entropies and modes come.

    Where nothing is legal (padding, the observation after the end) the mask is taken to say nothing.

    References: Huang & Ontañón 2022, "A Closer Look at Invalid Action Masking in Policy Gradient Algorithms";
    sb3-contrib's RecurrentPPO and MaskablePPO.

    Args:
        observation_space: A ``Dict`` with ``action_mask``, [A].
        action_space: ``Discrete(A)``.
        lr_schedule: Of the learning rate.
        kwargs: As for ``MultiInputLstmPolicy``.

    Raises:
        ValueError: Other spaces, or, when asked, a mask that holds other numbers than 0 and 1.
    """

    def __init__(
        self,
        observation_space: spaces.Space[Any],
        action_space: spaces.Space[Any],
        lr_schedule: Schedule,
        **kwargs: Any,
    ) -> None:
        if not isinstance(action_space, spaces.Discrete):
            raise ValueError(f"masks are for Discrete actions, got {action_space}")
        parts = observation_space.spaces if isinstance(observation_space, spaces.Dict) else {}
        shape = parts[MASK].shape if MASK in parts else None
        if shape != (action_space.n,):
            raise ValueError(
                f"MaskedMultiInputLstmPolicy needs a Dict observation whose {MASK!r} is [{action_space.n}], got "
                f"{observation_space}; VecActionMask puts there what an environment's action_masks() says"
            )
        self._legal: Tensor | None = None
        super().__init__(observation_space, action_space, lr_schedule, **kwargs)

    @contextmanager
    def _masked(self, observation: PyTorchObs) -> Iterator[None]:
        """Take note of what is legal while distributions are made for an observation."""
        assert isinstance(observation, dict)
        mask = observation[MASK]
        legal = mask == 1
        neither = ~legal & (mask != 0)
        if bool(neither.any()):
            raise ValueError(
                f"{MASK!r} must hold 0 and 1, got {mask[neither][0].item():g}; if VecNormalize changed it, let its "
                "norm_obs_keys name the other parts of the observation"
            )
        self._legal = legal | ~legal.any(dim=-1, keepdim=True)
        try:
            yield
        finally:
            self._legal = None

    def _get_action_dist_from_latent(self, latent_pi: Tensor) -> Distribution:
        assert self._legal is not None
        logits = torch.where(self._legal, self.action_net(latent_pi), _NEVER)
        return self.action_dist.proba_distribution(action_logits=logits)

    # Recurrent policies take and give more than those of Stable-Baselines3 that they are derived from.
    def forward(  # type: ignore[override]
        self, obs: Any, lstm_states: RNNStates, episode_starts: Tensor, deterministic: bool = False
    ) -> tuple[Tensor, Tensor, Tensor, RNNStates]:
        """Choose legal actions, and give their log-probabilities and the values; see the class it extends."""
        with self._masked(obs):
            return super().forward(obs, lstm_states, episode_starts, deterministic)

    def get_distribution(  # type: ignore[override]
        self, obs: Any, lstm_states: LstmState, episode_starts: Tensor
    ) -> tuple[Distribution, tuple[Tensor, ...]]:
        """Give the distribution over legal actions; see the class it extends."""
        with self._masked(obs):
            return super().get_distribution(obs, lstm_states, episode_starts)

    def evaluate_actions(  # type: ignore[override]
        self, obs: Any, actions: Tensor, lstm_states: RNNStates, episode_starts: Tensor
    ) -> tuple[Tensor, Tensor, Tensor]:
        """Judge actions that were taken under the same masks; see the class it extends."""
        with self._masked(obs):
            return super().evaluate_actions(obs, actions, lstm_states, episode_starts)

    def predict(
        self,
        observation: Arrays,
        state: States | None = None,
        episode_start: npt.NDArray[Any] | None = None,
        deterministic: bool = False,
        action_masks: npt.NDArray[Any] | None = None,
    ) -> tuple[npt.NDArray[Any], States | None]:
        """Choose legal actions.

        Args:
            observation: Of one environment or of a vector of n.
            state: As returned by the previous call, or None.
            episode_start: [n] bool. Where True, the state is dropped.
            deterministic: Take the likeliest.
            action_masks: [n, A]. Forbids actions beyond those that the observation forbids.
        """
        if action_masks is not None:
            assert isinstance(observation, dict)
            mask = observation[MASK]
            observation = observation | {
                MASK: mask * np.asarray(action_masks, mask.dtype).reshape(mask.shape)
            }
        return super().predict(observation, state, episode_start, deterministic)

    def _get_constructor_parameters(self) -> dict[str, Any]:
        """What ``save`` keeps beside the weights; what makes it recurrent too."""
        return super()._get_constructor_parameters() | {
            "share_features_extractor": self.share_features_extractor,
            "lstm_hidden_size": self.lstm_actor.hidden_size,
            "n_lstm_layers": self.lstm_actor.num_layers,
            "shared_lstm": self.shared_lstm,
            "enable_critic_lstm": self.enable_critic_lstm,
            "lstm_kwargs": self.lstm_kwargs,
        }


class TrackerLstmPolicy(MaskedMultiInputLstmPolicy):
    """SPINN's Tracker for sb3-contrib: an LSTM over the next word and the two stack tops, with legal transitions alone.

    A `MaskedMultiInputLstmPolicy` over `TrackerFeatures`, with an actor whose tree composition starts as it was
    initialised.

    Args:
        observation_space: Of symbolic observations.
        action_space: Of the parser.
        lr_schedule: Of the learning rate.
        features_extractor_class: Another view of the parser.
        ortho_init: Draw all weights anew, orthogonal.
        kwargs: As for ``MultiInputLstmPolicy``; ``features_extractor_kwargs`` are those of `TrackerFeatures`.
    """

    def __init__(
        self,
        observation_space: spaces.Space[Any],
        action_space: spaces.Space[Any],
        lr_schedule: Schedule,
        *,
        features_extractor_class: type[BaseFeaturesExtractor] = TrackerFeatures,
        ortho_init: bool = False,
        **kwargs: Any,
    ) -> None:
        super().__init__(
            observation_space,
            action_space,
            lr_schedule,
            features_extractor_class=features_extractor_class,
            ortho_init=ortho_init,
            **kwargs,
        )


class MaskableRecurrentPPO(RecurrentPPO):
    """sb3-contrib's RecurrentPPO for policies that mask: PPO with an LSTM that never takes an illegal action.

        agent = MaskableRecurrentPPO("TrackerLstmPolicy", env)

    The environment shows its masks in the observation, as the symbolic one of `ShiftReduceEnv` does; `VecActionMask`
    puts them there for others.

    All arguments are those of RecurrentPPO.

    Raises:
        ValueError: The policy does not mask.
    """

    policy_aliases: ClassVar[dict[str, type[BasePolicy]]] = {
        "MaskedMultiInputLstmPolicy": MaskedMultiInputLstmPolicy,
        "TrackerLstmPolicy": TrackerLstmPolicy,
    }

    def _setup_model(self) -> None:
        if not issubclass(self.policy_class, MaskedMultiInputLstmPolicy):
            raise ValueError(
                "MaskableRecurrentPPO needs a MaskedMultiInputLstmPolicy, got "
                f"{self.policy_class.__name__}, which does not mask; use RecurrentPPO for it"
            )
        super()._setup_model()

    def predict(
        self,
        observation: Arrays,
        state: States | None = None,
        episode_start: npt.NDArray[Any] | None = None,
        deterministic: bool = False,
        action_masks: npt.NDArray[Any] | None = None,
    ) -> tuple[npt.NDArray[Any], States | None]:
        """Choose legal actions; see `MaskedMultiInputLstmPolicy.predict`."""
        assert isinstance(self.policy, MaskedMultiInputLstmPolicy)
        return self.policy.predict(observation, state, episode_start, deterministic, action_masks)


class VecActionMask(VecEnvWrapper):
    """Put into the observation what an environment's ``action_masks()`` says.

    A ``Dict`` observation gets the key ``action_mask``; any other becomes ``{"observation": …, "action_mask": …}``.
    The observation after an end has a mask of zeros.

    Args:
        venv: Whose parts have ``action_masks()``, with ``Discrete`` actions.

    Raises:
        ValueError: They do not, or have other actions, or show a mask already.
    """

    def __init__(self, venv: VecEnv) -> None:
        space, actions = venv.observation_space, venv.action_space
        if not isinstance(actions, spaces.Discrete):
            raise ValueError(f"masks are for Discrete actions, got {actions}")
        if not venv.has_attr("action_masks"):
            raise ValueError("VecActionMask needs environments with a method action_masks()")
        parts = dict(space.spaces) if isinstance(space, spaces.Dict) else {"observation": space}
        if MASK in parts:
            raise ValueError(f"the observation has an {MASK!r} already; VecActionMask is not needed")
        self._nothing = np.zeros(int(actions.n), np.int8)
        parts[MASK] = spaces.Box(0, 1, (int(actions.n),), np.int8)
        super().__init__(venv, observation_space=spaces.Dict(parts))

    def reset(self) -> VecEnvObs:
        """Start, and show the masks."""
        return self._with_masks(self.venv.reset())

    def step_wait(self) -> VecEnvStepReturn:
        """Take a step, and show the masks."""
        observations, rewards, dones, infos = self.venv.step_wait()
        for row in np.flatnonzero(dones).tolist():
            last = infos[row]["terminal_observation"]
            infos[row]["terminal_observation"] = self._joined(last, self._nothing.copy())
        return self._with_masks(observations), rewards, dones, infos

    def _with_masks(self, observations: Any) -> dict[str, npt.NDArray[Any]]:
        return self._joined(observations, np.stack(self.venv.env_method("action_masks")).astype(np.int8))

    @staticmethod
    def _joined(observation: Any, mask: npt.NDArray[np.int8]) -> dict[str, npt.NDArray[Any]]:
        seen = observation if isinstance(observation, dict) else {"observation": observation}
        return {**seen, MASK: mask}
