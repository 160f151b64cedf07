"""The node's side of processes that hear: starting them, feeding them, hearing from them, ending them."""

from __future__ import annotations

import math
import os
import select
import signal
import socket
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import suppress

import msgspec
import numpy as np
from numpy.typing import NDArray

from ingest.backlog import NOTHING, Waiting, capacity, unread
from ingest.decoding.wire import (
    AUDIO,
    FAILED,
    FORMAT,
    HEAD,
    LOST,
    MOST,
    SECONDS,
    WELL,
    CardTask,
    Format,
    Task,
)
from ingest.file_source import SourceFailed

READ = 65_536
WAIT = 0.3
"""Seconds after which who waits looks up."""
LAST_WORD = 1.0
"""Seconds to wait for how a process ended, once its pipe is closed."""

Samples = NDArray[np.float32]


class Decoder:
    """One process that decodes, or listens to a card. It is fed by one thread and heard by another.

    `format` is what it said last of what it hears.
    """

    def __init__(self, pid: int, handle: int, source: int, target: int, ending: int) -> None:
        self.pid = pid
        self.format: Format | None = None
        self._lost = 0.0
        self._handle = handle
        self._source = source
        self._target = target
        self._ending = ending
        self._buffer = bytearray()
        self._closing = threading.Event()
        self._fed = threading.Lock()
        self._room = capacity(target)
        self._readable = select.poll()
        self._readable.register(target, select.POLLIN)
        os.set_blocking(source, False)

    def feed(self, data: bytes) -> bool:
        """Give it bytes, waiting as long as it takes; return False where nobody takes them any more."""
        rest = memoryview(data)
        while rest and not self._closing.is_set():
            with self._fed:
                if self._source < 0:
                    return False
                try:
                    rest = rest[os.write(self._source, rest) :]
                    continue
                except BlockingIOError:
                    waiting = self._source
                except BrokenPipeError:
                    return False
            _ready(waiting, select.POLLOUT, WAIT)
        return not self._closing.is_set()

    def end(self) -> None:
        """Nothing more comes: let it decode what it has, and end."""
        with self._fed:
            if self._source >= 0:
                os.close(self._source)
                self._source = -1

    @property
    def waiting(self) -> Waiting:
        """What it has heard and nobody has read, and how much was lost before that.

        Packets may be lost on their way, and what a card gives while nobody takes it; who sends to a decoder
        waits.
        """
        if self.format is None or self._closing.is_set():
            return NOTHING
        second = 4 * self.format.channels * self.format.rate
        waiting = unread(self._target) + len(self._buffer)
        return Waiting(seconds=waiting / second, most=self._room / second, dropped=self._lost)

    def blocks(self, wait: Callable[[], float] = lambda: WAIT) -> Iterator[Samples]:
        """What it decodes; an empty block where nothing came for so many seconds. Ends when that ended well.

        Raises SourceFailed.
        """
        nothing = np.zeros((0, 1), np.float32)
        while True:
            if not self._readable.poll(wait() * 1000):
                yield nothing
                continue
            data = os.read(self._target, READ)
            if not data:
                break
            self._buffer += data
            while (message := self._message()) is not None:
                kind, body = message
                if kind == AUDIO:
                    yield self._samples(body)
                else:
                    self._told(kind, body)
        how = self._how_it_ended()
        if how != WELL:
            raise SourceFailed(f"its decoder ended: {how}")

    def close(self) -> None:
        """End it now, whatever it does, and let go of it. The thread that hears it must not any more."""
        self._closing.set()
        with suppress(ProcessLookupError):
            signal.pidfd_send_signal(self._handle, signal.SIGKILL)
        self.end()
        for pipe in (self._handle, self._target, self._ending):
            os.close(pipe)

    def _message(self) -> tuple[bytes, bytes] | None:
        if len(self._buffer) < HEAD.size:
            return None
        kind, length = HEAD.unpack_from(self._buffer)
        if length > MOST or kind not in (FORMAT, AUDIO, LOST, FAILED):
            raise SourceFailed("its decoder talks nonsense")
        end = HEAD.size + length
        if len(self._buffer) < end:
            return None
        body = bytes(self._buffer[HEAD.size : end])
        del self._buffer[:end]
        return kind, body

    def _told(self, kind: bytes, body: bytes) -> None:
        if kind == FAILED:
            raise SourceFailed(body.decode(errors="replace")[:300])
        if kind == LOST:
            self._lost = _seconds(body)
            return
        try:
            self.format = msgspec.json.decode(body, type=Format)
        except msgspec.DecodeError:
            raise SourceFailed("its decoder talks nonsense") from None

    def _samples(self, body: bytes) -> Samples:
        if self.format is None or len(body) % (4 * self.format.channels):
            raise SourceFailed("its decoder talks nonsense")
        return np.frombuffer(body, np.float32).reshape(-1, self.format.channels)

    def _how_it_ended(self) -> str:
        if _ready(self._ending, select.POLLIN, LAST_WORD):
            return os.read(self._ending, 200).decode() or "together with the process that starts them"
        return "nobody knows how"


