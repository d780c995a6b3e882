"""Progress: plain lines where there is no terminal, a bar where there is one."""

from __future__ import annotations

import io
import sys

import pytest

from fer_jax import progress
from fer_jax.progress import Progress


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    """Seconds that the test sets."""
    now = [100.0]
    monkeypatch.setattr(progress.time, "monotonic", lambda: now[0])
    return now


def test_a_line_every_ten_seconds_and_at_the_end(clock, capsys) -> None:
    with Progress("train", "epochs") as tell:
        for done, second in ((1, 101), (2, 109), (3, 110), (4, 119), (5, 120.5), (6, 121)):
            clock[0] = second
            tell(done, 6, f"loss {done}")
    out, err = capsys.readouterr()
    assert out == ""
    assert err.splitlines() == [
        "train: 3/6 epochs, 10 s, 14 s left, loss 3",
        "train: 5/6 epochs, 20 s, 5 s left, loss 5",
        "train: 6/6 epochs, 21 s, loss 6",
    ]


def test_the_end_is_said_once_for_each_file(clock, capsys) -> None:
    with Progress("predict", "frames") as tell:
        tell(8, 8, "a.mp4")
        tell(8, 8, "a.mp4")
        tell(8, 8, "b.mp4")
    assert capsys.readouterr().err.splitlines() == [
        "predict: 8/8 frames, 0 s, a.mp4",
        "predict: 8/8 frames, 0 s, b.mp4",
    ]


def test_a_bar_on_a_terminal(monkeypatch: pytest.MonkeyPatch) -> None:
    class Terminal(io.StringIO):
        def isatty(self) -> bool:
            return True

    monkeypatch.setenv("TERM", "xterm")
    monkeypatch.setenv("COLUMNS", "120")
    monkeypatch.setattr(sys, "stderr", Terminal())
    with Progress("preprocess", "clips") as tell:
        tell(3, 4, "1 quarantined")
        tell(4, 4, "1 quarantined")
    text = sys.stderr.getvalue()
    assert "4/4" in text
    assert "clips" in text
    assert "1 quarantined" in text


def test_an_error_goes_through(capsys) -> None:
    with pytest.raises(KeyError), Progress("x", "y"):
        raise KeyError("z")
