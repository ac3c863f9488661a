"""Network interfaces of this machine."""

from __future__ import annotations

import psutil


def interface_of(address: str) -> str | None:
    """Name of the interface that has this address, such as eth0; None if there is none."""
    interfaces = psutil.net_if_addrs().items()
    return next((str(name) for name, own in interfaces if any(found.address == address for found in own)), None)
