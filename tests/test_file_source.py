"""Recordings as sources: what is read of them, and why one that cannot be read cannot."""

from __future__ import annotations

import math
import os
import tempfile
import threading
import tracemalloc
from collections.abc import Iterator
from contextlib import contextmanager
from itertools import islice
from pathlib import Path

import numpy as np
import pytest
import soundfile
from hypothesis import given, settings
from hypothesis import strategies as st

from ingest.file_source import FileSource, SourceFailed
from ingest.meters import Block
from streams.vocabulary import FileSettings


def ramp(frames: int, channels: int = 1) -> Block:
    """Samples of which no two frames within 30,000 are alike, each exact in 16 bits."""
    steps = (np.arange(frames * channels) % 30_000 + 1) / 32768
    return steps.astype(np.float32).reshape(frames, channels)


def recorded(path: Path, samples: Block, rate: int = 8000, subtype: str | None = "PCM_16") -> Path:
    """A recording of `samples`, in the format that the name says."""
    soundfile.write(path, samples, rate, subtype=subtype)
    return path


@contextmanager
def played(path: Path, *, loop: bool = False) -> Iterator[FileSource]:
    """The recording, opened."""
    audio = FileSource(FileSettings(path=str(path), loop=loop))
    try:
        yield audio
    finally:
        audio.close()


def whole(path: Path) -> Block:
    """All of a recording that does not loop."""
    with played(path) as audio:
        return np.concatenate(list(audio.blocks()))


def why_not(path: Path) -> str:
    """Why a recording cannot be played."""
    with pytest.raises(SourceFailed) as failure, played(path) as audio:
        list(audio.blocks())
    assert str(path) in str(failure.value)
    return str(failure.value)


