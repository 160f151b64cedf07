"""What holds for every test: fixtures, an honest list of skipped real parts, no process left behind."""

from __future__ import annotations

import os
import re
import uuid
from collections import Counter
from pathlib import Path

import psutil
import pytest
from hypothesis import HealthCheck, settings
from xdist.remote import Producer
from xdist.scheduler import LoadScopeScheduling

# As ingest has it: products of matrices that wait for other threads take far longer on a busy machine.
os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")

HERE = Path(__file__).parent
pytest_plugins = ["control.testing", *sorted(f"tests.{path.stem}" for path in HERE.glob("fix_*.py"))]
# Before any is imported: they import one another.
pytest.register_assert_rewrite(*pytest_plugins)

MARK = "TOCSIN_TEST_RUN"
SKIPPED_PART = re.compile(r"real part missing: (?P<name>.+)")
MAY_BE_MISSING = re.compile(
    r"^## Parts that may be missing$(?P<section>.*?)(?=^## |\Z)", re.MULTILINE | re.DOTALL
)
GRACE = 5.0
"""Seconds that processes get to leave after the last test."""

# How long an example takes says how busy the machine is, nothing else.
settings.register_profile(
    "tocsin",
    deadline=None,
    max_examples=int(os.environ.get("TOCSIN_TEST_EXAMPLES", "50")),
    suppress_health_check=[HealthCheck.too_slow],
)
settings.load_profile("tocsin")

TOGETHER = {
    "demo": ("test_apply", "test_docs_run", "test_midi_ports", "test_terminal"),
    "cluster": ("test_cluster", "test_cluster_failover", "test_cluster_station"),
    **{
        name: (name,)
        for name in (
            "test_access_sentinels", "test_deployment",  "test_drill",
            "test_faults_sentinels", "test_guard", "test_page", "test_page_sound", "test_prometheus",
            "test_round_trip",
            "test_streams_sentinel", "test_systemd", "test_tls", "test_tls_postgres",
            "test_tls_postgres_server",
        )
    },
}  # fmt: skip
"""Modules whose tests share what is costly to start: one process runs them all, one after the other."""
PLACE = {f"tests/{module}.py": name for name, modules in TOGETHER.items() for module in modules}


class Scheduling(LoadScopeScheduling):
    """Each test goes to whoever is free, but for those that share something."""

    def _split_scope(self, nodeid: str) -> str:
        return PLACE.get(nodeid.partition("::")[0], nodeid)


session_key = pytest.StashKey[pytest.Session]()


def _is_worker(config: pytest.Config) -> bool:
    return hasattr(config, "workerinput")


def pytest_configure(config: pytest.Config) -> None:
    """Mark this run's environment, so that whatever it starts can be told from other processes."""
    if not _is_worker(config):
        os.environ[MARK] = uuid.uuid4().hex


def pytest_xdist_make_scheduler(config: pytest.Config, log: Producer) -> LoadScopeScheduling:
    """What shares a station or servers of its own is run by one process."""
    return Scheduling(config, log)


def pytest_sessionstart(session: pytest.Session) -> None:
    session.config.stash[session_key] = session


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter, config: pytest.Config) -> None:
    """Tell what was not really tested, and what was left running; fail the run where that is not in order."""
    if _is_worker(config):
        return  # xdist's workers end one after the other: only the last word counts
    wrong = _report_skipped_parts(terminalreporter) + _report_leaks(terminalreporter)
    session = config.stash[session_key]
    if wrong and session.exitstatus in (pytest.ExitCode.OK, pytest.ExitCode.NO_TESTS_COLLECTED):
        session.exitstatus = pytest.ExitCode.TESTS_FAILED
    for line in wrong:
        terminalreporter.write_line(line, red=True)


def skipped_parts(reports: list[pytest.TestReport]) -> Counter[str]:
    """How many tests were skipped for want of each real part."""
    parts: Counter[str] = Counter()
    for report in reports:
        reason = report.longrepr[2] if isinstance(report.longrepr, tuple) else ""
        if found := SKIPPED_PART.search(reason):
            parts[found["name"].strip()] += 1
    return parts


def parts_that_may_be_missing(text: str) -> set[str]:
    """The parts named in backticks in that section of docs/testing.md."""
    found = MAY_BE_MISSING.search(text)
    return set(re.findall(r"^\| `([^`]+)`", found["section"], re.MULTILINE)) if found else set()


def _report_skipped_parts(reporter: pytest.TerminalReporter) -> list[str]:
    parts = skipped_parts(reporter.stats.get("skipped", []))
    reporter.section("Real parts skipped")
    if not parts:
        reporter.write_line("none")
        return []
    listed = parts_that_may_be_missing((HERE.parent / "docs" / "testing.md").read_text("utf-8"))
    for name, count in sorted(parts.items()):
        reporter.write_line(
            f"{name:<24} {count:>4} tests   {'' if name in listed else 'not listed in docs/testing.md'}"
        )
    if os.environ.get("CI") != "true":
        return []
    return [
        f"CI: real part missing and not listed in docs/testing.md: {name}"
        for name in sorted(parts.keys() - listed)
    ]


def _report_leaks(reporter: pytest.TerminalReporter) -> list[str]:
    left = _left_behind()
    psutil.wait_procs(left, timeout=GRACE)
    left = _left_behind()
    lines = [f"left running by the tests (ended now): {_told(process)}" for process in left]
    for process in left:
        try:
            process.kill()
        except psutil.NoSuchProcess:
            continue
    return lines


def _left_behind() -> list[psutil.Process]:
    """The processes of this run other than pytest's own: known by their environment, or as children."""
    mark = os.environ[MARK]
    me = psutil.Process()
    ours = {me.pid, *(parent.pid for parent in me.parents())}
    found = {child.pid: child for child in me.children(recursive=True)}
    for process in psutil.process_iter():
        try:
            if process.environ().get(MARK) == mark:
                found[process.pid] = process
        except (psutil.AccessDenied, psutil.NoSuchProcess, OSError):
            continue
    return [process for pid, process in found.items() if pid not in ours and _counts(process)]


def _counts(process: psutil.Process) -> bool:
    try:
        command = " ".join(process.cmdline())
        return (
            process.status() != psutil.STATUS_ZOMBIE
            and "execnet" not in command
            and "sys.stdin.readline" not in command
        )
    except psutil.NoSuchProcess:
        return False


def _told(process: psutil.Process) -> str:
    try:
        return f"{process.pid} {' '.join(process.cmdline())[:120]}"
    except psutil.NoSuchProcess:
        return str(process.pid)
