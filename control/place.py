"""Which station is meant: a folder on this machine, or the address of a web process."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import msgspec
from platformdirs import user_data_path

from streams.settings import InvalidSettings, Settings, load


class NoStation(Exception):
    """Raised when there is no station in the folder meant."""

    def __init__(self, directory: Path) -> None:
        super().__init__(f"there is no station in {directory}")
        self.directory = directory


class FolderNeeded(Exception):
    """Raised when a verb needs the station's folder and was given an address."""


class Place(msgspec.Struct, frozen=True, kw_only=True):
    """A station: its folder, or (for reading and for commands of sources) its web address."""

    directory: Path | None = None
    url: str | None = None

    def folder(self) -> Path:
        """The station's folder; raises FolderNeeded."""
        if self.directory is None:
            raise FolderNeeded("this needs the station's folder, and --station is an address")
        return self.directory

    def settings(self) -> Settings:
        """The station's settings; raises FolderNeeded, NoStation, InvalidSettings."""
        path = self.folder() / "station.toml"
        if not path.exists():
            raise NoStation(self.folder())
        return load(path)

    def web(self) -> str | None:
        """The address of the web process, None where none is known (the station is not up)."""
        if self.url is not None:
            return self.url
        try:
            raw = (self.folder() / "run" / "station.json").read_bytes()
            return msgspec.json.decode(raw, type=Running).web or None
        except (OSError, msgspec.MsgspecError):
            web = self.settings().web
            return f"http://{web.host}:{web.port}" if web.port else None

    def token(self, env: Mapping[str, str]) -> str:
        """TOCSIN_TOKEN, else what the settings' `web.token_file` holds; empty where neither is for us."""
        if given := env.get("TOCSIN_TOKEN"):
            return given
        try:
            named = self.settings().web.token_file
            return Path(named).read_text("utf-8").strip() if named else ""
        except (FolderNeeded, NoStation, InvalidSettings, OSError):
            return ""


class Running(msgspec.Struct, frozen=True):
    """What this reads of `run/station.json`."""

    web: str = ""


def find(named: str | None, env: Mapping[str, str]) -> Place:
    """The station named, else the one of TOCSIN_STATION, else the one in the user's data folder."""
    text = named or env.get("TOCSIN_STATION")
    if not text:
        return Place(directory=user_data_path("tocsin") / "station")
    if text.startswith(("http://", "https://")):
        return Place(url=text.rstrip("/"))
    return Place(directory=Path(text).expanduser().absolute())
