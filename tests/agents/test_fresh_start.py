"""An encoder that begins again once the parses have settled."""

from __future__ import annotations

import math
from collections import Counter

import numpy as np
import pytest
import torch
from torch.nn import functional as F

from rlparse import lockstep
from rlparse.errors import CheckpointError
from rlparse_agents.fresh_start import FreshStart
from rlparse_agents.pacing import Pacing
from small_agents import agent_of, iterate, model_of, moved, recording, same_weights, weights_of

# ------------------------------------------------------------------------------------------------------ phases


def test_phases_follow_entropy_and_accuracy():
    phases = FreshStart(settled=0.3, competence=0.8, patience=10, memory=2)
    seen = []
    for progress, entropy, accuracy in (
        (0.0, 0.9, 0.9),  # accuracy does not matter yet
        (0.1, 0.25, 0.9),  # mean 0.575
        (0.2, 0.2, 0.9),  # (0.575 + 0.2) / 2 = 0.3875
        (0.3, 0.2, 0.9),  # 0.29: settled
        (0.4, None, 0.9),  # one is not enough
        (0.5, None, 0.6),  # 0.75
        (0.6, None, 0.9),  # 0.825: competent
        (0.7, 0.9, 0.1),  # and so to the end
        (0.8, 0.9, 0.1),
    ):
        phases.observe(progress, entropy=entropy, accuracy=accuracy)
        seen.append((phases.phase, phases.since))
    assert seen == [
        ("explore", 0.0),
        ("explore", 0.0),
        ("explore", 0.0),
        ("relearn", 0.3),
        ("relearn", 0.3),
        ("relearn", 0.3),
        ("refine", 0.6),
        ("refine", 0.6),
        ("refine", 0.6),
    ]
    assert phases.attempts == 1


def in_vain(**options):
    """Phases whose encoder has begun to relearn at 0.2, and is not going to become competent."""
    phases = FreshStart(settled=0.3, competence=0.8, memory=1, **options)
    phases.observe(0.2, entropy=0.1, accuracy=0.2)
    return phases


def test_the_parser_mends_its_parses_when_the_encoder_does_not_become_competent():
    phases = in_vain(patience=8)
    begun = [phases.observe(0.2 + 0.02 * i, entropy=0.2, accuracy=0.7) for i in range(1, 9)]
    assert begun == [None] * 7 + ["mend"]
    assert (phases.attempts, phases.since) == (1, pytest.approx(0.36))
    assert phases.observe(0.38, entropy=0.2, accuracy=0.95) is None  # competent or not
    assert phases.observe(0.4, entropy=0.2, accuracy=0.7) == "relearn"  # after a quarter of 8
    assert (phases.attempts, phases.since) == (2, 0.4)
    assert phases.observe(0.42, entropy=0.2, accuracy=0.95) == "refine"


@pytest.mark.parametrize(("late", "phase"), [(0.6, "mend"), (0.61, "refine")])
def test_it_refines_what_there_is_when_there_is_no_time_to_relearn(late, phase):
    assert in_vain(patience=1).observe(late, entropy=None, accuracy=0.7) == phase


def test_little_patience_mends_for_an_iteration():
    phases = in_vain(patience=1)
    assert phases.observe(0.3, entropy=None, accuracy=0.7) == "mend"
    assert phases.observe(0.35, entropy=None, accuracy=0.7) == "relearn"


def test_parses_that_never_settle_are_taken_as_they_are():
    phases = FreshStart(settled=0.3, explore_until=0.5, memory=2)
    begun = [phases.observe(progress, entropy=0.9, accuracy=0.5) for progress in (0.1, 0.3, 0.49, 0.5)]
    assert begun == [None, None, None, "relearn"]
    assert phases.since == 0.5


def test_an_iteration_without_a_choice_does_not_count():
    phases = FreshStart(settled=0.3, memory=2)
    for _ in range(5):
        assert phases.observe(0.1, entropy=None, accuracy=0.5) is None
    assert phases.observe(0.1, entropy=0.1, accuracy=0.5) is None
    assert phases.observe(0.1, entropy=0.1, accuracy=0.5) == "relearn"


