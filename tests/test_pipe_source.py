"""Programs as sources: what they write is heard, what they say is told, and with the source they end."""

from __future__ import annotations

import os
import sys
import textwrap
import tomllib
from pathlib import Path

import numpy as np
import psutil
import pytest

from ingest.file_source import SourceFailed
from ingest.inputs import Inputs
from ingest.meters import Block
from streams.inputs import FetchSection, PipeSection
from streams.vocabulary import PipeSettings
from tests.fix_servers import eventually

ROOT = Path(__file__).parent.parent


def program(text: str, *arguments: str) -> tuple[str, ...]:
    """A Python program that begins with the imports it needs."""
    head = "import sys, time, os, subprocess\nout = sys.stdout.buffer\n"
    return (sys.executable, "-c", head + textwrap.dedent(text), *arguments)


def node(command: tuple[str, ...], **section: object) -> Inputs:
    """A node whose settings name the program `it`."""
    pipe = PipeSection(command=command, **{"rate": 8000, **section})  # type: ignore[arg-type]
    return Inputs(FetchSection(give_up_after=1.0), {"it": pipe})


def until_it_fails(inputs: Inputs, **settings: object) -> tuple[list[Block], str]:
    """All its blocks, and why there were no more."""
    source = inputs.open(PipeSettings(pipe="it", **settings))  # type: ignore[arg-type]
    blocks: list[Block] = []
    with pytest.raises(SourceFailed) as failure:
        blocks.extend(block for block in source.blocks() if len(block))
    source.close()
    return blocks, str(failure.value)


@pytest.mark.parametrize(
    ("format", "kind", "scale"), [("s16le", "<i2", 32768), ("s32le", "<i4", 2**31), ("f32le", "<f4", 1)]
)
def test_what_it_writes_is_heard(tmp_path: Path, format: str, kind: str, scale: int) -> None:
    """PCM of each format, two channels, written in odd pieces, comes out sample by sample."""
    wave = (np.arange(4000).reshape(2000, 2) / 8192).astype(np.float32)
    (tmp_path / "pcm").write_bytes((wave * scale).astype(kind).tobytes())
    command = program(
        """
        data = open(sys.argv[1], "rb").read()
        for at in range(0, len(data), 777):
            out.write(data[at:at + 777])
            out.flush()
        """,
        str(tmp_path / "pcm"),
    )
    blocks, why = until_it_fails(node(command, channels=2, format=format))
    assert np.concatenate(blocks) == pytest.approx(wave)
    assert len(blocks[0]) == 800
    assert why == "pipe 'it' ended, exit code 0"


def test_its_settings_are_obeyed() -> None:
    """The signal path is that of every source."""
    blocks, _ = until_it_fails(node(program("out.write(bytes(16000))")), rate=16_000)
    assert sum(map(len, blocks)) == pytest.approx(16_000, abs=2)


def test_its_last_words_are_the_reason() -> None:
    """What it wrote to standard error last, and how it ended."""
    command = program("print('no device found', file=sys.stderr); sys.exit(3)")
    assert until_it_fails(node(command))[1] == "pipe 'it' ended, exit code 3: no device found"


def test_one_that_says_nothing_is_given_up() -> None:
    """A program that runs and writes nothing is a failure by its own name, and is not left running."""
    assert until_it_fails(node(program("time.sleep(60)")))[1] == "pipe 'it' runs, but wrote nothing for 1 s"


def test_it_ends_with_all_that_it_has_started(tmp_path: Path) -> None:
    """Its children end with it, also one that ignores SIGTERM."""
    command = program(
        """
        import signal
        signal.signal(signal.SIGTERM, signal.SIG_IGN)
        child = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(60)"])
        open(sys.argv[1], "w").write(str(child.pid))
        while True:
            out.write(bytes(1600)); out.flush(); time.sleep(0.05)
        """,
        str(tmp_path / "pid"),
    )
    source = node(command).open(PipeSettings(pipe="it"))
    blocks = source.blocks()
    while not len(next(blocks)):
        pass
    child = int((tmp_path / "pid").read_text())
    source.close()
    eventually(lambda: not psutil.pid_exists(child) or _is_dead(child), "the child's end", 5)


def _is_dead(pid: int) -> bool:
    try:
        return psutil.Process(pid).status() == psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return True


def test_a_name_that_the_node_does_not_have() -> None:
    """A command can name only what the node's own settings have."""
    with pytest.raises(SourceFailed, match=r"has no \[pipes.other\] in its settings; it has it"):
        node(("true",)).open(PipeSettings(pipe="other"))


def test_a_program_that_is_not_there() -> None:
    """It is named, with what the system says."""
    with pytest.raises(SourceFailed, match="pipe 'it': /no/such/program: No such file or directory"):
        node(("/no/such/program",)).open(PipeSettings(pipe="it"))


@pytest.mark.parametrize(("pipe", "name"), [("weather", "rtl_fm"), ("studio", "ffmpeg")])
def test_the_recipes_are_run_as_they_stand(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, pipe: str, name: str
) -> None:
    """The recipes in docs/sources.md: a stand-in of that name gets these very arguments, and is heard."""
    text = (ROOT / "docs" / "sources.md").read_text("utf-8")
    block = next(part for part in text.split("```toml\n")[1:] if f"[pipes.{pipe}]" in part)
    section = PipeSection(**tomllib.loads(block.split("```")[0])["pipes"][pipe])
    stand_in = tmp_path / name
    stand_in.write_text(f'#!/bin/sh\nprintf "%s\\n" "$@" > {tmp_path}/said\nhead -c 400000 /dev/zero\n')
    stand_in.chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}:{os.environ['PATH']}")
    source = Inputs(pipes={pipe: section}).open(PipeSettings(pipe=pipe))
    block = next(one for one in source.blocks() if len(one))
    source.close()
    assert block.shape == (section.rate // 10, section.channels)
    assert tuple((tmp_path / "said").read_text().splitlines()) == tuple(section.command[1:])
    assert section.command[0] == name
