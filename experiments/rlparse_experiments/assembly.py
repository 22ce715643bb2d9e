"""Put a run's parts together from its settings: corpora, vocabulary, model, environment, agent."""

from __future__ import annotations

import math
from dataclasses import dataclass, fields, replace
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from gymnasium.spaces import Discrete

from rlparse.checkpoint import Checkpoint, load_checkpoint
from rlparse.corpora.corpus import Corpus
from rlparse.corpora.glove import read_vectors
from rlparse.corpora.loading import LoadedCorpora, load_corpora, load_corpus, load_generated
from rlparse.corpora.logic import LAST_BIN, bin_of
from rlparse.corpora.official_files import Paths
from rlparse.errors import CheckpointError, ConfigError, RlparseError
from rlparse.models.nli_model import NLIModel, resolve_device
from rlparse.vocabulary import Vocabulary
from rlparse_agents.estimator import Estimator
from rlparse_agents.exploration import Constant, EntropyTarget, Interpolated, Schedule, Shape, Sinusoidal
from rlparse_agents.pacing import Pacing
from rlparse_agents.parsing_policy import ParsingPolicy
from rlparse_agents.policy_gradient import PolicyGradient
from rlparse_envs.observations import GameSize, SymbolicObserver
from rlparse_envs.shift_reduce import ShiftReduceEnv
from rlparse_experiments.config import AgentConfig, CorpusConfig, RateSchedule, TrainConfig
from rlparse_experiments.option_names import with_option_names
from rlparse_experiments.run_folder import RunFolder

NO_LIMIT = -1
"""What ``corpus.test_max_tokens`` is for a test set without a limit."""

AS_OPERATORS = (0, 0)
"""What ``corpus.test_operators`` is for a test set of as many operators as training has."""


@dataclass(frozen=True)
class Corpora:
    """What a run learns from and is measured on, bound to one vocabulary.

    Attributes:
        train: Training examples.
        dev: Examples that measure; never trained on.
        vocabulary: Of the training examples.
        report: Lines for a person: which files, how many examples.
        test: Examples that measure the final weights, where that is asked for.
        test_report: Lines for a person about these.
    """

    train: Corpus
    dev: Corpus
    vocabulary: Vocabulary
    report: tuple[str, ...]
    test: Corpus | None = None
    test_report: tuple[str, ...] = ()


def make_corpora(config: TrainConfig, vocabulary: Vocabulary | None = None) -> Corpora:
    """Read or generate the corpora.

    Args:
        config: Of the run.
        vocabulary: Of a run that goes on; None builds one from the training examples.

    Raises:
        CorpusError: A file is malformed or missing.
        ConfigError: Nothing is left to train on, gold parses are missing that the parser or the reward needs, or there
            is no test set to measure on.
    """
    loaded = _load(config)
    train, dev, report = loaded.train, loaded.dev, loaded.lines()
    test = loaded.test if config.run.test else None
    if config.run.test and test is None:
        raise ConfigError(
            f"run.test measures on a test set, and {loaded.name} has none; leave it out, and measure other files by "
            "rlparse evaluate RUN --data FILES"
        )
    keep = np.ones(len(train), dtype=bool)
    if config.corpus.max_tokens:
        keep &= train.lengths.max(axis=1) <= config.corpus.max_tokens
    if config.corpus.parsed_only:
        keep &= np.array(train.has_gold).reshape(len(train), -1).all(axis=1)
    chosen = keep.nonzero()[0]
    if config.corpus.train_limit and len(chosen) > config.corpus.train_limit:
        rng = np.random.default_rng([config.seed, 1])
        chosen = np.sort(rng.choice(chosen, config.corpus.train_limit, replace=False))
    if not len(chosen):
        raise ConfigError(
            f"none of {len(train)} training examples is left; loosen --corpus.max-tokens or --corpus.parsed-only"
        )
    if len(chosen) < len(train):
        report = [*report, f"  {len(chosen):,} of {len(train):,} training examples are used"]
        train = train.subset(chosen)
    _check_gold(config, train, dev, test)
    if vocabulary is None:
        vocabulary = Vocabulary.build(
            train.token_counts(), min_count=config.corpus.min_count, lowercase=config.corpus.lowercase
        )
    return Corpora(
        train.with_vocabulary(vocabulary),
        dev.with_vocabulary(vocabulary),
        vocabulary,
        tuple(report),
        None if test is None else test.with_vocabulary(vocabulary),
        () if test is None else tuple(loaded.reports[2].lines()),
    )


