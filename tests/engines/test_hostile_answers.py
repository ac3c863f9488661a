"""A share of the hostile answers through real workers; `make bench ARGS=verifier_fuzz` has all of them."""

from __future__ import annotations

from pathlib import Path

import psutil
import pytest

from s2l_ray.extensions import VERIFIERS
from s2l_ray.tasks.pool import VerifierPool
from s2l_ray.tasks.verifier_process import VerifierProcess
from tests.support.hostile_answers import COUNTDOWN, QUESTION, HostileAnswer, hand_made, random_ones

FIRST = 50


def some(canary: Path) -> list[HostileAnswer]:
    by_hand = [one for n, one in enumerate(hand_made(str(canary))) if n % 7 == 0 or one.kind == "repeated in a box"]
    return [*random_ones(200, seed=0), *by_hand]


@pytest.mark.parametrize("kind", VERIFIERS.names)
def test_no_hostile_answer_escapes_its_bounds(kind: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    temporary = tmp_path / "temporary"
    temporary.mkdir()
    monkeypatch.setenv("TMPDIR", str(temporary))
    monkeypatch.chdir(temporary)
    answers = some(temporary / "canary")
    items = [(one.response, one.gold if kind == "math" else COUNTDOWN, QUESTION) for one in answers]
    me = psutil.Process()
    before = me.num_fds(), me.num_threads(), me.children(recursive=True)

    with VerifierPool(kind, 2, 5.0) as pool:
        pool.start()
        workers = [child for child in me.children(recursive=True) if child not in before[2]]
        verdicts = pool.check(items[:FIRST])
        memory = [worker.memory_info().rss for worker in workers]
        verdicts += pool.check(items[FIRST:])
        bad = [
            (one.kind, one.response[:80], verdict)
            for one, verdict in zip(answers, verdicts, strict=True)
            if verdict.status not in ("right", "wrong", "unparsable")
        ]
        assert not bad  # none raised, and none took 5 s: the workers are those that were started
        growth = [worker.memory_info().rss - then for worker, then in zip(workers, memory, strict=True)]

    mistaken = [
        (one.kind, one.response[:80], verdict.status)
        for one, verdict in zip(answers, verdicts, strict=True)
        if one.kind != "random" and (verdict.status == "right") != (one.right and kind == "math")
    ]
    assert not mistaken
    assert max(growth) < 64 * 2**20
    assert (me.num_fds(), me.num_threads(), me.children(recursive=True)) == before
    assert not list(temporary.iterdir())  # no canary, and nothing else


HOG = """
from s2l_ray.extensions import VERIFIERS

def hog(response, answer, question):
    return len(bytearray(int(response))) > 0

VERIFIERS._built_in["hog"] = hog
"""


def test_an_answer_that_asks_for_too_much_memory_is_refused_it_and_the_rest_goes_on(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    (tmp_path / "sitecustomize.py").write_text(HOG)
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.setitem(VERIFIERS._built_in, "hog", "sitecustomize:hog")
    three_quarters = psutil.virtual_memory().total * 3 // 4
    for kind, size in (("hog", 20 * 2**30), ("sitecustomize:hog", three_quarters)):
        with VerifierProcess(kind, 20.0) as process:
            verdicts = process.check([("1", "", ""), (str(size), "", ""), ("1000", "", "")])
        assert [verdict.status for verdict in verdicts] == ["right", "failed", "right"]
        assert "MemoryError" in verdicts[1].detail
