"""Install a lock file into this Python's environment, and say how far it is. Called by the Makefile.

    python requirements/install.py requirements/cpu.lock

pip does the work, with whatever index, cache and certificates it is configured for. Needs nothing but pip. A line every
few seconds: packages found so far, what is being downloaded, then how many are in place, each with the time left.
"""

from __future__ import annotations

import re
import subprocess
import sys
import sysconfig
import threading
import time
from pathlib import Path

EVERY_S = 5.0
"""Between two lines."""
WORTH_A_LINE_MB = 20.0
"""Downloads from this size on are named."""


class Progress:
    """What pip has done so far, from its own lines and from what lies in site-packages."""

    def __init__(self, packages: int, site: Path) -> None:
        self.packages = packages
        self._site = site
        self._before = self._installed()
        self._phase_began = time.monotonic()
        self.found = 0
        self.megabytes = 0.0
        self.installing = False

    def read(self, line: str) -> None:
        """Take a line of `pip install`."""
        if line.startswith("Collecting "):
            self.found += 1
        elif size := re.match(r"\s*Downloading (\S+) \(([\d.]+) (kB|MB|GB)\)", line):
            megabytes = float(size[2]) * {"kB": 1e-3, "MB": 1.0, "GB": 1e3}[size[3]]
            self.megabytes += megabytes
            if megabytes >= WORTH_A_LINE_MB:
                self.say(f"downloading {Path(size[1]).name.split('-')[0]}, {megabytes:.0f} MB")
        elif line.startswith("Installing collected packages"):
            self.installing, self._phase_began = True, time.monotonic()
            self.say(f"{self.megabytes:.0f} MB downloaded; unpacking {self.packages} packages")

    def tell(self) -> None:
        """Say how far it is."""
        done = self._installed() - self._before if self.installing else self.found
        what = "unpacked" if self.installing else "found"
        detail = "" if self.installing or not self.megabytes else f", {self.megabytes:.0f} MB downloaded"
        self.say(f"{done}/{self.packages} packages {what}{detail}{self._eta(done)}")

    def _eta(self, done: int) -> str:
        if not 0 < done < self.packages - 1:  # the last are large, and written when all is there
            return ""
        left = (time.monotonic() - self._phase_began) / done * (self.packages - done)
        return f"  ETA {round(left)}s"

    def _installed(self) -> int:
        return sum(1 for _ in self._site.glob("*.dist-info"))

    @staticmethod
    def say(text: str) -> None:
        """Print a line at once."""
        print(f"  {text}", flush=True)


def main(lock: Path) -> int:
    """Install `lock`; returns pip's exit status, having printed pip's own words where it failed."""
    packages = sum(1 for line in lock.read_text().splitlines() if line and not line.startswith("#"))
    progress = Progress(packages, Path(sysconfig.get_path("purelib")))
    command = [sys.executable, "-m", "pip", "install", "--disable-pip-version-check", "--progress-bar", "off"]
    command += ["--no-deps", "--no-compile", "--requirement", str(lock)]
    over = threading.Event()

    def tell() -> None:
        while not over.wait(EVERY_S):
            progress.tell()

    threading.Thread(target=tell, daemon=True).start()
    words: list[str] = []
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True) as pip:
        for line in pip.stdout:
            words.append(line)
            progress.read(line)
    over.set()
    if pip.returncode:
        errors = [line for line in words if line.startswith("ERROR")] or words[-10:]
        print("".join(errors), file=sys.stderr)
    return pip.returncode


if __name__ == "__main__":
    sys.exit(main(Path(sys.argv[1])))