def _check_gold(config: TrainConfig, train: Corpus, dev: Corpus, test: Corpus | None) -> None:
    """Refuse corpora without the gold parses that will be asked for, before an epoch was spent on them."""
    wanted = {}
    if config.parser.kind == "gold":
        wanted = {"training": train, "dev": dev, **({} if test is None else {"test": test})}
    elif config.agent.reward == "gold_f1":
        wanted = {"training": train}
    for part, corpus in wanted.items():
        missing = int((~np.array(corpus.has_gold).reshape(len(corpus), -1).all(axis=1)).sum())
        if missing:
            who = "parser.kind gold" if config.parser.kind == "gold" else "agent.reward gold_f1"
            hint = (
                "--corpus.parsed-only leaves them out"
                if part == "training"
                else "--parser.kind gold_or_right does without"
            )
            raise ConfigError(
                f"{who} needs a gold parse for every sentence; {missing:,} of {len(corpus):,} {part} examples "
                f"have none ({hint})"
            )


def _load(config: TrainConfig) -> LoadedCorpora:
    """Read the run's files, or generate its corpora, or take either from the cache."""
    settings = config.corpus
    cache = "default" if settings.cache is None else settings.cache
    if config.data:
        data: Paths = config.data[0] if len(config.data) == 1 else config.data
        return load_corpora(
            data,
            dev=config.dev or None,
            brackets=settings.brackets,
            skip_bad_lines=settings.skip_bad_lines,
            cache_dir=cache,
        )
    if config.dev:
        raise ConfigError("--dev names files to evaluate on, but without --data the corpora are generated")
    if settings.generator == "none":
        raise ConfigError(
            "this task is read from files: name the folder or files with --data, as in "
            "rlparse train snli --data ../shared/data/snli"
        )
    _check_test_set(settings)
    sizes = {
        "n_train": settings.n_train,
        "n_dev": settings.n_dev,
        "n_test": settings.n_test or settings.n_dev,
        "seed": config.seed if settings.seed is None else settings.seed,
    }
    if settings.generator == "logic":
        options: dict[str, Any] = {"operators": list(settings.operators), "brackets": settings.brackets}
        if settings.test_operators not in (AS_OPERATORS, settings.operators):
            options["test_operators"] = list(settings.test_operators)
    else:
        options = {"max_tokens": settings.max_tokens or None}
        if settings.test_max_tokens and settings.max_tokens:
            cap = settings.test_max_tokens
            options["test_max_tokens"] = math.inf if cap == NO_LIMIT else cap
    return load_generated(settings.generator, cache_dir=cache, **sizes, **options)


def _check_test_set(settings: CorpusConfig) -> None:
    """Refuse a test set that cannot be generated beside the training set.

    Raises:
        ConfigError: A number is negative, the test set's cap is below the training set's, or its bins are none, are
            partly those of the training set, or are more than it has examples.
    """
    if settings.n_test < 0:
        raise ConfigError(f"corpus.n_test must be at least 0 (as many as for dev), got {settings.n_test}")
    longest, cap = settings.test_max_tokens, settings.max_tokens
    if longest < NO_LIMIT:
        raise ConfigError(
            f"corpus.test_max_tokens must be -1 (no limit), 0 (as corpus.max_tokens) or more, got {longest}"
        )
    if longest > 0 and (cap == 0 or longest < cap):
        raise ConfigError(
            f"corpus.test_max_tokens must not be below corpus.max_tokens ({cap or 'no limit'}), got {longest}: "
            "training, dev and test expressions are parts of one draw"
        )
    if settings.generator == "logic" and settings.test_operators not in (AS_OPERATORS, settings.operators):
        _check_test_operators(settings)


def _check_test_operators(settings: CorpusConfig) -> None:
    """Refuse a test set on other bins than the training set's that cannot be generated."""
    (first, last), (low, high) = settings.test_operators, settings.operators
    if not 0 <= first <= last <= LAST_BIN:
        raise ConfigError(
            "corpus.test_operators must be the first and the last bin, 0 <= first <= last <= "
            f"{LAST_BIN} (which takes longer ones, too), or 0 0 (as corpus.operators), got {first} {last}"
        )
    if first <= bin_of(high) and bin_of(low) <= last:
        raise ConfigError(
            f"corpus.test_operators must not overlap corpus.operators ({low} {high}) without being equal, got "
            f"{first} {last}: the dev set measures on the operators of training"
        )
    n_bins, n_test = last - first + 1, settings.n_test or settings.n_dev
    if n_test < n_bins:
        raise ConfigError(
            f"corpus.n_test must be at least {n_bins}, an example for each bin of corpus.test_operators "
            f"({first} {last}), got {n_test}"
        )


