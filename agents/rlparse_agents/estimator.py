"""Which gradient the policy follows: the options that can be combined, and which of them cannot."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from rlparse_agents.baselines import BASELINE_NAMES, NEEDS_SEVERAL_PARSES
from rlparse_agents.losses import AVERAGES, RATIOS, Average, Ratio
from rlparse_agents.normalisers import NORMALISER_NAMES

ObjectiveName = Literal["reinforce", "ppo", "supervised"]
BaselineName = Literal[
    "none", "moving_average", "value", "step_value", "greedy", "leave_one_out", "group_mean"
]
NormaliserName = Literal["none", "batch_sd", "running_sd", "group_sd"]

CHOICES = {
    "objective": ("reinforce", "ppo", "supervised"),
    "baseline": BASELINE_NAMES,
    "pairing": ("matched", "crosswise"),
    "normaliser": NORMALISER_NAMES,
    "average": AVERAGES,
    "ratio": RATIOS,
    "kl_in": ("loss", "reward"),
}


@dataclass(frozen=True)
class Estimator:
    """How rewards become a loss of the policy. The options are orthogonal, but for the combinations refused below.

    Attributes:
        objective: ``reinforce`` (Williams 1992; with ``step_value`` it is advantage actor-critic), ``ppo`` (Schulman et
            al. 2017), ``supervised`` (imitate gold parses, which also build the trees; no reward).
        baseline: See `rlparse_agents.baselines` and, for the two values, `rlparse_agents.critics`.
        pairing: Of the K parses of two sentences: ``matched`` pairs parse k with parse k, ``crosswise`` all K x K.
        normaliser: See `rlparse_agents.normalisers`.
        average: See `rlparse_agents.losses`.
        n_updates: Of the policy, from the same parses.
        ratio: Clip the probability ratio of each ``decision`` or of the whole ``tree``.
        clip_low: Ratios below 1 - clip_low earn no more.
        clip_high: Ratios above 1 + clip_high earn no more.
        kl_coef: Weight of KL(policy || reference).
        kl_in: Add it to the ``loss`` (exactly), or take it from the ``reward`` of every decision.
        reference_every: Iterations after which the policy becomes its own reference; 0 keeps the one of the beginning.
        gamma: Discount per decision, of ``step_value``.
        gae_lambda: Of generalised advantage estimates, of ``step_value``.
        value_coef: Weight of the critic's squared error.
        policy_coef: Weight of the whole policy loss beside the cross-entropy, where they share weights.

    Raises:
        ValueError: An option is unknown or out of range, or does not fit another; the message names both.
    """

    objective: ObjectiveName = "reinforce"
    baseline: BaselineName = "leave_one_out"
    pairing: Literal["matched", "crosswise"] = "matched"
    normaliser: NormaliserName = "none"
    average: Average = "decisions"
    n_updates: int = 1
    ratio: Ratio = "decision"
    clip_low: float = 0.2
    clip_high: float = 0.2
    kl_coef: float = 0.0
    kl_in: Literal["loss", "reward"] = "loss"
    reference_every: int = 0
    gamma: float = 1.0
    gae_lambda: float = 1.0
    value_coef: float = 0.5
    policy_coef: float = 1.0

    def __post_init__(self) -> None:
        for name, known in CHOICES.items():
            value = getattr(self, name)
            if value not in known:
                raise ValueError(f"unknown {name} {value!r}; known: {', '.join(known)}")
        for name in ("gamma", "gae_lambda"):
            if not 0.0 <= getattr(self, name) <= 1.0:
                raise ValueError(f"{name} must be in 0..1, got {getattr(self, name)}")
        for name in ("clip_low", "clip_high", "kl_coef", "reference_every", "value_coef", "policy_coef"):
            if getattr(self, name) < 0:
                raise ValueError(f"{name} must not be negative, got {getattr(self, name)}")
        if self.clip_low >= 1.0:
            raise ValueError(
                f"clip_low must be below 1, because ratios are never negative, got {self.clip_low}"
            )
        if self.reference_every and not self.kl_coef:
            raise ValueError(
                f"reference_every={self.reference_every} renews a reference that kl_coef=0 never asks; give a kl_coef, "
                "or leave reference_every out"
            )
        if self.n_updates < 1:
            raise ValueError(f"n_updates must be at least 1, got {self.n_updates}")
        if self.n_updates > 1 and self.objective == "reinforce":
            raise ValueError(
                f"n_updates={self.n_updates} goes on with parses of an older policy, which objective='reinforce' takes "
                "for the policy's own; use n_updates=1 or objective='ppo'"
            )
        centred = ("leave_one_out", "group_mean")
        if self.normaliser == "group_sd" and self.baseline not in (*centred, "step_value"):
            raise ValueError(
                f"normaliser='group_sd' divides by next to nothing where all parses of a group earn the same, and "
                f"baseline={self.baseline!r} does not make their advantages 0; use baseline='group_mean' or another "
                "normaliser"
            )
        if self.objective == "supervised" and self.kl_coef and self.kl_in == "reward":
            raise ValueError(
                "kl_in='reward' changes rewards, which objective='supervised' does not look at; use kl_in='loss'"
            )
        self._check_steps()

    def _check_steps(self) -> None:
        """Refuse what asks for, or cannot do with, advantages of single decisions."""
        by_step = self.baseline == "step_value"
        if not by_step:
            if self.gamma < 1.0 or self.gae_lambda < 1.0:
                which = "gamma" if self.gamma < 1.0 else "gae_lambda"
                raise ValueError(
                    f"{which}={getattr(self, which)} needs a critic of every decision, baseline={self.baseline!r} has "
                    f"none; use {which}=1 or baseline='step_value'"
                )
            if self.kl_coef and self.kl_in == "reward":
                raise ValueError(
                    "kl_in='reward' gives every decision a reward of its own, which needs a critic of every decision; "
                    f"baseline={self.baseline!r} has none; use kl_in='loss' or baseline='step_value'"
                )
        elif self.normaliser == "group_sd":
            raise ValueError(
                "normaliser='group_sd' divides the parses of a group, baseline='step_value' judges single decisions; "
                "use normaliser='batch_sd' or baseline='group_mean'"
            )
        elif self.objective == "ppo" and self.ratio == "tree":
            raise ValueError(
                "ratio='tree' has one advantage a parse, baseline='step_value' one a decision; use ratio='decision' or "
                "another baseline"
            )

    def check_parses(self, n_parses: int, n_sides: int) -> None:
        """Refuse numbers of parses and sentences that the options cannot work with.

        Raises:
            ValueError: The message names the option.
        """
        if self.objective == "supervised":
            if n_parses != 1:
                raise ValueError(
                    f"objective='supervised' has one gold parse an example, got n_parses={n_parses}; use n_parses=1"
                )
            return
        for name, needs in (("baseline", NEEDS_SEVERAL_PARSES), ("normaliser", {"group_sd"})):
            value = getattr(self, name)
            if value in needs and n_parses < 2:
                raise ValueError(
                    f"{name}={value!r} compares the parses of one example and needs n_parses >= 2, got {n_parses}; "
                    f"raise n_parses or use {name}='none'"
                )
        if self.pairing == "crosswise" and n_sides != 2:
            raise ValueError(
                "pairing='crosswise' combines the parses of two sentences, this corpus has examples of one; use "
                "pairing='matched'"
            )