def test_schedules_follow_exploring_and_rates_the_refining():
    phases = FreshStart(settled=0.3, competence=0.8, patience=1, memory=1)
    assert (phases.explored(0.2), phases.unrefined(0.2)) == (0.2, 1.0)
    phases.observe(0.2, entropy=0.1, accuracy=0.1)
    assert (phases.explored(0.2), phases.unrefined(0.2)) == (1.0, 1.0)
    phases.observe(0.3, entropy=None, accuracy=0.1)  # in vain
    assert (phases.explored(0.5), phases.unrefined(0.5)) == (1.0, 1.0)
    phases.observe(0.5, entropy=0.1, accuracy=0.1)
    phases.observe(0.6, entropy=None, accuracy=0.9)
    assert phases.explored(0.7) == 1.0
    assert [phases.unrefined(p) for p in (0.6, 0.8, 1.0)] == pytest.approx([1.0, 0.5, 0.0])


def test_refining_may_begin_at_the_very_end():
    phases = FreshStart(settled=0.3, competence=0.8, memory=1)
    phases.observe(0.9, entropy=0.1, accuracy=0.1)
    phases.observe(1.0, entropy=None, accuracy=0.9)
    assert phases.unrefined(1.0) == 0.0


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"settled": 0.0}, "settled must be between 0 and 1, got 0.0"),
        ({"explore_until": 1.0}, "explore_until must be between 0 and 1, got 1.0"),
        ({"competence": 1.0}, "competence must be between 0 and 1, got 1.0"),
        ({"patience": 0}, "patience must be at least 1, got 0"),
        ({"memory": 0}, "memory must be at least 1, got 0"),
    ],
)
def test_options_out_of_range(options, message):
    with pytest.raises(ValueError, match=message):
        FreshStart(**options)


@pytest.mark.parametrize("options", [{"settled": 1.0}, {"competence": 0.0}, {"patience": 0}])
def test_a_pace_checks_them_too(options):
    with pytest.raises(ValueError, match=next(iter(options))):
        Pacing(**options)


@pytest.mark.parametrize(
    "figures", [{"entropy": math.nan, "accuracy": 0.5}, {"entropy": math.inf, "accuracy": 0.5}]
)
def test_figures_have_to_be_numbers(figures):
    with pytest.raises(ValueError, match="finite"):
        FreshStart().observe(0.1, **figures)


def test_it_goes_on_from_its_state():
    def new() -> FreshStart:
        return FreshStart(settled=0.3, competence=0.8, patience=3, memory=2)

    figures = [
        (0.2, 0.5),
        (0.2, 0.5),
        (None, 0.6),
        (None, 0.7),
        (None, 0.6),
        (0.1, 0.7),
        (None, 0.9),
    ]
    straight, first = new(), new()
    for i, (entropy, accuracy) in enumerate(figures):
        straight.observe(i / 20, entropy=entropy, accuracy=accuracy)
        first.observe(i / 20, entropy=entropy, accuracy=accuracy)
        second = new()
        second.load_state_dict(first.state_dict())
        assert second.state_dict() == straight.state_dict()
        first = second
    assert (straight.phase, straight.attempts) == ("relearn", 2)


@pytest.mark.parametrize("change", [{"phase": "asleep"}, {"more": 1}])
def test_another_state_is_refused(change):
    state = FreshStart().state_dict() | change
    with pytest.raises(CheckpointError, match="the state of a fresh start has"):
        FreshStart().load_state_dict(state)


# ----------------------------------------------------------------------------------------------------- an agent


def beginner(corpus, **options):
    pacing = Pacing(
        **(
            {"fresh_start": True, "settled": 0.5, "competence": 0.5, "patience": 50}
            | options.pop("pacing", {})
        )
    )
    agent = agent_of(corpus, "accuracy", model=model_of(corpus), pacing=pacing, **options)
    agent.fresh_start.memory = 2
    return agent


def begin(agent, phase):
    """Let the next iteration be the first one of a phase."""
    agent.fresh_start.phase = phase
    agent.fresh_start._average, agent.fresh_start._n_observed = 0.0, 0
    agent._appoint()
    agent._draw()


def sure(agent):
    """Make the policy sure of left-branching trees."""
    with torch.no_grad():
        agent.policy.head.bias[:] = torch.tensor([-50.0, 50.0])


