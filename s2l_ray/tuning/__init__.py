"""Studies: many runs as trials of Ray Tune, which share one bank of explorer rollouts."""

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from s2l_ray.tuning.driver import StudyResult, resume_study, run_study

__all__ = ["StudyResult", "resume_study", "run_study"]


def __getattr__(name: str) -> Any:
    # Lazy, so that a study's file can be read without Ray.
    if name in __all__:
        from s2l_ray.tuning import driver

        return getattr(driver, name)
    raise AttributeError(f"module 's2l_ray.tuning' has no attribute {name!r}")
