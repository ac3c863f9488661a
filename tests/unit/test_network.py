"""Network interfaces, by their addresses."""

from __future__ import annotations

from s2l_ray.machine.network import interface_of


def test_an_address_has_an_interface_or_there_is_none():
    assert interface_of("127.0.0.1") == "lo"
    assert interface_of("192.0.2.1") is None  # for documentation alone (RFC 5737)
