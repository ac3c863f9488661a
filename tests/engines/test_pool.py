from __future__ import annotations

import builtins
import json
import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import psutil
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from s2l_ray.errors import ConfigError
from s2l_ray.extensions import VERIFIERS
from s2l_ray.rollouts.records import Prompt, Verdict
from s2l_ray.tasks import verifier_process
from s2l_ray.tasks.pool import VerifierPool
from s2l_ray.tasks.verdict_log import LoggedVerdict, VerdictLog
from s2l_ray.tasks.verifier_process import CHUNK, CHUNK_CHARACTERS, VerifierProcess, _chunk, item
from s2l_ray.tasks.verifiers import VerifierError, resolve_verifier
from tests.support.paths import ROOT

ANY_TEXT = st.text(st.characters(), max_size=40)
"""Lone surrogates and NUL included."""
ANY_MATH = st.text("0123456789+-*/^!(){}[]\\x.,=%$ ", max_size=12)
ANY_RESPONSE = ANY_TEXT | ANY_MATH.map("\\boxed{{{}}}".format) | ANY_MATH.map("The answer is {}".format)
USERS_MODULE = """
import builtins, multiprocessing, os, re, signal, subprocess, sys, threading, time
from pathlib import Path

SLEEP = "import os, sys, time; print(os.getpid(), file=open(sys.argv[1], 'a'), flush=True); time.sleep(60)"

def daemon():
    if os.fork():
        return
    os.setsid()
    if os.fork():
        os._exit(0)
    note()
    time.sleep(60)

def note():
    with open(os.environ["PIDS"], "a") as file:
        file.write(f"{os.getpid()}\\n")

def start_processes():
    "A child, one in a session of its own with no environment, a daemon, and one that has all of our descriptors."
    note()
    sleep = [sys.executable, "-c", SLEEP, os.environ["PIDS"]]
    subprocess.Popen(sleep)
    subprocess.Popen(sleep, start_new_session=True, env={})
    daemon()
    if not os.fork():
        note()
        time.sleep(60)
    while len(Path(os.environ["PIDS"]).read_text().splitlines()) < 5:
        time.sleep(0.01)

class Unprintable(Exception):
    def __str__(self):
        raise ValueError("no text")

class Odd:
    def __float__(self): raise ValueError("no float")
    def __repr__(self): raise ValueError("no repr")

def check(response, answer, question):
    verb, _, rest = response.partition(" ")
    if verb == "print":
        print("a verifier may print")
    if verb == "processes":
        start_processes()
        if rest == "exit":
            os._exit(3)
        if rest == "stay":
            time.sleep(60)
        if rest == "hold the lock":
            re.match("(a+)+$", "a" * 40 + "b")
        return True
    if verb == "fork":
        os.fork()
        return rest == answer
    if verb == "orphan":
        os.kill(os.getppid(), signal.SIGKILL)
        time.sleep(60)
    if verb == "read":
        return input()
    if verb == "close":
        os.closerange(0, 3)
        print("into nothing", flush=True)
    if verb == "close-all":
        os.closerange(0, 4096)
    if verb == "handlers":
        for number in (signal.SIGTERM, signal.SIGINT, signal.SIGCHLD):
            signal.signal(number, signal.SIG_IGN)
        signal.alarm(1)
        signal.signal(signal.SIGALRM, lambda *_: 1 / 0)
        time.sleep(60)
    if verb == "thread":
        threading.Thread(target=time.sleep, args=(60,)).start()
        return True
    if verb == "recurse":
        return check(response, answer, question)
    if verb == "memory":
        return bytearray(2**62)
    if verb == "unprintable":
        raise Unprintable
    if verb == "odd":
        return Odd()
    if verb == "builtin":
        raise getattr(builtins, answer)(question)
    if verb == "stop":
        raise StopIteration
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
    monkeypatch.setenv("PIDS", str(tmp_path / "pids"))
    (tmp_path / "users_verifier.py").write_text(USERS_MODULE)
    monkeypatch.syspath_prepend(tmp_path)
    yield "users_verifier:check"
    sys.modules.pop("users_verifier", None)


@pytest.fixture(scope="module")
def lasting(tmp_path_factory) -> Iterator[VerifierProcess]:
    """The same verifier, in a process for several examples."""
    directory = tmp_path_factory.mktemp("lasting")
    (directory / "lasting_verifier.py").write_text(USERS_MODULE)
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(directory)
        with VerifierProcess("lasting_verifier:check", 20) as process:
            process.start()
            yield process


@pytest.fixture(scope="module")
def math_process() -> Iterator[VerifierProcess]:
    with VerifierProcess("math", 2) as process:
        yield process


def statuses(verdicts: list[Verdict]) -> list[str]:
    return [verdict.status for verdict in verdicts]


def test_math_in_a_process():
    with VerifierProcess("math", 20) as process:
        verdicts = process.check([(r"\boxed{x+1}", "1+x", ""), ("The answer is 5.", "6", ""), ("?", "6", "")])
    assert statuses(verdicts) == ["right", "wrong", "unparsable"]
    assert [v.reward for v in verdicts] == [1.0, 0.0, 0.0]


SPINNING = """
import re, time
from s2l_ray.extensions import VERIFIERS

