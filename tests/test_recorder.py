"""Evidence: a recording begins in the past, is whole or not there, and says what it is."""

from __future__ import annotations

import resource
import signal
import subprocess
import sys
from collections.abc import Iterator
from datetime import timedelta
from hashlib import sha256
from pathlib import Path

import msgspec
import numpy as np
import pytest
import soundfile
from hypothesis import given
from hypothesis import strategies as st

from ingest.evidence import Evidence
from ingest.keeper import Keeper
from ingest.recorder import Recorder
from ingest.ring import Ring
from ingest.shelf import outlived, salvaged, shelved
from ingest.spool import Spool
from streams.alerts import AlertBurst, AlertEnded
from streams.messages import now
from streams.recordings import (
    RecordingFact,
    RecordingFailed,
    RecordingFinished,
    RecordingRemoved,
    RecordingStarted,
)
from streams.sound import RecordingsSection

RATE = 8000
Frames = np.ndarray[tuple[int, int], np.dtype[np.float32]]


def ramp(first: int, count: int) -> Frames:
    """Frames that say which they are: each sample is its number, modulo 30,000, of 16 bits."""
    return ((np.arange(first, first + count) % 30_000)[:, np.newaxis] / 32768).astype(np.float32)


class Studio:
    """A source of numbered frames, its evidence and a recorder, all in one thread."""

    def __init__(self, folder: Path, *, channels: int = 1, **section: float) -> None:
        self.folder = folder
        self.section = RecordingsSection(**{"free_megabytes": 0.0, **section})  # type: ignore[arg-type]
        self.recorder = Recorder(folder, self.section)
        self.facts: list[RecordingFact] = []
        self.evidence = Evidence(("node.here", "s"), self.section, self.recorder, self.facts.append)
        self.evidence.open(RATE, channels, 0.0, live=True)
        self.channels = channels
        self.frames = 0

    def play(self, seconds: float) -> None:
        """Let audio come, in blocks of a tenth of a second, and be recorded."""
        for _ in range(round(seconds * 10)):
            self.evidence.add(np.repeat(ramp(self.frames, RATE // 10), self.channels, axis=1))
            self.frames += RATE // 10
        self.recorder.step()

    def burst(self, start: float) -> None:
        self.evidence.note(AlertBurst(text="ZCZC", confidence=1.0, start=start, end=start + 1))

    def finished(self) -> list[RecordingFinished]:
        return [fact for fact in self.facts if isinstance(fact, RecordingFinished)]

    def audio(self, fact: RecordingFinished) -> list[int]:
        """The numbers of the frames in a recording."""
        samples, rate = soundfile.read(self.folder / fact.file, dtype="int16", always_2d=True)
        assert rate == fact.rate == RATE
        return samples[:, 0].tolist()


@pytest.fixture
def studio(tmp_path: Path) -> Studio:
    return Studio(tmp_path)


@given(blocks=st.lists(st.integers(1, 90), min_size=1, max_size=30), start=st.integers(0, 900))
def test_a_ring_holds_the_latest_of_what_came(blocks: list[int], start: int) -> None:
    """Whatever the blocks, a read gives the frames asked for, or says from which on they are still there."""
    ring, written = Ring(10, 1, 5.0), 0
    for count in blocks:
        ring.add(ramp(written, count))
        written += count
    begin, samples = ring.read(start, 20)
    assert ring.oldest == max(0, written - 50)
    assert begin == max(start, ring.oldest)
    assert samples[:, 0].tolist() == [n % 30_000 for n in range(begin, min(written, begin + 20))]


def test_an_alert_is_recorded_from_ten_seconds_before_to_five_after(studio: Studio) -> None:
    """The file has those very samples at the true rate, and its hash and times stand in the event."""
    studio.play(20.0)
    studio.burst(18.0)
    studio.play(12.0)
    studio.evidence.note(AlertEnded(end=30.0))
    studio.play(10.0)
    started, finished = studio.facts
    assert isinstance(started, RecordingStarted)
    assert isinstance(finished, RecordingFinished)
    assert started.recording == finished.recording
    assert studio.audio(finished) == [n % 30_000 for n in range(8 * RATE, 35 * RATE)]
    assert finished.seconds == 27.0
    assert finished.ended_at - finished.begun_at == timedelta(seconds=27)
    path = studio.folder / finished.file
    assert sha256(path.read_bytes()).hexdigest() == finished.sha256
    assert path.stat().st_size == finished.bytes
    assert soundfile.info(path).format == "FLAC"
    assert [path.name for path in studio.folder.rglob("*.part")] == []


def test_an_alert_without_an_end_is_recorded_for_five_minutes(studio: Studio) -> None:
    """No end of message ever comes: the file ends by itself, and the next burst begins another."""
    studio.play(20.0)
    studio.burst(19.0)
    for _ in range(40):
        studio.play(10.0)
    (finished,) = studio.finished()
    assert finished.seconds == 300.0
    studio.burst(419.0)
    studio.play(1.0)
    assert len([fact for fact in studio.facts if isinstance(fact, RecordingStarted)]) == 2


def test_a_second_message_goes_on_in_the_same_recording(studio: Studio) -> None:
    """A burst within the five seconds after an end of message keeps the recording going to the next end."""
    studio.play(20.0)
    studio.burst(19.0)
    studio.evidence.note(AlertEnded(end=20.0))
    studio.play(2.0)
    studio.burst(21.0)
    studio.play(10.0)
    studio.evidence.note(AlertEnded(end=31.0))
    studio.play(10.0)
    (finished,) = studio.finished()
    assert finished.seconds == 36.0 - 9.0


def test_a_source_that_stops_ends_its_recording(studio: Studio) -> None:
    """What was heard until then is a whole file."""
    studio.play(20.0)
    studio.burst(19.0)
    studio.play(3.0)
    studio.evidence.close()
    studio.recorder.step()
    (finished,) = studio.finished()
    assert finished.seconds == 14.0


def test_a_disk_that_is_slow_loses_what_the_ring_no_longer_has(tmp_path: Path) -> None:
    """Audio goes on; what is missing is said in seconds, and the rest is there."""
    studio = Studio(tmp_path, ring_seconds=15.0)
    studio.play(12.0)
    studio.burst(11.0)
    studio.recorder.step()
    for _ in range(250):
        studio.evidence.add(ramp(studio.frames, RATE // 10))
        studio.frames += RATE // 10
    studio.evidence.close()
    studio.recorder.step()
    (finished,) = studio.finished()
    assert finished.lost == pytest.approx(10.0)
    assert finished.seconds == pytest.approx(36.0 - 10.0)


def test_continuous_recording_is_in_segments_without_a_gap(tmp_path: Path) -> None:
    """Each segment begins with the frame after the last of the one before, until it is wished no more."""
    studio = Studio(tmp_path, segment_seconds=4.0)
    studio.play(1.0)
    studio.evidence.always(True)
    studio.play(10.0)
    studio.evidence.always(False)
    studio.play(2.0)
    frames = [frame for fact in studio.finished() for frame in studio.audio(fact)]
    assert [fact.seconds for fact in studio.finished()][:2] == [4.0, 4.0]
    assert frames == [n % 30_000 for n in range(RATE, RATE + len(frames))]
    assert 10 * RATE <= len(frames) <= 10.2 * RATE


def test_what_flac_cannot_hold_is_written_as_wav(tmp_path: Path) -> None:
    """Nine channels are recorded all the same."""
    studio = Studio(tmp_path, channels=9)
    studio.play(1.0)
    studio.burst(0.5)
    studio.evidence.close()
    studio.recorder.step()
    (finished,) = studio.finished()
    assert finished.file.endswith(".wav")
    assert finished.channels == 9


@pytest.fixture
def small_disk() -> Iterator[None]:
    """No file of this process may become larger than 50,000 bytes."""
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    handler = signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    resource.setrlimit(resource.RLIMIT_FSIZE, (50_000, before[1]))
    yield
    resource.setrlimit(resource.RLIMIT_FSIZE, before)
    signal.signal(signal.SIGXFSZ, handler)


@pytest.mark.usefixtures("small_disk")
def test_a_disk_that_takes_no_more_stops_the_recording_and_nothing_else(studio: Studio) -> None:
    """One event says so, nothing half written is left, and the ring goes on."""
    generator = np.random.default_rng(1)
    studio.play(2.0)
    studio.burst(1.5)
    for _ in range(200):
        studio.evidence.add(generator.uniform(-0.9, 0.9, (RATE // 10, 1)).astype(np.float32))
    studio.recorder.step()
    studio.recorder.step()
    assert [type(fact) for fact in studio.facts] == [RecordingStarted, RecordingFailed]
    assert [path for path in studio.folder.rglob("*") if path.is_file()] == []
    studio.play(1.0)


def test_without_room_nothing_is_begun_and_one_event_says_so(tmp_path: Path) -> None:
    """Below the room that is to stay free no file is opened; a continuous one is not told of each minute."""
    studio = Studio(tmp_path, free_megabytes=1e12)
    studio.evidence.always(True)
    studio.play(1.0)
    studio.evidence._not_before = 0.0
    studio.play(1.0)
    (failed,) = studio.facts
    assert isinstance(failed, RecordingFailed)
    assert failed.reason.startswith("the disk is full")


def test_what_a_killed_process_left_is_made_whole(studio: Studio) -> None:
    """The part that was written is a recording with its hash, said to be salvaged; nothing else is left."""
    studio.play(20.0)
    studio.burst(19.0)
    take = studio.evidence._alert
    assert take is not None
    take.hearings.append("h-1")
    studio.play(20.0)
    (left,) = studio.folder.rglob("*.part")
    (heard,) = studio.folder.rglob("*.heard")
    # As SIGKILL leaves it: nothing is closed, and the header says nothing.
    copy, hearings = left.read_bytes(), heard.read_bytes()
    studio.evidence.close()
    studio.recorder.step()
    for path in studio.folder.rglob("*.flac"):
        path.unlink()
    assert not heard.exists()
    left.write_bytes(copy)
    heard.write_bytes(hearings)
    ((one, fact),) = salvaged(studio.folder)
    assert isinstance(fact, RecordingFinished)
    assert (one.lane, one.source, fact.salvaged) == ("node.here", "s", True)
    assert fact.hearings == ("h-1",)
    assert len(studio.audio(fact)) > 10 * RATE
    assert studio.audio(fact)[:100] == [(9 * RATE + n) % 30_000 for n in range(100)]
    assert sha256((studio.folder / fact.file).read_bytes()).hexdigest() == fact.sha256
    assert [path.suffix for path in studio.folder.rglob("*") if path.is_file()] == [".flac"]


KILLED = """
import os, signal, sys
from pathlib import Path
from ingest.spool import Spool
from streams.messages import now
from streams.recordings import RECORDING_EVENTS, RecordingFinished
from streams.vocabulary import plain
from tests.test_recorder import Studio
folder, where = Path(sys.argv[1]), sys.argv[2]
studio, spool = Studio(folder / "recordings"), Spool(folder / "spool", "here")
studio.play(2.0)
studio.burst(1.0)
studio.evidence._alert.hearings.append("h-1")
(take,) = studio.recorder._new
def tell(fact):
    if not isinstance(fact, RecordingFinished):
        return
    if where == "spooled":
        spool.keep("node.here", "s", RECORDING_EVENTS[type(fact)], plain(fact), now())
    os.kill(os.getpid(), signal.SIGKILL)
take.tell = tell
if where == "placed":
    Path.rename = lambda *_: os.kill(os.getpid(), signal.SIGKILL)
studio.evidence.close()
studio.recorder.step()
"""


@pytest.mark.parametrize("where", ["placed", "told", "spooled"])
def test_a_process_killed_once_a_recording_is_whole_tells_it_later(tmp_path: Path, where: str) -> None:
    """SIGKILL before it is in its place, before it is spooled, or right after: it is told once, all of it."""
    argv = [sys.executable, "-c", KILLED, str(tmp_path), where]
    ran = subprocess.run(argv, cwd=Path(__file__).parent.parent, capture_output=True, text=True, timeout=60)
    assert ran.returncode == -signal.SIGKILL, ran.stderr
    told: list[tuple[str, str, RecordingFact]] = []
    for _ in range(2):
        spool, section = Spool(tmp_path / "spool", "here"), RecordingsSection()
        recorder = Recorder(tmp_path / "recordings", section)
        Keeper(recorder, section, lambda *fact: told.append(fact), spool.tells_end).salvage()
    facts = [fact for _, _, fact in told] + [
        msgspec.convert(kept.data, RecordingFinished) for kept in spool.pending("node.here")
    ]
    (fact,) = facts
    assert isinstance(fact, RecordingFinished)
    assert (fact.hearings, fact.salvaged, fact.seconds) == (("h-1",), False, 2.0)
    assert sha256((recorder.folder / fact.file).read_bytes()).hexdigest() == fact.sha256
    assert [path.suffix for path in recorder.folder.rglob("*") if path.is_file()] == [".flac"]


def test_what_is_too_old_or_too_much_goes_oldest_first(studio: Studio) -> None:
    """By age, then by size; each that is deleted is told of, others' files are left alone."""
    for number in range(3):
        studio.play(2.0)
        studio.burst(studio.frames / RATE)
        studio.play(1.0)
        studio.evidence.close()
        studio.recorder.step()
        assert len(studio.finished()) == number + 1
    (studio.folder / "node.here" / "s" / "notes.txt").write_text("mine")
    whole = [one.recording for one in shelved(studio.folder)]
    assert list(outlived(studio.folder, studio.section, now())) == []
    sizes = [one.path.stat().st_size for one in shelved(studio.folder)]
    few = RecordingsSection(keep_gigabytes=(sum(sizes) - 1) / 1e9)
    ((one, removed),) = outlived(studio.folder, few, now())
    assert removed == RecordingRemoved(recording=one.recording, reason=removed.reason)
    assert sorted([one.recording, *(left.recording for left in shelved(studio.folder))]) == sorted(whole)
    late = now() + timedelta(days=91)
    assert len(list(outlived(studio.folder, studio.section, late))) == 2
    assert [path.name for path in studio.folder.rglob("*") if path.is_file()] == ["notes.txt"]
