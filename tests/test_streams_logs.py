"""Logs of processes: who says it in every line, from every thread, and never a secret."""

from __future__ import annotations

import json
import subprocess
import sys
from typing import Any

import pytest

PROGRAM = """
import threading, structlog
from streams.logs import configure
from streams.settings import LogSection

configure(LogSection(level={level!r}, format={format!r}), node="here", station="home")
log = structlog.get_logger("test").bind(lane="p0")

def speak():
    hidden = "hun" + "ter2"
    log.debug("detail")
    log.info("said", password=hidden)
    try:
        raise ValueError("a fault")
    except ValueError:
        log.exception("raised", source="kwfm", command="c1")

thread = threading.Thread(target=speak)
thread.start()
thread.join()
"""


def written(level: str = "info", format: str = "auto") -> str:
    """What a process that logs from a thread writes."""
    program = PROGRAM.format(level=level, format=format)
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert not done.stdout
    return done.stderr


def test_every_line_from_every_thread_says_who() -> None:
    """Away from a terminal each line is a JSON object with what was bound once, in any thread."""
    said, raised = lines = [json.loads(line) for line in written().splitlines()]
    for line in lines:
        assert (line["node"], line["station"], line["lane"]) == ("here", "home", "p0")
        assert line["timestamp"].endswith("Z")
    assert (said["event"], said["level"]) == ("said", "info")
    expected: dict[str, Any] = {"event": "raised", "level": "error", "source": "kwfm", "command": "c1"}
    assert expected.items() <= raised.items()
    assert raised["exception"][0]["exc_value"] == "a fault"


@pytest.mark.parametrize("format", ["json", "text"])
def test_no_secret_is_written(format: str) -> None:
    """Neither a field that is named like a secret nor a variable of a failed function shows its value."""
    text = written(format=format)
    assert "(withheld)" in text
    assert "hunter2" not in text


def test_the_level_is_configured() -> None:
    """Details come where they are asked for, and only errors where nothing else is."""
    assert "detail" in written("debug")
    assert "detail" not in written("info")
    assert "said" not in written("error")