def spin(response, answer, question):
    if response == "spin":
        re.match("(a+)+$", "a" * 60 + "b")  # holds the interpreter's lock: only a kill from outside ends it
    time.sleep(float(answer or 0))
    return True

VERIFIERS._built_in["spin"] = spin
"""


@pytest.fixture
def built_in(tmp_path, monkeypatch) -> str:
    """A built-in verifier that takes time, which none of ours does, here and in workers."""
    (tmp_path / "sitecustomize.py").write_text(SPINNING)
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.setitem(VERIFIERS._built_in, "spin", "sitecustomize:spin")
    return "spin"


def test_an_endless_computation_times_out_and_the_rest_goes_on(built_in):
    with VerifierProcess(built_in, 0.5) as process:
        verdicts = process.check([("", "", ""), ("spin", "", ""), ("", "", "")])
    assert statuses(verdicts) == ["right", "timeout", "right"]
    assert verdicts[1] == Verdict("timeout", 0.0, "killed after 0.5 s of processor time")


def test_waiting_costs_a_built_in_verifier_no_time_until_the_clock_says_it_is_stuck(built_in, monkeypatch):
    monkeypatch.setattr(verifier_process, "WALL_PER_PROCESSOR_S", 8)
    with VerifierProcess(built_in, 0.25) as process:
        verdicts = process.check([("", "0.5", ""), ("", "60", ""), ("", "", "")])
    assert statuses(verdicts) == ["right", "timeout", "right"]


def test_no_answer_keeps_the_math_verifier_busy():
    tower = r"\boxed{9^{9^{9^{9}}}+x}"
    with VerifierProcess("math", 1.0) as process:
        verdicts = process.check(
            [(tower, "x+5", ""), (r"\boxed{2^{2025}}", "2^{2024}", ""), (tower, "9^{9^{9^{9}}}+x", "")]
        )
    assert statuses(verdicts) == ["wrong", "wrong", "right"]


def test_each_item_has_its_own_limit(users):
    with VerifierProcess(users, 1.5) as process:
        verdicts = process.check([("sleep 0.5", "", "")] * 4 + [("sleep 30", "", ""), ("a", "a", "")])
    assert statuses(verdicts) == ["wrong"] * 4 + ["timeout", "right"]


def test_a_log_has_whole_entries_only():
    log, entries = VerdictLog(), [LoggedVerdict(1.5, "right", 1.0, 'a "5",\n'), LoggedVerdict(2.5, "timeout", 0.0, "")]
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
    with VerifierProcess(users, 1.5) as process:
        verdicts = process.check([*quick, ("sleep 30", "", ""), *quick, ("die", "", ""), *quick])
    alternating = ["right", "wrong"] * 20
    assert statuses(verdicts) == [*alternating, "timeout", *alternating, "failed", *alternating]


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


def test_answers_that_kill_every_worker_fail_and_the_rest_goes_on(users):
    with VerifierProcess(users, 20) as process:
        verdicts = process.check([("die", "", ""), ("a", "a", ""), *[("die", "", "")] * 4, ("b", "b", "")])
    assert statuses(verdicts) == ["failed", "right", *["failed"] * 4, "right"]
    assert verdicts[0].detail == "its check killed two workers: SIGSEGV"


@pytest.mark.parametrize(
    ("verb", "reason"),
    [
        ("raise", r"the verifier raised ZeroDivisionError: in the verifier \(.*users_verifier.py, line \d+, in che"),
        ("exit", "the verifier raised SystemExit: 0"),
        ("read", "the verifier raised EOFError"),
        ("stop", "the verifier raised StopIteration"),
        ("recurse", "the verifier raised RecursionError"),
        ("memory", "the verifier raised MemoryError"),
        ("unprintable", "the verifier raised users_verifier.Unprintable: <exception str\\(\\) failed>"),
        ("odd", "verifier users_verifier:check returned <Odd instance at 0x[0-9a-f]+>, of type Odd; return a bool"),
        ("number nan", "verifier users_verifier:check returned nan, of type float; return a bool"),
        ("close", "the verifier raised OSError: .*Bad file descriptor"),
        ("close-all", "its check killed two workers: exit status 1"),
        ("handlers", "the verifier raised ZeroDivisionError"),
        ("orphan", "its check killed two workers: SIGKILL"),
        ("builtin KeyboardInterrupt", "the verifier raised "),
    ],
)
def test_whatever_a_users_function_does_is_a_verdict_and_the_rest_goes_on(users, verb, reason):
    with VerifierProcess(users, 20) as process:
        verdicts = process.check([("a", "a", ""), (verb, "", ""), ("b", "b", ""), ("thread", "", ""), ("c", "", "")])
        assert statuses(verdicts) == ["right", "failed", "right", "right", "wrong"]
        assert re.match(reason, verdicts[1].detail)


EXCEPTIONS = sorted(name for name, kind in vars(builtins).items() if str(kind).startswith("<class '") and "E" in name)


@settings(max_examples=40, deadline=None)
@given(st.lists(st.tuples(st.sampled_from(EXCEPTIONS), ANY_TEXT), min_size=1, max_size=8))
def test_any_exception_is_a_verdict(lasting, raised):
    verdicts = lasting.check([("builtin", name, message) for name, message in raised])
    assert statuses(verdicts) == ["failed"] * len(raised)
    for verdict in verdicts:
        assert verdict.reward == 0.0 and "raised" in verdict.detail
        verdict.detail.encode()


@example([("\\boxed{2^{2024}}", "2^{2025}", ""), ("\\boxed{\ud800}", "5", "\0")])
@settings(max_examples=30, deadline=None, derandomize=True)
@given(st.lists(st.tuples(ANY_RESPONSE, ANY_TEXT | ANY_MATH, ANY_TEXT), min_size=1, max_size=8))
def test_any_texts_get_a_verdict(math_process, items):
    verdicts = math_process.check(items)
    assert len(verdicts) == len(items)
    for verdict in verdicts:
        assert verdict.status in ("right", "wrong", "unparsable", "timeout") and verdict.reward in (0.0, 1.0)
        verdict.detail.encode()


@pytest.mark.parametrize("then", ["stay", "exit", "return"])
def test_processes_that_a_users_function_starts_end_with_its_worker(users, tmp_path, then):
    with VerifierProcess(users, 5 if then == "stay" else 60) as process:
        verdicts = process.check([(f"processes {then}", "", ""), ("a", "a", "")])
        assert statuses(verdicts) == [{"stay": "timeout", "exit": "failed", "return": "right"}[then], "right"]
        if then != "return":
            assert running(tmp_path / "pids") == []
    assert len((tmp_path / "pids").read_text().splitlines()) >= (1 if then == "stay" else 5)  # or a busy machine fails
    assert running(tmp_path / "pids") == []


def test_a_child_that_returns_from_the_verifier_too_gives_no_verdicts(users):
    with VerifierProcess(users, 20) as process:
        verdicts = process.check([("fork a", "a", ""), ("b", "", ""), ("fork c", "", ""), ("d", "d", "")] * 5)
    assert statuses(verdicts) == ["right", "wrong", "wrong", "right"] * 5


def test_rewards_between_0_and_1_and_impossible_ones(users):
    with VerifierProcess(users, 20) as process:
        verdicts = process.check([("number 0.25", "", ""), ("number 1", "", ""), ("number 1.5", "", "")])
    assert verdicts[:2] == [Verdict("wrong", 0.25), Verdict("right", 1.0)]
    assert (verdicts[2].status, verdicts[2].reward) == ("failed", 0.0)
    assert "returned 1.5, of type float; return a bool" in verdicts[2].detail


def test_chunks_are_bounded_in_answers_and_characters():
    small, large = ("a", "b", "c"), ("x" * CHUNK_CHARACTERS, "", "")
    assert [len(_chunk([small] * 100, start)) for start in (0, 64)] == [CHUNK, 36]
    assert [len(_chunk([small, large, large, small], start)) for start in range(4)] == [1, 1, 1, 1]
    assert _chunk([small, small, large], 1) == [small]


def test_a_worker_that_does_not_read_is_not_waited_for(users, monkeypatch):
    monkeypatch.setattr(verifier_process, "SEND_TIMEOUT_S", 3)
    monkeypatch.setattr(verifier_process, "_REAP_TIMEOUT_S", 0.5)
    with VerifierProcess(users, 20) as process:
        process.start()
        os.kill(child_of(process._worker.process.pid), signal.SIGSTOP)
        assert statuses(process.check([("x" * 10**6, "", ""), ("a", "a", "")])) == ["wrong", "right"]


def test_the_pool_keeps_order_and_reports_progress(users):
    items = [("sleep 0.2", "", "") if i == 3 else (str(i), str(i if i % 3 else -1), "") for i in range(100)]
    seen: list[int] = []
    with VerifierPool(users, 2, 20) as pool:
        pool.start()
        verdicts = pool.check(items, seen.append)
    assert statuses(verdicts) == ["right" if i % 3 else "wrong" for i in range(100)]
    assert seen == list(range(1, 101))


def test_close_ends_a_running_check_and_its_worker(users, tmp_path):
    pid_file = tmp_path / "pid"
    pool = VerifierPool(users, 1, 60)
    future = pool._threads.submit(pool._check, [(f"pid {pid_file}", "", "")])
    pid = wait_for_pid(pid_file)
    pool.close()
    assert not is_running(pid)
    with pytest.raises(VerifierError, match="closed"):
        future.result(timeout=5)


@pytest.mark.parametrize("then", ["stay", "hold the lock"])
def test_workers_and_their_processes_die_with_a_killed_parent(users, tmp_path, then):
    code = f"""
