"""Agents in the zip files of Stable-Baselines3, which are not loaded before somebody says that they can be trusted."""

from __future__ import annotations

import inspect
from pathlib import Path
from typing import Any, TypeVar

from stable_baselines3.common.base_class import BaseAlgorithm

Algorithm = TypeVar("Algorithm", bound=BaseAlgorithm)


def require_trust(path: object, *, trusted: bool) -> None:
    """Refuse to load a file that can execute code, unless the caller vouches for it.

    Raises:
        ValueError: ``trusted`` is False.
    """
    if not trusted:
        raise ValueError(
            f"{path} is a file of Stable-Baselines3, which holds pickled Python objects: loading it executes whatever "
            "code its author put there. If you made it yourself, or trust who did, pass trusted=True. To take only "
            "the weights, which executes nothing, build the agent anew and call load_weights(agent, path)"
        )


def export_zip(agent: BaseAlgorithm, path: Path | str) -> Path:
    """Save an agent in a zip file that Stable-Baselines3 and rl-zoo3 can load.

    The file is complete or not there at all. A classifier that `EncoderTrainingCallback` trains belongs to the
    environment and is not in it.

    Args:
        agent: Of any algorithm, a `PolicyGradient` too.
        path: Without a suffix it gets ``.zip``.

    Returns:
        Where it is.
    """
    path = Path(path)
    if not path.suffix:
        path = path.with_suffix(".zip")
    path.parent.mkdir(parents=True, exist_ok=True)
    draft = path.with_name(f".{path.name}.draft")
    agent.save(draft)
    return draft.replace(path)


def load_zip(
    algorithm: type[Algorithm], path: Path | str, *, trusted: bool = False, **arguments: Any
) -> Algorithm:
    """Load an agent as ``algorithm.load`` does, once the caller has said that the file can be trusted.

    Args:
        algorithm: Such as ``PPO``, `MaskableRecurrentPPO` or `PolicyGradient`.
        path: From `export_zip` or ``agent.save``.
        trusted: The file's author may execute code here.
        arguments: For ``algorithm.load``, such as ``env`` and ``device``.

    Raises:
        ValueError: ``trusted`` is False.
    """
    require_trust(path, trusted=trusted)
    if "trusted" in inspect.signature(algorithm.load).parameters:  # PolicyGradient asks for itself
        arguments = arguments | {"trusted": True}
    return algorithm.load(path, **arguments)


def load_weights(agent: BaseAlgorithm, path: Path | str) -> None:
    """Give an agent the weights and optimiser states of a zip file, and execute nothing that is in it.

    Only tensors and plain numbers are read (``weights_only=True``), so the file need not be trusted. The agent is
    built as the other one was; counters and settings stay its own.

    Args:
        agent: Of the same algorithm and sizes.
        path: From `export_zip` or ``agent.save``.

    Raises:
        RuntimeError: The weights have other shapes.
        ValueError: The file is no zip file, or of another algorithm.
    """
    agent.set_parameters(str(path), device=agent.device)
