"""vLLM's engine in this process, stepped by a thread of its own: what a CPU engine of one worker runs on.

vLLM's AsyncLLM puts the engine's core into a second process and a CPU worker into a third. On a GPU that pays: they
prepare while the device works. On CPUs they only take cores from each other, and the messages between them cost as much
as the sampling of a small model.
"""

from __future__ import annotations

import asyncio
import os
import queue
import threading
from collections.abc import AsyncIterator, Callable
from concurrent.futures import Future
from typing import Any

from s2l_ray.errors import EngineDiedError, EngineError

Work = tuple[Callable[[], Any], Future[Any]]


class InProcessLLM:
    """The part of AsyncLLM's interface that `VllmEngine` uses (`engine.LLM`), with the same meaning, over LLMEngine.

    One at a time in a process, which should hold nothing else of torch.distributed's default group: vLLM takes it.
    Everything of vLLM's happens in the thread, between two of its steps; calls are bounded by what they do.
    """

    def __init__(self, args: Any) -> None:
        """Start the engine. Takes seconds.

        Args:
            args: vLLM's EngineArgs.
        """
        # Without it vLLM would start a process for a CPU worker.
        os.environ["VLLM_ENABLE_V1_MULTIPROCESSING"] = "0"
        self._inbox: queue.SimpleQueue[Work] = queue.SimpleQueue()
        self._finished: dict[str, Future[Any]] = {}
        self._drained: list[Future[Any]] = []
        self._failure: Exception | None = None
        self._open = True
        self._core: Any = None
        self._thread = threading.Thread(target=self._run, name="vllm", daemon=True)
        self._thread.start()
        self._call(self._start, args).result()  # vLLM bounds its own start

    def get_tokenizer(self) -> Any:
        """The model's tokenizer."""
        return self._engine.get_tokenizer()

    def get_num_unfinished_requests(self) -> int:
        """Samples that run or wait."""
        return int(self._engine.get_num_unfinished_requests())

    async def generate(self, prompt: Any, sampling_params: Any, request_id: str) -> AsyncIterator[Any]:
        """The request's only output, once all of it is sampled: `sampling_params.output_kind` must be FINAL_ONLY."""
        finished: Future[Any] = Future()

        def add() -> None:
            self._engine.add_request(request_id, prompt, sampling_params)
            self._finished[request_id] = finished

        await self._awaited(add)
        yield await asyncio.wrap_future(finished)

    async def abort(self, request_id: str) -> None:
        """Stop a request; what waits for it waits on, as its caller has given it up."""

        def abort() -> None:
            if self._finished.pop(request_id, None) is not None:
                self._engine.abort_request([request_id])

        await self._awaited(abort)

    async def pause(self, mode: str) -> None:
        """Stop sampling, and drop the cache: at once ("keep"), or when all that runs is done ("wait").

        Requests that come later wait for `resume_generation`, and those that "keep" stopped continue with it.
        """
        if mode == "wait":
            await self._drain()
        await self._awaited(lambda: self._core.pause_scheduler("keep", clear_cache=True))

    async def resume_generation(self) -> None:
        """Sample again after `pause`."""
        await self._awaited(self._core.resume_scheduler)

    async def sleep(self, level: int, mode: str) -> None:
        """Give the engine's memory back when all that runs is done. `mode` must be "wait"."""
        await self.pause(mode)
        await self._awaited(lambda: self._engine.sleep(level, "keep"))

    async def wake_up(self, tags: list[str]) -> None:
        """Take memory back: "weights", "kv_cache" or both."""
        await self._awaited(lambda: self._engine.wake_up(tags))

    async def collective_rpc(self, method: str, *, args: tuple[Any, ...]) -> list[Any]:
        """Call a method of every worker; returns their answers."""
        answers: list[Any] = await self._awaited(lambda: self._engine.collective_rpc(method, args=args))
        return answers

    async def check_health(self) -> None:
        """Return once the engine's thread has turned to this call, which it does after the step that it is in."""
        await self._awaited(lambda: None)

    async def update_weight_version(self, new_version: str) -> None:
        """Label what is sampled from here on."""
        await self._awaited(lambda: self._engine.set_weight_version(new_version))

    def shutdown(self, timeout: float) -> None:
        """Stop the engine, also a dead one; requests that run, and all later calls, end with an error."""
        self._call(self._close)
        self._thread.join(timeout)

    # ---- in the thread ----------------------------------------------------------------------------------------------

    def _run(self) -> None:
        while self._open:
            if self._core is not None and self._failure is None and self._core.scheduler.has_requests():
                self._step()
            else:
                self._note_drained()
                self._do(*self._inbox.get())
            while not self._inbox.empty():
                self._do(*self._inbox.get())

    def _do(self, work: Callable[[], Any], done: Future[Any]) -> None:
        if not done.set_running_or_notify_cancel():
            return
        try:
            done.set_result(work())
        except BaseException as error:  # the caller gets it
            done.set_exception(error)

    def _step(self) -> None:
        try:
            for output in self._engine.step():
                if (finished := self._finished.pop(output.request_id, None)) is not None:
                    _settle(finished, output)
        except Exception as error:
            self._fail(error)

    def _fail(self, error: Exception) -> None:
        """Nothing of this engine can be trusted any more: everybody gets the error."""
        self._failure = error
        for waiting in (*self._finished.values(), *self._drained):
            if waiting.set_running_or_notify_cancel():
                waiting.set_exception(_died(error))
        self._finished.clear()
        self._drained.clear()

    def _unless_dead(self, work: Callable[[], Any]) -> Any:
        if self._failure is not None:
            raise _died(self._failure)
        return work()

    def _start(self, args: Any) -> None:
        from vllm.v1.engine.llm_engine import LLMEngine

        self._engine = LLMEngine.from_engine_args(args)
        self._core = self._engine.engine_core.engine_core

    def _note_drained(self) -> None:
        while self._drained:
            _settle(self._drained.pop(), None)

    def _close(self) -> None:
        self._open = False
        self._fail(EngineError("closed"))
        self._engine.engine_core.shutdown()

    # ---- in the loop ------------------------------------------------------------------------------------------------

    async def _drain(self) -> None:
        """Start nothing new, and return when nothing runs."""
        from vllm.v1.core.sched.interface import PauseState

        drained: Future[Any] = Future()

        def begin() -> None:
            self._core.scheduler.set_pause_state(PauseState.PAUSED_NEW)
            self._drained.append(drained)

        await self._awaited(begin)
        await asyncio.wrap_future(drained)

    def _call(self, work: Callable[..., Any], *args: Any) -> Future[Any]:
        done: Future[Any] = Future()
        if self._open:
            self._inbox.put((lambda: work(*args), done))
        else:
            done.set_exception(_died(self._failure or EngineError("closed")))
        return done

    async def _awaited(self, work: Callable[[], Any]) -> Any:
        # Shielded: what was asked for is done, also when nobody waits for it any more.
        return await asyncio.shield(asyncio.wrap_future(self._call(self._unless_dead, work)))


def _died(why: Exception) -> EngineDiedError:
    error = EngineDiedError(f"the engine is gone: {type(why).__name__}: {why}")
    error.__cause__ = why
    return error


def _settle(waiting: Future[Any], result: Any) -> None:
    if waiting.set_running_or_notify_cancel():
        waiting.set_result(result)
