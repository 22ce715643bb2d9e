"""Everything about a parser and its classifier on one corpus that says how the learning goes, and as curves."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from functools import cached_property
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor

from rlparse import PAD, lockstep
from rlparse.batched_trees import left_branching
from rlparse.bracketings import Bracketings
from rlparse.corpora.batching import Batch, sequential_batches
from rlparse.corpora.corpus import Corpus
from rlparse.corpora.examples import Sentence
from rlparse.lists import Lists, shows_brackets
from rlparse.models.nli_model import NLIModel
from rlparse.models.stack_machine import distinct_words
from rlparse_agents.parsing_policy import ParsingPolicy
from rlparse_experiments.diagnosis.breakdown import ParseFigures, Row, break_down, overall
from rlparse_experiments.diagnosis.decisions import DecisionCount, Decisions, judges_transitions
from rlparse_experiments.diagnosis.groups import Groups, groups_of
from rlparse_experiments.diagnosis.item_kinds import ItemKinds
from rlparse_experiments.diagnosis.plasticity import EncoderUnits, Units
from rlparse_experiments.evaluate import MAX_TOKENS, Measured


class Diagnosis(NamedTuple):
    """How a parser and a classifier do, in detail.

    Attributes:
        all: Figures of all examples.
        groups: By what examples are grouped, to the figures of each group.
        lists: Token that opens a list to (share of lists inside others that are nodes of the parses, how many there
            are); empty where sentences show no brackets.
        states: What the policy decides by kind of the two topmost items; None where it gives no probabilities of
            transitions.
        tops: The same by kind of the top alone.
        units: Layer to its ReLU units.
    """

    all: Row
    groups: dict[str, list[Row]]
    lists: dict[str, tuple[float, int]]
    states: list[Decisions] | None
    tops: list[Decisions] | None
    units: dict[str, Units]

    def as_json(self) -> dict[str, Any]:
        """Give plain JSON values."""

        def rows(found: Sequence[Row | Decisions] | None) -> list[dict[str, Any]] | None:
            return None if found is None else [row._asdict() for row in found]

        return {
            "all": self.all._asdict(),
            "groups": {by: rows(found) for by, found in self.groups.items()},
            "lists": {opener: {"found": share, "n": n} for opener, (share, n) in self.lists.items()},
            "states": rows(self.states),
            "tops": rows(self.tops),
            "units": {layer: units._asdict() for layer, units in self.units.items()},
        }

    def curves(self) -> dict[str, float]:
        """Give the few figures that are drawn while an agent learns, by their tags."""
        values: dict[str, float] = {}
        for score, tag in (("exact", "eval/exact"), ("f1_lists_nyu", "eval/f1_lists_nyu")):
            if score in self.all.scores:
                values[tag] = self.all.scores[score]
        for opener, (share, _) in self.lists.items():
            values[f"eval/lists_found/{_tag(opener)}"] = share
        for row in self.groups.get("depth", ()):
            values[f"eval/accuracy_by_depth/{_tag(row.name)}"] = row.accuracy
        for row in self.groups.get("operators present", ()):
            if row.name.startswith("with "):
                values[f"eval/accuracy_with/{_tag(row.name.removeprefix('with '))}"] = row.accuracy
        for decisions in self.tops or ():
            values[f"eval/reduce/{decisions.top}"] = decisions.reduce
            values[f"eval/entropy/{decisions.top}"] = decisions.entropy
        for layer, units in self.units.items():
            values[f"eval/dead_units/{layer}"] = units.dead
            values[f"eval/linear_units/{layer}"] = units.linear
        return values


def _tag(name: str) -> str:
    """Write a name so that TensorBoard takes it, and sorts bins by size: ``[SM`` as sm, ``0-2`` as 00-02."""
    if name == "(":
        return "brackets"
    name = name.removeprefix("[").lower().replace("+", "-up")
    return "-".join(f"{int(part):02d}" if part.isdigit() else part for part in name.split("-"))


class Diagnoser:
    """Diagnoses on one corpus, as often as wanted; what does not depend on parser and classifier is found once.

    Args:
        corpus: Bound to their vocabulary.
        batch_size: Examples at a time; fewer where they are long.
    """

    def __init__(self, corpus: Corpus, *, batch_size: int = 256) -> None:
        self.corpus = corpus
        self.batch_size = batch_size

    @cached_property
    def _known(self) -> _Known:
        return _Known.of(self.corpus)

    def diagnose(self, model: NLIModel, policy: ParsingPolicy, measured: Measured) -> Diagnosis:
        """Look at what was measured in detail, and at what the policy thinks along its own parses.

        Args:
            model: The classifier.
            policy: The parser.
            measured: What they did on the corpus.
        """
        known = self._known
        correct = np.asarray(measured.predicted) == self.corpus.label_indices
        figures, by_opener = None, {}
        if measured.derivations is not None and known.gold is not None:
            parses = Bracketings([measured.derivations[i] for i in known.parsed], known.words)
            found = None if known.lists is None else known.lists.found(parses)
            examples = np.asarray(known.parsed) // self.corpus.n_sides
            figures = ParseFigures.of(parses, known.gold, examples, known.lists, found)
            if known.lists is not None and found is not None:
                by_opener = known.lists.found_by_opener(found)
        decisions, units = self._look(model, policy, measured.derivations)
        return Diagnosis(
            overall(correct, figures),
            break_down(known.groups, correct, figures),
            by_opener,
            None if decisions is None else decisions.by_pair(),
            None if decisions is None else decisions.by_top(),
            units.units(),
        )

    @torch.no_grad()
    def _look(
        self, model: NLIModel, policy: ParsingPolicy, derivations: Sequence[Sequence[int]] | None
    ) -> tuple[DecisionCount | None, EncoderUnits]:
        """Encode and judge the parses once more, batch after batch."""
        judges = derivations is not None and judges_transitions(policy)
        decisions = DecisionCount(self._known.kinds) if judges else None
        units = EncoderUnits(model)
        training = model.training
        model.eval()
        for batch, transitions in self._batches(model.device, derivations):
            trace = lockstep.trace(transitions, batch.lengths)
            if model.reads_trees:
                types, words = distinct_words(batch.tokens, model.embedding.num_embeddings)
                encoding = model.machine(model.embed(types), trace, words)
                units.add(model.shown(encoding.roots), encoding)
            else:
                units.add(model.encode(batch.tokens, trace), None)
            if decisions is not None:
                decisions.add(policy, batch, transitions)
        model.train(training)
        return decisions, units

    def _batches(
        self, device: torch.device, derivations: Sequence[Sequence[int]] | None
    ) -> Iterator[tuple[Batch, Tensor]]:
        """Give every example once with its [R, T] derivations; some, where nothing reads them."""
        corpus = self.corpus
        for indices in sequential_batches(corpus.lengths, self.batch_size, max_tokens=MAX_TOKENS):
            batch = corpus.batch(indices)
            n_steps = batch.gold.shape[1]
            if derivations is None:
                transitions = left_branching(batch.lengths, n_steps)
            else:
                transitions = torch.full_like(batch.gold, PAD)
                for row in range(len(transitions)):
                    side, example = divmod(row, len(indices))
                    derivation = derivations[int(indices[example]) * corpus.n_sides + side]
                    transitions[row, : len(derivation)] = torch.tensor(derivation)
            yield batch.to(device), transitions.to(device)


class _Known(NamedTuple):
    """What `Diagnoser` knows before it sees a parser.

    Attributes:
        groups: Of the examples.
        kinds: Tells the kinds of items of the sentences.
        parsed: The sentences with a gold parse.
        words: Of these.
        gold: Their gold parses, if there is one.
        lists: Their lists, where sentences show their brackets.
    """

    groups: Groups
    kinds: ItemKinds
    parsed: list[int]
    words: list[tuple[str, ...]]
    gold: Bracketings | None
    lists: Lists | None

    @classmethod
    def of(cls, corpus: Corpus) -> _Known:
        """Find it."""
        sentences: list[Sentence] = [
            corpus.sentence(i, side) for i in range(len(corpus)) for side in range(corpus.n_sides)
        ]
        groups, kinds = groups_of(corpus, sentences), ItemKinds(sentences, corpus.n_sides)
        parsed = [i for i, s in enumerate(sentences) if s.transitions is not None]
        words = [sentences[i].tokens for i in parsed]
        gold = Bracketings([sentences[i].transitions or () for i in parsed], words) if parsed else None
        bracketed = shows_brackets({token for tokens in words for token in tokens})
        return cls(groups, kinds, parsed, words, gold, Lists.of(words) if bracketed else None)
