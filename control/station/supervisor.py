"""Keeps child processes running: starts them, sees them end, says so, and starts them again."""

from __future__ import annotations

import contextlib
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path

from control.station import warden as warden_program
from control.station.process import Launch, Process, failure, log_size, signal_group, spawn

FIRST_PAUSE = 0.5
LONGEST_PAUSE = 15.0
SETTLED = 10.0
"""Seconds a child must have run for its next pause to be the first again."""
AFTER_HURRY = 3.0
"""Seconds that a child asked to hurry gets before it is killed."""

Say = Callable[[str], None]
Processes = Mapping[str, tuple[int, int | None]]
"""The children that have a process: name → (pid, port)."""


@dataclass
class Child:
    """A process to keep.

    `prepare` is asked before each start for how to start it; None means: not yet, ask again.
    """

    name: str
    prepare: Callable[[], Launch | None]
    port: int | None = None


@dataclass
class _Kept:
    child: Child
    process: Process | None = None
    launch: Launch | None = None
    ending: bool = False
    failures: int = 0
    fault: Exception | None = None
    thread: threading.Thread = field(default_factory=threading.Thread)


class Warden:
    """The process that ends the children where the supervisor itself is killed (see warden.py)."""

    def __init__(self, lock: int, log: Path) -> None:
        self._lock = lock
        self._log = log
        self._watched: dict[int, int] = {}
        self._guard = threading.Lock()
        self._process = self._start()

    def watch(self, pid: int, sign: int) -> None:
        with self._guard:
            self._watched[pid] = sign
            self._tell(f"+{pid} {sign}\n")

    def release(self, pid: int) -> None:
        with self._guard:
            self._watched.pop(pid, None)
            self._tell(f"-{pid}\n")

    def close(self) -> None:
        """Let the warden go; whatever is still watched is ended by it."""
        with self._guard, contextlib.suppress(BrokenPipeError):
            self._pipe.close()
        self._process.wait()

    def _start(self) -> Process:
        with self._log.open("ab") as log:
            process = subprocess.Popen(
                (sys.executable, "-I", "-S", warden_program.__file__),
                stdin=subprocess.PIPE,
                stdout=log,
                stderr=subprocess.STDOUT,
                start_new_session=True,
                pass_fds=(self._lock,),
            )
        if process.stdin is None:
            raise AssertionError
        self._pipe = process.stdin
        return process

    def _tell(self, line: str) -> None:
        try:
            self._pipe.write(line.encode())
            self._pipe.flush()
        except BrokenPipeError:
            with contextlib.suppress(BrokenPipeError):
                self._pipe.close()
            self._process.wait()
            self._process = self._start()
            for pid, sign in self._watched.items():
                self._pipe.write(f"+{pid} {sign}\n".encode())
            self._pipe.flush()


