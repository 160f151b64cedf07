"""The secrets that somebody signs with on this machine: files of mode 0600, or the keyring of the OS.

`keys.directory` itself holds the keys that are trusted because they stand there, in its folder `own` are
those whose public half is in the log, and in `rotating` beside them a new secret that waits for the
station to know it. The keyring (Secret Service, Keychain, Windows' Credential Locker)
keeps them under the service `tocsin:STATION`.
"""

from __future__ import annotations

from pathlib import Path

import msgspec

from streams.settings import Settings
from streams.signing import InvalidKey, Key, load_key, write_key

OWN = "own"
"""The folder of secrets in keys.directory."""


class NoKeyring(Exception):
    """Raised when this machine has no keyring that could hold a secret."""


def own_key(settings: Settings, id: str = "") -> Key:
    """The key `id` with its secret (none named: keys.sign_with). Raises InvalidKey."""
    id = id or settings.keys.sign_with
    path = path_of(settings, id)
    if path.exists():
        return load_key(path.parent, id)
    key = _from_keyring(settings.station.id, id)
    # As before there were folders of one's own: it says where it was looked for.
    return key or load_key(Path(settings.keys.directory), id)


class OwnKey:
    """The key `keys.sign_with` for a process that lives long: read again once its file is another."""

    def __init__(self, settings: Settings) -> None:
        self._settings = settings
        self._key: Key | None = None
        self._seen: tuple[int, int] | None = None

    def __call__(self) -> Key:
        """The key as it is now. Raises InvalidKey."""
        seen = self._look()
        if self._key is None or seen != self._seen:
            self._key, self._seen = own_key(self._settings), seen
        return self._key

    def _look(self) -> tuple[int, int] | None:
        try:
            found = path_of(self._settings, self._settings.keys.sign_with).stat()
        except OSError:
            return None
        return found.st_mtime_ns, found.st_ino


def path_of(settings: Settings, id: str) -> Path:
    """Where the file of the key is: among one's own, or among the trusted; else where one's own would be."""
    own, trusted = own_path(settings, id), Path(settings.keys.directory) / f"{id}.json"
    return trusted if trusted.exists() and not own.exists() else own


def waiting_path(path: Path) -> Path:
    """Where the new secret of the key in the file `path` waits for the station to know it."""
    return path.parent / "rotating" / path.name


def own_path(settings: Settings, id: str) -> Path:
    """Where the file of such a key is."""
    return Path(settings.keys.directory) / OWN / f"{id}.json"


def keep_in_file(path: Path, key: Key, *, replace: bool = False) -> None:
    """Write the key down, in place of the one before where that is meant. Raises FileExistsError, OSError."""
    if not replace:
        write_key(path, key)
        return
    fresh = path.with_name(f".{path.name}.new")
    fresh.unlink(missing_ok=True)
    write_key(fresh, key)
    fresh.replace(path)


def keep_in_keyring(station: str, key: Key) -> None:
    """Give the key to the keyring of the operating system. Raises NoKeyring."""
    import keyring
    from keyring.errors import KeyringError

    try:
        keyring.set_password(_service(station), key.id, msgspec.json.encode(key).decode())
    except KeyringError as error:
        raise NoKeyring(f"this machine has no keyring that takes it: {error}") from None


def drop_from_keyring(station: str, id: str) -> None:
    """Take the key out of the keyring, where it is there."""
    import keyring
    from keyring.errors import KeyringError

    try:
        keyring.delete_password(_service(station), id)
    except KeyringError:
        return


def _from_keyring(station: str, id: str) -> Key | None:
    import keyring
    from keyring.errors import KeyringError

    try:
        kept = keyring.get_password(_service(station), id)
    except KeyringError:
        return None
    if kept is None:
        return None
    try:
        return msgspec.json.decode(kept, type=Key)
    except msgspec.MsgspecError:
        raise InvalidKey(f"what the keyring of this machine holds as {id!r} is no key") from None


def _service(station: str) -> str:
    return f"tocsin:{station}"
