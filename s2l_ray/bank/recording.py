"""The recordings of a bank, each a directory that is named by its fingerprint.

BANK/4f1c.../recording.json                     the fields of the fingerprint, and versions of packages
BANK/4f1c.../shards/20260101T120000Z-....parquet
"""

from __future__ import annotations

import json
from dataclasses import dataclass

from s2l_ray.bank.fingerprint import FREE_WHEN_NAMED, Fingerprint
from s2l_ray.errors import BankError
from s2l_ray.machine.reading import MISREAD, misread
from s2l_ray.machine.storage import Storage

FORMAT = 1
"""Version of the format of recording.json and the shards."""
_ABOUT = "recording.json"


@dataclass(frozen=True)
class Recording:
    """Rollouts with one fingerprint."""

    name: str
    """The name of its directory, which is the fingerprint's digest."""
    fingerprint: Fingerprint
    made_with: dict[str, str]
    """The versions of the packages that made it, by name."""

    @property
    def shards(self) -> str:
        """The directory of its shards, relative to the bank."""
        return f"{self.name}/shards"


def recordings(storage: Storage) -> list[Recording]:
    """All recordings of a bank, sorted by name.

    Raises:
        BankError: the bank cannot be read, or is of a later version's format.
    """
    return [_read(storage, name) for name in storage.directories() if storage.exists(f"{name}/{_ABOUT}")]


def create(storage: Storage, fingerprint: Fingerprint, made_with: dict[str, str]) -> Recording:
    """The recording with this fingerprint, which is created if it does not exist."""
    recording = Recording(fingerprint.digest, fingerprint, made_with)
    path = f"{recording.name}/{_ABOUT}"
    if storage.exists(path):
        return _read(storage, recording.name)
    about = {"format": FORMAT, "fingerprint": dict(fingerprint.fields), "made_with": made_with}
    storage.put(path, (json.dumps(about, indent=2, ensure_ascii=False) + "\n").encode())
    return recording


def matching(storage: Storage, run: Fingerprint, named: str | None) -> Recording:
    """The recording that a run reads.

    Args:
        run: the fingerprint of what the run would record.
        named: bank.recording.

    Raises:
        BankError: none matches (the message names the differences of the one with the fewest), or `named` fits none or
            several.
    """
    found = recordings(storage)
    if named is not None:
        return _named(found, storage, run, named)
    for recording in found:
        if recording.name == run.digest:
            return recording
    if not found:
        raise BankError(f"bank.path {storage.url} holds no recordings; s2l explore CONFIG makes one")
    nearest = min(found, key=lambda recording: len(recording.fingerprint.differences(run)))
    raise BankError(
        f"no recording in {storage.url} was made with this run's settings; the nearest, {nearest.name}, differs: "
        f"{'; '.join(nearest.fingerprint.differences(run))}. Change the settings, record with s2l explore CONFIG, or "
        f"name a recording (bank.recording), which may then differ in {' and '.join(FREE_WHEN_NAMED)} only"
    )


def _named(found: list[Recording], storage: Storage, run: Fingerprint, named: str) -> Recording:
    chosen = [recording for recording in found if recording.name.startswith(named)]
    if len(chosen) != 1:
        names = ", ".join(recording.name for recording in chosen or found) or "none"
        raise BankError(
            f"bank.recording {named}: {len(chosen)} recordings in {storage.url} are named so; "
            f"{'they are' if chosen else 'there are'} {names}"
        )
    if differences := chosen[0].fingerprint.differences(run, but=FREE_WHEN_NAMED):
        raise BankError(f"bank.recording {chosen[0].name} does not fit this run: {'; '.join(differences)}")
    return chosen[0]


def _read(storage: Storage, name: str) -> Recording:
    path = f"{name}/{_ABOUT}"
    try:
        about = json.loads(storage.read(path))
        if (version := about["format"]) == FORMAT:
            return Recording(name, Fingerprint(dict(about["fingerprint"])), dict(about["made_with"]))
    except MISREAD as error:
        raise BankError(
            f"bank.path: {storage.url}/{path} is not a recording's ({misread(error)}); move it away"
        ) from None
    raise BankError(f"bank.path: {storage.url}/{path} has format {version}, this version of s2l-ray reads {FORMAT}")
