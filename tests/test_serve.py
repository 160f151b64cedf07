"""The web server ends at SIGTERM, whatever its clients do."""

from __future__ import annotations

import signal
import socket
import subprocess
import sys
import time

from control.serve import PATIENCE, free_port
from tests.fix_servers import eventually, listens


def test_an_answer_that_never_ends_does_not_hold_up_the_end() -> None:
    port = free_port("127.0.0.1")
    process = subprocess.Popen([sys.executable, "-m", "tests.programs.hanging_web", str(port)])
    try:
        eventually(lambda: listens(port), "it serves")
        with socket.create_connection(("127.0.0.1", port), timeout=20) as client:
            client.sendall(b"GET / HTTP/1.1\r\nHost: here\r\n\r\n")
            assert client.recv(12) == b"HTTP/1.1 200"
            begun = time.monotonic()
            process.send_signal(signal.SIGTERM)
            assert process.wait(PATIENCE + 20) == 0
            assert time.monotonic() - begun >= PATIENCE - 0.1, "this shows nothing: the server did not wait"
    finally:
        process.kill()
        process.wait()
