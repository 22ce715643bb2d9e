"""Diagnosing while an agent learns: ``--run.diagnose``."""

from __future__ import annotations

from torch import Tensor, nn

from rlparse.corpora.corpus import Corpus
from rlparse_agents.parsing_policy import ParsingPolicy
from rlparse_experiments.callbacks import TrainingCallback
from rlparse_experiments.diagnosis.diagnoser import Diagnoser
from rlparse_experiments.diagnosis.plasticity import copies, update_size
from rlparse_experiments.evaluate import Measured


class Diagnosis(TrainingCallback):
    """Add the curves of a diagnosis to every evaluation on dev, and how far the iteration before it moved the weights.

    It stands before `DevEvaluation` in the list of callbacks, which asks for the `curves`.

    Args:
        corpus: The dev set.
        interval: Iterations between two evaluations.
        last: Iteration that ends the run, at which there is an evaluation, too.
    """

    def __init__(self, corpus: Corpus, interval: int, last: int) -> None:
        super().__init__()
        self.diagnoser = Diagnoser(corpus)
        self.interval = interval
        self.at_end = last
        self._before: dict[str, list[Tensor]] = {}
        self._sizes: dict[str, float] = {}

    def _on_rollout_start(self) -> None:
        number = self.agent.n_iterations + 1
        if number % self.interval == 0 or number == self.at_end:
            self._before = {whose: copies(module) for whose, module in self._learners().items()}

    def _on_step(self) -> bool:
        modules = self._learners()
        sizes = {whose: update_size(before, modules[whose]) for whose, before in self._before.items()}
        self._sizes = {whose: size for whose, size in sizes.items() if size is not None}
        self._before = {}
        return True

    def curves(self, policy: ParsingPolicy, measured: Measured) -> dict[str, float]:
        """Give the figures of an evaluation by their tags.

        Args:
            policy: As it was measured.
            measured: What it and the classifier did on the dev set.
        """
        assert self.agent.rewarder is not None
        found = self.diagnoser.diagnose(self.agent.rewarder, policy, measured).curves()
        return found | {f"train/update_size/{whose}": size for whose, size in self._sizes.items()}

    def _learners(self) -> dict[str, nn.Module]:
        """Give the encoder with its classifier, and the policy."""
        assert self.agent.rewarder is not None
        return {"encoder": self.agent.rewarder, "policy": self.agent.policy}
