"""Every setting of a run, as frozen dataclasses: what ``--any.field`` sets and ``config.json`` keeps. No torch here."""

from __future__ import annotations

from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Annotated, Any, Literal

import tyro

ParserKind = Literal["tracker", "left", "right", "balanced", "random", "gold", "gold_or_right"]
CompositionName = Literal["tree_rnn", "tree_lstm", "gated"]
Precision = Literal["highest", "high", "medium"]
BenchName = Literal["all", "encoder", "rollout", "env", "train", "scaling"]


@dataclass(frozen=True)
class CorpusConfig:
    """What is read or generated."""

    generator: Literal["logic", "listops", "none"] = "logic"
    """What to generate when no --data is given; none: the data have to be given."""
    n_train: int = 20_000
    """Examples to generate for training."""
    n_dev: int = 1_000
    """Examples to generate for the dev set."""
    operators: tuple[int, int] = (1, 4)
    """logic: least and most operators on the longer side."""
    brackets: Literal["tokens", "dropped"] = "tokens"
    """logic: whether the sentences show their brackets, as published, or leave them to be guessed."""
    max_tokens: int = 0
    """Longest sentence to train on, and longest expression to generate (0: no limit)."""
    parsed_only: bool = False
    """Train on examples with gold parses only."""
    train_limit: int = 0
    """Train on so many examples at most, drawn by the seed (0: all)."""
    min_count: int = 1
    """Tokens seen less often in training become the unknown token."""
    lowercase: bool = False
    """Merge tokens that differ in case only."""
    skip_bad_lines: Annotated[bool, tyro.conf.arg(aliases=["--skip-bad-lines"])] = False
    """Skip, count and list malformed lines instead of stopping at the first."""
    cache: Path | None = None
    """Folder of the memory-mapped corpora, keyed by content; None takes the user's cache folder."""


@dataclass(frozen=True)
class EncoderConfig:
    """The tree encoder and the classifier on top: the reward."""

    composition: CompositionName = "tree_lstm"
    """What REDUCE computes."""
    embedding_size: int = 100
    """Width of the word embeddings."""
    embedding_std: float = 1.0
    """Spread of the untrained word embeddings; large vocabularies want about 0.1."""
    hidden_size: int = 100
    """Width of a node."""
    tracker_size: int = 0
    """Width of a tracker that feeds the composition, as in SPINN (0: none)."""
    layer_norm: bool | None = None
    """Normalise inside the composition; None keeps its own default (on for gated)."""
    mlp_size: int = 256
    """Width of the classifier's hidden layer."""
    dropout: float = 0.25
    """In the classifier."""
    schedule: Literal["by_step", "by_level"] = "by_level"
    """How known derivations are grouped; the values are the same."""
    hide_premise: bool = False
    """Hypothesis-only control: the premise is encoded as zeros."""
    glove: Path | None = None
    """GloVe text file to start the embeddings from."""
    freeze_embeddings: bool = False
    """Do not train the embeddings."""
    learning_rate: float = 1e-3
    """Of Adam."""
    weight_decay: float = 0.0
    """Decoupled weight decay."""


@dataclass(frozen=True)
class ParserConfig:
    """Who builds the parses."""

    kind: ParserKind = "tracker"
    """tracker learns by policy gradient; the others are fixed trees, for comparison."""
    embedding_size: int = 32
    """Width of the policy's own embeddings."""
    hidden_size: int = 32
    """Width of its own composition."""
    tracker_size: int = 32
    """Width of its LSTM."""
    composition: CompositionName = "tree_lstm"
    """Its own composition."""
    reads: Literal["own", "encoder"] = "own"
    """own: embeddings and composition of its own; encoder: the classifier's vectors, through a detach."""
    catalan_prior: bool = True
    """Make the untrained policy uniform over binary trees."""
    learning_rate: float = 1e-3
    """Of Adam."""
    weight_decay: float = 0.0
    """Decoupled weight decay."""


@dataclass(frozen=True)
class AgentConfig:
    """How parser and encoder learn."""

    reward: Literal["accuracy", "log_likelihood", "gold_f1"] = "accuracy"
    """What an example's parses earn; gold_f1 is an upper bound that cheats."""
    epochs: float = 10.0
    """Passes over the training set."""
    batch_size: int = 64
    """Examples per iteration."""
    n_parses: int = 4
    """Parses sampled per example."""
    baseline: Literal["leave_one_out", "none"] = "leave_one_out"
    """What is subtracted from a parse's reward."""
    normalise_advantages: bool = False
    """Divide advantages by their spread over the batch."""
    entropy_coef: float = 0.01
    """Weight of the normalised entropy per free decision."""
    max_grad_norm: float = 1.0
    """Clip either gradient's norm."""
    anneal: bool = True
    """Lower both learning rates linearly to a tenth over the run."""


