"""Ask the vulnerability service about every pinned package of the lock files. `make audit` calls it; needs the network.

    python requirements/audit.py requirements/*.lock

Findings that requirements/accepted.txt names with a reason are left out. What the service does not know at all counts
as a failure, since nothing was checked then: an index that only mirrors packages has no vulnerability data.
"""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

ACCEPTED = Path(__file__).with_name("accepted.txt")
TIMEOUT_S = 1800


def accepted(text: str) -> list[str]:
    """The ids of accepted findings.

    Raises:
        ValueError: one has no reason.
    """
    ids = []
    for line in text.splitlines():
        finding, _, reason = line.partition("#")
        if finding.strip():
            if not reason.strip():
                raise ValueError(f"{ACCEPTED.name}: {finding.strip()} has no reason; write one behind a #")
            ids.append(finding.strip())
    return ids


def unchecked(report: str) -> list[str]:
    """Packages that the service said nothing about, each with the reason, of pip-audit's JSON."""
    packages = json.loads(report)["dependencies"]
    return [f"{package['name']}: {package['skip_reason']}" for package in packages if "skip_reason" in package]


def main(locks: list[str]) -> int:
    """Audit lock files; returns 0 if nothing was found, and everything was looked at."""
    ignored = [word for finding in accepted(ACCEPTED.read_text()) for word in ("--ignore-vuln", finding)]
    failed = False
    for lock in locks:
        command = [sys.executable, "-m", "pip_audit", "--no-deps", "--disable-pip", "--format", "json", *ignored]
        done = subprocess.run([*command, "-r", lock], capture_output=True, text=True, timeout=TIMEOUT_S, check=False)
        try:
            skipped = unchecked(done.stdout)
        except ValueError:
            print(f"{lock}: pip-audit gave no report: {done.stderr.strip().splitlines()[-1:]}")
            failed = True
            continue
        found = [package for package in json.loads(done.stdout)["dependencies"] if package.get("vulns")]
        for package in found:
            for finding in package["vulns"]:
                fixed = ", ".join(finding["fix_versions"]) or "no version yet"
                print(f"{lock}: {package['name']} {package['version']}: {finding['id']}, fixed in {fixed}")
        if skipped:
            print(f"{lock}: {len(skipped)} packages were not looked at, such as {skipped[0]}")
        failed |= bool(found or skipped)
        if not (found or skipped):
            print(f"{lock}: nothing found")
    return int(failed)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
