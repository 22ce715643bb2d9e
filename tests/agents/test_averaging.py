"""The average of weights agrees with a loop over their history, and leaves the module as it was."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

from rlparse.errors import CheckpointError
from rlparse_agents.averaging import WeightAverage


def build(seed: int = 0) -> nn.Module:
    """A module with weights, a frozen weight, and buffers of both kinds."""
    torch.manual_seed(seed)
    module = nn.Sequential(nn.Linear(3, 2), nn.BatchNorm1d(2), nn.Linear(2, 1, bias=False)).double()
    module[2].weight.requires_grad_(False)
    return module


def weights_of(module: nn.Module) -> dict[str, Tensor]:
    return {name: value.clone() for name, value in module.state_dict().items()}


def change(module: nn.Module) -> None:
    """One step of training that moves everything."""
    with torch.no_grad():
        for value in module.state_dict().values():
            value.add_(1 if not value.is_floating_point() else torch.randn_like(value))


def assert_same(found: dict[str, Tensor], expected: dict[str, Tensor], *, exactly: bool = False) -> None:
    assert found.keys() == expected.keys()
    for name, value in found.items():
        tolerance = 0.0 if exactly else 1e-12
        torch.testing.assert_close(value, expected[name], rtol=0, atol=tolerance)


@pytest.mark.parametrize("decay", [0.0, 0.5, 0.9, 0.999])
def test_the_average_agrees_with_a_loop_over_the_history(decay):
    module = build()
    average, history = WeightAverage(module, decay), []
    for _ in range(7):
        change(module)
        average.update()
        history.append(weights_of(module))
    slow = history[0]
    for t, weights in enumerate(history[1:], start=1):
        kept = min(decay, t / (t + 1))
        slow = {
            name: kept * slow[name] + (1 - kept) * value if value.is_floating_point() else value
            for name, value in weights.items()
        }
    with average.applied():
        assert_same(weights_of(module), slow)


def test_the_first_updates_are_averaged_evenly_and_the_start_has_no_share():
    module = nn.Linear(1, 1, bias=False)
    average = WeightAverage(module, 0.99)
    for value in (2.0, 4.0, 9.0):
        nn.init.constant_(module.weight, value)
        average.update()
    with average.applied():
        assert module.weight.item() == pytest.approx(5.0)


def test_before_the_first_update_it_is_what_the_module_was():
    module = build()
    average, before = WeightAverage(module, 0.9), weights_of(module)
    change(module)
    with average.applied():
        assert_same(weights_of(module), before, exactly=True)


def test_the_weights_come_back_bit_for_bit_where_they_lie():
    module = build()
    average = WeightAverage(module, 0.9)
    for _ in range(3):
        change(module)
        average.update()
    own, places = weights_of(module), [value.data_ptr() for value in module.state_dict().values()]

    def fail_inside() -> None:
        with average.applied():
            change(module)  # is lost, and does not reach the average
            raise KeyError

    with average.applied():
        first = weights_of(module)
        assert [value.data_ptr() for value in module.state_dict().values()] == places
        assert not torch.equal(module[0].weight, own["0.weight"])
    assert_same(weights_of(module), own, exactly=True)
    with pytest.raises(KeyError):
        fail_inside()
    assert_same(weights_of(module), own, exactly=True)
    assert [value.data_ptr() for value in module.state_dict().values()] == places
    with average.applied():
        assert_same(weights_of(module), first, exactly=True)


def test_an_optimiser_notices_nothing():
    """Training with an average that is looked at is training without."""

    def train(looks: bool) -> dict[str, Tensor]:
        module = build()
        average = WeightAverage(module, 0.9)
        optimizer = torch.optim.AdamW([p for p in module.parameters() if p.requires_grad], lr=0.1)
        generator = torch.Generator().manual_seed(0)
        for _ in range(5):
            inputs = torch.randn(8, 3, generator=generator, dtype=torch.float64)
            optimizer.zero_grad()
            module(inputs).square().mean().backward()
            optimizer.step()
            average.update()
            if looks:
                with average.applied(), torch.no_grad():
                    module.eval()(inputs)
                module.train()
        return weights_of(module)

    assert_same(train(True), train(False), exactly=True)


def test_a_continued_average_goes_on_as_if_never_stopped():
    torch.manual_seed(1)
    module = build()
    whole = WeightAverage(module, 0.8)
    for step in range(6):
        change(module)
        whole.update()
        if step == 2:
            continued = WeightAverage(module, 0.8)
            continued.load_state_dict(whole.state_dict())
        elif step > 2:
            continued.update()
    assert continued.n_updates == whole.n_updates == 6
    assert_same(continued.state_dict()["averages"], whole.state_dict()["averages"], exactly=True)


def test_a_state_is_a_copy():
    module = build()
    average = WeightAverage(module, 0.5)
    state = average.state_dict()
    kept = {name: value.clone() for name, value in state["averages"].items()}
    change(module)
    average.update()
    assert_same(state["averages"], kept, exactly=True)


def test_a_module_without_weights_can_be_averaged():
    average = WeightAverage(nn.ReLU(), 0.9)
    average.update()
    with average.applied():
        assert average.state_dict() == {"n_updates": 1, "averages": {}}


@pytest.mark.parametrize("decay", [1.0, -0.1])
def test_decay_out_of_range(decay):
    with pytest.raises(ValueError, match=rf"decay must be in \[0, 1\), got {decay}"):
        WeightAverage(build(), decay)


def test_a_module_goes_on_from_its_average():
    module = nn.Linear(2, 1)
    average = WeightAverage(module, 0.9)
    for number in (1.0, 2.0, 6.0):
        with torch.no_grad():
            module.weight.fill_(number)
        average.update()
    place = module.weight.data_ptr()
    average.adopt()
    assert module.weight.tolist() == [[pytest.approx(3.0)] * 2]
    assert module.weight.data_ptr() == place
    with average.applied(), pytest.raises(ValueError, match=r"adopt\(\) within applied\(\)"):
        average.adopt()


def test_the_average_is_not_averaged():
    average = WeightAverage(build(), 0.9)
    with average.applied():
        with pytest.raises(ValueError, match=r"update\(\) within applied\(\) would average the average"):
            average.update()
        with pytest.raises(ValueError, match=r"applied\(\) is in place already"), average.applied():
            pass
    average.update()


def test_the_state_of_something_else():
    average = WeightAverage(build(), 0.9)
    with pytest.raises(CheckpointError, match=r"has n_updates and averages, found \['x'\]"):
        average.load_state_dict({"x": 1})
    other = WeightAverage(nn.Linear(4, 2), 0.9).state_dict()
    with pytest.raises(CheckpointError, match=r"first is 0\.bias, here \(2,\), stored missing"):
        average.load_state_dict(other)
    wider = WeightAverage(nn.Sequential(nn.Linear(4, 2)), 0.9)
    with pytest.raises(
        CheckpointError, match=r"1 weights differ, the first is 0\.weight, here \(2, 4\), stored"
    ):
        wider.load_state_dict(WeightAverage(nn.Sequential(nn.Linear(3, 2)), 0.9).state_dict())