def test_a_sure_parser_lets_the_encoder_begin_again(pairs):
    agent = beginner(pairs)
    first = weights_of(agent.model)
    sure(agent)
    iterate(agent, 1)
    assert not same_weights(weights_of(agent.model), first)
    iterate(agent, 1)
    assert agent.fresh_start.phase == "relearn"
    assert same_weights(weights_of(agent.model), first)
    assert not agent.encoder_optimizer.state


def test_an_unsure_parser_explores_on(pairs):
    agent = beginner(pairs)
    assert moved(agent, 4) == ["pe"] * 4
    assert agent.fresh_start.phase == "explore"


def test_relearning_shows_the_encoder_one_greedy_parse_of_different_examples(pairs):
    agent = beginner(pairs, pacing={"competence": 0.999}, batch_size=2, n_parses=2)
    begin(agent, "relearn")
    assert moved(agent, 3) == ["e"] * 3
    last = agent.last_iteration
    assert len(set(last.batch.indices.tolist())) == 4  # as many as there are parses of 2 while exploring
    with torch.no_grad():
        assert torch.equal(last.transitions, agent.policy.derive(last.batch, greedy=True))


def test_a_competent_encoder_lets_the_parser_go_on(pairs):
    agent = beginner(pairs, pacing={"refine_every": 3}, batch_size=2, n_parses=2)
    begin(agent, "relearn")
    agent.fresh_start.competence = 1e-9
    iterate(agent, 2)
    assert agent.fresh_start.phase == "refine"
    assert agent.n_iterations == 2
    kept, who = [], []
    for _ in range(6):
        who += moved(agent, 1)
        kept.append(Counter(agent.last_iteration.batch.indices.tolist()).most_common(1)[0][1])
    assert who == ["e", "pe", "e", "e", "pe", "e"]  # iterations 2 to 7
    assert kept == [1, 2, 1, 1, 2, 1]  # parses of an example: compared where the parser learns
    assert agent.last_iteration.batch.n_examples == 4


def test_in_vain_the_parser_learns_on_and_the_encoder_begins_again(pairs):
    agent = beginner(pairs, pacing={"competence": 0.999, "patience": 8}, batch_size=2, n_parses=2)
    writer = recording(agent)
    first = weights_of(agent.model)
    begin(agent, "relearn")
    assert moved(agent, 8) == ["e"] * 8
    assert agent.fresh_start.phase == "mend"
    assert moved(agent, 2) == ["pe"] * 2
    assert Counter(agent.last_iteration.batch.indices.tolist()).most_common(1)[0][1] == 2
    assert agent.fresh_start.phase == "relearn"
    assert same_weights(weights_of(agent.model), first)
    assert writer.curve("train/phase") == [1] * 7 + [2] * 2 + [1]
    assert writer.curve("train/attempts") == [0] * 9 + [1]


def test_while_exploring_the_encoder_may_learn_from_short_sentences_only(pairs):
    """As if the longer examples were not there, and all of them once exploring is over."""
    limit = 3
    batch = pairs.batch(np.arange(len(pairs)))
    longest = batch.lengths.view(2, -1).amax(0)
    assert 0 < (longest <= limit).sum() < len(longest)
    gradients = []
    for phase, short in (("explore", longest <= limit), ("relearn", longest > 0)):
        agent = beginner(pairs, pacing={"explore_tokens": limit})
        begin(agent, phase)
        model = agent.model.train()
        model.head.dropout = 0.0
        vectors = model.encode(batch.tokens, lockstep.trace(batch.gold, batch.lengths))
        logits = model.head(vectors, dropout=False)
        expected = torch.autograd.grad(
            F.cross_entropy(logits[short], batch.labels[short]), model.head.classify.weight, retain_graph=True
        )
        loss, _ = agent._classify(batch, vectors)
        found = torch.autograd.grad(loss, model.head.classify.weight)
        torch.testing.assert_close(found, expected)
        gradients.append(found[0])
    assert not torch.allclose(*gradients)


def test_nothing_short_teaches_nothing(pairs):
    agent = beginner(pairs, pacing={"explore_tokens": 1})
    assert moved(agent, 2) == ["p"] * 2


def test_relearning_begins_with_the_average_of_the_policy(pairs):
    agent = beginner(pairs, pacing={"settled": 0.9999999, "policy_average": 0.9}, learning_rate=0.1)
    iterate(agent, 1)
    own = weights_of(agent.policy)
    while agent.fresh_start.phase == "explore":
        own = weights_of(agent.policy)
        iterate(agent, 1)
    average = agent.policy_average.state_dict()["averages"]
    assert same_weights(weights_of(agent.policy), average)
    assert not same_weights(average, own)


