"""Parses, what they mean, and the models that compose them.

Shape letters used in every docstring of the project:

    B  sentences (or examples) in a batch      K  sampled parses per example
    N  tokens, padded to the longest sentence  A  actions: SHIFT, REDUCE (= 2)
    T  transitions, T = 2N - 1                 E  embedding size
    S  sentences per example (1 or 2)          D  hidden size
    R  rows of a batch, R = S * B              C  classes
"""

__version__ = "0.1.0"

PAD = 2
"""Fills a derivation after its end: one past the last action, so that indexing with it raises."""

__all__ = ["PAD", "__version__"]
