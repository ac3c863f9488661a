"""The KV cache that a real vLLM engine allocates, against the ledger's closed form."""

from __future__ import annotations

import json
import subprocess
import sys

from s2l_ray.miniature.build import Family
from s2l_ray.planner.architecture import ModelShape
from s2l_ray.planner.memory import CPU_BLOCK_TOKENS, kv_bytes_per_token, kv_cache_bytes_for
from tests.support.paths import ROOT
from tests.support.patience import PATIENCE_S

MAX_MODEL_LEN = 300


def test_an_engine_allocates_the_least_kv_cache_and_no_engine_starts_with_less(family: Family) -> None:
    shape = ModelShape.load(str(family.large))
    least = kv_cache_bytes_for(shape, MAX_MODEL_LEN, 1, block_tokens=CPU_BLOCK_TOKENS)
    probe = [
        sys.executable,
        "-m",
        "tests.support.engine_memory_probe",
        str(family.large),
        str(least),
        str(MAX_MODEL_LEN),
    ]
    done = subprocess.run(probe, cwd=ROOT, capture_output=True, text=True, timeout=PATIENCE_S, check=False)
    assert done.returncode == 0, done.stderr[-2000:]
    found = json.loads(done.stdout.splitlines()[-1])
    assert found["bytes"] == least
    assert found["block_tokens"] == CPU_BLOCK_TOKENS
    assert found["blocks"] == 3 + 1  # 300 tokens, and the null block
    assert found["bytes"] / (found["blocks"] * found["block_tokens"]) == kv_bytes_per_token(shape, 1)
    assert "KV" in found["refused"] and "max" in found["refused"]
