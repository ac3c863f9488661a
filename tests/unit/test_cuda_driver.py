"""What is asked of CUDA's driver, against a library with its calls."""

from __future__ import annotations

import shutil
import subprocess
from pathlib import Path

import pytest

from s2l_ray.machine.cuda_driver import LIBRARY, ask_driver, first_gpu_bytes

H100 = 84_942_979_072
"""Of an H100 with 80 GB by torch; nvidia-smi says 85,520,809,984."""
DRIVER = """
#include <stddef.h>
#include <stdlib.h>
static int ready = 0;
int cuInit(unsigned flags) {
    const char *visible = getenv("CUDA_VISIBLE_DEVICES");
    if (visible && !*visible) return 100; /* no device */
    ready = flags == 0;
    return 0;
}
int cuDeviceGet(int *device, int ordinal) { *device = ordinal + 7; return ready ? 0 : 3; }
int cuDeviceTotalMem_v2(size_t *bytes, int device) { *bytes = 84942979072ull; return device == 7 ? 0 : 101; }
"""


@pytest.fixture
def driver(tmp_path: Path) -> Path:
    compiler = shutil.which("cc") or shutil.which("gcc")
    if compiler is None:
        pytest.skip("needs a C compiler")
    (tmp_path / "driver.c").write_text(DRIVER)
    library = tmp_path / LIBRARY
    subprocess.run([compiler, "-shared", "-fPIC", "-o", library, tmp_path / "driver.c"], check=True)
    return library


def test_the_total_is_the_driver_s(driver: Path) -> None:
    assert ask_driver(str(driver)) == H100


def test_a_task_of_ray_that_may_use_no_gpu_is_told_all_the_same(driver: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("LD_LIBRARY_PATH", str(driver.parent))
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "")
    assert first_gpu_bytes() == H100


def test_without_a_driver_the_reason_is_said(tmp_path: Path) -> None:
    with pytest.raises(OSError, match=r"no\.so"):
        ask_driver(str(tmp_path / "no.so"))


def test_what_the_driver_reports_is_said(driver: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "")
    with pytest.raises(OSError, match="cuInit .* error 100"):
        ask_driver(str(driver))
