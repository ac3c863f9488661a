"""From a configuration and an inventory to a plan: what may be tried, what fits, how long it takes, what is fastest."""

from s2l_ray.planner.search.planner import make_plan

__all__ = ["make_plan"]
