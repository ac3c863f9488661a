"""One member of the verifier pool: scores rollout sets in a process of its own that can be killed."""

from __future__ import annotations

import time
from collections.abc import Sequence

import ray

from actors.calls import TOKENS_ASIDE
from actors.liveness import Heartbeat
from s2l_ray.rollouts.records import Period, Prompt, RolloutSet, SetReport, Verdict, report_on
from s2l_ray.tasks.verifier_process import VerifierProcess, item
from s2l_ray.tasks.verifiers import NO_OPTIONS, Options, Probation


# A heartbeat must not wait for a check: it has a thread of its own.
@ray.remote(num_cpus=0, max_restarts=0, concurrency_groups={"alive": 1}, runtime_env={"env_vars": TOKENS_ASIDE})
class Verifier:
    """Every answer is checked under a time limit that is enforced from outside the checking process."""

    def __init__(
        self,
        kind: str,
        timeout_s: float,
        prompts: dict[str, Prompt],
        options: Options = NO_OPTIONS,
        columns: Sequence[str] = (),
    ) -> None:
        self._kind = kind
        self._process = VerifierProcess(kind, timeout_s, options, columns)
        self._prompts = prompts
        self.renew()

    def ready(self) -> None:
        """Returns once the checking process can check; raises what keeps it from starting."""
        self._process.start()

    def renew(self) -> None:
        """Watch for another run, from its first answer on, whether the verifier works at all."""
        self._probation = Probation(self._kind)

    @ray.method(num_returns=2)  # type: ignore[untyped-decorator]  # Ray is not typed for us
    def verify(self, rollouts: RolloutSet) -> tuple[RolloutSet, SetReport]:
        """The set with its verdicts, for the trainer; and the numbers alone, for the scheduler."""
        begin = time.time()
        prompt = self._prompts[rollouts.prompt_id]
        verdicts = self._process.check([item(r.text, prompt) for r in rollouts.rollouts])
        self._probation.judge(verdicts)
        scored = rollouts.scored(verdicts)
        return scored, report_on(scored, Period(begin, time.time()))

    @ray.method(num_returns=2)  # type: ignore[untyped-decorator]  # Ray is not typed for us
    def give_up(self, rollouts: RolloutSet) -> tuple[RolloutSet, SetReport]:
        """As `verify`, without a check: every verifier that was given this set is gone."""
        verdict = Verdict("timeout", 0.0, "every verifier that was given this answer died")
        scored = rollouts.scored([verdict] * len(rollouts.rollouts))
        return scored, report_on(scored, None)

    @ray.method(concurrency_group="alive")  # type: ignore[untyped-decorator]
    def alive(self) -> Heartbeat:
        """Answer, also while answers are checked."""
        return Heartbeat.of_this_process()

    def close(self) -> None:
        """End the checking process."""
        self._process.close()
