"""What a decoding process tells arrives whole; and what is made ready before any is forked leaves nothing."""

from __future__ import annotations

import os
import threading

import numpy as np
import psutil

from ingest.decoding.decoder import rehearse
from ingest.decoding.wire import AUDIO, HEAD, send


def test_a_message_larger_than_the_pipe_arrives_whole() -> None:
    samples = np.random.default_rng(1).normal(size=(200_000, 2)).astype(np.float32)
    ours, theirs = os.pipe()
    # What was there before leaves no room for a whole head in the first page.
    os.write(theirs, bytes(4093))

    def tell() -> None:
        send(theirs, AUDIO, samples.data)
        os.close(theirs)

    writer = threading.Thread(target=tell)
    writer.start()
    with os.fdopen(ours, "rb") as pipe:
        pipe.read(4093)
        assert HEAD.unpack(pipe.read(HEAD.size)) == (AUDIO, samples.nbytes)
        assert pipe.read() == samples.tobytes()
    writer.join()


def test_a_rehearsal_leaves_no_file_and_no_thread() -> None:
    """A process with a thread must not be forked."""
    rehearse()  # what is loaded at first use may stay
    this = psutil.Process()
    before = this.num_fds(), this.num_threads()
    rehearse()
    assert (this.num_fds(), this.num_threads()) == before
