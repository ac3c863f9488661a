"""Where the files of a bank are."""

from __future__ import annotations

from s2l_ray.errors import BankError
from s2l_ray.machine.places import output_path
from s2l_ray.machine.storage import Storage


def bank_storage(path: str) -> Storage:
    """The files of the bank at bank.path, a directory or a URI.

    Raises:
        BankError: the file system does not exist, or refuses.
    """
    return Storage(path if "://" in path else str(output_path(path)), "bank.path", BankError)
