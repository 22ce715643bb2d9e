"""Optimisers by the names that configurations use."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Literal, get_args

import torch
from torch.nn import Parameter

OptimizerName = Literal["adam", "adadelta", "rmsprop", "sgd"]

OPTIMIZERS: tuple[str, ...] = get_args(OptimizerName)


def make_optimizer(
    name: OptimizerName, parameters: Iterable[Parameter], learning_rate: float, weight_decay: float
) -> torch.optim.Optimizer:
    """Build an optimiser.

    Args:
        name: ``adam`` (decoupled weight decay: AdamW, Loshchilov and Hutter 2019), ``adadelta`` (Zeiler 2012),
            ``rmsprop`` (Tieleman and Hinton 2012), ``sgd`` (with a momentum of 0.9). The last three add weight decay to
            the gradient.
        parameters: What it moves.
        learning_rate: At the beginning.
        weight_decay: Its weight.

    Raises:
        ValueError: The name is unknown.
    """
    if name == "adam":
        return torch.optim.AdamW(parameters, lr=learning_rate, weight_decay=weight_decay, fused=True)
    if name == "adadelta":
        return torch.optim.Adadelta(parameters, lr=learning_rate, weight_decay=weight_decay)
    if name == "rmsprop":
        return torch.optim.RMSprop(parameters, lr=learning_rate, weight_decay=weight_decay)
    if name == "sgd":
        return torch.optim.SGD(parameters, lr=learning_rate, weight_decay=weight_decay, momentum=0.9)
    raise ValueError(f"unknown optimizer {name!r}; known: {', '.join(OPTIMIZERS)}")