@pytest.mark.parametrize("channels", [1, 2, 3, 8])
@pytest.mark.parametrize("rate", [8000, 11_025, 22_050, 44_100, 48_000, 192_000])
def test_blocks_of_a_tenth_of_a_second(tmp_path: Path, rate: int, channels: int) -> None:
    """At any rate and with any number of channels, all samples come, in order, in blocks of 100 ms."""
    samples = ramp(rate // 3, channels)
    path = recorded(tmp_path / "a.wav", samples, rate)
    with played(path) as audio:
        assert (audio.rate, audio.channels) == (rate, channels)
        blocks = list(audio.blocks())
    assert {len(block) for block in blocks[:-1]} == {round(rate / 10)}
    assert np.array_equal(np.concatenate(blocks), samples)


@pytest.mark.parametrize("name", ["a.wav", "a.flac", "a.aiff", "a.au", "a.caf"])
def test_formats_without_loss(tmp_path: Path, name: str) -> None:
    """What libsndfile reads is told by the file's content and comes out as it went in."""
    samples = ramp(3000, 2)
    path = recorded(tmp_path / name, samples).rename(tmp_path / "no-suffix")
    assert np.array_equal(whole(path), samples)


@pytest.mark.parametrize("rate", [22_050, 44_100])
@pytest.mark.parametrize("name", ["a.ogg", "a.mp3"])
def test_formats_with_loss_keep_their_sound(tmp_path: Path, name: str, rate: int) -> None:
    """Block by block, Vorbis and MP3 sound as they do read at once: no read seeks and upsets the decoder."""
    sine = 0.5 * np.sin(2 * np.pi * 440 * np.arange(rate * 2) / rate)
    path = recorded(tmp_path / name, sine.astype(np.float32)[:, np.newaxis], rate, subtype=None)
    at_once, _ = soundfile.read(path, dtype="float32", always_2d=True)
    assert len(at_once) == pytest.approx(2 * rate, abs=2304)
    assert np.allclose(whole(path), at_once, atol=1e-6)
    with played(path, loop=True) as audio:
        blocks = math.ceil(2 * len(at_once) / (rate // 10))
        twice = np.concatenate(list(islice(audio.blocks(), blocks)))[: 2 * len(at_once)]
    assert np.allclose(twice, np.concatenate([at_once, at_once]), atol=1e-6)


@settings(max_examples=40, deadline=None)
@given(frames=st.integers(1, 2500), blocks=st.integers(1, 12))
def test_a_loop_has_no_gap(tmp_path_factory: pytest.TempPathFactory, frames: int, blocks: int) -> None:
    """A recording of any length, also far shorter than a block, goes on at its beginning sample by sample."""
    samples = ramp(frames)
    path = recorded(tmp_path_factory.mktemp("loop") / "a.wav", samples)
    with played(path, loop=True) as audio:
        heard = list(islice(audio.blocks(), blocks))
    assert [len(block) for block in heard] == [800] * blocks
    expected = np.resize(samples, (blocks * 800, 1))
    assert np.array_equal(np.concatenate(heard), expected)


def test_memory_does_not_grow_with_the_recording(tmp_path: Path) -> None:
    """Playing ten minutes takes no more memory than playing ten seconds."""

    def peak(seconds: int) -> int:
        path = recorded(tmp_path / f"{seconds}.wav", np.zeros((8000 * seconds, 1), np.float32))
        tracemalloc.start()
        with played(path) as audio:
            for _ in audio.blocks():
                pass
        used = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
        return used

    peak(1)
    # The longer one is 19 MB of samples; other threads of the test process allocate a little, too.
    assert peak(600) < peak(10) + 2_000_000


def test_a_missing_file(tmp_path: Path) -> None:
    """The reason is the system's own word for it."""
    assert "No such file or directory" in why_not(tmp_path / "none.wav")


def test_a_folder(tmp_path: Path) -> None:
    """A folder is told from a file."""
    assert "is not a regular file" in why_not(tmp_path)


def test_a_pipe_without_a_writer_does_not_block(tmp_path: Path) -> None:
    """A FIFO, whose opener would wait for ever, is refused at once; so is a device."""
    path = tmp_path / "pipe"
    os.mkfifo(path)
    told: list[str] = []
    thread = threading.Thread(target=lambda: told.append(why_not(path)), daemon=True)
    thread.start()
    thread.join(5)
    assert told, "opening the pipe blocks"
    assert "is not a regular file" in told[0]
    assert "is not a regular file" in why_not(Path("/dev/zero"))


def test_a_file_that_may_not_be_read() -> None:
    """A want of permission is said as such, not as a strange format."""
    user = os.geteuid()
    with tempfile.TemporaryDirectory() as folder:
        Path(folder).chmod(0o755)
        path = recorded(Path(folder, "a.wav"), ramp(800))
        path.chmod(0)
        try:
            if user == 0:
                # Root may read everything; nobody may not.
                os.seteuid(65534)
            assert "Permission denied" in why_not(path)
        finally:
            os.seteuid(user)


@pytest.mark.parametrize(
    "content", [b"", b"This is text.\n" * 500, bytes(50_000)], ids=["empty", "text", "zeros"]
)
def test_a_file_that_is_no_audio(tmp_path: Path, content: bytes) -> None:
    """A file of something else is refused, whatever its name says."""
    path = tmp_path / "a.wav"
    path.write_bytes(content)
    assert "is no audio file" in why_not(path)


def test_a_recording_without_sound(tmp_path: Path) -> None:
    """A header with nothing behind it holds no audio; a loop of it would never end."""
    path = recorded(tmp_path / "a.wav", ramp(0))
    assert "holds no audio" in why_not(path)


def test_a_header_that_lies(tmp_path: Path) -> None:
    """A rate that nobody records at is refused: a tenth of a second of it would not fit into memory."""
    path = recorded(tmp_path / "a.wav", ramp(800), 2_000_000_000)
    assert "2000000000 Hz" in why_not(path)


@pytest.mark.parametrize("loop", [False, True])
def test_a_file_that_shrinks_while_it_is_played(tmp_path: Path, loop: bool) -> None:
    """A recording cut short under its reader fails with that reason, and is not taken for its end."""
    path = recorded(tmp_path / "a.wav", ramp(80_000))
    with played(path, loop=loop) as audio:
        blocks = audio.blocks()
        next(blocks)
        os.truncate(path, 10_000)
        with pytest.raises(SourceFailed, match="cut short"):
            list(islice(blocks, 200))


def test_a_damaged_recording(tmp_path: Path) -> None:
    """Half of a FLAC file is played as far as it goes, then fails and says where."""
    path = recorded(tmp_path / "a.flac", ramp(80_000))
    os.truncate(path, path.stat().st_size // 2)
    assert "cannot be read further" in why_not(path) or "cut short" in why_not(path)


def test_a_file_is_closed(tmp_path: Path) -> None:
    """Neither a recording that was played nor one that was refused keeps a file descriptor."""
    good = recorded(tmp_path / "a.wav", ramp(2000))
    bad = tmp_path / "b.wav"
    bad.write_bytes(b"no sound" * 100)
    whole(good)
    before = len(list(Path("/proc/self/fd").iterdir()))
    for _ in range(20):
        whole(good)
        why_not(bad)
    assert len(list(Path("/proc/self/fd").iterdir())) <= before
