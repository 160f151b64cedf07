"""What a long reading shows of itself, and where."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager

import pytest

from control.cli.progress import STEP, counted

END = "(all of it)"


@contextmanager
def terminal(monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[[], str]]:
    """A terminal as standard error, meanwhile; what was written to it."""
    reader, writer = os.openpty()
    monkeypatch.setenv("TERM", "xterm")
    monkeypatch.setenv("COLUMNS", "100")
    with os.fdopen(writer, "w", encoding="utf-8") as stream, monkeypatch.context() as patch:
        patch.setattr(sys, "stderr", stream)

        def shown() -> str:
            stream.write(END)
            stream.flush()
            said = b""
            while not said.endswith(END.encode()):
                said += os.read(reader, 100_000)
            return said.decode()

        yield shown
    os.close(reader)


def test_a_terminal_sees_how_far_it_is(monkeypatch: pytest.MonkeyPatch) -> None:
    """Events so far and in all, and the rate; more may come than were announced."""
    with terminal(monkeypatch) as shown:
        assert list(counted("verifying p0", range(3 * STEP), 4 * STEP)) == list(range(3 * STEP))
        said = shown()
        assert "verifying p0" in said
        assert "3,000 of 4,000" in said
        assert "/s" in said
        assert list(counted("verifying p1", range(3 * STEP), 2 * STEP)) == list(range(3 * STEP))
        assert "3,000 of 3,000" in shown()


def test_the_line_is_gone_when_the_reading_ends_early(monkeypatch: pytest.MonkeyPatch) -> None:
    """A fault ends a verification in the middle: the cursor is given back before anything is printed."""
    with terminal(monkeypatch) as shown:
        with closing(counted("verifying p0", range(10), 10)) as entries:
            next(entries)
        assert "\x1b[?25h" in shown()


def test_nothing_is_shown_to_a_pipe(capsys: pytest.CaptureFixture[str]) -> None:
    """Where standard error is no terminal, the entries pass and nothing else happens."""
    assert list(counted("verifying p0", range(2 * STEP), 5)) == list(range(2 * STEP))
    assert capsys.readouterr() == ("", "")