class Supervisor:
    """Keeps children, each by a thread of its own.

    `say` tells the operator; `changed` is called with the processes there are whenever one came or
    went, and must raise nothing.
    """

    def __init__(self, warden: Warden, say: Say, changed: Callable[[Processes], None]) -> None:
        self._warden = warden
        self._say = say
        self._changed = changed
        self._kept: dict[str, _Kept] = {}
        self._guard = threading.Lock()
        self.stopping = threading.Event()
        self.hurry = threading.Event()

    def keep(self, child: Child) -> None:
        """Start the child as soon as it can be, and again whenever it ends."""
        kept = _Kept(child)
        with self._guard:
            self._kept[child.name] = kept
        kept.thread = threading.Thread(target=self._keep, args=(kept,), name=child.name, daemon=True)
        kept.thread.start()

    def process(self, name: str) -> Process | None:
        """The child's process; None while it has none."""
        return self._kept[name].process

    def faults(self) -> dict[str, tuple[int, Exception]]:
        """The children whose last start failed: name → (failures in a row, why)."""
        with self._guard:
            return {name: (kept.failures, kept.fault) for name, kept in self._kept.items() if kept.fault}

    def end(self, names: Iterable[str]) -> None:
        """End these children in order, all at once, and wait; they are started again when they can be."""
        ending = [self._kept[name] for name in names if name in self._kept]
        for kept in ending:
            with self._guard:
                if kept.process is None or kept.launch is None:
                    continue
                kept.ending = True
                kept.process.send_signal(
                    kept.launch.hurry_signal if self.hurry.is_set() else kept.launch.stop_signal
                )
        started = time.monotonic()
        for kept in ending:
            self._await(kept, started)

    def stop(self, order: Iterable[Iterable[str]]) -> None:
        """End all children for good, one group of names after the other."""
        self.stopping.set()
        for names in (*order, list(self._kept)):
            self.end(names)
        for kept in self._kept.values():
            kept.thread.join()

    def _await(self, kept: _Kept, started: float) -> None:
        """Wait until the process is gone, asking it more harshly as its time passes."""
        process, launch = kept.process, kept.launch
        if process is None or launch is None:
            return
        hurried: float | None = started if self.hurry.is_set() else None
        while process.poll() is None:
            now = time.monotonic()
            if hurried is None and (self.hurry.is_set() or now > started + launch.grace):
                process.send_signal(launch.hurry_signal)
                hurried = now
            if hurried is not None and now > hurried + AFTER_HURRY:
                signal_group(process, signal.SIGKILL)
            time.sleep(0.01)
        while kept.process is process:
            time.sleep(0.005)

    def _keep(self, kept: _Kept) -> None:
        pause = FIRST_PAUSE
        while not self.stopping.is_set():
            since = time.monotonic()
            try:
                asked = self._run(kept)
            except Exception as error:  # whatever it is: it is said, and tried again
                asked = False
                self._failed(kept, error, f"could not be started: {error}")
            if asked or self.stopping.is_set() or time.monotonic() - since > SETTLED:
                pause = FIRST_PAUSE
            if not asked:
                self.stopping.wait(pause)
                pause = min(pause * 2, LONGEST_PAUSE)

    def _run(self, kept: _Kept) -> bool:
        """Start the child as soon as it may be and wait for its end; whether it was asked to end."""
        while (launch := kept.child.prepare()) is None:
            if self.stopping.wait(0.1):
                return True
        size = log_size(launch)
        process = self._spawn(kept, launch)
        if process is None:
            return True
        if kept.fault:
            self._say(f"{kept.child.name} was started again (pid {process.pid})")
        code = process.wait()
        if self._gone(kept, process) or self.stopping.is_set():
            return True
        fault = failure(launch, size)
        self._failed(kept, fault, f"ended ({_how(code)}); last in {launch.log}: {fault.reason}")
        return False

    def _spawn(self, kept: _Kept, launch: Launch) -> Process | None:
        with self._guard:
            if self.stopping.is_set():
                return None
            process = spawn(launch)
            self._warden.watch(process.pid, launch.stop_signal)
            kept.process, kept.launch, kept.ending = process, launch, False
            self._changed(self._processes())
        return process

    def _gone(self, kept: _Kept, process: Process) -> bool:
        """Note that the process ended; whether it was asked to."""
        signal_group(process, signal.SIGKILL)
        self._warden.release(process.pid)
        with self._guard:
            asked, kept.process = kept.ending, None
            self._changed(self._processes())
        return asked

    def _failed(self, kept: _Kept, fault: Exception, what: str) -> None:
        with self._guard:
            kept.failures += 1
            kept.fault = fault
        self._say(f"{kept.child.name} {what}")

    def _processes(self) -> Processes:
        return {
            name: (kept.process.pid, kept.child.port) for name, kept in self._kept.items() if kept.process
        }


def _how(code: int) -> str:
    if code < 0:
        with contextlib.suppress(ValueError):
            return f"killed by {signal.Signals(-code).name}"
    return f"exit code {code}"
