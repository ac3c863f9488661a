"""vLLM's engine in processes of its own: what an engine runs on, unless it is `in_process`."""

from __future__ import annotations

from vllm.v1.engine.async_llm import AsyncLLM


class SeparateLLM(AsyncLLM):
    """AsyncLLM with a pause that ends as soon as the engine stands still."""

    async def pause(self, mode: str) -> None:
        """Stop sampling, and drop the cache, that of running requests too: "keep" them, or "wait" until they are done.

        AsyncLLM.pause_generation does the same and then sleeps for 20 ms.
        """
        await self.engine_core.pause_scheduler_async(mode=mode, clear_cache=True)

    async def check_health(self) -> None:
        """Return once the engine's core has answered, which it does after the step that it is in.

        AsyncLLM's own only looks whether the core's process has ended.
        """
        await super().check_health()
        await self.is_sleeping()
