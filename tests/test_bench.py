"""What the benches rest on: figures of a log that is not whole are worth nothing."""

from __future__ import annotations

import io
import re
from collections.abc import Sequence
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import msgspec
import pytest
import soundfile
from sqlalchemy import text

from bench import log, replay, roundtrip, transmitter
from bench.ingest import SENT, programme
from bench.judge import judge, rise
from bench.ledger import Wrong, sound
from bench.report import PAGE, RESULTS
from bench.roundtrip import audit, heads
from bench.stage import HMAC, Stage
from streams.handler import Result
from streams.messages import new_command
from streams.signing import create_key, load_key
from streams.submit import Submitter, signed
from tests.fix_owner import answer_of
from tests.fix_projections import Yard
from tests.fix_streams import DONE, LANE, Hall, Scripted, working


def stage_of(hall: Hall) -> Any:
    """The hall's lane as what a bench has measured on."""
    return SimpleNamespace(link=hall.new_link, keys=hall.station, lanes=[LANE], settings=hall.settings)


def test_a_bench_fails_where_the_end_of_the_log_is_cut_off(hall: Hall) -> None:
    """What is left verifies; only by the lane's head is it noticed that the last event is missing."""
    with working(hall, Scripted()):
        answer_of(hall, hall.command())
    stage = stage_of(hall)
    assert sound(hall.link, hall.keys, LANE) == 3
    assert audit(stage, {LANE: 0}, 1) == []
    (last,) = hall.link.call("XREVRANGE", hall.keys.events, "+", "-", "COUNT", 1)
    hall.link.call("XDEL", hall.keys.events, last[0])
    with pytest.raises(Wrong, match="missing"):
        sound(hall.link, hall.keys, LANE)
    (fault,) = audit(stage, {LANE: 0}, 1)
    assert "missing" in fault


def test_a_bench_fails_where_results_are_not_those_of_its_commands(hall: Hall) -> None:
    """One too many or too few, or another outcome than was confirmed, is a fault; older ones do not count."""
    outcome = {"wx-2": Result(outcome="failed", state="stopped", reason="bad_source")}
    with working(hall, Scripted(lambda task: outcome.get(task.command.source, DONE))):
        for _ in range(2):
            answer_of(hall, hall.command())
        stage, half = stage_of(hall), heads(stage_of(hall))
        answer_of(hall, hall.command())
        assert audit(stage, {LANE: 0}, 3) == []
        assert audit(stage, half, 1) == []
        for confirmed in (0, 2, 4):
            assert audit(stage, {LANE: 0}, confirmed) == [
                f"{confirmed} commands were confirmed, but the log holds {{'command.completed': 3}}"
            ]
        answer_of(hall, hall.command(source="wx-2"))
    (fault,) = audit(stage, {LANE: 0}, 4)
    assert "'command.failed': 1" in fault


def test_a_bench_fails_where_a_signature_is_not_by_its_key(hall: Hall, tmp_path: Path) -> None:
    """Every result of the run is looked at, also the last; a key that is not here proves nothing."""
    second = create_key(tmp_path / "keys", "laptop", "engineer", "ed25519")
    hall.keyring[second.id] = second
    with working(hall, Scripted()):
        answer_of(hall, hall.command())
        answer_of(hall, hall.command(key=second))
    stage = stage_of(hall)
    (last,) = [one.event.seq for one in hall.events() if one.event.type == "command.completed"][1:]
    assert audit(stage, {LANE: 0}, 2) == []
    path = tmp_path / "keys" / "laptop.json"
    path.unlink()
    assert audit(stage, {LANE: 0}, 2) == ["signed by keys that are not here: {'laptop': 1}"]
    create_key(tmp_path / "keys", "laptop", "engineer", "ed25519")
    (fault,) = audit(stage, {LANE: 0}, 2)
    assert fault.startswith(f"lane {LANE}: event {last}: the signature")


