"""A process that forks decoding processes: what they have in common is in memory once.

Started by `ingest.decoding.nursery`, with a socket as its standard input. Each request comes with the
ends of three pipes: what to decode, what comes of it, and where to tell how the process ended. When the
socket ends, so does this process, and with it all that it forked.
"""

from __future__ import annotations

import ctypes
import gc
import os
import select
import signal
import socket
import sys
from contextlib import suppress

import msgspec

from ingest.decoding.card import capture
from ingest.decoding.decoder import decode, rehearse
from ingest.decoding.wire import WELL, CardTask, Task

MOST_BYTES = 65_536
_prctl = ctypes.CDLL(None).prctl
_task = msgspec.json.Decoder[Task | CardTask](Task | CardTask).decode
"""Both are made before anything is forked: in each process anew they would take a megabyte."""
DEATH_SIGNAL = 1
"""PR_SET_PDEATHSIG of Linux' prctl."""


def serve(control: socket.socket) -> None:
    """Fork for each request, and tell how each process ended, until the other side is gone."""
    children: dict[int, int] = {}
    awake, alarm = os.pipe2(os.O_NONBLOCK | os.O_CLOEXEC)
    signal.set_wakeup_fd(alarm, warn_on_full_buffer=False)
    signal.signal(signal.SIGCHLD, lambda number, frame: None)
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    gc.freeze()
    events = select.poll()
    events.register(control, select.POLLIN)
    events.register(awake, select.POLLIN)
    while True:
        ready = {fd for fd, _ in events.poll()}
        if awake in ready:
            os.read(awake, 1024)
        _reap(children)
        if control.fileno() in ready:
            data, pipes, _, _ = socket.recv_fds(control, MOST_BYTES, 3)
            if not data:
                break
            _fork(control, data, pipes, children)
    for child in children:
        os.kill(child, signal.SIGKILL)


def _fork(control: socket.socket, data: bytes, pipes: list[int], children: dict[int, int]) -> None:
    source, target, ending = pipes
    child = os.fork()
    if child == 0:
        # Nothing of the parent's may run in here, whatever happens.
        code = 1
        try:
            _prctl(DEATH_SIGNAL, signal.SIGKILL)
            signal.set_wakeup_fd(-1)
            signal.signal(signal.SIGCHLD, signal.SIG_DFL)
            control.close()
            for other in (ending, *children.values()):
                os.close(other)
            code = _work(source, target, _task(data))
        finally:
            os._exit(code)
    os.close(source)
    os.close(target)
    children[child] = ending
    handle = os.pidfd_open(child)
    socket.send_fds(control, [str(child).encode()], [handle])
    os.close(handle)


def _work(source: int, target: int, task: Task | CardTask) -> int:
    if isinstance(task, CardTask):
        return capture(target, task)
    return decode(source, target, task)


def _reap(children: dict[int, int]) -> None:
    while children:
        pid, status = os.waitpid(-1, os.WNOHANG)
        if not pid:
            return
        ending = children.pop(pid)
        with suppress(BrokenPipeError):  # nobody wants to know
            os.write(ending, ended(status).encode())
        os.close(ending)


def ended(status: int) -> str:
    """How a process ended, for people; WELL where it did."""
    code = os.waitstatus_to_exitcode(status)
    if code >= 0:
        return f"exit code {code}" if code else WELL
    return f"killed by {signal.Signals(-code).name}"


if __name__ == "__main__":
    signal.signal(signal.SIGPIPE, signal.SIG_IGN)
    with suppress(Exception):  # it spares memory, and no more; what is amiss is each stream's to tell
        rehearse()
    serve(socket.socket(fileno=os.dup(sys.stdin.fileno())))
