"""The actors of a run and the Ray that was started for them: the next run of the process may take them over."""

from __future__ import annotations

from collections.abc import Callable

from actors.blueprint import RunNeeds
from actors.connection import connect
from actors.graph import ActorGraph
from actors.private_ray import end_private_ray
from s2l_ray.config import ClusterConfig
from s2l_ray.errors import ActorLostError, BroadcastError, EngineError, StepTimeoutError

GONE = (ActorLostError, BroadcastError, EngineError, StepTimeoutError)
"""What actors that are not there any more, or not whole, raise: others may serve the run."""
NAMED = 3
"""Differences that are named where actors are started anew."""


class RunActors:
    """Ray and an actor graph, with one owner at a time: the run that uses them, or whoever hands them to the next.

    The owner ends them by `stop` and `end_ray`, unless it has said `keep`.
    """

    def __init__(self) -> None:
        self._graph: ActorGraph | None = None
        self._private_ray = self._kept = False

    def connect(self, cluster: ClusterConfig, note: Callable[[str], None]) -> None:
        """Connect this process to Ray, if it is not. See `actors.connection.connect`."""
        self._private_ray = connect(cluster, note) or self._private_ray

    def graph_for(self, needs: RunNeeds, first_step: int) -> ActorGraph:
        """The graph of a run, all of whose actors are ready: the one that is there if it can serve the run, else anew.

        Args:
            needs: of the run.
            first_step: that it begins or continues with (1-based).

        Raises:
            S2LError: as `ActorGraph.start`; or the run asks for something that the trainer cannot compute.
        """
        if self._graph is not None and not self._serves(self._graph, needs, first_step):
            self.stop()
        if self._graph is None:
            self._graph = ActorGraph(needs)
            self._graph.start(first_step)
        return self._graph

    def _serves(self, graph: ActorGraph, needs: RunNeeds, first_step: int) -> bool:
        differ = graph.differences(needs, first_step)
        why = ", ".join(differ[:NAMED]) + (f" and {len(differ) - NAMED} more" if len(differ) > NAMED else "")
        if not differ:
            try:
                graph.reconfigure(needs, first_step)
            except GONE as error:
                why = str(error)
            else:
                return True
        needs.reporter.note(f"the actors are started anew, since those of the run before do not fit: {why}")
        return False

    # ---- owners -----------------------------------------------------------------------------------------------------

    def keep(self) -> None:
        """From here on `stop` and `end_ray` do nothing, until `take`: the run ends without its actors."""
        self._kept = True

    def take(self) -> None:
        """Belong to another owner."""
        self._kept = False

    def stop(self) -> None:
        """Stop the graph. Safe to call twice."""
        if self._graph is not None and not self._kept:
            graph, self._graph = self._graph, None
            graph.close()

    def end_ray(self) -> None:
        """End Ray, if it was started for this. Safe to call twice."""
        if self._private_ray and not self._kept:
            self._private_ray = False
            end_private_ray()
