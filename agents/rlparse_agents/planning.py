"""Play the game by planning the whole tree: for policies that do not decide between SHIFT and REDUCE one by one."""

from __future__ import annotations

from typing import Any, cast

import numpy as np
import torch
from torch import Tensor

from rlparse import PAD
from rlparse.corpora.batching import Batch
from rlparse_agents.parsing_policy import ParsingPolicy

Plans = tuple[np.ndarray[Any, np.dtype[Any]], ...]


class PlanningPolicy(ParsingPolicy):
    """A policy that parses a sentence as a whole, and plays the transitions of that tree one by one.

    Where the game went another way than planned, it takes the planned transition while that is legal.
    """

    def predict(
        self,
        observation: np.ndarray[Any, np.dtype[Any]] | dict[str, np.ndarray[Any, np.dtype[Any]]],
        state: Plans | None = None,
        episode_start: np.ndarray[Any, np.dtype[Any]] | None = None,
        deterministic: bool = False,
    ) -> tuple[np.ndarray[Any, np.dtype[Any]], Plans | None]:
        """Choose actions from environment observations.

        The state is the planned derivations. Without it sentences are parsed anew, which for sampled parses means
        another tree at every step.

        Args:
            observation: Of one symbolic `ShiftReduceEnv` or of a vector of n.
            state: As returned by the previous call, or None.
            episode_start: [n] bool. Where True, the plan is dropped.
            deterministic: Take the greedy parse.

        Returns:
            Actions [n] (or one, for one environment) int64, and the new state.
        """
        self.set_training_mode(False)
        tensors, vectorised = self.obs_to_tensor(cast(dict[str, np.ndarray[Any, np.dtype[Any]]], observation))
        seen = cast(dict[str, Tensor], tensors)
        n_taken = _n_taken(seen)
        plans = seen["transitions"].long()
        if state is None:
            fresh = torch.ones_like(n_taken, dtype=torch.bool)
        else:
            plans = torch.as_tensor(state[0], device=self.device).clone()
            fresh = n_taken == 0
            if episode_start is not None:
                fresh |= torch.as_tensor(episode_start, device=self.device)
        if bool(fresh.any()):
            plans[fresh] = self._plan({name: part[fresh] for name, part in seen.items()}, deterministic)
        chosen = _follow(plans, n_taken, seen).cpu().numpy()
        return (chosen if vectorised else chosen.squeeze(0)), (plans.cpu().numpy(),)

    def _predict(self, observation: Any, deterministic: bool = False) -> Tensor:
        return _follow(self._plan(observation, deterministic), _n_taken(observation), observation)

    def _plan(self, seen: dict[str, Tensor], deterministic: bool) -> Tensor:
        """Parse what is observed: [n, T] int64."""
        tokens, lengths = seen["tokens"].long(), seen["length"].long().flatten()
        rows = torch.arange(len(lengths), device=lengths.device)
        none = torch.full((len(lengths), 2 * tokens.shape[1] - 1), PAD, device=lengths.device)
        batch = Batch(
            tokens, lengths, torch.zeros_like(lengths), none, torch.zeros_like(lengths).bool(), rows
        )
        return self.derive(batch, greedy=deterministic)


def _n_taken(seen: dict[str, Tensor]) -> Tensor:
    return (seen["transitions"] != PAD).sum(1)


def _follow(plans: Tensor, n_taken: Tensor, seen: dict[str, Tensor]) -> Tensor:
    """Give the next transition of every plan, or the legal one where that is not: [n] int64."""
    legal = seen["action_mask"].bool()
    wanted = plans.gather(1, n_taken.clamp_max(plans.shape[1] - 1).unsqueeze(1))
    possible = legal.gather(1, wanted.clamp_max(1)) & (wanted != PAD)
    return torch.where(possible, wanted, legal.long().argmax(1, keepdim=True)).squeeze(1)