def test_learning_rates_fall_only_while_refining(pairs):
    agent = beginner(pairs, learning_rate=lambda left: left, encoder_learning_rate=lambda left: left)
    writer = recording(agent)
    agent.learn(10**9, total_iterations=2)
    begin(agent, "relearn")
    agent.learn(10**9, reset_num_timesteps=False, total_iterations=4)
    begin(agent, "refine")
    agent.fresh_start.since = 0.5
    agent.learn(10**9, reset_num_timesteps=False, total_iterations=8)
    rates = writer.curve("train/learning_rate_encoder")
    assert rates == pytest.approx([1.0, 1.0, 1.0, 1.0, 1.0, 0.75, 0.5, 0.25])


def test_parsers_that_do_not_learn_need_no_fresh_start(pairs):
    agent = agent_of(
        pairs,
        "accuracy",
        model=model_of(pairs),
        policy="FixedTreePolicy",
        policy_kwargs={"kind": "left"},
        n_parses=1,
        pacing=Pacing(fresh_start=True),
    )
    assert agent.fresh_start is None


def test_it_goes_on_in_the_phase_that_was_stored(pairs):
    agent = beginner(pairs, batch_size=2, n_parses=2)
    begin(agent, "relearn")
    agent.fresh_start.since = 0.25
    iterate(agent, 2)
    other = beginner(pairs, batch_size=2, n_parses=2)
    other.load_learning_state(agent.learning_state())
    other.order.load_state_dict(agent.order.state_dict())
    assert (other.fresh_start.phase, other.fresh_start.since) == ("relearn", 0.25)
    iterate(agent, 1)
    iterate(other, 1)
    assert torch.equal(other.last_iteration.batch.indices, agent.last_iteration.batch.indices)


# -------------------------------------------------------------------------------------------------- an explorer


def led(corpus, **options):
    """A beginner with a smaller classifier that rewards it while exploring."""
    return beginner(corpus, explorer=model_of(corpus, embedding_size=4, hidden_size=4), **options)


def test_an_explorer_learns_and_rewards_in_the_models_place(pairs):
    agent = led(pairs)
    model, explorer = weights_of(agent.model), weights_of(agent.explorer)
    judge = model_of(pairs, embedding_size=4, hidden_size=4).eval()
    judge.load_state_dict(explorer)
    iterate(agent, 1)
    assert agent.rewarder is agent.explorer
    assert same_weights(weights_of(agent.model), model)
    assert not same_weights(weights_of(agent.explorer), explorer)
    last = agent.last_iteration
    expected = judge(last.batch, last.transitions).argmax(1) == last.batch.labels
    assert torch.equal(last.rewards, expected.float())


def test_the_model_takes_over_when_the_parses_have_settled(pairs):
    agent = led(pairs)
    model = weights_of(agent.model)
    sure(agent)
    iterate(agent, 2)
    assert agent.fresh_start.phase == "relearn"
    assert agent.rewarder is agent.model
    explorer = weights_of(agent.explorer)
    assert same_weights(weights_of(agent.model), model)
    iterate(agent, 1)
    assert not same_weights(weights_of(agent.model), model)
    assert same_weights(weights_of(agent.explorer), explorer)


def test_an_explorer_goes_on_from_where_it_was(pairs):
    agent, other = iterate(led(pairs), 2), led(pairs)
    other.load_learning_state(agent.learning_state())
    assert same_weights(weights_of(other.explorer), weights_of(agent.explorer))
    steps = [{int(state["step"]) for state in a.explorer_optimizer.state.values()} for a in (agent, other)]
    assert steps == [{2}, {2}]


@pytest.mark.parametrize(
    ("reward", "pacing", "message"),
    [
        ("accuracy", {}, "an explorer rewards parses until"),
        ("gold_f1", {"fresh_start": True}, "GoldF1Reward asks no model"),
    ],
)
def test_an_explorer_without_a_task_is_refused(pairs, reward, pacing, message):
    with pytest.raises(ValueError, match=message):
        agent_of(pairs, reward, model=model_of(pairs), explorer=model_of(pairs), pacing=Pacing(**pacing))
