"""The process of one stage: `python -m s2l_ray.gpu_check.process STAGE MODULE SECONDS RESULT_FILE`."""

from __future__ import annotations

import importlib
import os
import sys
import traceback
from pathlib import Path

import transformers

from s2l_ray.gpu_check.check import Check, Skip
from s2l_ray.machine.processes import die_with_parent


def main(name: str, module: str, seconds: str, file: str) -> int:
    """Run one stage, and return the exit status: 1 if it failed."""
    die_with_parent()
    transformers.utils.logging.disable_progress_bar()  # what a stage complains of is shown if it fails
    check = Check(name, float(seconds), Path(file))
    skipped = None
    try:
        importlib.import_module(module).run(check)
    except Skip as reason:
        skipped = str(reason)
    except Exception as error:
        traceback.print_exc()
        check.expect(False, f"{type(error).__name__}: {error}")
    return int(check.finish(skipped) == "FAIL")


if __name__ == "__main__":
    exit_status = main(*sys.argv[1:])
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(exit_status)  # what vLLM started may keep an interpreter that is done
