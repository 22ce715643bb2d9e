"""What kind of item lies on a parser's stack: a word and which, or a phrase and how far its list has come."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from rlparse.corpora.batching import Batch
from rlparse.corpora.examples import Sentence
from rlparse.lists import closing_ends, is_closing, is_opening, shows_brackets
from rlparse.lockstep import Trace
from rlparse_agents.boundaries import node_marks
from rlparse_agents.rollout import parser_sizes

OPENING, WORD, CLOSING, OPEN, CLOSED, OTHER = range(6)
N_KINDS = 6

KIND_NAMES = {
    "listops": ("operator", "digit", "bracket", "open", "closed", "other"),
    "brackets": ("opening", "word", "closing", "open", "closed", "other"),
    "plain": ("", "word", "", "", "", "phrase"),
}
"""What the kinds are called, in the order of their numbers.

An item of one word is an opening or a closing bracket, or another word. A phrase is *closed* if it is one complete
list, *open* if it begins with a list that is closed after it, and *other* if it begins in any other way, or goes on
after its list is closed. Where sentences show no brackets there are only words and phrases.
"""


class Items(NamedTuple):
    """What lies on the stack before every step of some derivations; meaningless where it is not two items.

    Attributes:
        starts: [R, T, 2] int64. First word of the top, and of the second.
        ends: [R, T, 2] int64. Position after their last words.
    """

    starts: Tensor
    ends: Tensor


def items(transitions: Tensor, trace: Trace) -> Items:
    """Find the spans of the two topmost items before every step.

    Args:
        transitions: [R, T] int64.
        trace: The same, replayed.
    """
    marks = node_marks(trace.children)
    found = marks.gather(1, trace.tops[:, :, 1:].flatten(1) + 1).view(*transitions.shape, 2)
    starts = (found // 4 - 1).clamp_min(0)
    shifted, _ = parser_sizes(transitions)
    # Items lie side by side: the second ends where the top begins, and the top where the buffer does.
    return Items(starts, torch.stack((shifted, starts[:, :, 0]), dim=2))


class ItemKinds:
    """Tells the kinds of items in the sentences of one corpus.

    Args:
        sentences: Of the corpus, example by example, side by side.
        n_sides: Sentences of an example.

    Attributes:
        names: What the kinds are called, of `KIND_NAMES`.
    """

    def __init__(self, sentences: Sequence[Sentence], n_sides: int) -> None:
        self.n_sides = n_sides
        types = {token for s in sentences for token in s.tokens}
        bracketed = shows_brackets(types)
        listops = any(token[0] == "[" for token in types)
        self.names = KIND_NAMES["plain" if not bracketed else "listops" if listops else "brackets"]
        of_token = dict.fromkeys(types, WORD)
        if bracketed:
            of_token |= {token: OPENING for token in types if is_opening(token)}
            of_token |= {token: CLOSING for token in types if is_closing(token)}
        lengths = np.array([len(s.tokens) for s in sentences], np.int64)
        self._offsets: NDArray[np.int64] = np.cumsum(lengths) - lengths
        self._words = np.array([of_token[token] for s in sentences for token in s.tokens], np.int64)
        ends = [end for s in sentences for end in closing_ends(s.tokens)] if bracketed else []
        self._list_ends = np.array(ends, np.int64) if bracketed else np.zeros_like(self._words)

    def __call__(self, batch: Batch, found: Items) -> Tensor:
        """Give the kinds of items in the sentences of a batch of this corpus.

        Args:
            batch: Of R rows, with ``indices`` into the corpus.
            found: Items of these rows.

        Returns:
            [R, T, 2] int64, as numbered here.
        """
        side = np.arange(self.n_sides)[:, None]
        rows = (batch.indices.cpu().numpy() * self.n_sides + side).ravel()  # [R], side-major
        places = self._offsets[rows][:, None] + np.arange(batch.tokens.shape[1])
        device, shape = found.starts.device, found.starts.shape
        words, list_ends = (
            torch.from_numpy(of_token.take(places, mode="clip")).to(device).gather(1, found.starts.flatten(1))
            for of_token in (self._words, self._list_ends)
        )
        words, list_ends = words.view(shape), list_ends.view(shape)
        phrases = torch.where(list_ends > found.ends, OPEN, OTHER)
        phrases = torch.where(list_ends == found.ends, CLOSED, phrases)
        return torch.where(found.ends - found.starts == 1, words, phrases)
