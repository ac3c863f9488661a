"""Train from Python: `S2LPO` with an RLlib-style API, and every extension of this directory at once.

Run it from the directory above with

    python examples/python_api.py                                   # the quickstart, in minutes on two cores
    python examples/python_api.py schedule.steps=20 schedule.mix_steps=10    # any keys of the configuration

Ray's actors import your modules from the directory that you start in, and from PYTHONPATH.
"""

from __future__ import annotations

import sys

from s2l_ray import S2LPO, load_config

EXTENSIONS = [
    "verifier.kind=examples.verifier:partial_credit",
    "schedule.kind=examples.schedule:stairs",
    "objective.advantage=examples.advantage:learner_baseline",
    "objective.loss=examples.loss:dual_clip",
    "objective.correction.explorer=examples.correction:geometric_mean",
]


def main(overrides: list[str]) -> None:
    """Train to the end. Prints the mean reward of every step, and held-out pass@1 before and after."""
    config = load_config("quickstart", ["name=python-api", *EXTENSIONS, *overrides])
    algo = S2LPO(config)
    try:
        before, done = algo.evaluate(), False
        while not done:
            result = algo.train()  # one step of Algorithm 1
            done = result["done"]
            print(f"step {result['step']}: reward {result['reward']:.3f}", flush=True)
        print(f"pass@1 before {before.pass_at[1]:.3f}, after {algo.evaluate().pass_at[1]:.3f}")
    finally:
        algo.stop()


if __name__ == "__main__":
    main(sys.argv[1:])
