"""Carries out what somebody at a surface wants: each intent becomes signed commands, few at a time."""

from __future__ import annotations

import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from datetime import timedelta
from typing import Any

from control.desk import Wish
from control.midi.surface import Intent, View, like
from streams.messages import Answer
from streams.vocabulary import ConditionAcknowledge, plain

VALIDITY = timedelta(seconds=10)
"""A press is meant for now: what cannot be carried out soon is not to happen when nobody stands there."""
AT_ONCE = 4

Episodes = dict[int, dict[str, Any]]


class Operator:
    """Has at most one command under way for each source, and one waiting: the latest that was wanted.

    `submit` takes a wish to its outcome, `settings_of` gives the settings that a source has now, `tell` is
    given a line about everything that was done.
    """

    def __init__(
        self,
        submit: Callable[[Wish], Answer],
        settings_of: Callable[[str], dict[str, Any]],
        tell: Callable[[str], None],
    ) -> None:
        self._submit = submit
        self._settings_of = settings_of
        self._tell = tell
        self._lock = threading.Lock()
        self._busy: set[str] = set()
        self._next: dict[str, dict[str, Intent]] = {}
        self._pool = ThreadPoolExecutor(AT_ONCE, thread_name_prefix="midi")
        self._episodes: Episodes = {}
        self._stopping = False

    def knows(self, episodes: Episodes) -> None:
        """The open episodes that nobody sees to yet, by their numbers."""
        self._episodes = episodes

    def carry_out(self, intent: Intent, view: View) -> None:
        """Do it for every source that is meant; never waits, never raises."""
        if intent.do == "acknowledge":
            for episode, source in view.open.items():
                if any(True for _ in like(intent.source, [source])):
                    self._want(f"episode {episode}", Intent("acknowledge", str(episode)))
            return
        pattern = any(sign in intent.source for sign in "*?[")
        for source in like(intent.source, view.sources) if pattern else [intent.source]:
            self._want(source, Intent(intent.do, source, intent.gain_db))

    def _want(self, subject: str, intent: Intent) -> None:
        with self._lock:
            if self._stopping:
                return
            # Of the same kind the latest counts; a gain and a stop do not replace one another.
            kind = intent.do if intent.do in ("gain", "acknowledge") else "running"
            self._next.setdefault(subject, {})[kind] = intent
            if subject in self._busy:
                return
            self._busy.add(subject)
        self._pool.submit(self._work, subject)

    def _work(self, subject: str) -> None:
        while True:
            with self._lock:
                waiting = self._next.get(subject)
                if not waiting or self._stopping:
                    self._busy.discard(subject)
                    self._next.pop(subject, None)
                    return
                # What starts and stops goes before how loud it is.
                kind = "running" if "running" in waiting else next(iter(waiting))
                intent = waiting.pop(kind)
            self._tell(f"{subject}: {intent.do} {self._told(intent)}")

    def _told(self, intent: Intent) -> str:
        """What came of it, in words."""
        try:
            answer = self._submit(self._wish(intent))
        except Exception as error:  # whatever went wrong, the surface goes on
            return f"not done: {error}"
        why = ": ".join(word for word in (answer.reason, answer.detail) if word)
        return answer.outcome + (f", {answer.state}" if answer.state else "") + (f" ({why})" if why else "")

    def _wish(self, intent: Intent) -> Wish:
        if intent.do == "acknowledge":
            about = self._episodes[int(intent.source)]
            seen = ConditionAcknowledge(episode=about["id"], rule=about["rule"], subject=about["subject"])
            return Wish(type="condition.acknowledge", source="", params=plain(seen), validity=VALIDITY)
        if intent.do == "gain":
            settings = {**self._settings_of(intent.source), "gain_db": intent.gain_db}
            params = {"settings": settings}
            return Wish(type="source.update", source=intent.source, params=params, validity=VALIDITY)
        return Wish(type=f"source.{intent.do}", source=intent.source, validity=VALIDITY)

    def close(self) -> None:
        """Wait for what is under way; what waits behind it is not done any more."""
        with self._lock:
            self._stopping = True
        self._pool.shutdown(wait=True)
