"""Every setting of a run, as frozen dataclasses: what ``--any.field`` sets and ``config.json`` keeps. No torch here."""

from __future__ import annotations

from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Annotated, Any, Literal

import tyro

ParserKind = Literal[
    "tracker",
    "boundary",
    "easy_first",
    "shared_tracker",
    "gumbel",
    "left",
    "right",
    "balanced",
    "random",
    "random_per_epoch",
    "gold",
    "gold_or_right",
    "none",
]
Architecture = Literal["tree", "bag_of_words", "rnn", "lstm", "gru", "peephole_lstm"]
OptimizerName = Literal["adam", "adadelta", "rmsprop", "sgd"]
RateSchedule = Literal["constant", "linear", "cosine"]
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
    n_test: int = 0
    """Examples to generate for the test set (0: as many as for dev)."""
    operators: tuple[int, int] = (1, 4)
    """logic: least and most operators on the longer side."""
    test_operators: tuple[int, int] = (0, 0)
    """logic: first and last bin of the test set, equally many examples of each; 12 takes longer ones, too (0 0: as
    operators)."""
    brackets: Literal["tokens", "dropped"] = "tokens"
    """logic: whether the sentences show their brackets, as published, or leave them to be guessed."""
    max_tokens: int = 0
    """Longest sentence to train on, and longest expression to generate (0: no limit)."""
    test_max_tokens: int = 0
    """listops: longest expression of the test set (0: as max_tokens; -1: no limit)."""
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
    seed: int | None = None
    """Of what is generated; None takes the run's seed. Runs with one corpus seed are measured on the same sentences."""
    cache: Path | None = None
    """Folder of the memory-mapped corpora, keyed by content; None takes the user's cache folder."""


@dataclass(frozen=True)
class EncoderConfig:
    """The encoder and the classifier on top: the reward."""

    architecture: Architecture = "tree"
    """tree composes along parses; the others read words in their order, or in none (with parser.kind none)."""
    composition: CompositionName = "tree_lstm"
    """What REDUCE computes."""
    bidirectional: bool = False
    """Sequence encoders: read in both directions."""
    truncate: int = 0
    """Sequence encoders: let gradients flow through so many words only (0: through all)."""
    embedding_size: int = 100
    """Width of the word embeddings."""
    embedding_std: float = 1.0
    """Spread of the untrained word embeddings; large vocabularies want about 0.1."""
    embedding_dropout: float = 0.0
    """Share of the entries of a word's vector that training zeroes, the same ones all over a batch."""
    hidden_size: int = 100
    """Width of a node."""
    tracker_size: int = 0
    """Width of a tracker that feeds the composition, as in SPINN (0: none); shared_tracker chooses by it."""
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
    optimizer: OptimizerName = "adam"
    """What follows the gradients."""
    learning_rate: float = 1e-3
    """At the beginning."""
    rate_schedule: RateSchedule = "linear"
    """linear and cosine fall to a tenth over the run."""
    weight_decay: float = 0.0
    """Weight decay: decoupled with adam, in the gradient with the others."""


@dataclass(frozen=True)
class ParserConfig:
    """Who builds the parses."""

    kind: ParserKind = "tracker"
    """tracker, boundary and easy_first learn by policy gradient; shared_tracker and gumbel share the classifier's
    weights; the others are fixed trees; none is for encoders that read no trees."""
    embedding_size: int = 32
    """Width of the policy's own embeddings."""
    embedding_std: float = 1.0
    """boundary: spread of the untrained word embeddings; with a small one it begins with rules for all words alike."""
    hidden_size: int = 32
    """Width of its own composition, or of boundary's hidden layer."""
    tracker_size: int = 32
    """tracker: width of its LSTM."""
    composition: CompositionName = "tree_lstm"
    """tracker, easy_first: its own composition."""
    reads: Literal["own", "encoder"] = "own"
    """tracker: own embeddings and composition, or the classifier's vectors, through a detach."""
    bilstm: bool = False
    """boundary: read the words through a bidirectional LSTM."""
    recurrent: bool = False
    """boundary: remember earlier steps in an LSTM."""
    leaf_lstm: bool = False
    """easy_first: read the words through an LSTM."""
    catalan_prior: bool = True
    """tracker, boundary, shared_tracker: make the untrained policy uniform over binary trees."""
    optimizer: OptimizerName = "adam"
    """What follows the gradients."""
    learning_rate: float = 1e-3
    """At the beginning."""
    rate_schedule: RateSchedule = "linear"
    """linear and cosine fall to a tenth over the run."""
    weight_decay: float = 0.0
    """Weight decay: decoupled with adam, in the gradient with the others."""


