"""The parsing game for one example at a time, as a Gymnasium environment."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, Literal

import gymnasium
import numpy as np
import numpy.typing as npt
import torch
from gymnasium import spaces
from torch import Tensor

from rlparse import PAD
from rlparse.corpora.corpus import Corpus
from rlparse.transitions import ParserState, Transition
from rlparse_envs.game import TYPED, Game, Order, Played, parse_texts, roles
from rlparse_envs.observations import (
    ObservationName,
    ObserverFactory,
    Situation,
    action_mask,
    make_observer,
)
from rlparse_envs.rendering import bracketed, render_parser
from rlparse_envs.rewards import GoldF1Reward, Reward, RewardName

if TYPE_CHECKING:
    from rlparse.models.nli_model import NLIModel

RenderMode = Literal["ansi", "human"]


class ShiftReduceEnv(gymnasium.Env[Any, np.int64]):
    """Parse the sentences of one example, transition by transition, and be paid for the trees.

    ## Description
    A shift-reduce parser starts with the words of a sentence in a buffer and an empty stack.
    SHIFT moves the next word from the buffer to the stack, REDUCE joins the two topmost items of the stack
    into one tree. After 2n - 1 transitions one binary tree covers the n words. An episode is one example:
    premise, then hypothesis, for natural language inference; the only sentence, for a corpus of single
    ones. Nothing says what a good tree is but the reward at the end.

    ## Action Space
    ``Discrete(2)``:

    | action | transition | legal when                         |
    |--------|------------|------------------------------------|
    | 0      | SHIFT      | there is a word in the buffer      |
    | 1      | REDUCE     | there are two items on the stack   |

    Before the end at least one is legal. An illegal action is replaced by the legal one and flagged, so
    that agents that know nothing of masks can play. The mask (SHIFT, REDUCE) is in ``info["action_mask"]``,
    in ``action_masks()`` for sb3-contrib's MaskablePPO, and in ``obs["action_mask"]`` of the symbolic
    observation. It is all 0 once the episode has ended.

    ## Observation Space
    ``observation="symbolic"`` (the default) is a flat ``Dict`` of integer arrays:
    ``tokens``, ``length``, ``transitions``, ``stack_spans``, ``stack_size``, ``buffer_front``, ``side``,
    ``action_mask``; see `rlparse_envs.observations.SymbolicObserver`. ``observation="features"`` is a
    ``Box`` of floats in [-1, 1] that describes the top of the stack and the front of the buffer; see
    `rlparse_envs.observations.FeatureObserver`, whose ``names`` tell what each component is. Only the
    sentence being parsed is shown. After a sentence's last transition the observation is the start of the
    next sentence; after the episode's last one it shows the finished last sentence. All arrays are new at
    every step.

    ## Rewards
    0 until the last transition, then one number, higher is better:

    - ``"gold_f1"`` (the default): unlabelled F1 against the gold trees, convention "nyu", mean over the
      sentences. Examples without a gold parse of every sentence are never drawn.
    - ``"accuracy"``: 1 if the model finds the right class from these trees, else 0.
    - ``"log_likelihood"``: log-probability that the model gives the right class.
    - any callable ``(batch, transitions) -> [B]``; see `rlparse_envs.rewards.Reward`.

    ## Starting State
    An empty stack and all words of the first sentence in the buffer. The example is drawn
    uniformly from the corpus, or, with ``order="sequential"``, the next one; a seed starts that order from
    the beginning. With ``reset(options=...)`` it is

    - ``{"example": 17}``: that of the corpus;
    - ``{"sentences": ["A man sleeps.", "( ( A man ) sleeps )"], "label": "entailment"}``: these. A sentence
      in brackets brings its gold tree; one whose words, split at spaces, are all in the vocabulary is taken
      as it stands; any other is tokenised. The label may be left out unless the reward needs it.

    ## Episode End
    The episode terminates when one tree covers each sentence: after exactly the sum of 2n - 1 over its
    sentences. It is never truncated.

    ## Information
    At every step: ``action_mask`` ([2] int8), ``illegal_action`` (bool: the action was
    replaced), ``n_illegal_actions`` (so far in the episode). After ``reset`` also ``example`` (position in
    the corpus, -1 for a typed one), ``lengths`` (words of each sentence), ``label`` (or None). After
    ``step`` also ``transition``, the one taken. At the end also:

    - ``derivations``, ``parses``: the transitions of each sentence, and its tree in brackets;
    - ``gold_parses``: the gold trees in brackets, None where there is none;
    - ``reward_parts``: the reward under the name of its kind, ``gold_f1`` where there are gold trees,
      ``accuracy`` and ``log_likelihood`` where there is a model and the label is known;
    - ``is_success``: where there is a model, whatever the reward, its class is right; without one, with an F1,
      all spans are. Absent with neither. Stable-Baselines3 logs its mean as the success rate, which so is the
      accuracy;
    - ``prediction``: the class that the model gives;
    - ``example``, ``lengths``, ``label`` again.

    ## Arguments
    ```python
    gymnasium.make("rlparse_envs:rlparse/ShiftReduce-v0", corpus=corpus, reward="accuracy", model=model)
    ```

    - ``corpus``: the examples; by default 1000 generated pairs of logical formulas. Without a vocabulary it
      gets one of all its words; with ``model`` it has to be bound to the model's
      (`Corpus.with_vocabulary`).
    - ``reward``: see Rewards.
    - ``model``: for the rewards "accuracy" and "log_likelihood"; with any reward it says at the end whether
      its class is right, and "features" show its word embeddings.
    - ``observation``: "symbolic", "features", or a callable that makes an observer of one's own.
    - ``order``: "random" or "sequential".
    - ``max_tokens``: the longest sentence that may come, which fixes the shapes; by default the longest of
      the corpus. Examples with a longer sentence are never drawn.
    - ``render_mode``: "ansi" (``render()`` returns text), "human" (every step prints it) or None.

    ## Version History
    - v0: first version.
    """

    metadata: dict[str, Any] = {"render_modes": ["ansi", "human"], "render_fps": 4}  # noqa: RUF012  # as in Env

    def __init__(
        self,
        corpus: Corpus | None = None,
        *,
        reward: RewardName | str | Reward = "gold_f1",
        model: NLIModel | None = None,
        observation: ObservationName | str | ObserverFactory = "symbolic",
        order: Order = "random",
        max_tokens: int | None = None,
        render_mode: RenderMode | None = None,
    ) -> None:
        if render_mode is not None and render_mode not in self.metadata["render_modes"]:
            raise ValueError(f"render_mode must be ansi, human or None, got {render_mode!r}")
        self.render_mode = render_mode
        self.game = Game(corpus, reward=reward, model=model, order=order, max_tokens=max_tokens)
        self.corpus, self.model, self.reward = self.game.corpus, self.game.model, self.game.reward
        self.max_tokens = self.game.max_tokens
        self.observer = make_observer(observation, self.game.size, model)
        self.observation_space = self.observer.space
        self.action_space: spaces.Discrete = spaces.Discrete(len(Transition))
        self._position = 0
        self._played: Played | None = None
        self._reward_of_episode = 0.0

    def reset(
        self, *, seed: int | None = None, options: Mapping[str, Any] | None = None
    ) -> tuple[Any, dict[str, Any]]:
        """Start the next example, or the one that ``options`` asks for; see "Starting State".

        Raises:
            ValueError: Unknown options, or an example that this environment cannot play.
            IndexError: No such example in the corpus.
            MalformedTreeError: A typed sentence begins with a bracket but is not a binary tree.
        """
        super().reset(seed=seed)
        if seed is not None:
            self._position = 0
        self._played = self.game.asked_for(options) or self._next()
        self._finished: list[ParserState] = []
        self._n_illegal = 0
        self._start_sentence(0)
        if self.render_mode == "human":
            self._print()
        return self._observe(), self._info(illegal=False) | self._about_example()

    def _next(self) -> Played:
        """Draw an example, or take the next one."""
        eligible = self.game.eligible
        if self.game.order == "sequential":
            index = int(eligible[self._position % len(eligible)])
            self._position += 1
        else:
            index = int(eligible[self.np_random.integers(len(eligible))])
        return self.game.example(index)

    def _start_sentence(self, side: int) -> None:
        """Fill the buffer with one sentence of the example."""
        assert self._played is not None
        tokens = self._played.sentences[side].tokens
        ids = self._played.batch.tokens[side, : len(tokens)].numpy()
        self._situation = Situation(ParserState(len(tokens)), tokens, ids, side)

    def step(self, action: np.int64 | int) -> tuple[Any, float, bool, bool, dict[str, Any]]:
        """Take one transition; see the class for what comes back.

        Raises:
            gymnasium.error.ResetNeeded: Before the first ``reset``, or after the end of the episode.
            ValueError: The action is neither 0 nor 1.
        """
        if self._played is None:
            raise gymnasium.error.ResetNeeded("step needs an example to parse: call reset() first")
        parser = self._situation.parser
        if parser.is_terminal:
            raise gymnasium.error.ResetNeeded(
                f"the episode has ended after {sum(p.step for p in self._finished)} steps with one tree "
                "over each sentence: call reset() before step()"
            )
        if not self.action_space.contains(action):
            raise ValueError(f"action must be 0 (SHIFT) or 1 (REDUCE), got {action!r}")
        illegal = not parser.legal[int(action)]
        transition = Transition(1 - int(action) if illegal else int(action))
        self._n_illegal += illegal
        parser.apply(transition)

        reward, terminated = 0.0, False
        outcome: dict[str, Any] = {}
        if not any(parser.legal):
            self._finished.append(parser)
            if len(self._finished) < self.corpus.n_sides:
                self._start_sentence(len(self._finished))
            else:
                terminated = True
                reward, outcome = self._judge(self._played)
        self._reward_of_episode = reward
        if self.render_mode == "human":
            self._print()
        info = self._info(illegal=illegal) | {"transition": int(transition)} | outcome
        return self._observe(), reward, terminated, False, info

    def action_masks(self) -> npt.NDArray[np.bool_]:
        """Tell which actions are legal, [2] bool; sb3-contrib's MaskablePPO calls it by this name."""
        if self._played is None:
            raise gymnasium.error.ResetNeeded("there are no legal actions before the first reset()")
        return np.array(self._situation.parser.legal, dtype=np.bool_)

    def _observe(self) -> Any:
        return self.observer.observe(self._situation)

    def _info(self, *, illegal: bool) -> dict[str, Any]:
        return {
            "action_mask": action_mask(self._situation.parser),
            "illegal_action": illegal,
            "n_illegal_actions": self._n_illegal,
        }

    def _about_example(self) -> dict[str, Any]:
        assert self._played is not None
        lengths = tuple(len(sentence.tokens) for sentence in self._played.sentences)
        return {"example": self._played.position, "lengths": lengths, "label": self._played.label}

    def _judge(self, played: Played) -> tuple[float, dict[str, Any]]:
        """Give the finished episode its reward, and tell what it is made of."""
        transitions = _derivations(self._finished, played.batch.tokens.shape[1])
        verdict = self.game.judge(played.batch, transitions, labelled=played.label is not None)
        reward = float(verdict.rewards[0])
        outcome: dict[str, Any] = {}
        if verdict.predictions is not None:
            outcome["prediction"] = self.corpus.labels[int(verdict.predictions[0])]
        if verdict.successes is not None:
            outcome["is_success"] = bool(verdict.successes[0])
        parts = {name: float(values[0]) for name, values in verdict.model_parts.items()}
        if self.game.reward_name != "gold_f1" and bool(played.batch.has_gold.all()):
            parts["gold_f1"] = GoldF1Reward()(played.batch, transitions).item()
        parts[self.game.reward_name] = reward
        derivations = tuple(tuple(map(int, parser.transitions)) for parser in self._finished)
        outcome |= parse_texts(played.sentences, derivations) | {"reward_parts": parts}
        return reward, outcome | self._about_example()

    def render(self) -> str | None:
        """Draw the parser: returned as text in mode "ansi"; in mode "human" it has been printed already."""
        if self.render_mode is None:
            gymnasium.logger.warn(
                "render() does nothing without a render mode; make the environment with "
                'render_mode="ansi" or render_mode="human"'
            )
        return self._drawing() if self.render_mode == "ansi" else None

    def _print(self) -> None:
        print(self._drawing(), end="\n\n")

    def _drawing(self) -> str:
        """Write the episode so far: where it stands, earlier sentences, the parser, the reward at the end."""
        if self._played is None:
            raise gymnasium.error.ResetNeeded("there is nothing to draw before the first reset()")
        position, sentences, label, _ = self._played
        parser, tokens, _, side = self._situation
        names = roles(len(sentences))
        name = "typed example" if position == TYPED else f"{self.corpus.name} {position}"
        about = [name] if label is None else [name, f"label {label}"]
        lines = [" · ".join((*about, names[side], f"step {parser.step} of {2 * parser.n_tokens - 1}"))]
        for earlier in range(side):
            parse = bracketed(sentences[earlier].tokens, self._finished[earlier].transitions)
            lines.append(f"{names[earlier]}  {parse}")
        lines += ["", render_parser(parser, tokens)]
        if parser.is_terminal:
            lines.append("")
            for sentence, role in zip(sentences, names, strict=True):
                if sentence.transitions is not None:
                    lines.append(f"gold {role}  {bracketed(sentence.tokens, sentence.transitions)}")
            lines.append(f"reward  {self.game.reward_name} {self._reward_of_episode:.4f}")
        return "\n".join(lines)


def _derivations(parsers: Sequence[ParserState], n_tokens: int) -> Tensor:
    """Collect finished parsers' transitions: [R, 2N - 1] int64, PAD after each one's end."""
    transitions = torch.full((len(parsers), 2 * n_tokens - 1), PAD, dtype=torch.int64)
    for row, parser in enumerate(parsers):
        transitions[row, : parser.step] = torch.tensor(parser.transitions)
    return transitions