@dataclass(frozen=True)
class RunConfig:
    """Where a run lives and what it reports."""

    folder: Path = Path("runs")
    """Runs are folders in here."""
    name: str = ""
    """Name of the run's folder; empty makes one of task, parser and seed."""
    log_interval: int = 20
    """Iterations between two points of the curves."""
    eval_interval: int = 0
    """Iterations between two evaluations on dev (0: once an epoch)."""
    checkpoint_interval: int = 200
    """Iterations between two checkpoints."""
    keep_checkpoints: int = 2
    """Checkpoints to keep; at least 2, so that a damaged one has one before it."""
    sample_trees: int = 3
    """Dev sentences shown as trees, in TensorBoard and at the end."""
    progress: bool = True
    """Show a progress bar."""


@dataclass(frozen=True)
class TrainConfig:
    """One training run."""

    data: tuple[Path, ...] = ()
    """Folder with a corpus, or its files; none generates one."""
    dev: tuple[Path, ...] = ()
    """Files to evaluate on; none looks for a dev file in the folder."""
    seed: int = 0
    """Of everything random."""
    device: str = "auto"
    """auto, cpu or cuda."""
    threads: int = 0
    """CPU threads (0: as many as torch likes); continuing a run bit for bit needs the same number."""
    precision: Precision = "highest"
    """Of matrix products: highest is float32, high allows TF32 (GPUs), medium also bfloat16 where that is faster."""
    corpus: CorpusConfig = field(default_factory=CorpusConfig)
    encoder: EncoderConfig = field(default_factory=EncoderConfig)
    parser: ParserConfig = field(default_factory=ParserConfig)
    agent: AgentConfig = field(default_factory=AgentConfig)
    run: RunConfig = field(default_factory=RunConfig)


@dataclass(frozen=True)
class EvaluateConfig:
    """Measure a trained run."""

    run: Path
    """Folder of the run."""
    data: tuple[Path, ...] = ()
    """Files to measure on; none takes the run's own data."""
    split: Literal["dev", "test"] = "dev"
    """Which part of the run's own data."""
    batch_size: int = 256
    """Examples at a time."""
    device: str = "auto"
    """auto, cpu or cuda."""
    precision: Precision | None = None
    """Of matrix products, see train; None takes the run's own."""
    out: Path | None = None
    """Folder for results.json and parses.jsonl; none prints only."""
    skip_bad_lines: bool = False
    """Skip, count and list malformed lines instead of stopping at the first."""


@dataclass(frozen=True)
class ParseConfig:
    """Parse sentences with a trained run."""

    run: Path
    """Folder of the run."""
    sentences: tuple[str, ...] = ()
    """Sentences, tokenised or not; none reads them from standard input, one a line."""
    device: str = "auto"
    """auto, cpu or cuda."""
    format: Literal["brackets", "tree", "jsonl"] = "brackets"
    """brackets: one line a sentence; tree: drawn; jsonl: the format that compare reads."""


@dataclass(frozen=True)
class BenchConfig:
    """Measure throughput on this machine, on generated sentences."""

    what: Annotated[BenchName, tyro.conf.Positional] = "all"
    """What to measure."""
    hidden_size: tuple[int, ...] = (100, 300)
    """Widths of encoders, each also the width of the embeddings."""
    batch_size: int = 128
    """Sentences in a batch."""
    repeats: int = 7
    """Rounds; each times everything once."""
    threads: int = 1
    """CPU threads of torch; with more than one, rates are per second instead of per CPU second."""
    seed: int = 0
    """Of sentences, trees and weights."""
    only: tuple[str, ...] = ()
    """Measure only contenders whose name has one of these words in it; none measures all."""
    json: Path | None = None
    """Also write all figures to this file."""
    plots: Path | None = None
    """Also measure encoders over batch sizes, hidden sizes and lengths, and draw them in this folder."""
    quick: bool = False
    """Tiny sizes, to see that it works; the figures mean nothing."""


def as_json(config: Any) -> dict[str, Any]:
    """Give a configuration as plain JSON values."""

    def plain(value: Any) -> Any:
        if isinstance(value, dict):
            return {key: plain(item) for key, item in value.items()}
        if isinstance(value, list | tuple):
            return [plain(item) for item in value]
        return str(value) if isinstance(value, Path) else value

    plain_config: dict[str, Any] = plain(asdict(config))
    return plain_config
