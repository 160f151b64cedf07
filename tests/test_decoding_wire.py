"""What a decoding process tells arrives whole; and what is made ready before any is forked leaves nothing."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Sequence
from types import SimpleNamespace

import numpy as np
import pytest

from ingest.decoding import wire
from ingest.decoding.wire import AUDIO, HEAD

REHEARSED = """
import psutil
from ingest.decoding.decoder import rehearse

this = psutil.Process()
files = this.num_fds()
rehearse()
print(this.num_threads(), this.num_fds() - files)
"""


def test_a_message_arrives_whole_however_little_is_taken(monkeypatch: pytest.MonkeyPatch) -> None:
    """Also where less than its head is taken at first."""
    samples = np.random.default_rng(1).normal(size=(30, 2)).astype(np.float32)
    for most in range(1, 260):
        taken = bytearray()

        def take(pipe: int, data: bytes | memoryview) -> int:
            taken.extend(data[:most])  # noqa: B023
            return min(most, len(data))  # noqa: B023

        def take_all(pipe: int, parts: Sequence[bytes | memoryview]) -> int:
            return take(pipe, b"".join(parts))

        monkeypatch.setattr(wire, "os", SimpleNamespace(write=take, writev=take_all))
        wire.send(0, AUDIO, samples.data)
        assert HEAD.unpack(taken[: HEAD.size]) == (AUDIO, samples.nbytes)
        assert taken[HEAD.size :] == samples.tobytes()


def test_a_rehearsal_leaves_no_file_and_no_thread() -> None:
    """A process with a thread must not be forked."""
    told = subprocess.run(
        [sys.executable, "-c", REHEARSED], capture_output=True, text=True, check=True,
        env={**os.environ, "OPENBLAS_NUM_THREADS": "1"},
    )  # fmt: skip
    assert told.stdout.split() == ["1", "0"]