from s2l_ray.tasks.verifier_process import VerifierProcess
VerifierProcess({users!r}, 600).check([("processes {then}", "", "")])
"""
    environment = os.environ | {"PYTHONPATH": f"{ROOT}{os.pathsep}{tmp_path}"}
    parent = subprocess.Popen([sys.executable, "-c", code], env=environment)
    pids = tmp_path / "pids"
    wait_until(lambda: pids.is_file() and len(pids.read_text().splitlines()) == 5)
    parent.kill()
    parent.wait()
    wait_until(lambda: running(pids) == [])


def wait_until(condition: Callable[[], bool]) -> None:
    deadline = time.monotonic() + 60
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.05)


def wait_for_pid(path: Path) -> int:
    wait_until(lambda: path.is_file() and path.read_text() != "")
    return int(path.read_text())


def running(pids: Path) -> list[int]:
    return [int(line) for line in pids.read_text().splitlines() if is_running(int(line))]


def child_of(pid: int) -> int:
    [child] = psutil.Process(pid).children()
    return child.pid


def is_running(pid: int) -> bool:
    try:
        return psutil.Process(pid).status() != psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return False


def test_a_worker_knows_nothing_of_ray_torch_and_vllm(tmp_path, monkeypatch):
    (tmp_path / "list_modules.py").write_text(
        "import sys\ndef check(response, answer, question):\n"
        "    return not {'ray', 'torch', 'vllm', 'transformers', 'pydantic'} & set(sys.modules)\n"
    )
    monkeypatch.syspath_prepend(tmp_path)
    with VerifierProcess("list_modules:check", 20) as process:
        assert statuses(process.check([("", "", "")])) == ["right"]


def test_columns_reach_the_function_in_the_worker(tmp_path, monkeypatch):
    (tmp_path / "with_columns.py").write_text(
        "def check(response, answer, question, level, tests):\n    return level / 4 if response in tests else 0\n"
    )
    monkeypatch.syspath_prepend(tmp_path)
    prompt = Prompt("p", "q", "q", np.zeros(1, np.int32), "a", json.dumps({"level": 3, "tests": ["yes"]}))
    with VerifierPool("with_columns:check", 1, 20, columns=["tests", "level"]) as pool:
        assert [verdict.reward for verdict in pool.check([item("yes", prompt), item("no", prompt)])] == [0.75, 0.0]


@pytest.mark.parametrize(
    ("kind", "message"),
    [
        ("no_such_module:check", r"verifier.kind: cannot import no_such_module:check"),
        ("users_verifier:missing", r"verifier.kind: cannot import users_verifier:missing"),
        ("users_verifier:not_callable", r"verifier.kind: .* is 5, not a function"),
        (
            "users_verifier",
            r"verifier.kind: 'users_verifier' must be one of math, choice, countdown, or your own module:function",
        ),
    ],
)
def test_an_unusable_kind_is_a_config_error_before_and_in_the_worker(users, kind, message):
    with pytest.raises(ConfigError, match=message):
        resolve_verifier(kind)
    with VerifierPool(kind, 1, 5) as pool, pytest.raises(ConfigError, match=message):
        pool.start()
