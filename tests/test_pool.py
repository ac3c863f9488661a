from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from pathlib import Path

import pytest

from s2l_ray.errors import ConfigError, DataError
from s2l_ray.rollout import Verdict
from s2l_ray.tasks.pool import VerifierPool, VerifierProcess
from s2l_ray.tasks.verdict_log import Entry, VerdictLog
from s2l_ray.tasks.verifiers import VerifierError, as_verdict, check_importable, resolve_verifier
from s2l_ray.tasks.verify_file import verify_file

ROOT = Path(__file__).resolve().parents[1]
USERS_MODULE = """
import os, signal, sys, time
from pathlib import Path

def check(response, answer, question):
    print("a verifier may print")
    verb, _, rest = response.partition(" ")
    if verb == "sleep":
        time.sleep(float(rest))
    if verb == "raise":
        raise ZeroDivisionError("in the verifier")
    if verb == "exit":
        sys.exit(0)
    if verb == "die":
        os.kill(os.getpid(), signal.SIGSEGV)
    if verb == "die-once" and not Path(rest).exists():
        Path(rest).touch()
        os._exit(3)
    if verb == "pid":
        Path(rest).write_text(str(os.getpid()))
        time.sleep(60)
    if verb == "number":
        return float(rest)
    return response == answer

not_callable = 5
"""


@pytest.fixture
def users(tmp_path, monkeypatch) -> str:
    """A verifier of a user's, importable as configured."""
    (tmp_path / "users_verifier.py").write_text(USERS_MODULE)
    monkeypatch.syspath_prepend(tmp_path)
    yield "users_verifier:check"
    sys.modules.pop("users_verifier", None)


def statuses(verdicts: list[Verdict]) -> list[str]:
    return [verdict.status for verdict in verdicts]


def test_math_in_a_process():
    with VerifierProcess("math", 20) as process:
        verdicts = process.check([(r"\boxed{x+1}", "1+x", ""), ("The answer is 5.", "6", ""), ("?", "6", "")])
    assert statuses(verdicts) == ["right", "wrong", "unparsable"]
    assert [v.reward for v in verdicts] == [1.0, 0.0, 0.0]


def test_an_endless_symbolic_check_times_out_and_the_rest_goes_on():
    tower = r"\boxed{9^{9^{9^{9}}}+x}"  # holds the interpreter's lock: only a kill from outside ends it
    with VerifierProcess("math", 1.0) as process:
        verdicts = process.check([(r"\boxed{5}", "5", ""), (tower, "x+5", ""), (r"\boxed{6}", "6", "")])
        assert statuses(verdicts) == ["right", "timeout", "right"]
        assert verdicts[1].reward == 0.0


def test_each_item_has_its_own_limit(users):
    with VerifierProcess(users, 1.5) as process:
        verdicts = process.check([("sleep 0.5", "", "")] * 4 + [("sleep 30", "", ""), ("a", "a", "")])
    assert statuses(verdicts) == ["wrong"] * 4 + ["timeout", "right"]


def test_a_log_has_whole_entries_only():
    log, entries = VerdictLog(), [Entry(1.5, "right", 1.0, 'a "5",\n'), Entry(2.5, "timeout", 0.0, "")]
    assert log.read() == []
    for entry in entries:
        VerdictLog(log.fd).append(entry)  # as a worker does, with the inherited descriptor
    os.write(log.fd, b'[3.5, "right", 1.')  # killed while it wrote
    assert log.read() == entries
    log.clear()
    assert log.read() == []
    log.append(entries[1])
    assert log.read() == entries[1:]
    log.close()


def test_verdicts_up_to_a_kill_are_kept_whatever_the_chunk(users):
    quick = [("a", "a", ""), ("b", "a", "")] * 20
    with VerifierProcess(users, 0.4) as process:
        verdicts = process.check([*quick, ("sleep 30", "", ""), *quick, ("die", "", ""), *quick])
    alternating = ["right", "wrong"] * 20
    assert statuses(verdicts) == [*alternating, "timeout", *alternating, "unparsable", *alternating]


def test_a_slow_start_does_not_count(tmp_path, monkeypatch):
    (tmp_path / "slow_import.py").write_text(
        "import time\ntime.sleep(1.5)\ndef check(response, answer, question): return True"
    )
    monkeypatch.syspath_prepend(tmp_path)
    with VerifierProcess("slow_import:check", 0.5) as process:
        assert statuses(process.check([("a", "b", "c")])) == ["right"]


