"""Options that were asked for and would change nothing, because another one switches them off. No torch here."""

from __future__ import annotations

from collections.abc import Collection
from typing import NamedTuple

from rlparse.errors import ConfigError
from rlparse_experiments.config import TrainConfig

LEARNS_ALONE = ("tracker", "boundary", "easy_first")
"""Kinds of parsers with weights and an optimiser of their own."""

LEARNS = (*LEARNS_ALONE, "shared_tracker", "gumbel")
"""Kinds of parsers that learn."""

REWARDED = (*LEARNS_ALONE, "shared_tracker")
"""Kinds of parsers that learn from rewards."""

SEQUENCES = ("rnn", "lstm", "gru", "peephole_lstm")


class Needs(NamedTuple):
    """What an option needs to have an effect.

    Attributes:
        option: The setting that decides.
        values: Of it, under which there is an effect.
    """

    option: str
    values: tuple[object, ...]


NEEDS: dict[str, Needs] = {
    "corpus.n_test": Needs("corpus.generator", ("logic", "listops")),
    "corpus.test_max_tokens": Needs("corpus.generator", ("listops",)),
    "corpus.test_operators": Needs("corpus.generator", ("logic",)),
    **dict.fromkeys(("agent.ratio", "agent.clip_low", "agent.clip_high"), Needs("agent.objective", ("ppo",))),
    "agent.value_coef": Needs("agent.baseline", ("value", "step_value")),
    "agent.entropy_coef_end": Needs("agent.entropy", ("scheduled",)),
    **dict.fromkeys(
        ("agent.entropy_target", "agent.entropy_target_end", "agent.entropy_rate"),
        Needs("agent.entropy", ("target",)),
    ),
    "agent.entropy_until": Needs("agent.entropy", ("scheduled", "target")),
    "agent.temperature_to": Needs("agent.temperature", ("linear", "sinusoidal")),
    "agent.policy_coef": Needs("parser.kind", ("shared_tracker",)),
    **dict.fromkeys(
        (
            "agent.objective",
            "agent.baseline",
            "agent.normaliser",
            "agent.average",
            "agent.n_updates",
            "agent.kl_coef",
            "agent.pairing",
            "agent.entropy",
            "agent.entropy_coef",
        ),
        Needs("parser.kind", REWARDED),
    ),
    **dict.fromkeys(("agent.temperature", "agent.temperature_from"), Needs("parser.kind", LEARNS)),
    **dict.fromkeys(
        ("parser.embedding_std", "parser.bilstm", "parser.recurrent"), Needs("parser.kind", ("boundary",))
    ),
    "parser.leaf_lstm": Needs("parser.kind", ("easy_first",)),
    "parser.reads": Needs("parser.kind", ("tracker",)),
    "parser.composition": Needs("parser.kind", ("tracker", "easy_first")),
    "parser.catalan_prior": Needs("parser.kind", ("tracker", "boundary", "shared_tracker")),
    **dict.fromkeys(
        ("parser.optimizer", "parser.learning_rate", "parser.rate_schedule", "parser.weight_decay"),
        Needs("parser.kind", LEARNS_ALONE),
    ),
    **dict.fromkeys(
        ("pacing.curriculum_start", "pacing.curriculum_step", "pacing.curriculum_competence"),
        Needs("pacing.curriculum", ("length", "depth")),
    ),
    "pacing.fresh_start": Needs("parser.kind", LEARNS_ALONE),
    **dict.fromkeys(
        (
            "pacing.settled",
            "pacing.explore_until",
            "pacing.explore_tokens",
            "pacing.competence",
            "pacing.patience",
            "pacing.refine_every",
            "pacing.explorer_size",
        ),
        Needs("pacing.fresh_start", (True,)),
    ),
    **dict.fromkeys(
        ("pacing.warmup", "pacing.policy_every", "pacing.policy_average"), Needs("parser.kind", LEARNS)
    ),
    **dict.fromkeys(
        ("encoder.composition", "encoder.schedule", "encoder.tracker_size", "encoder.layer_norm"),
        Needs("encoder.architecture", ("tree",)),
    ),
    **dict.fromkeys(("encoder.bidirectional", "encoder.truncate"), Needs("encoder.architecture", SEQUENCES)),
}
"""Widths are not among them: one line of widths may serve many systems."""


def refuse_idle_options(config: TrainConfig, asked: Collection[str]) -> None:
    """Refuse options that somebody has asked for and that do nothing under the others.

    What presets and agents bring along is not asked for: a task's settings stay there when a control takes its place.

    Args:
        config: All settings.
        asked: Dotted names of the settings that were changed on the command line.

    Raises:
        ConfigError: The message names the option, the one that switches it off, and the way out.
    """
    for name in asked:
        if name not in NEEDS:
            continue
        option, values = NEEDS[name]
        section, field = option.split(".")
        found = getattr(getattr(config, section), field)
        if found not in values:
            flag = name.replace("_", "-")
            raise ConfigError(
                f"--{flag} does nothing with {option} {found}; leave it out, or use --{option.replace('_', '-')} "
                f"{' or '.join(map(str, values))}"
            )
