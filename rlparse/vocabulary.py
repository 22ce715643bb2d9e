"""Which tokens a model has a vector for, and under which index."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

PAD_TOKEN = "<pad>"
UNKNOWN_TOKEN = "<unk>"
PAD_INDEX = 0
UNKNOWN_INDEX = 1


class Vocabulary:
    """An immutable mapping from tokens to indices; index 0 is padding, index 1 the unknown token.

    Args:
        tokens: The known tokens in the order of their indices from 2 on, without ``<pad>`` and ``<unk>``.
        lowercase: Look tokens up in lower case; then ``tokens`` must be in lower case too.

    Raises:
        ValueError: A token occurs twice, is one of the two special tokens, or is not in lower case although
            ``lowercase`` is set.
    """

    def __init__(self, tokens: Iterable[str], *, lowercase: bool = False) -> None:
        self.tokens: tuple[str, ...] = (PAD_TOKEN, UNKNOWN_TOKEN, *tokens)
        self.lowercase = lowercase
        self._index = {token: index for index, token in enumerate(self.tokens)}
        if len(self._index) != len(self.tokens):
            repeated = [token for index, token in enumerate(self.tokens) if self._index[token] != index]
            raise ValueError(
                f"every token of a vocabulary must be new, and other than {PAD_TOKEN} and {UNKNOWN_TOKEN}; "
                f"repeated: {repeated[:5]}"
            )
        if lowercase:
            cased = [token for token in self.tokens if token != token.lower()]
            if cased:
                raise ValueError(
                    f"a lower-case vocabulary must hold lower-case tokens only, found {cased[:5]}"
                )

    @classmethod
    def build(
        cls,
        counts: Mapping[str, int],
        *,
        min_count: int = 1,
        max_size: int | None = None,
        lowercase: bool = False,
    ) -> Vocabulary:
        """Keep the frequent tokens, most frequent first, ties in alphabetical order.

        Args:
            counts: How often each token occurs, as from ``Corpus.token_counts()``.
            min_count: Tokens that occur less often are unknown.
            max_size: At most this many tokens, padding and unknown included.
            lowercase: Merge tokens that differ in case only.

        Raises:
            ValueError: ``min_count`` < 1 or ``max_size`` < 2.
        """
        if min_count < 1:
            raise ValueError(f"min_count must be at least 1, got {min_count}")
        if max_size is not None and max_size < 2:
            raise ValueError(f"max_size must leave room for {PAD_TOKEN} and {UNKNOWN_TOKEN}, got {max_size}")
        if lowercase:
            merged: dict[str, int] = {}
            for token, count in counts.items():
                merged[token.lower()] = merged.get(token.lower(), 0) + count
            counts = merged
        kept = [token for token, count in counts.items() if count >= min_count]
        kept = [token for token in kept if token not in (PAD_TOKEN, UNKNOWN_TOKEN)]
        kept.sort(key=lambda token: (-counts[token], token))
        return cls(kept if max_size is None else kept[: max_size - 2], lowercase=lowercase)

    def __len__(self) -> int:
        return len(self.tokens)

    def __contains__(self, token: str) -> bool:
        return (token.lower() if self.lowercase else token) in self._index

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, Vocabulary):
            return NotImplemented
        return self.tokens == other.tokens and self.lowercase == other.lowercase

    def __hash__(self) -> int:
        return hash((self.tokens, self.lowercase))

    def __repr__(self) -> str:
        return f"Vocabulary({len(self)} tokens{', lowercase' if self.lowercase else ''})"

    def index(self, token: str) -> int:
        """Index of one token, ``UNKNOWN_INDEX`` where it is not known."""
        return self._index.get(token.lower() if self.lowercase else token, UNKNOWN_INDEX)

    def encode(self, tokens: Sequence[str]) -> npt.NDArray[np.int64]:
        """Indices of a sentence's tokens, [len(tokens)] int64."""
        return np.fromiter((self.index(token) for token in tokens), np.int64, len(tokens))

    def to_json(self) -> dict[str, Any]:
        """Everything that ``from_json`` needs, as plain JSON values."""
        return {"lowercase": self.lowercase, "tokens": list(self.tokens[2:])}

    @classmethod
    def from_json(cls, data: Mapping[str, Any]) -> Vocabulary:
        """Restore what ``to_json`` gave.

        Raises:
            ValueError: ``data`` is not such an object.
        """
        tokens, lowercase = data.get("tokens"), data.get("lowercase")
        if not isinstance(lowercase, bool) or not isinstance(tokens, list):
            raise ValueError(
                f"a stored vocabulary has 'tokens' (list) and 'lowercase' (bool), found {sorted(data)}"
            )
        if not all(isinstance(token, str) for token in tokens):
            raise ValueError("the tokens of a stored vocabulary must all be strings")
        return cls(tokens, lowercase=lowercase)