def _seconds(body: bytes) -> float:
    """Raises SourceFailed."""
    seconds = SECONDS.unpack(body)[0] if len(body) == SECONDS.size else math.nan
    if not (math.isfinite(seconds) and seconds >= 0):
        raise SourceFailed("its decoder talks nonsense")
    return float(seconds)


def _ready(pipe: int, event: int, seconds: float) -> bool:
    """Wait until it is; return whether it is. Not by `select`, which knows only the first 1024 pipes."""
    poll = select.poll()
    poll.register(pipe, event)
    return bool(poll.poll(seconds * 1000))


class Nursery:
    """Starts decoding processes, through one process that has loaded what they all need. Thread-safe."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._process: subprocess.Popen[bytes] | None = None
        self._control: socket.socket | None = None

    def start(self, task: Task | CardTask) -> Decoder:
        """A new process for it. Raises SourceFailed."""
        with self._lock:
            try:
                return self._start(task)
            except OSError:
                # It was killed since the last time: another one takes its place.
                self._end()
            try:
                return self._start(task)
            except OSError as error:
                raise SourceFailed(f"no decoder can be started: {error}") from None

    def close(self) -> None:
        """End them all."""
        with self._lock:
            self._end()

    def _start(self, task: Task | CardTask) -> Decoder:
        control = self._begun()
        theirs_in, ours_in = os.pipe2(os.O_CLOEXEC)
        ours_out, theirs_out = os.pipe2(os.O_CLOEXEC)
        ours_end, theirs_end = os.pipe2(os.O_CLOEXEC)
        handles: list[int] = []
        try:
            socket.send_fds(control, [msgspec.json.encode(task)], [theirs_in, theirs_out, theirs_end])
            said, handles, _, _ = socket.recv_fds(control, 100, 1)
            if not said or not handles:
                raise BrokenPipeError("the process that forks them has ended")
        except OSError:
            for pipe in (ours_in, ours_out, ours_end, *handles):
                os.close(pipe)
            raise
        finally:
            for pipe in (theirs_in, theirs_out, theirs_end):
                os.close(pipe)
        return Decoder(int(said), handles[0], ours_in, ours_out, ours_end)

    def _begun(self) -> socket.socket:
        if self._control is None:
            ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
            with theirs:
                self._process = subprocess.Popen(
                    [sys.executable, "-m", "ingest.decoding.forking"],
                    stdin=theirs.fileno(),
                    # numpy's threads are of no use there, and none may exist where one forks.
                    env={**os.environ, "OPENBLAS_NUM_THREADS": "1", "OMP_NUM_THREADS": "1"},
                )
            self._control = ours
        return self._control

    def _end(self) -> None:
        if self._control is not None:
            self._control.close()
            self._control = None
        if self._process is not None:
            try:
                self._process.wait(LAST_WORD)
            except subprocess.TimeoutExpired:
                self._process.kill()
                self._process.wait()
            self._process = None
