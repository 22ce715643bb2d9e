"""Checkpoints: whole or not there, checked when loaded, never executed."""

from __future__ import annotations

import json
import os
import pickle
import shutil
from hashlib import sha256
from pathlib import Path

import pytest
import torch
from torch import nn

from rlparse import checkpoint
from rlparse.checkpoint import load_checkpoint, save_checkpoint, write_json
from rlparse.errors import CheckpointError

FILES = ("facts.json", "manifest.json", "model.safetensors", "policy.safetensors", "states.pt")


def save(folder: Path, step: int, **options) -> Path:
    """Write a checkpoint whose content depends on its step."""
    torch.manual_seed(step)
    return save_checkpoint(
        folder,
        step,
        weights={"model": nn.Linear(3, 2).state_dict(), "policy": {"w": torch.full((2,), float(step))}},
        states={"order": {"epoch": step}, "generator": torch.Generator().manual_seed(step).get_state()},
        facts={"num_timesteps": 10 * step},
        **options,
    )


def steps_in(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


def replace_file(path: Path, content: bytes) -> None:
    """Write a file and make the manifest agree with it, as an attacker would."""
    path.write_bytes(content)
    manifest = path.parent / "manifest.json"
    value = json.loads(manifest.read_text())
    value["sha256"][path.name] = sha256(content).hexdigest()
    manifest.write_text(json.dumps(value))


# -------------------------------------------------------------------------------------------------- round trip


def test_what_is_saved_is_loaded(tmp_path):
    model = nn.Sequential(nn.Linear(3, 4), nn.Linear(4, 2))
    optimizer = torch.optim.AdamW(model.parameters(), lr=0.1)
    for _ in range(3):
        model(torch.randn(5, 3)).square().sum().backward()
        optimizer.step()
    generator = torch.Generator().manual_seed(7)
    torch.rand(3, generator=generator)
    path = save_checkpoint(
        tmp_path / "run" / "checkpoints",
        12,
        weights={"model": model.state_dict()},
        states={"optimizer": optimizer.state_dict(), "generator": generator.get_state()},
        facts={"epoch": 2, "losses": [0.5, 0.25], "name": "naïve"},
    )
    assert path.name == "00000012"
    assert steps_in(path) == sorted(["facts.json", "manifest.json", "model.safetensors", "states.pt"])

    loaded = load_checkpoint(tmp_path / "run" / "checkpoints")
    assert (loaded.step, loaded.damaged) == (12, ())
    assert loaded.facts == {"epoch": 2, "losses": [0.5, 0.25], "name": "naïve"}
    assert loaded.weights.keys() == {"model"}
    assert loaded.weights["model"].keys() == model.state_dict().keys()
    for name, tensor in model.state_dict().items():
        assert torch.equal(loaded.weights["model"][name], tensor)

    copy = nn.Sequential(nn.Linear(3, 4), nn.Linear(4, 2))
    copy.load_state_dict(loaded.weights["model"])
    continued = torch.optim.AdamW(copy.parameters(), lr=0.7)
    continued.load_state_dict(loaded.states["optimizer"])
    inputs = torch.randn(5, 3)
    for net, step in ((model, optimizer), (copy, continued)):
        step.zero_grad()
        net(inputs).square().sum().backward()
        step.step()
    assert all(torch.equal(a, b) for a, b in zip(model.parameters(), copy.parameters(), strict=True))
    again = torch.Generator()
    again.set_state(loaded.states["generator"])
    assert torch.equal(torch.rand(3, generator=again), torch.rand(3, generator=generator))


def test_the_newest_is_loaded_whatever_the_order_of_names(tmp_path):
    for step in (9, 10, 99_999_999, 100_000_000):
        save(tmp_path, step, keep=9)
        assert load_checkpoint(tmp_path).step == step


def test_weights_that_are_views_are_saved_as_they_look(tmp_path):
    table = torch.arange(12.0).view(3, 4).T
    save_checkpoint(tmp_path, 1, weights={"model": {"w": table}}, states={}, facts={})
    assert torch.equal(load_checkpoint(tmp_path).weights["model"]["w"], table)


# -------------------------------------------------------------------------------------- writing and dropping


@pytest.mark.parametrize("keep", [1, 2, 3])
def test_only_the_newest_are_kept(tmp_path, keep):
    for step in range(1, 6):
        save(tmp_path, step, keep=keep)
    assert steps_in(tmp_path) == [f"{step:08d}" for step in range(6 - keep, 6)]


def test_keep_must_be_positive(tmp_path):
    with pytest.raises(ValueError, match="keep must be at least 1, got 0"):
        save(tmp_path, 1, keep=0)
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("keep", [1, 2])
def test_after_a_fallback_the_new_checkpoint_is_kept(tmp_path, keep):
    """Damaged checkpoints of later steps may not push out the one that was just written."""
    for step in (10, 20, 30):
        save(tmp_path, step, keep=3)
    for step in (20, 30):
        (tmp_path / f"{step:08d}" / "states.pt").write_bytes(b"")
    assert load_checkpoint(tmp_path).step == 10
    save(tmp_path, 15, keep=keep)
    loaded = load_checkpoint(tmp_path)
    assert loaded.step == 15
    assert len(loaded.damaged) == 2


def test_saving_a_step_again_replaces_it(tmp_path):
    save(tmp_path, 1)
    save_checkpoint(tmp_path, 1, weights={}, states={}, facts={"second": True})
    assert load_checkpoint(tmp_path).facts == {"second": True}
    assert steps_in(tmp_path) == ["00000001"]


def test_no_temporary_files_are_left(tmp_path):
    (tmp_path / ".00000001.99999.tmp").mkdir()  # of a process that was killed
    (tmp_path / ".00000001.99999.tmp" / "states.pt").write_bytes(b"half")
    save(tmp_path, 2)
    assert steps_in(tmp_path) == ["00000002"]


def test_a_checkpoint_is_not_there_until_it_is_whole(tmp_path, monkeypatch):
    """Whatever call fails on the way, the one before is still the newest, and the next save cleans up."""
    save(tmp_path, 1)

    def crash(*args, **kwargs):
        raise KeyboardInterrupt

    for owner, name in ((torch, "save"), (checkpoint, "_digest"), (checkpoint, "_sync"), (Path, "rename")):
        with monkeypatch.context() as patch:
            patch.setattr(owner, name, crash)
            with pytest.raises(KeyboardInterrupt):
                save(tmp_path, 2)
        assert load_checkpoint(tmp_path)[0] == 1
        assert load_checkpoint(tmp_path).damaged == ()
    save(tmp_path, 2)
    assert steps_in(tmp_path) == ["00000001", "00000002"]


def test_everything_is_flushed_before_the_rename(tmp_path, monkeypatch):
    events: list[str] = []
    real_sync, real_rename = checkpoint._sync, Path.rename
    monkeypatch.setattr(checkpoint, "_sync", lambda path: (events.append(path.name), real_sync(path))[1])
    monkeypatch.setattr(Path, "rename", lambda a, b: (events.append("rename"), real_rename(a, b))[1])
    save(tmp_path, 3)
    before = events[: events.index("rename")]
    assert set(FILES) <= set(before)
    assert before[-1] == f".00000003.{os.getpid()}.tmp"  # the folder itself
    assert events[-1] == tmp_path.name


# ---------------------------------------------------------------------------------------------------- damage


@pytest.mark.parametrize("name", FILES)
@pytest.mark.parametrize("where", ["first", "middle", "last"])
def test_one_changed_byte_makes_the_one_before_the_newest(tmp_path, name, where):
    save(tmp_path, 1)
    file = save(tmp_path, 2) / name
    content = bytearray(file.read_bytes())
    at = {"first": 0, "middle": len(content) // 2, "last": len(content) - 1}[where]
    content[at] ^= 0x04
    file.write_bytes(bytes(content))
    loaded = load_checkpoint(tmp_path)
    assert loaded.step == 1
    assert loaded.facts == {"num_timesteps": 10}
    assert len(loaded.damaged) == 1
    assert "00000002" in loaded.damaged[0]


def test_no_changed_byte_of_the_manifest_goes_unnoticed(tmp_path):
    save(tmp_path, 1)
    file = save(tmp_path, 2) / "manifest.json"
    content = file.read_bytes()
    before = load_checkpoint(tmp_path)
    for at in range(len(content)):
        changed = bytearray(content)
        changed[at] ^= 0x01
        file.write_bytes(bytes(changed))
        loaded = load_checkpoint(tmp_path)
        # Either it is refused, or the byte meant nothing (white space).
        assert loaded.step == 1 or content[at : at + 1].isspace()
        if loaded.step == 2:
            assert loaded.facts == before.facts


@pytest.mark.parametrize("name", FILES)
def test_a_truncated_or_missing_file_makes_the_one_before_the_newest(tmp_path, name):
    save(tmp_path, 1)
    file = save(tmp_path, 2) / name
    content = file.read_bytes()
    for damage, message in (
        (lambda: file.write_bytes(content[: len(content) // 2]), "damaged|cannot be read"),
        (lambda: file.write_bytes(b""), "damaged|cannot be read"),
        (file.unlink, "is missing|cannot be read"),
    ):
        damage()
        loaded = load_checkpoint(tmp_path)
        assert loaded.step == 1
        (said,) = loaded.damaged
        assert name in said
        assert any(part in said for part in message.split("|"))


def test_a_damaged_file_is_named_with_both_digests(tmp_path):
    save(tmp_path, 1)
    file = save(tmp_path, 2) / "states.pt"
    good = sha256(file.read_bytes()).hexdigest()[:12]
    file.write_bytes(b"other")
    bad = sha256(b"other").hexdigest()[:12]
    assert load_checkpoint(tmp_path).damaged == (
        f"{file} is damaged: its SHA-256 should begin {good}, found {bad}",
    )


@pytest.mark.parametrize(
    "manifest", ["[]", "{}", '{"step": 2, "sha256": []}', '{"step": null, "sha256": {}}', "7"]
)
def test_a_manifest_of_another_kind_is_damage(tmp_path, manifest):
    save(tmp_path, 1)
    (save(tmp_path, 2) / "manifest.json").write_text(manifest)
    loaded = load_checkpoint(tmp_path)
    assert loaded.step == 1
    assert "00000002" in loaded.damaged[0]


def test_a_renamed_checkpoint_is_damage(tmp_path):
    """Its step would be another one than its name says."""
    save(tmp_path, 1).rename(tmp_path / "00000005")
    with pytest.raises(CheckpointError, match=r"00000005.*manifest\.json.*step 1"):
        load_checkpoint(tmp_path)


def test_all_damaged_says_what_is_wrong_with_each(tmp_path):
    for step in (1, 2):
        (save(tmp_path, step) / "model.safetensors").unlink()
    with pytest.raises(
        CheckpointError,
        match=r"no checkpoint in .* can be used: .*00000002/model.safetensors is missing; "
        r".*00000001/model.safetensors is missing",
    ):
        load_checkpoint(tmp_path)


@pytest.mark.parametrize("make", [lambda path: None, lambda path: path.mkdir(), lambda path: path.touch()])
def test_no_checkpoint_at_all(tmp_path, make):
    make(tmp_path / "checkpoints")
    with pytest.raises(CheckpointError, match=r"there is no checkpoint in .*checkpoints"):
        load_checkpoint(tmp_path / "checkpoints")


def test_other_things_in_the_folder_are_passed_over(tmp_path):
    save(tmp_path, 1)
    (tmp_path / "notes").mkdir()
    (tmp_path / "00000009").touch()
    (tmp_path / ".00000008.1.tmp").mkdir()
    assert load_checkpoint(tmp_path).step == 1


# ------------------------------------------------------------------------------------------- nothing is executed


class Trap:
    """Creates a file when unpickled."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self):
        return Path.touch, (self.path,)


@pytest.mark.parametrize("legacy", [False, True])
def test_a_malicious_state_is_refused_and_not_executed(tmp_path, legacy):
    save(tmp_path / "run", 1)
    file = save(tmp_path / "run", 2) / "states.pt"
    sprung = tmp_path / "sprung"
    trap = {"order": Trap(sprung)}
    if legacy:
        content = pickle.dumps(trap, protocol=2)
    else:
        torch.save(trap, tmp_path / "trap.pt")
        content = (tmp_path / "trap.pt").read_bytes()
    replace_file(file, content)
    loaded = load_checkpoint(tmp_path / "run")
    assert loaded.step == 1
    assert "00000002" in loaded.damaged[0]
    assert not sprung.exists()
    shutil.rmtree(tmp_path / "run" / "00000001")
    with pytest.raises(
        CheckpointError, match=r"00000002/states\.pt cannot be read, or holds more than plain data"
    ):
        load_checkpoint(tmp_path / "run")
    assert not sprung.exists()


@pytest.mark.parametrize("name", ["model.safetensors", "states.pt", "facts.json"])
@pytest.mark.parametrize("content", [b"", b"{", b"\x80\x02garbage", b"\xff" * 40])
def test_garbage_with_the_right_digest_is_damage(tmp_path, name, content):
    save(tmp_path, 1)
    replace_file(save(tmp_path, 2) / name, content)
    loaded = load_checkpoint(tmp_path)
    assert loaded.step == 1
    assert "00000002" in loaded.damaged[0]


def test_weights_of_a_malicious_pickle_are_refused(tmp_path):
    sprung = tmp_path / "sprung"
    save(tmp_path / "run", 1)
    replace_file(save(tmp_path / "run", 2) / "model.safetensors", pickle.dumps(Trap(sprung)))
    assert load_checkpoint(tmp_path / "run").step == 1
    assert not sprung.exists()


# ------------------------------------------------------------------------------------------------------- JSON


def test_json_is_replaced_as_a_whole(tmp_path, monkeypatch):
    path = tmp_path / "results.json"
    write_json(path, {"b": 1, "a": "é"})
    assert path.read_text(encoding="utf-8") == '{\n  "a": "\\u00e9",\n  "b": 1\n}\n'

    def crash(*args):
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(checkpoint, "_sync", crash)
        with pytest.raises(KeyboardInterrupt):
            write_json(path, {"new": 2})
    assert json.loads(path.read_text())["b"] == 1
    write_json(path, {"new": 2})
    assert json.loads(path.read_text()) == {"new": 2}
    assert steps_in(tmp_path) == ["results.json"]


def test_json_holds_no_nan(tmp_path):
    with pytest.raises(ValueError, match="Out of range float"):
        write_json(tmp_path / "results.json", {"accuracy": float("nan")})
    assert not list(tmp_path.iterdir())
