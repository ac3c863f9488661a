"""Which actor Tune gives a trial, with the parts of Tune that decide it."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

from ray.air.execution._internal import RayActorManager, TrackedActor
from ray.tune import PlacementGroupFactory
from ray.tune.execution.tune_controller import TuneController
from ray.tune.utils.object_cache import _ObjectCache

from s2l_ray.tuning.own_actors import keeping_own_actors

BUNDLES = PlacementGroupFactory([{"CPU": 1.0}])


class Controller(TuneController):
    """Tune's, with what it has when a trial waits for its actor and another one's has become free."""

    def __init__(self, trial: Any, own: TrackedActor | None, free: TrackedActor) -> None:
        self._reuse_actors, self._resetting_trials = True, set()
        self._actor_manager = RayActorManager(resource_manager=None)
        for actor in filter(None, (own, free)):
            self._actor_manager._live_actors_to_ray_actors_resources[actor] = ("process", "resources")
        self._trial_to_actor = {trial: own} if own else {}
        self._actor_to_trial = {own: trial} if own else {}
        self._actor_cache = _ObjectCache(may_keep_one=True)
        self._actor_cache.cache_object(BUNDLES, free)
        self.removed: list[TrackedActor] = []

    def _remove_actor(self, tracked_actor: TrackedActor) -> None:
        self.removed.append(tracked_actor)

    def _schedule_trial_reset(self, trial: Any, *args: Any) -> None:
        self._resetting_trials.add(trial)


class Waiting(SimpleNamespace):
    """A trial of Tune's, as far as the choice of its actor needs one."""

    placement_group_factory, config, experiment_tag = BUNDLES, None, ""
    __hash__ = object.__hash__

    def set_ray_actor(self, actor: Any) -> None:
        self.actor = actor


def test_a_trial_whose_actor_is_being_set_up_keeps_it() -> None:
    trial, own, free = Waiting(), TrackedActor(1), TrackedActor(2)
    original = TuneController._maybe_reuse_cached_actor
    with keeping_own_actors():
        controller = Controller(trial, own, free)
        assert not controller._maybe_reuse_cached_actor(trial)
        assert controller._trial_to_actor == {trial: own} and controller._actor_cache.has_cached_object(BUNDLES)
    assert TuneController._maybe_reuse_cached_actor is original
    assert controller._maybe_reuse_cached_actor(trial) and controller.removed == [own], "what Tune does by itself"


def test_a_trial_without_an_actor_takes_the_free_one() -> None:
    trial, free = Waiting(), TrackedActor(2)
    with keeping_own_actors():
        controller = Controller(trial, None, free)
        assert controller._maybe_reuse_cached_actor(trial)
        assert controller._trial_to_actor == {trial: free} and trial.actor == "process"
        assert controller._maybe_reuse_cached_actor(trial), "it is being given to the trial already"
    assert controller.removed == []
