"""Whole training iterations with the sizes of the ``snli`` preset, on drawn pairs of SNLI's lengths."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import numpy as np
from stable_baselines3.common.callbacks import BaseCallback
from stable_baselines3.common.logger import Logger

from rlparse.corpora.corpus import Corpus
from rlparse_agents.policy_gradient import PolicyGradient
from rlparse_experiments.assembly import Corpora, make_agent
from rlparse_experiments.bench.measuring import Contender, Section, Work
from rlparse_experiments.bench.workload import draw_corpus
from rlparse_experiments.config import BenchConfig, ParserKind, TrainConfig
from rlparse_experiments.layered_config import apply_settings, preset_file, read_settings

PRESET = "snli"

AGENTS: dict[str, ParserKind] = {
    "PolicyGradient, sampled parses": "tracker",
    "PolicyGradient, random trees": "random",
    "PolicyGradient, gold trees": "gold",
}
"""What learns, by the kind of its parser."""

PAIRS = 2048
"""Drawn pairs: an epoch of them is timed together, as the lengths of batches differ."""


FOREVER = 1 << 62
"""Transitions to train for, where a callback ends the training."""


class Stop(BaseCallback):
    """End a call of ``learn`` after some iterations."""

    def __init__(self, iterations: int) -> None:
        super().__init__()
        self.iterations = iterations

    def _on_training_start(self) -> None:
        self.n_calls = 0

    def _on_step(self) -> bool:
        return self.n_calls < self.iterations


def preset_config(
    config: BenchConfig, kind: ParserKind, *, batch_size: int | None = None, device: str = "cpu"
) -> TrainConfig:
    """Give the preset's settings, with another parser and, if asked for, another batch size."""
    settings = apply_settings(TrainConfig(), read_settings(preset_file(PRESET)))
    if config.quick:
        tiny = config.hidden_size[0]
        encoder = replace(settings.encoder, embedding_size=tiny, hidden_size=tiny, mlp_size=tiny)
        settings = replace(settings, encoder=encoder)
    return replace(
        settings,
        seed=config.seed,
        device=device,
        parser=replace(settings.parser, kind=kind),
        agent=replace(settings.agent, batch_size=batch_size or settings.agent.batch_size),
    )


def silent_agent(corpus: Corpus, settings: TrainConfig) -> PolicyGradient:
    """Build the agent that ``rlparse train`` would, without its run folder."""
    assert corpus.vocabulary is not None
    agent = make_agent(settings, Corpora(corpus, corpus, corpus.vocabulary, ()))
    agent.set_logger(Logger(folder=None, output_formats=[]))
    return agent


def epoch_work(corpus: Corpus, settings: TrainConfig) -> Work:
    """Train for an epoch; what is counted is pairs, whatever the number of their parses."""
    agent = silent_agent(corpus, settings)
    stop = Stop(agent.order.batches_per_epoch)

    def work() -> int:
        agent.learn(FOREVER, callback=stop, reset_num_timesteps=False)
        return len(corpus)

    return work


def sections(config: BenchConfig) -> list[Section]:
    """Give what ``rlparse bench train`` measures."""
    pairs = 64 if config.quick else PAIRS

    def build() -> list[Contender]:
        corpus = draw_corpus(pairs, np.random.default_rng(config.seed))

        def prepare(kind: ParserKind) -> Callable[[], Work]:
            return lambda: epoch_work(corpus, preset_config(config, kind))

        return [Contender(name, prepare(kind)) for name, kind in AGENTS.items()]

    return [Section("train", f"training iterations, preset {PRESET}, drawn pairs", "pairs/s", build)]