def test_a_worker_that_dies_once_is_tried_again(users, tmp_path):
    with VerifierProcess(users, 20) as process:
        verdicts = process.check([("a", "a", ""), (f"die-once {tmp_path / 'flag'}", "", ""), ("a", "b", "")])
    assert statuses(verdicts) == ["right", "wrong", "wrong"]


def test_an_answer_that_kills_every_worker_is_unparsable_but_three_in_a_row_are_an_error(users):
    with VerifierProcess(users, 20) as process:
        verdicts = process.check([("die", "", ""), ("a", "a", ""), ("die", "", "")])
        assert statuses(verdicts) == ["unparsable", "right", "unparsable"]
        assert "SIGSEGV" in verdicts[0].detail
        with pytest.raises(
            VerifierError, match="3 answers in a row killed the workers of verifier users_verifier:check"
        ) as caught:
            process.check([("a", "a", "")] + [("die", "", "")] * 3)
        assert caught.value.index == 3


@pytest.mark.parametrize(("verb", "message"), [("raise", "ZeroDivisionError: in the verifier"), ("exit", "SystemExit")])
def test_a_bug_in_the_users_function_surfaces_with_its_traceback(users, verb, message):
    with VerifierProcess(users, 20) as process:
        with pytest.raises(VerifierError, match=rf"(?s)verifier users_verifier:check raised:.*{message}") as caught:
            process.check([("a", "a", "")] * 20 + [(verb, "", "")] + [("a", "a", "")] * 3)
        assert caught.value.index == 20
        assert statuses(process.check([("a", "a", ""), ("b", "a", "")])) == ["right", "wrong"]


def test_rewards_between_0_and_1_and_impossible_ones(users):
    with VerifierProcess(users, 20) as process:
        assert process.check([("number 0.25", "", ""), ("number 1", "", "")]) == [
            Verdict("wrong", 0.25),
            Verdict("right", 1.0),
        ]
        with pytest.raises(VerifierError, match=r"returned 1.5; return a bool"):
            process.check([("number 1.5", "", "")])
    for impossible in (None, "right", float("nan"), -1, Verdict("right", 2.0), Verdict("good", 1.0)):
        with pytest.raises(VerifierError, match="return a bool"):
            as_verdict(impossible, "m:f")


def test_the_pool_keeps_order_and_reports_progress(users):
    items = [("sleep 0.2", "", "") if i == 3 else (str(i), str(i if i % 3 else -1), "") for i in range(100)]
    seen: list[int] = []
    with VerifierPool(users, 2, 20) as pool:
        pool.start()
        verdicts = pool.check(items, seen.append)
    assert statuses(verdicts) == ["right" if i % 3 else "wrong" for i in range(100)]
    assert seen == list(range(1, 101))


def test_the_pool_says_which_answer_the_verifier_failed_on(users):
    with VerifierPool(users, 2, 20) as pool, pytest.raises(VerifierError) as caught:
        pool.check([("a", "a", "")] * 37 + [("raise", "", "")])
    assert caught.value.index == 37


def test_close_ends_a_running_check_and_its_worker(users, tmp_path):
    pid_file = tmp_path / "pid"
    pool = VerifierPool(users, 1, 60)
    future = pool._threads.submit(pool._check, [(f"pid {pid_file}", "", "")])
    pid = wait_for_pid(pid_file)
    pool.close()
    assert not is_running(pid)
    with pytest.raises(VerifierError, match="closed"):
        future.result(timeout=5)


def test_workers_die_with_a_killed_parent(users, tmp_path):
    pid_file = tmp_path / "pid"
    code = f"""
from s2l_ray.tasks.pool import VerifierProcess
VerifierProcess({users!r}, 60).check([("pid {pid_file}", "", "")])
"""
    environment = os.environ | {"PYTHONPATH": f"{ROOT}{os.pathsep}{tmp_path}"}
    parent = subprocess.Popen([sys.executable, "-c", code], env=environment)
    pid = wait_for_pid(pid_file)
    parent.kill()
    parent.wait()
    deadline = time.monotonic() + 10
    while is_running(pid) and time.monotonic() < deadline:
        time.sleep(0.05)
    assert not is_running(pid)


def wait_for_pid(path: Path) -> int:
    deadline = time.monotonic() + 30
    while time.monotonic() < deadline:
        if path.is_file() and (text := path.read_text()):
            return int(text)
        time.sleep(0.02)
    raise AssertionError("the worker did not start")


