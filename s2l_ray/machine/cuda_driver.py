"""What CUDA's driver says of a GPU, asked without torch and without a context, which would take memory of it.

    python -m s2l_ray.machine.cuda_driver

prints the bytes of the first GPU. A process of its own asks, because the driver reads CUDA_VISIBLE_DEVICES only once.
"""

from __future__ import annotations

import ctypes
import os
import subprocess
import sys

LIBRARY = "libcuda.so.1"
ANSWER_S = 60.0


def first_gpu_bytes() -> int:
    """Total memory of this machine's first GPU as torch and vLLM have it, in bytes.

    nvidia-smi's total also has what the driver keeps to itself: 0.3 to 0.7 GiB, of which no engine gets anything.

    Raises:
        OSError: CUDA does not start here; says why.
    """
    environment = {name: value for name, value in os.environ.items() if name != "CUDA_VISIBLE_DEVICES"}
    command = [sys.executable, "-m", "s2l_ray.machine.cuda_driver"]
    asked = subprocess.run(command, capture_output=True, text=True, env=environment, timeout=ANSWER_S, check=False)
    if asked.returncode != 0:
        raise OSError(f"CUDA does not start: {asked.stderr.strip().splitlines()[-1]}")
    return int(asked.stdout)


def ask_driver(library: str = LIBRARY) -> int:
    """Total memory of the first GPU that this process may use, in bytes.

    Args:
        library: CUDA's driver, which is part of the kernel driver's installation.

    Raises:
        OSError: the library is not there, or reports an error.
    """
    cuda = ctypes.CDLL(library)
    device, total = ctypes.c_int(), ctypes.c_size_t()
    for call, arguments in (
        ("cuInit", (0,)),
        ("cuDeviceGet", (ctypes.byref(device), 0)),
        ("cuDeviceTotalMem_v2", (ctypes.byref(total), device)),
    ):
        if code := getattr(cuda, call)(*arguments):
            raise OSError(f"{call} of {library} reports error {code}")
    return total.value


if __name__ == "__main__":
    try:
        print(ask_driver())
    except OSError as error:
        sys.exit(str(error))
