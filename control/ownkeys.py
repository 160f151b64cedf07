"""The secrets that somebody signs with on this machine: files of mode 0600, or the keyring of the OS.

`keys.directory` itself holds the keys that are trusted because they stand there; in its folder `own` are
those whose public half is in the log. The keyring (Secret Service, Keychain, Windows' Credential Locker)
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
    for directory in (own_path(settings, id).parent, Path(settings.keys.directory)):
        if (directory / f"{id}.json").exists():
            return load_key(directory, id)
    key = _from_keyring(settings.station.id, id)
    # As before there were folders of one's own: it says where it was looked for.
    return key or load_key(Path(settings.keys.directory), id)


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
