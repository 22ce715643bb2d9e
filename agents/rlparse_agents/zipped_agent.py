"""What the native agent keeps in a zip file of Stable-Baselines3, and what it takes from the environment instead."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Iterable, Mapping
from typing import Any, Self

import torch
from stable_baselines3.common.base_class import BaseAlgorithm

from rlparse.models.nli_model import NLIModel
from rlparse_agents.sb3_zip import require_trust

OF_ENVIRONMENT = "the environment's model"
"""Stands in a saved agent's ``policy_kwargs`` for the model, which belongs to the environment."""


class ZippedAgent(BaseAlgorithm):
    """An algorithm whose files hold all that it remembers, and load only for those who trust them."""

    model: NLIModel | None
    policy_optimizer: torch.optim.Optimizer | None
    encoder_optimizer: torch.optim.Optimizer | None

    @abstractmethod
    def learning_state(self) -> dict[str, Any]:
        """Give what continuing needs beside weights of policy and model, optimisers, generators and the batch order."""

    @abstractmethod
    def load_learning_state(self, state: Mapping[str, Any]) -> None:
        """Continue from where a state was taken."""

    @property
    def learned(self) -> _Learned:
        """What `learning_state` gives, in the form in which Stable-Baselines3 saves and loads parts of an agent."""
        return _Learned(self)

    def save(
        self, path: Any, exclude: Iterable[str] | None = None, include: Iterable[str] | None = None
    ) -> None:
        """Save the agent in a zip file as Stable-Baselines3 does; its model as weights, which are the environment's."""
        given = self.policy_kwargs
        if self.model is not None:
            self.policy_kwargs = {k: OF_ENVIRONMENT if v is self.model else v for k, v in given.items()}
        try:
            super().save(path, exclude, include)
        finally:
            self.policy_kwargs = given

    @classmethod
    def load(cls, path: Any, *arguments: Any, trusted: bool = False, **options: Any) -> Self:
        """Load an agent from a zip file as Stable-Baselines3 does, once the caller has said that it can be trusted.

        Raises:
            ValueError: ``trusted`` is False; the message says why it has to be asked for.
        """
        require_trust(path, trusted=trusted)
        return super().load(path, *arguments, **options)

    def _excluded_save_params(self) -> list[str]:
        return [
            *super()._excluded_save_params(),
            "corpus",
            "reward",
            "model",
            "examiner",
            "rewarder",
            "explorer_optimizer",
            "order",
            "batches",
            "generator",
            "last_iteration",
            "critic",
            "reference",
            "policy_average",
            "policy_loss",
            "curriculum",
            "_due",
            "_measured",
        ]

    def _get_torch_save_params(self) -> tuple[list[str], list[str]]:
        optimizers = ["policy_optimizer"] if self.policy_optimizer is not None else []
        parts = ["policy", *optimizers, "learned"]
        if self.encoder_optimizer is not None:
            parts += ["model", "encoder_optimizer"]
        return parts, []


class _Learned:
    """`ZippedAgent.learning_state` as Stable-Baselines3 treats modules and optimisers."""

    def __init__(self, agent: ZippedAgent) -> None:
        self.agent = agent

    def state_dict(self) -> dict[str, Any]:
        return self.agent.learning_state()

    def load_state_dict(self, state: Mapping[str, Any], strict: bool = True) -> None:
        del strict
        self.agent.load_learning_state(state)
