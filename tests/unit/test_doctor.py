"""What `s2l doctor` says of Python's compiled modules."""

from __future__ import annotations

import sys

import pytest

from s2l_ray.commands import doctor


def compiled() -> tuple[bool, str]:
    (found,) = [finding for finding in doctor.examine() if finding.what == "compiled modules"]
    assert not found.needed
    return found.good, found.detail


def test_modules_that_are_compiled_in_every_process_are_a_note(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "dont_write_bytecode", False)
    assert compiled() == (True, "kept")
    monkeypatch.setattr(sys, "dont_write_bytecode", True)
    monkeypatch.setattr("importlib.util.cache_from_source", lambda path: "/nowhere/torch.pyc")
    assert compiled() == (False, "not kept, PYTHONDONTWRITEBYTECODE is set")
    monkeypatch.setattr("importlib.util.cache_from_source", lambda path: __file__)
    assert compiled() == (True, "kept")