@dataclass(frozen=True)
class AgentConfig:
    """How parser and encoder learn. docs/agents.md explains the options."""

    system: str = ""
    """Name of the system these settings are, as --agent sets it."""
    reward: Literal[
        "accuracy", "log_likelihood", "clipped_log_likelihood", "surprisal", "margin", "gold_f1"
    ] = "accuracy"
    """What an example's parses earn; gold_f1 is an upper bound that cheats."""
    epochs: float = 10.0
    """Passes over the training set."""
    batch_size: int = 64
    """Examples per iteration."""
    n_parses: int = 4
    """Parses sampled per example (K)."""
    pool_batches: int = 2000
    """Batches whose examples are sorted by length together: many save padding, 1 mixes lengths in every batch."""
    objective: Literal["reinforce", "ppo", "supervised"] = "reinforce"
    """What the policy follows; supervised imitates gold parses."""
    baseline: Literal[
        "none", "moving_average", "value", "step_value", "greedy", "leave_one_out", "group_mean"
    ] = "leave_one_out"
    """What is subtracted from a parse's reward."""
    pairing: Literal["matched", "crosswise"] = "matched"
    """Pairs: score parse k of one side with parse k of the other, or all K x K combinations."""
    normaliser: Literal["none", "batch_sd", "running_sd", "group_sd"] = "none"
    """What advantages are divided by."""
    average: Literal["decisions", "parses", "constant", "sum"] = "decisions"
    """Loss: mean over decisions, over parses of their means (GRPO), sums over a constant (Dr. GRPO), or sums."""
    n_updates: int = 1
    """Updates of the policy from the same parses."""
    ratio: Literal["decision", "tree"] = "decision"
    """ppo: clip the probability ratio of every decision, or of the whole parse."""
    clip_low: float = 0.2
    """ppo: ratios below 1 - clip_low gain nothing more."""
    clip_high: float = 0.2
    """ppo: ratios above 1 + clip_high gain nothing more."""
    kl_coef: float = 0.0
    """Weight of the divergence from a reference policy."""
    kl_in: Literal["loss", "reward"] = "loss"
    """Where the divergence counts: in the loss, or as a reward of every decision (with step_value)."""
    reference_every: int = 0
    """Iterations after which the policy becomes its own reference (0: the untrained policy stays it)."""
    gamma: float = 1.0
    """step_value: discount per decision."""
    gae_lambda: float = 1.0
    """step_value: 1 waits for the reward, less trusts the critic."""
    value_coef: float = 0.5
    """Weight of the critic's squared error."""
    policy_coef: float = 1.0
    """Weight of the policy's loss beside the classifier's, where they share weights."""
    entropy: Literal["constant", "scheduled", "target"] = "constant"
    """How the entropy's weight behaves; target: it rises while there is less entropy than entropy_target."""
    entropy_coef: float = 0.01
    """Weight of the normalised entropy per free decision; target begins with it and keeps a tenth of it at least."""
    entropy_coef_end: float = 0.0
    """scheduled: weight at the end."""
    entropy_target: float = 0.7
    """target: share of the greatest entropy, at the beginning."""
    entropy_target_end: float = 0.1
    """target: the same at the end."""
    entropy_rate: float = 0.2
    """target: how fast the weight's logarithm moves, per iteration and unit of missing entropy."""
    entropy_until: float = 0.8
    """scheduled, target: share of the run after which the end is reached."""
    temperature: Literal["constant", "linear", "sinusoidal"] = "constant"
    """How the temperature of sampling behaves; sinusoidal explores and settles by turns."""
    temperature_from: float = 1.0
    """Temperature at the beginning; sinusoidal: the lower one."""
    temperature_to: float = 1.0
    """linear: at the end; sinusoidal: the higher one."""
    max_grad_norm: float = 1.0
    """Clip either gradient's norm (0: not)."""
    grad_norm: Literal["l2", "max"] = "l2"
    """Which norm."""


