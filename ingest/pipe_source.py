"""What a program of the node's own configuration writes: PCM, as long as it runs."""

from __future__ import annotations

import os
import select
import signal
import subprocess
import threading
from collections import deque
from collections.abc import Iterator
from contextlib import suppress
from typing import IO, cast

import numpy as np
import structlog

from ingest.audio import Pace
from ingest.backlog import Waiting, capacity, unread
from ingest.file_source import BLOCK_SECONDS, SourceFailed
from ingest.meters import Block
from streams.inputs import PipeSection

WAIT = 0.1
"""Seconds after which who waits looks up."""
LAST_WORD = 1.0
"""Seconds to wait for a program to have ended, whose output did."""
READ = 65_536
LINE = 300
"""Characters kept of a line of its standard error."""
_SAMPLES = {"s16le": ("<i2", 32768.0), "s32le": ("<i4", 2147483648.0), "f32le": ("<f4", 1.0)}

log = structlog.get_logger(__name__)


class PipeSource:
    """A running program. It has a process group of its own, which ends with the source."""

    is_live = True
    title = None
    pace: Pace = "live"

    def __init__(self, name: str, section: PipeSection, give_up_after: float) -> None:
        """Start it. Raises SourceFailed."""
        self.rate, self.channels = section.rate, section.channels
        self._name = name
        self._patience = give_up_after
        self._kind, self._scale = _SAMPLES[section.format]
        self._size = np.dtype(self._kind).itemsize * section.channels
        self._errors: deque[str] = deque(maxlen=3)
        try:
            self._process = subprocess.Popen(
                section.command,
                stdin=subprocess.DEVNULL,
                stdout=subprocess.PIPE,
                stderr=subprocess.PIPE,
                process_group=0,
                bufsize=0,
            )
        except OSError as error:
            raise SourceFailed(f"pipe {name!r}: {section.command[0]}: {error.strerror}") from None
        self._output = cast(IO[bytes], self._process.stdout)
        self._room = capacity(self._output.fileno())
        self._kept = bytearray()
        self._listener = threading.Thread(
            target=self._listen,
            args=(cast(IO[bytes], self._process.stderr),),
            name=f"pipe-{name}",
            daemon=True,
        )
        self._listener.start()

    @property
    def status(self) -> str:
        """What runs, for people."""
        return f"pipe {self._name!r} runs"

    @property
    def waiting(self) -> Waiting:
        """What it wrote and nobody has read. Nothing is thrown away: who writes waits."""
        second = self._size * self.rate
        waiting = unread(self._output.fileno()) + len(self._kept)
        return Waiting(seconds=waiting / second, most=self._room / second)

    def blocks(self) -> Iterator[Block]:
        """What it writes; a program that ends has failed, by its own last words. Raises SourceFailed."""
        wanted = max(1, round(self.rate * BLOCK_SECONDS)) * self._size
        kept = self._kept
        idle = 0.0
        poll = select.poll()
        poll.register(self._output, select.POLLIN)
        while True:
            if not poll.poll(WAIT * 1000):
                idle += WAIT
                if idle >= self._patience:
                    raise SourceFailed(f"{self.status}, but wrote nothing for {self._patience:g} s")
                yield np.zeros((0, self.channels), np.float32)
                continue
            data = os.read(self._output.fileno(), READ)
            if not data:
                break
            idle = 0.0
            kept += data
            while len(kept) >= wanted:
                yield self._block(bytes(kept[:wanted]))
                del kept[:wanted]
        whole = len(kept) // self._size * self._size
        if whole:
            yield self._block(bytes(kept[:whole]))
        raise SourceFailed(self._how_it_ended())

    def close(self) -> None:
        """End it, with all that it has started."""
        with suppress(ProcessLookupError):
            os.killpg(self._process.pid, signal.SIGKILL)
        self._process.wait()
        self._listener.join(LAST_WORD)
        self._output.close()

    def _block(self, data: bytes) -> Block:
        samples = np.frombuffer(data, self._kind).astype(np.float32) / np.float32(self._scale)
        return samples.reshape(-1, self.channels)

    def _listen(self, errors: IO[bytes]) -> None:
        """Keep what it says on its standard error; the body of a thread."""
        rest = b""
        with errors:
            while data := errors.read(4096):
                *lines, rest = (rest + data)[-READ:].split(b"\n")
                for line in lines:
                    self._note(line)
        self._note(rest)

    def _note(self, line: bytes) -> None:
        text = "".join(c for c in line.decode(errors="replace").strip() if c.isprintable())[:LINE]
        if text:
            self._errors.append(text)
            log.info("pipe says", pipe=self._name, text=text)

    def _how_it_ended(self) -> str:
        try:
            code = self._process.wait(LAST_WORD)
        except subprocess.TimeoutExpired:
            return f"pipe {self._name!r} has closed its output"
        self._listener.join(LAST_WORD)
        how = f"exit code {code}" if code >= 0 else f"killed by {signal.Signals(-code).name}"
        said = f": {self._errors[-1]}" if self._errors else ""
        return f"pipe {self._name!r} ended, {how}{said}"