def evaluation_corpus(
    run: TrainedRun, data: tuple[Path, ...], *, split: Literal["dev", "test"], skip_bad_lines: bool = False
) -> tuple[Corpus, tuple[str, ...]]:
    """Load what a trained run is to be measured on, bound to its vocabulary.

    Args:
        run: The trained run.
        data: Files to measure on; none takes the run's own data.
        split: Which part of the run's own data.
        skip_bad_lines: Skip malformed lines of the files.

    Returns:
        The corpus, and lines that say what it is.

    Raises:
        CorpusError: A file is malformed, or its labels are not those the run knows.
        ConfigError: The run's data have no such part, or examples of another number of sentences were given.
    """
    if data:
        corpus, report = load_corpus(
            data,
            name=data[0].name,
            brackets=run.config.corpus.brackets,
            skip_bad_lines=skip_bad_lines,
            cache_dir="default" if run.config.corpus.cache is None else run.config.corpus.cache,
        )
        lines = report.lines()
    else:
        loaded = _load(run.config)
        part = loaded.dev if split == "dev" else loaded.test
        if part is None:
            raise ConfigError(f"the data of {run.folder.path} have no {split} part; give files with --data")
        corpus = part
        lines = loaded.reports[1 if split == "dev" else 2].lines()
    if corpus.n_sides != run.n_sides:
        raise ConfigError(
            f"{run.folder.path} was trained on examples of {run.n_sides} sentences, these have {corpus.n_sides}"
        )
    return corpus.with_labels(run.labels).with_vocabulary(run.vocabulary), tuple(lines)


def make_model(config: TrainConfig, *, n_tokens: int, n_classes: int, n_sides: int) -> NLIModel:
    """Build the classifier that the settings describe, with weights from torch's generator."""
    settings = config.encoder
    return NLIModel(
        n_tokens,
        n_classes,
        n_sides=n_sides,
        embedding_size=settings.embedding_size,
        embedding_std=settings.embedding_std,
        embedding_dropout=settings.embedding_dropout,
        hidden_size=settings.hidden_size,
        architecture=settings.architecture,
        bidirectional=settings.bidirectional,
        truncate=settings.truncate,
        composition=settings.composition,
        layer_norm=settings.layer_norm,
        tracker_size=settings.tracker_size,
        mlp_size=settings.mlp_size,
        dropout=settings.dropout,
        schedule=settings.schedule,
        hide_premise=settings.hide_premise,
    )


def make_explorer(config: TrainConfig, model: NLIModel, *, n_tokens: int, n_classes: int) -> NLIModel | None:
    """Build the smaller classifier that the settings want for exploring, if they do."""
    size = config.pacing.explorer_size
    if not (size and config.pacing.fresh_start and config.parser.kind in LEARNED_PARSERS):
        return None
    smaller = replace(config.encoder, embedding_size=size, hidden_size=size)
    return make_model(
        replace(config, encoder=smaller), n_tokens=n_tokens, n_classes=n_classes, n_sides=model.n_sides
    )


def policy_arguments(config: TrainConfig, model: NLIModel, n_tokens: int) -> tuple[str, dict[str, Any]]:
    """Give the policy's name, as the agent knows it, and the arguments of its constructor."""
    parser = config.parser
    sizes = {
        "n_tokens": n_tokens,
        "embedding_size": parser.embedding_size,
        "hidden_size": parser.hidden_size,
    }
    if parser.kind == "tracker":
        own = {"tracker_size": parser.tracker_size, "composition": parser.composition, "reads": parser.reads}
        return "TrackerPolicy", sizes | own | {"catalan_prior": parser.catalan_prior, "encoder": model}
    if parser.kind == "boundary":
        networks = {"bilstm": parser.bilstm, "recurrent": parser.recurrent}
        own_words = {"embedding_std": parser.embedding_std}
        return "BoundaryPolicy", sizes | own_words | networks | {"catalan_prior": parser.catalan_prior}
    if parser.kind == "easy_first":
        return "EasyFirstPolicy", sizes | {"composition": parser.composition, "leaf_lstm": parser.leaf_lstm}
    if parser.kind == "shared_tracker":
        return "SharedTrackerPolicy", {"model": model, "catalan_prior": parser.catalan_prior}
    if parser.kind == "gumbel":
        return "GumbelPolicy", {"model": model}
    return "FixedTreePolicy", {"kind": parser.kind, "seed": config.seed}


