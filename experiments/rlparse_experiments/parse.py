"""Parse sentences with a trained run: ``rlparse parse``."""

from __future__ import annotations

import json
import sys
from collections.abc import Sequence

import torch

from rlparse import PAD
from rlparse.corpora.batching import Batch
from rlparse.corpora.tokenizer import tokenize
from rlparse.errors import ConfigError
from rlparse.vocabulary import Vocabulary
from rlparse_agents.decoding import decode
from rlparse_envs.rendering import bracketed
from rlparse_experiments.assembly import TrainedRun, open_run
from rlparse_experiments.config import ParseConfig
from rlparse_experiments.evaluate import decoding
from rlparse_experiments.precision import matmul_precision
from rlparse_experiments.report.trees import tree_drawing

BATCH_SIZE = 256
"""Sentences parsed at a time."""


def words_of(sentence: str, vocabulary: Vocabulary) -> tuple[str, ...]:
    """Split a sentence at spaces, and pieces that are not known words further, by the tokeniser of the corpora.

    Raises:
        ConfigError: The sentence is empty.
    """
    pieces = tuple(sentence.split())
    if not pieces:
        raise ConfigError("a sentence to parse needs at least one word, got an empty one")
    if '"' in sentence and '"' not in vocabulary:  # which way a quote opens depends on those before it
        return tuple(tokenize(sentence))
    return tuple(
        word for piece in pieces for word in ([piece] if piece in vocabulary else tokenize(piece) or [piece])
    )


def parse_sentences(
    run: TrainedRun,
    sentences: Sequence[Sequence[str]],
    *,
    how: str = "greedy",
    width: int | None = None,
    seed: int = 0,
    first: int = 0,
) -> list[list[int]]:
    """Parse tokenised sentences; give one derivation each.

    Args:
        run: Whose parser is asked.
        sentences: Tokens.
        how: ``greedy``, ``beam`` or ``sample``; see `decode`.
        width: Of the beam, or how many parses to sample.
        seed: Of sampled parses and random trees.
        first: Number of the first sentence; a parser of random trees knows sentences by their numbers.
    """
    lengths = torch.tensor([len(words) for words in sentences])
    rows, n_tokens = len(sentences), int(lengths.max())
    tokens = torch.zeros(rows, n_tokens, dtype=torch.int64)
    for row, words in enumerate(sentences):
        tokens[row, : len(words)] = torch.from_numpy(run.vocabulary.encode(words))
    zeros = torch.zeros(rows, dtype=torch.int64)
    gold = torch.full((rows, 2 * n_tokens - 1), PAD)
    numbers = torch.arange(first, first + rows)
    batch = Batch(tokens, lengths, zeros, gold, zeros.bool(), numbers).to(run.model.device)
    generator = torch.Generator(device=run.model.device).manual_seed(seed)
    with torch.no_grad():
        transitions = decode(run.policy, batch, how, n=width, generator=generator).tolist()
    return [row[: 2 * len(words) - 1] for row, words in zip(transitions, sentences, strict=True)]


def run_parse(config: ParseConfig) -> int:
    """Run ``rlparse parse``.

    Raises:
        CheckpointError: The folder is not a run, or none of its checkpoints is whole.
        ConfigError: There is nothing to parse, or the run's parser cannot parse what was typed.
    """
    run = open_run(config.run, config.device)
    if not run.model.reads_trees:
        raise ConfigError(
            f"{config.run} has an encoder that reads no trees (encoder.architecture "
            f"{run.config.encoder.architecture}), and no parser; take a run with another --agent"
        )
    if run.config.parser.kind == "gold":
        raise ConfigError(
            f"{config.run} has a gold parser, which builds the trees it is given, and typed sentences come with none; "
            "take a run with another --parser.kind"
        )
    for message in run.checkpoint.damaged:
        print(f"passed over a checkpoint: {message}", file=sys.stderr)
    given = config.sentences or tuple(line.rstrip("\n") for line in sys.stdin if line.strip())
    if not given:
        raise ConfigError("there is no sentence to parse; give some, or one a line on standard input")
    words = [words_of(sentence, run.vocabulary) for sentence in given]
    unknown = sorted({word for sentence in words for word in sentence if word not in run.vocabulary})
    if unknown:
        more = f" and {len(unknown) - 20} more" if len(unknown) > 20 else ""
        print(f"unknown words, read as <unk>: {' '.join(unknown[:20])}{more}", file=sys.stderr)
    options = decoding(config.decode, config.width, run)
    for start in range(0, len(words), BATCH_SIZE):
        batch = words[start : start + BATCH_SIZE]
        with matmul_precision(run.config.precision):
            derivations = parse_sentences(run, batch, seed=config.seed, first=start, **options)
        for number, derivation in enumerate(derivations):
            print(_formatted(config.format, start + number, batch[number], derivation))
    return 0


def _formatted(format: str, number: int, tokens: Sequence[str], derivation: Sequence[int]) -> str:
    if format == "tree":
        return tree_drawing(tokens, derivation) + "\n"
    tree = bracketed(tokens, derivation)
    if format == "brackets":
        return tree
    record = {"sentence_id": f"{number}.0", "tokens": list(tokens), "parse": tree, "gold": None}
    return json.dumps(record, ensure_ascii=False)
