"""What `make audit` makes of pip-audit's report, and of the list of accepted findings."""

from __future__ import annotations

import json
import runpy

import pytest

from tests.support.paths import ROOT

AUDIT = runpy.run_path(str(ROOT / "requirements" / "audit.py"))


def test_accepted_findings_have_reasons():
    assert AUDIT["accepted"]((ROOT / "requirements" / "accepted.txt").read_text()) == []
    assert AUDIT["accepted"]("# a comment\n\nGHSA-1  # not called\n") == ["GHSA-1"]
    with pytest.raises(ValueError, match="GHSA-2 has no reason"):
        AUDIT["accepted"]("GHSA-1  # not called\nGHSA-2  #\n")


def test_what_was_not_looked_at_is_said():
    report = {"dependencies": [{"name": "a", "version": "1", "vulns": []}, {"name": "b", "skip_reason": "not found"}]}
    assert AUDIT["unchecked"](json.dumps(report)) == ["b: not found"]
