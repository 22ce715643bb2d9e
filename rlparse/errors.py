"""The exceptions that a caller of rlparse may want to catch."""

from __future__ import annotations


class RlparseError(Exception):
    """Base of every error that rlparse raises on purpose about data, parses, runs or configuration."""


class IllegalTransitionError(RlparseError, ValueError):
    """A transition was applied that the parser state does not allow."""


class MalformedTreeError(RlparseError, ValueError):
    """A bracketed text, derivation or set of spans is not one binary tree over its tokens."""


class CorpusError(RlparseError, ValueError):
    """A corpus file or line cannot be read; the message names file, line, what was expected and what came."""


class ConfigError(RlparseError, ValueError):
    """A configuration is unknown, incomplete or contradicts itself."""


class CheckpointError(RlparseError):
    """A run folder or checkpoint is missing, damaged or belongs to another configuration."""


class NonFiniteLossError(RlparseError, FloatingPointError):
    """Training produced a loss or gradient that is not finite."""
