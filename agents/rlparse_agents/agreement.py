"""Which options a policy, an estimator, a pace and a corpus cannot work with together."""

from __future__ import annotations

import numpy as np

from rlparse.corpora.corpus import Corpus
from rlparse_agents.estimator import Estimator
from rlparse_agents.pacing import Pacing
from rlparse_agents.parsing_policy import EncodingPolicy, LearningPolicy, ParsingPolicy
from rlparse_envs.rewards import ModelReward, Reward


def check_agreement(
    policy: ParsingPolicy,
    estimator: Estimator,
    pacing: Pacing,
    corpus: Corpus,
    reward: Reward,
    *,
    n_parses: int,
    trains: bool,
) -> None:
    """Refuse options that exclude each other. Policies that do not learn take whatever there is.

    Args:
        policy: Who parses.
        estimator: How it learns.
        pacing: When it learns.
        corpus: What it learns from.
        reward: What its parses earn.
        n_parses: K.
        trains: Whether the classifier learns.

    Raises:
        ValueError: The message names the two options and a way out.
    """
    if not isinstance(policy, LearningPolicy | EncodingPolicy):
        return
    name = type(policy).__name__
    if policy.judges:
        estimator.check_parses(n_parses, corpus.n_sides)
    elif estimator.pairing == "crosswise":
        raise ValueError(
            f"pairing='crosswise' pairs rewards, {name} learns from the classifier's gradient alone; use "
            "pairing='matched', or a policy that learns from rewards, such as TrackerPolicy"
        )
    if estimator.objective == "supervised":
        _check_imitation(policy, corpus, name)
    if estimator.pairing == "crosswise" and not hasattr(reward, "from_logits"):
        raise ValueError(
            f"pairing='crosswise' asks a model about every pair of parses, reward {type(reward).__name__} looks at the "
            "parses themselves; use a reward that the model gives, or pairing='matched'"
        )
    if isinstance(policy, EncodingPolicy):
        _check_sharing(estimator, pacing, name, trains=trains)
    elif not trains:
        for option, given in (
            ("warmup", pacing.warmup > 0),
            ("encoder_every", pacing.encoder_every > 1),
            ("fresh_start", pacing.fresh_start),
        ):
            if given:
                raise ValueError(
                    f"{option}={getattr(pacing, option)} is about an encoder that learns, and none does "
                    f"(train_encoder=False, or an environment without a model); leave {option} out"
                )


def _check_imitation(policy: LearningPolicy | EncodingPolicy, corpus: Corpus, name: str) -> None:
    """Refuse gold parses that are missing, or that a policy cannot follow."""
    if not policy.chooses_transitions:
        raise ValueError(
            f"objective='supervised' imitates gold transitions, {name} merges neighbours in an order that gold trees "
            "do not tell; use a policy that chooses transitions, such as TrackerPolicy or SharedTrackerPolicy"
        )
    missing = int((~np.array(corpus.has_gold)).sum())
    if missing:
        raise ValueError(
            f"objective='supervised' needs a gold parse for every sentence, {missing:,} have none; leave their "
            "examples out (--corpus.parsed-only), or use another objective"
        )


def _check_sharing(estimator: Estimator, pacing: Pacing, name: str, *, trains: bool) -> None:
    """Refuse what would move a policy apart from the classifier whose weights it shares."""
    if not trains:
        raise ValueError(
            f"{name} learns with the classifier, which train_encoder=False keeps from learning; leave that out, or use "
            "a policy of its own, such as TrackerPolicy"
        )
    apart = {
        "objective='ppo'": estimator.objective == "ppo",
        f"n_updates={estimator.n_updates}": estimator.n_updates > 1,
        f"kl_coef={estimator.kl_coef}": estimator.kl_coef > 0,
        f"warmup={pacing.warmup}": pacing.warmup > 0,
        f"policy_every={pacing.policy_every}": pacing.policy_every > 1,
        f"encoder_every={pacing.encoder_every}": pacing.encoder_every > 1,
        f"policy_average={pacing.policy_average}": pacing.policy_average > 0,
        f"fresh_start={pacing.fresh_start}": pacing.fresh_start,
    }
    for option, given in apart.items():
        if given:
            raise ValueError(
                f"{option} updates the policy apart from the classifier, {name} shares its weights; leave it out, or "
                "use a policy of its own, such as TrackerPolicy"
            )


def check_explorer(reward: Reward, *, starts_afresh: bool) -> None:
    """Refuse an explorer that would have nothing to do.

    Args:
        reward: What parses earn.
        starts_afresh: Whether the policy learns with a fresh start.

    Raises:
        ValueError: There is no fresh start, or the reward asks no model.
    """
    if not starts_afresh:
        raise ValueError(
            "an explorer rewards parses until the environment's model makes a fresh start, and there is none; "
            "set Pacing(fresh_start=True) or leave the explorer out"
        )
    if not isinstance(reward, ModelReward):
        raise ValueError(
            f"an explorer rewards parses in the model's place, reward {type(reward).__name__} asks no model; "
            "use one that does, such as accuracy, or leave the explorer out"
        )