@dataclass(frozen=True)
class PacingConfig:
    """When the two learners learn, and from what."""

    warmup: int = 0
    """Iterations in which only the encoder learns, from random trees drawn anew every time."""
    policy_every: int = 1
    """Update the policy every so many iterations."""
    encoder_every: int = 1
    """Update the encoder every so many iterations."""
    policy_average: float = 0.0
    """Evaluate a moving average of the policy's weights with this decay (0: the weights themselves)."""
    curriculum: Literal["none", "length", "depth"] = "none"
    """Begin with short sentences, or with shallow gold trees."""
    curriculum_start: int = 6
    """Longest sentences, or deepest trees, at the beginning."""
    curriculum_step: int = 2
    """By how much the limit rises."""
    curriculum_competence: float = 0.8
    """It rises when the accuracy in training is above this."""
    fresh_start: bool = False
    """Once the parses have settled, the encoder begins again and learns alone; then both go on. Learning rates fall
    from then on only, and schedules of exploration end with exploring."""
    settled: float = 0.1
    """fresh_start: the parses have settled when the policy's entropy is below this share of the greatest."""
    explore_until: float = 0.6
    """fresh_start: share of the run after which the parses are taken as they are, settled or not."""
    competence: float = 0.9
    """fresh_start: training accuracy from which on the policy learns again."""
    patience: int = 1500
    """fresh_start: iterations after which, if the encoder is not competent by then, the policy learns on for a
    quarter as long before the encoder begins again."""
    explore_tokens: int = 0
    """fresh_start: while exploring, the encoder learns only from sentences of at most so many tokens, and parses are
    rewarded on all (0: it learns from all)."""
    refine_every: int = 4
    """fresh_start: update the policy every so many iterations once the encoder is competent."""
    explorer_size: int = 0
    """fresh_start: width of an encoder that learns and rewards in the encoder's place while exploring; a small one says
    more about trees and is cheaper (0: none)."""


@dataclass(frozen=True)
class RunConfig:
    """Where a run lives and what it reports."""

    folder: Path = Path("runs")
    """Runs are folders in here."""
    name: str = ""
    """Name of the run's folder; empty makes one of task, agent (or parser) and seed."""
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
    diagnose: bool = False
    """Draw more curves at every evaluation: accuracy by depth, decisions by kind of state, dead units; takes up to
    twice as long as the evaluation."""
    test: bool = False
    """Measure the final weights on the test set, too, and write RUN/test; nothing of training depends on it."""


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
    pacing: PacingConfig = field(default_factory=PacingConfig)
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
    decode: Literal["greedy", "beam", "sample"] = "greedy"
    """How a learned parser is asked: step by step, by beam search, or the likeliest of sampled parses."""
    width: int = 8
    """beam: its width; sample: parses to draw."""
    batch_size: int = 256
    """Examples at a time."""
    device: str = "auto"
    """auto, cpu or cuda."""
    precision: Precision | None = None
    """Of matrix products, see train; None takes the run's own."""
    detail: bool = False
    """Also break the figures down by length, depth and operators, and show what the parser decides by kind of state."""
    out: Path | None = None
    """Folder for results.json, predictions.jsonl and parses.jsonl; none prints only."""
    skip_bad_lines: bool = False
    """Skip, count and list malformed lines instead of stopping at the first."""


@dataclass(frozen=True)
class ParseConfig:
    """Parse sentences with a trained run."""

    run: Path
    """Folder of the run."""
    sentences: tuple[str, ...] = ()
    """Sentences, tokenised or not; none reads them from standard input, one a line."""
    decode: Literal["greedy", "beam", "sample"] = "greedy"
    """How a learned parser is asked: step by step, by beam search, or the likeliest of sampled parses."""
    width: int = 8
    """beam: its width; sample: parses to draw."""
    seed: int = 0
    """Of sampled parses and random trees."""
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
