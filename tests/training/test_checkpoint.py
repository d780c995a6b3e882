"""Sealing, damage and what is kept."""

from __future__ import annotations

import subprocess
from pathlib import Path

import numpy as np
import pytest

from fer_jax.errors import UserError
from fer_jax.training import checkpoint


def tree(value: float) -> dict:
    return {"params": {"w": np.full((4, 3), value, np.float32)}, "stats": {}, "none": None}


@pytest.fixture
def saved(tmp_path: Path) -> Path:
    """Checkpoints of steps 1, 2 and 3, of which two are kept."""
    directory = tmp_path / "run" / "checkpoints"
    checkpoints = checkpoint.Checkpoints(directory, keep=2)
    for step in (1, 2, 3):
        checkpoints.save(step, tree(step), tree(10 * step), {"epoch": step})
    checkpoints.close()
    return directory


def largest_file(step: Path) -> Path:
    files = (p for p in step.rglob("*") if p.is_file() and p.name != checkpoint.SEAL)
    return max(files, key=lambda p: p.stat().st_size)


def test_reads_what_was_saved(saved: Path) -> None:
    assert checkpoint.sealed_steps(saved) == [2, 3]
    found = checkpoint.read(saved, 3, {"state": tree(0), "best": None, "meta": None})
    np.testing.assert_array_equal(found["state"]["params"]["w"], np.full((4, 3), 3, np.float32))
    np.testing.assert_array_equal(found["best"]["params"]["w"], np.full((4, 3), 30, np.float32))
    assert found["meta"] == {"epoch": 3}


def test_the_seal_is_a_sha256sum_file(saved: Path) -> None:
    done = subprocess.run(
        ["sha256sum", "--check", "--strict", "--quiet", checkpoint.SEAL],
        cwd=saved / "3",
        capture_output=True,
    )
    assert (done.returncode, done.stdout, done.stderr) == (0, b"", b"")
    listed = {
        line.split("  ")[1]
        for line in (saved / "3" / checkpoint.SEAL).read_text().split("\n")
        if line
    }
    there = {p.relative_to(saved / "3").as_posix() for p in (saved / "3").rglob("*") if p.is_file()}
    assert there - listed == {checkpoint.SEAL}


@pytest.mark.parametrize("how", ["flip", "truncate", "delete"])
def test_damage_is_found_and_the_older_one_is_used(saved: Path, how: str) -> None:
    victim = largest_file(saved / "3")
    data = bytearray(victim.read_bytes())
    if how == "delete":
        victim.unlink()
    else:
        data[len(data) // 2] ^= 1
        victim.write_bytes(data if how == "flip" else data[:-1])
    step, problems = checkpoint.find_intact(saved)
    assert step == 2
    assert len(problems) == 1
    assert str(victim) in problems[0]


def test_a_damaged_seal_is_damage(saved: Path) -> None:
    seal = saved / "3" / checkpoint.SEAL
    for data in (b"", b"\xff\xfe", seal.read_bytes()[:100]):
        seal.write_bytes(data)
        assert checkpoint.damage(saved / "3"), data


def test_no_intact_checkpoint_says_what_to_do(saved: Path) -> None:
    for step in ("2", "3"):
        victim = largest_file(saved / step)
        victim.write_bytes(victim.read_bytes()[:-1])
    with pytest.raises(UserError, match="does not match its checksum; put it back from a copy"):
        checkpoint.find_intact(saved)


def test_no_checkpoint_at_all(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="holds no checkpoint"):
        checkpoint.find_intact(tmp_path / "checkpoints")


def test_what_a_kill_left_behind_does_not_count_and_is_removed(saved: Path) -> None:
    (saved / "4" / "state").mkdir(parents=True)
    (saved / "5.orbax-checkpoint-tmp").mkdir()
    (saved / "3" / checkpoint.SEAL).unlink()
    assert checkpoint.sealed_steps(saved) == [2]
    checkpoints = checkpoint.Checkpoints(saved, keep=2)
    checkpoints.save(3, tree(7), tree(7), {})
    checkpoints.close()
    assert sorted(p.name for p in saved.iterdir()) == ["2", "3"]
    found = checkpoint.read(saved, 3, {"state": tree(0)})
    assert found["state"]["params"]["w"][0, 0] == 7


def test_a_damaged_checkpoint_is_written_again(saved: Path) -> None:
    largest_file(saved / "3").unlink()
    step, _ = checkpoint.find_intact(saved)
    checkpoints = checkpoint.Checkpoints(saved, keep=2)
    checkpoints.discard_after(step)
    checkpoints.save(3, tree(8), tree(8), {})
    checkpoints.close()
    assert checkpoint.find_intact(saved) == (3, [])


def test_saving_a_step_twice_keeps_the_first(saved: Path) -> None:
    checkpoints = checkpoint.Checkpoints(saved, keep=2)
    checkpoints.save(3, tree(9), tree(9), {})
    checkpoints.close()
    assert checkpoint.read(saved, 3, {"state": tree(0)})["state"]["params"]["w"][0, 0] == 3
