"""The key that signs checkpoints and exports: made when it is first needed, in the folder of keys."""

from __future__ import annotations

from pathlib import Path

from streams.settings import KeysSection
from streams.signing import InvalidKey, Key, create_key, load_key

AUDITOR = "auditor"
"""Its id, unless another is named."""


def auditor_key(keys: KeysSection, id: str = AUDITOR) -> tuple[Key, bool]:
    """The key, and whether it was made just now: the one called `auditor` is, where there is none yet.

    It may sign no command. Raises InvalidKey.
    """
    directory = Path(keys.directory)
    if id == AUDITOR and not (directory / f"{id}.json").exists():
        try:
            return create_key(directory, id, "auditor", "ed25519"), True
        except FileExistsError:
            pass  # somebody else was faster
        except OSError as error:
            raise InvalidKey(f"no key {id!r} can be made in {directory}: {error.strerror}") from None
    key = load_key(directory, id)
    if key.algorithm != "ed25519":
        raise InvalidKey(f"key {id!r} is {key.algorithm}: checkpoints and exports need an ed25519 key")
    return key, False