LEARNED_PARSERS = ("tracker", "boundary", "easy_first", "shared_tracker", "gumbel")
"""Kinds of parsers that learn; the others build trees that are no better or worse for any reward, one a sentence."""


def make_agent(config: TrainConfig, corpora: Corpora) -> PolicyGradient:
    """Build model, environment and agent; the agent's ``model`` and ``policy`` are the trained parts.

    Raises:
        CorpusError: The GloVe file is malformed.
        ConfigError: Settings do not fit each other.
    """
    try:
        return _make_agent(config, corpora)
    except RlparseError:
        raise
    except ValueError as error:
        raise ConfigError(with_option_names(str(error))) from error


def _make_agent(config: TrainConfig, corpora: Corpora) -> PolicyGradient:
    torch.manual_seed(config.seed)
    device = resolve_device(config.device)
    train, n_tokens = corpora.train, len(corpora.vocabulary)
    model = make_model(config, n_tokens=n_tokens, n_classes=len(train.labels), n_sides=train.n_sides)
    if model.reads_trees == (config.parser.kind == "none"):
        way = "another parser" if model.reads_trees else "--parser.kind none"
        raise ConfigError(
            f"encoder.architecture {config.encoder.architecture} {'needs' if model.reads_trees else 'reads no'} trees, "
            f"parser.kind {config.parser.kind} builds {'none' if model.reads_trees else 'some'}; use {way}"
        )
    agent, encoder = config.agent, config.encoder
    if agent.reward == "gold_f1" and not model.reads_trees:
        raise ConfigError(
            f"agent.reward gold_f1 scores trees, encoder.architecture {encoder.architecture} reads none; use another "
            "reward"
        )
    if encoder.glove is not None:
        vectors = read_vectors(encoder.glove, corpora.vocabulary)
        filled = torch.from_numpy(vectors.filled(np.random.default_rng([config.seed, 2])))
        model.set_embeddings(filled)
    model.embedding.weight.requires_grad_(not encoder.freeze_embeddings)
    name, arguments = policy_arguments(config, model, n_tokens)
    return PolicyGradient(
        name,
        ShiftReduceEnv(train, reward=agent.reward, model=model.to(device)),
        LearningRate(config.parser.learning_rate, config.parser.rate_schedule),
        encoder_learning_rate=LearningRate(encoder.learning_rate, encoder.rate_schedule),
        batch_size=agent.batch_size,
        n_parses=agent.n_parses if config.parser.kind in LEARNED_PARSERS else 1,
        pool_batches=agent.pool_batches,
        estimator=make_estimator(agent),
        entropy_coef=entropy_weight(agent),
        temperature=temperature_schedule(agent),
        pacing=Pacing(**{f.name: getattr(config.pacing, f.name) for f in fields(Pacing)}),
        explorer=make_explorer(config, model, n_tokens=n_tokens, n_classes=len(train.labels)),
        optimizer=config.parser.optimizer,
        encoder_optimizer=encoder.optimizer,
        policy_weight_decay=config.parser.weight_decay,
        encoder_weight_decay=encoder.weight_decay,
        max_grad_norm=agent.max_grad_norm,
        grad_norm=agent.grad_norm,
        log_interval=config.run.log_interval,
        policy_kwargs=arguments,
        seed=config.seed,
        device=str(device),
    )


def make_estimator(agent: AgentConfig) -> Estimator:
    """Take the estimator's options out of an agent's settings."""
    return Estimator(**{field.name: getattr(agent, field.name) for field in fields(Estimator)})


