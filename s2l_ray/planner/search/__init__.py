"""The search for a placement: what may be tried, what fits, how long it takes, and which one is fastest."""

from s2l_ray.planner.search.planner import make_plan

__all__ = ["make_plan"]
