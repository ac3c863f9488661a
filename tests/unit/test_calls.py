"""What a failed call of an actor says."""

from __future__ import annotations

import pytest
import ray

from actors.calls import fetch
from s2l_ray.errors import ActorLostError


@pytest.mark.parametrize(
    ("error", "message"),
    [
        (ray.exceptions.WorkerCrashedError(), r"the update failed: an actor is gone\. .* The same command resumes"),
        (ray.exceptions.NodeDiedError("node x died"), r"the update failed: an actor is gone\. node x died The same"),
        (
            ray.exceptions.OutOfMemoryError("Task was killed.\n" + "process " * 1000),
            r"because the memory of its node was nearly full\..* from the last checkpoint\. Task was killed\.",
        ),
    ],
)
def test_what_ray_lost_is_one_message_with_a_remedy(
    error: Exception, message: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    def get(refs: object, timeout: float) -> None:
        raise error

    monkeypatch.setattr(ray, "get", get)
    with pytest.raises(ActorLostError, match=message) as caught:
        fetch([], 1.0, "the update")
    assert len(str(caught.value)) < 900