def entropy_weight(agent: AgentConfig) -> float | Schedule | EntropyTarget:
    """Build what weighs the policy's entropy.

    Raises:
        ConfigError: A target is to move a weight of 0.
    """
    if agent.entropy == "target" and agent.entropy_coef <= 0:
        raise ConfigError(
            f"agent.entropy target multiplies the weight that it begins with, and agent.entropy_coef is "
            f"{agent.entropy_coef}; use one above 0, or --agent.entropy constant"
        )
    if agent.entropy == "scheduled":
        return Interpolated(agent.entropy_coef, agent.entropy_coef_end, over=agent.entropy_until)
    if agent.entropy == "target":
        target = Interpolated(agent.entropy_target, agent.entropy_target_end, over=agent.entropy_until)
        start = agent.entropy_coef
        return EntropyTarget(target, start=start, rate=agent.entropy_rate, lowest=start / 10)
    return agent.entropy_coef


def temperature_schedule(agent: AgentConfig) -> float | Schedule:
    """Build what the temperature of sampling follows.

    Raises:
        ConfigError: A temperature is not positive, or the two are the wrong way round.
    """
    low, high = agent.temperature_from, agent.temperature_to
    if low <= 0 or high <= 0:
        raise ConfigError(
            f"agent.temperature_from and agent.temperature_to must be above 0, got {low} and {high}"
        )
    if agent.temperature == "linear":
        return Interpolated(low, high)
    if agent.temperature == "sinusoidal":
        if low > high:
            raise ConfigError(
                f"agent.temperature sinusoidal swings from agent.temperature_to, the higher one, down to "
                f"agent.temperature_from, got {high} and {low}; exchange them"
            )
        return Sinusoidal(low, high)
    return low


class LearningRate:
    """A learning rate that stays, or falls to a tenth of itself linearly or along a cosine."""

    def __init__(self, rate: float, schedule: RateSchedule) -> None:
        self.rate = rate
        shape: Shape = "cosine" if schedule == "cosine" else "linear"
        self.share: Schedule = (
            Constant(1.0) if schedule == "constant" else Interpolated(1.0, 0.1, shape=shape)
        )

    def __call__(self, progress_remaining: float) -> float:
        """Give the rate when ``progress_remaining`` (1 to 0) of the run is still to come."""
        return self.rate * self.share(1.0 - progress_remaining)


@dataclass(frozen=True)
class TrainedRun:
    """A run opened for use: its settings, vocabulary, model and policy, ready to evaluate."""

    folder: RunFolder
    config: TrainConfig
    vocabulary: Vocabulary
    labels: tuple[str, ...]
    n_sides: int
    model: NLIModel
    policy: ParsingPolicy
    checkpoint: Checkpoint


def open_run(path: Path, device: str = "auto") -> TrainedRun:
    """Load the newest whole checkpoint of a run for evaluation. Nothing in the folder is executed.

    Raises:
        CheckpointError: The folder is not a run, or none of its checkpoints is whole.
        ConfigError: The run was made with settings that this version does not know.
    """
    folder = RunFolder(path)
    config = folder.config()
    vocabulary = folder.vocabulary()
    labels = tuple(folder.read_field(folder.corpus_file, "labels"))
    n_sides = int(folder.read_field(folder.corpus_file, "n_sides"))
    checkpoint = load_checkpoint(folder.checkpoints)
    where = resolve_device(device)
    model = make_model(config, n_tokens=len(vocabulary), n_classes=len(labels), n_sides=n_sides).to(where)
    name, arguments = policy_arguments(config, model, len(vocabulary))
    space = SymbolicObserver(GameSize(1, n_sides, len(vocabulary))).space
    policy = PolicyGradient.policy_aliases[name](space, Discrete(2), **arguments).to(where)
    assert isinstance(policy, ParsingPolicy)
    load_weights(checkpoint, model=model, policy=policy, averaged="policy_average" in checkpoint.weights)
    return TrainedRun(folder, config, vocabulary, labels, n_sides, model.eval(), policy, checkpoint)


def load_weights(
    checkpoint: Checkpoint, *, model: NLIModel, policy: ParsingPolicy, averaged: bool = False
) -> None:
    """Copy a checkpoint's weights into a model and a policy.

    Args:
        checkpoint: From a run.
        model: Whose weights are set.
        policy: Whose weights are set.
        averaged: Give the policy the moving average of its weights, as it is evaluated.

    Raises:
        CheckpointError: They are of another shape than the settings say.
    """
    for name, module in (("model", model), ("policy_average" if averaged else "policy", policy)):
        try:
            module.load_state_dict(checkpoint.weights[name])
        except (KeyError, RuntimeError) as error:
            raise CheckpointError(
                f"the checkpoint's {name} does not fit the run's settings: {error}"
            ) from error