def test_the_bench_itself_fails_over_a_result_that_no_command_of_its_own_has(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """A worker alone, measured for a moment, is well; then a command is carried out that nobody counts."""
    monkeypatch.setattr("bench.report.RESULTS", tmp_path)
    short = ("--bare", "--only", "tocsin-memory", "--rounds", "1", "--seconds", "0.1", "--in-flight", "8")
    assert roundtrip.main(short) == 0
    (written,) = tmp_path.iterdir()
    result = msgspec.json.decode(written.read_bytes())
    assert result["verified"]
    assert set(result["medians"]) == {"tocsin-memory-hmac", "tocsin-memory-ed25519"}

    def meddled(stage: Stage) -> dict[str, int]:
        found, key, link = heads(stage), load_key(Path(stage.settings.keys.directory), HMAC), stage.link()
        command = new_command(
            station=stage.settings.station.id,
            lane="p0",
            source="bench-0",
            type="source.update",
            params={},
            key=HMAC,
        )
        assert Submitter(stage.settings, link).submit(signed(command, key)).outcome == "completed"
        link.close()
        return found

    monkeypatch.setattr(roundtrip, "heads", meddled)
    assert roundtrip.main(short) == 1
    told = re.search(r"failed: (\d+) commands were confirmed.* holds .*: (\d+)}", capsys.readouterr().err)
    assert told is not None
    assert int(told[2]) == int(told[1]) + 1


# What the bench of the log is to show.

REFERENCE: dict[str, Any] = msgspec.json.decode((RESULTS / "log-reference.json").read_bytes())


def well() -> dict[str, Any]:
    """Figures that show all they are to show, to be changed."""
    sizes = {what: list(points) for what, points in REFERENCE["growth"].items()}
    return {
        "circumstances": REFERENCE["circumstances"],
        "rounds": 5,
        "per_second": {},
        "ratios": {"verify ÷ xrange decoded": 0.5},
        "verify_memory": {size: {"mib": 50.0, "per_second": 1.0} for size in ("10000", "1000000")},
        "growth": {
            what: {size: {"p50_ms": 0.4, "micros": 50.0} for size in each} for what, each in sizes.items()
        },
    }


def failing(result: dict[str, Any]) -> list[str]:
    """What a run with these figures does not show."""
    return [one.what for one in judge(result) if one.passes is False]


def with_costs(result: dict[str, Any], what: str, figure: str, costs: Sequence[float]) -> dict[str, Any]:
    """The result with other costs over a curve's sizes."""
    for point, cost in zip(result["growth"][what].values(), costs, strict=True):
        point[figure] = cost
    return result


def test_how_much_a_line_rises() -> None:
    """From its own first point to its last, whatever the scale; a fall is negative, one bad point no rise."""
    assert rise([5.0, 5.0, 5.0]) == pytest.approx(0.0)
    assert rise([4.0, 5.0, 6.0]) == pytest.approx(0.5)
    assert rise([4.0, 6.0]) == pytest.approx(0.5)
    assert rise([0.006, 0.005, 0.004]) == pytest.approx(-1 / 3)
    assert rise([1.0, 1.0, 1.5, 1.0, 1.0]) == pytest.approx(0.0)


@pytest.mark.parametrize("figure", ["p50_ms", "micros"])
@pytest.mark.parametrize("what", ["events in the log", "sources in a lane", "lanes of a node"])
def test_a_cost_that_rises_is_a_failure(what: str, figure: str) -> None:
    """Steadily or at the last size only, by over a quarter; less, or up and down, is not."""
    count = len(REFERENCE["growth"][what])
    steady = [1.0 + 0.3 * index / (count - 1) for index in range(count)]
    for costs in (steady, [*[1.0] * (count - 1), 1.35]):
        (found,) = failing(with_costs(well(), what, figure, costs))
        assert what in found
        assert {"p50_ms": "one at a time", "micros": "many in flight"}[figure] in found
        hasty = with_costs(well() | {"rounds": 1}, what, figure, costs)
        assert failing(hasty) == []
        assert {one.verdict for one in judge(hasty)} == {"passes", "not judged"}
    noisy = [1.0 + 0.08 * (-1) ** index for index in range(count)]
    gentle = [1.0 + 0.2 * index / (count - 1) for index in range(count)]
    for costs in (noisy, gentle, [1.0] * count, [2.0] + [1.0] * (count - 1)):
        assert failing(with_costs(well(), what, figure, costs)) == []


def test_memory_and_verifying_are_judged() -> None:
    """Over a tenth more memory fails in one round too; verifying at under half of the bare read fails."""
    result = well()
    result["ratios"]["verify ÷ xrange decoded"] = 0.499
    (slow,) = failing(result)
    assert "audit verify" in slow
    assert failing(result | {"rounds": 1}) == []
    result = well() | {"rounds": 1}
    result["verify_memory"]["1000000"]["mib"] = 55.1
    (much,) = failing(result)
    assert "memory" in much
    assert failing(well()) == []


@pytest.mark.parametrize("ratio", [0.5, 0.499])
def test_the_bench_of_the_log_fails_over_what_it_does_not_show(
    ratio: float, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Its exit code says it, and its last line what; the figures are written all the same."""
    measured = well()
    measured["ratios"]["verify ÷ xrange decoded"] = ratio
    monkeypatch.setattr(log, "measure", lambda folder, options: measured)
    monkeypatch.setattr("bench.report.RESULTS", tmp_path)
    assert log.main([]) == (0 if ratio >= 0.5 else 1)
    assert ("failed: `audit verify`" in capsys.readouterr().err) is (ratio < 0.5)
    assert len(list(tmp_path.iterdir())) == 1


def test_the_page_says_what_the_kept_figures_show() -> None:
    """The table of docs/performance.md is that of the reference, and the costs over lanes are those told."""
    page = PAGE.read_text("utf-8")
    for row in log.judgements(REFERENCE):
        assert f"| {' | '.join(row)} |" in page
    costs = [point["p50_ms"] for point in REFERENCE["growth"]["lanes of a node"].values()]
    assert f"{costs[0]}, {costs[1]}, {costs[2]} and {costs[3]} ms" in " ".join(page.split())


# The others.


def test_a_transmitter_sends_all_of_a_recording_in_its_own_time() -> None:
    """The frames of an MP3 file last as long as its sound, so that what is sent by them keeps its time."""
    written = io.BytesIO()
    sound = programme(1, 3.0, SENT)
    soundfile.write(written, sound, SENT, format="MP3", bitrate_mode="CONSTANT", compression_level=0.8)
    found = list(transmitter.frames(written.getvalue()))
    assert {rate for _, rate in found} == {SENT}
    assert len(found) * transmitter.FRAME / SENT == pytest.approx(3.0, abs=0.1)
    assert sum(len(frame) for frame, _ in found) == pytest.approx(len(written.getvalue()), rel=0.02)


def test_the_ways_to_read_history_come_to_the_same(yard: Yard) -> None:
    """Each way goes through all that is archived, and what is altered is noticed by the one that verifies."""
    settings = yard.settings
    replay.fill(settings, [300])
    lane = replay.lane_of(300)
    for way in ("read", "verify", "fold", "past"):
        assert replay.WORK[way](settings, lane) == 300
    assert replay.looked_back(settings, 300, 4)["longest"] < 20
    with yard.engine.begin() as connection:
        connection.execute(text("UPDATE archive SET raw = set_byte(raw, 40, 35) WHERE seq = 200"))
    with pytest.raises(Wrong, match="event 200"):
        replay.WORK["verify"](settings, lane)