def is_running(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except FileNotFoundError:
        return False


def test_a_worker_knows_nothing_of_ray_torch_and_vllm(tmp_path, monkeypatch):
    (tmp_path / "list_modules.py").write_text(
        "import sys\ndef check(response, answer, question):\n"
        "    return not {'ray', 'torch', 'vllm', 'transformers', 'pydantic'} & set(sys.modules)\n"
    )
    monkeypatch.syspath_prepend(tmp_path)
    with VerifierProcess("list_modules:check", 20) as process:
        assert statuses(process.check([("", "", "")])) == ["right"]


@pytest.mark.parametrize(
    ("kind", "message"),
    [
        ("no_such_module:check", r"verifier.kind: cannot import no_such_module:check"),
        ("users_verifier:missing", r"verifier.kind: cannot import users_verifier:missing"),
        ("users_verifier:not_callable", r"verifier.kind: .* is 5, not a function"),
        ("users_verifier", r"verifier.kind: 'users_verifier' is not math, countdown or module:function"),
    ],
)
def test_an_unusable_kind_is_a_config_error_before_and_in_the_worker(users, kind, message):
    with pytest.raises(ConfigError, match=message):
        check_importable(kind)
    with VerifierPool(kind, 1, 5) as pool, pytest.raises(ConfigError, match=message):
        pool.start()


def test_countdown_is_exact():
    check_importable("countdown")
    verifier = resolve_verifier("countdown")
    assert verifier("3 * 7 = 21 ; 21 - 5 = 16 ; 16 + 2 = 18 .", "3 7 5 2 : 18", "").status == "right"
    assert verifier("3 * 7 = 21 ; 21 - 5 = 16 ; 16 + 2 = 19 .", "3 7 5 2 : 19", "").status == "wrong"


def write(path: Path, *rows: dict) -> Path:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return path


def test_verify_file_writes_one_row_per_row_in_order(tmp_path):
    source = write(
        tmp_path / "in.jsonl",
        {"answer": "gold\n#### 5", "response": r"\boxed{5}", "id": "a"},
        {"answer": 6, "response": "The answer is 5.", "question": "q"},
        {"answer": "6", "response": ""},
    )
    target = tmp_path / "deeper" / "out.jsonl"
    seen: list[tuple[int, int]] = []
    summary = verify_file(source, target, "math", 2, 20, lambda done, rows: seen.append((done, rows)))
    assert summary.counts == {"right": 1, "wrong": 1, "unparsable": 1, "timeout": 0}
    assert (summary.rows, seen) == (3, [(1, 3), (2, 3), (3, 3)])
    assert [json.loads(line) for line in target.read_text().splitlines()] == [
        {"id": "a", "line": 1, "verdict": "right", "reward": 1.0, "detail": "5"},
        {"line": 2, "verdict": "wrong", "reward": 0.0, "detail": "5"},
        {"line": 3, "verdict": "unparsable", "reward": 0.0, "detail": "no answer found"},
    ]
    assert not target.with_name("out.jsonl.partial").exists()


def test_verify_file_keeps_what_was_done_when_the_verifier_fails(users, tmp_path):
    rows = [{"answer": "a", "response": "a"}] * 20 + [{"answer": "a", "response": "raise", "id": "bad"}]
    with pytest.raises(VerifierError, match=r"in.jsonl, line 21 \(id bad\): verifier users_verifier:check raised"):
        verify_file(write(tmp_path / "in.jsonl", *rows), tmp_path / "out.jsonl", users, 1, 20)
    assert len((tmp_path / "out.jsonl.partial").read_text().splitlines()) >= 16
    assert not (tmp_path / "out.jsonl").exists()


@pytest.mark.parametrize(
    ("row", "message"),
    [
        ({"answer": "5"}, "line 2, field response: a text is needed"),
        ({"response": "5"}, "line 2, field answer: the gold answer is missing"),
        ({"response": "5", "answer": None}, "line 2, field answer must be a text or a number"),
        ({"response": "5", "answer": "5", "question": 5}, "line 2, field question must be a text"),
        ({"response": "5", "answer": "5", "id": {}}, "line 2, field id must be a text or an integer"),
    ],
)
def test_verify_file_names_a_malformed_row_before_it_writes(tmp_path, row, message):
    source = write(tmp_path / "in.jsonl", {"answer": "5", "response": "5"}, row)
    with pytest.raises(DataError, match=rf"in.jsonl, {message}"):
        verify_file(source, tmp_path / "out.jsonl")
    assert [p.name for p in tmp_path.iterdir()] == ["in.jsonl"]
