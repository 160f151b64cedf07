"""A surface at work: plugged in and out, heard, carried out, lit."""

from __future__ import annotations

import time
from collections.abc import Callable
from threading import Event, Thread

from control.midi.decoder import Decoder
from control.midi.mapping import Mapping
from control.midi.operator import Episodes, Operator
from control.midi.ports import Cable, PortLost, Ports
from control.midi.surface import NOTHING_KNOWN, Logic, SourceNow, View
from control.readapi import Away, NotFound, ReadApi

LOOK = 0.5
"""Seconds between two looks at which ports there are, and at the read model."""
TICK = 0.02
"""Seconds for which the surface is listened to at a time."""


class Watching:
    """What the read model says, looked at again and again in a thread of its own."""

    def __init__(self, api: ReadApi, episodes: str, knows: Callable[[Episodes], None]) -> None:
        self.view = NOTHING_KNOWN
        self._api = api
        self._path = episodes
        self._knows = knows

    def run(self, stop: Event) -> None:
        """Until `stop` is set."""
        while not stop.is_set():
            self.look()
            stop.wait(LOOK)

    def look(self) -> None:
        """Look once. Where it cannot be read, or is stale, nothing is known."""
        try:
            sources = self._api.get("/api/audio/sources")
        except (Away, NotFound):
            self.view = NOTHING_KNOWN
            return
        open = self._open()
        self._knows(open)
        self.view = View(
            known=not sources["stale"],
            sources={
                one["id"]: SourceNow(state=one["state"], gain_db=one["settings"].get("gain_db"))
                for one in sources["data"]
            },
            open={id: one["subject"] for id, one in open.items()},
        )

    def _open(self) -> Episodes:
        """Episodes that nobody sees to yet; none where Postgres is away, which alone knows them."""
        try:
            found = self._api.get(self._path)["data"]
        except (Away, NotFound):
            return {}
        return {one["id"]: one for one in found if not one["acknowledged_by"]}


def serve(
    mapping: Mapping,
    ports: Ports,
    watching: Watching,
    operator: Operator,
    tell: Callable[[str], None],
    stop: Event,
) -> None:
    """Work until `stop` is set: for as long as the surface is there, and again whenever it comes back."""
    looking = Thread(target=watching.run, args=(stop,), name="midi-view")
    looking.start()
    logic, waiting = Logic(mapping), False
    try:
        while not stop.is_set():
            cable = ports.open(mapping.surface.port, mapping.surface.output)
            if cable is None:
                if not waiting:
                    tell(f"waiting for a port whose name has {mapping.surface.port!r}")
                waiting = True
                stop.wait(LOOK)
                continue
            waiting = False
            tell(f"listening to {cable.name}")
            logic.forget()
            try:
                _attend(logic, cable, ports, watching, operator, stop)
            except PortLost as error:
                tell(str(error))
            finally:
                cable.close()
            if not stop.is_set():
                tell(f"{cable.name} is gone")
            if cable.dropped:
                tell(f"{cable.dropped} messages were passed over: they came faster than can be meant")
    finally:
        stop.set()
        looking.join()


def _attend(
    logic: Logic, cable: Cable, ports: Ports, watching: Watching, operator: Operator, stop: Event
) -> None:
    """Serve the surface until its port is gone or `stop` is set. Raises PortLost."""
    decoder, looked = Decoder(), time.monotonic()
    while not stop.is_set():
        heard = decoder.feed(cable.read(TICK))
        at, view = time.monotonic(), watching.view
        for intent in [*(intent for one in heard for intent in logic.hear(one, at)), *logic.tick(at)]:
            operator.carry_out(intent, view)
        for message in logic.lights(view, at):
            cable.send(message)
        if at - looked > LOOK:
            looked = at
            if not ports.has(cable):
                return
