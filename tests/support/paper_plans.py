"""What docs/concepts/plan.md shows of plans for the paper's models; `python -m tests.support.paper_plans` prints it."""

from __future__ import annotations

import textwrap
from collections.abc import Callable, Iterator
from dataclasses import dataclass

from s2l_ray.config import load_config
from s2l_ray.placement.inventory import load_inventory
from s2l_ray.placement.plan import DeviceLoad, PhasePlan, Plan
from s2l_ray.planner.search import make_plan
from s2l_ray.planner.show import look

MODELS = {"1.7B to 8B": "paper/qwen3_1.7b_to_8b", "4B to 14B": "paper/qwen3_4b_to_14b"}
OFF_LOADED = ["trainer.cpu_offload=true", "objective.reference_offload=true"]
MACHINES: dict[str, tuple[str, list[str]]] = {
    "8 x 80 GB": ("8xH100", []),
    "2 x 8 x 80 GB": ("2x8xH100", []),
    "8 x 24 GB, off-loaded": ("8x24GB", OFF_LOADED),
}


VARIED = {
    "engines.*.max_num_seqs=512": ["engines.explorer.max_num_seqs=512", "engines.learner.max_num_seqs=512"],
    "engines.*.max_num_seqs=1024": ["engines.explorer.max_num_seqs=1024", "engines.learner.max_num_seqs=1024"],
    "trainer.reshard_after_forward=false": ["trainer.reshard_after_forward=false"],
    "placement.mode=separate": ["placement.mode=separate"],
}
"""Settings that the plan leaves as they are, and the placement that it did not choose."""


@dataclass(frozen=True)
class Column:
    """One of the plans."""

    title: str
    plan: Plan

    @property
    def ledger(self) -> DeviceLoad:
        """Of the first GPU at its fullest moment."""
        return max((phase.gpus[0] for phase in self.plan.phases), key=lambda load: load.used_bytes)

    def phase(self, name: str) -> PhasePlan:
        """The phase of this name."""
        return next(phase for phase in self.plan.phases if phase.name == name)


def columns() -> list[Column]:
    """The plans, each of which fits."""
    return [
        Column(f"{models} on {machine}", make_plan(load_config(config, overrides), load_inventory(inventory)))
        for models, config in MODELS.items()
        for machine, (inventory, overrides) in MACHINES.items()
    ]


def tables(plans: list[Column]) -> tuple[list[str], list[str]]:
    """The lines of both tables, in Markdown: sizes and times, and ledgers."""
    titles = _line("", (column.title for column in plans))
    sizes = [titles, "|---" * (len(plans) + 1) + "|"]
    sizes += [_line(name, map(text, plans)) for name, text in ROWS.items()]
    keys = sorted({key for column in plans for key in column.ledger.ledger}, key=look.ledger_order)
    ledgers = [titles, "|---" + "|---:" * len(plans) + "|"]
    ledgers += [_line(look.ledger_name(key), (_item(column, key) for column in plans)) for key in keys]
    ledgers.append(_line("**used**", (f"**{look.gib(column.ledger.used_bytes)}**" for column in plans)))
    ledgers.append(_line("of", (look.gib(column.ledger.capacity_bytes) for column in plans)))
    return sizes, ledgers


def varied(plans: list[Column]) -> list[str]:
    """The lines of the table, in Markdown, of how much longer or shorter a run is with each of `VARIED`."""
    ours = [("1.7B to 8B", "8 x 80 GB"), ("4B to 14B", "2 x 8 x 80 GB")]
    titles = [f"{models} on {machine}" for models, machine in ours]
    lines = [_line("", iter(titles)), "|---" * (len(ours) + 1) + "|"]
    usual = {column.title: column.plan.run_seconds or 0.0 for column in plans}
    for name, overrides in VARIED.items():
        cells = []
        for (models, machine), title in zip(ours, titles, strict=True):
            plan = make_plan(load_config(MODELS[models], overrides), load_inventory(MACHINES[machine][0]))
            assert plan.run_seconds is not None
            change = plan.run_seconds / usual[title] - 1
            cells.append("none" if abs(change) < 5e-4 else f"{change:+.1%}")
        lines.append(_line(f"`{name}`", iter(cells)))
    return lines


def problems() -> list[str]:
    """The lines that say why the 8B as published does not fit on 8 x 24 GB, and what would help."""
    plan = make_plan(load_config(MODELS["1.7B to 8B"]), load_inventory("8x24GB"))
    wrapper = textwrap.TextWrapper(
        120, initial_indent="- ", subsequent_indent="  ", break_long_words=False, break_on_hyphens=False
    )
    return [line for problem in plan.problems for line in wrapper.wrap(problem)]


def _step(phase: str) -> Callable[[Column], str]:
    return lambda column: look.seconds(column.phase(phase).step_seconds)


def _part(part: str) -> Callable[[Column], str]:
    return lambda column: look.seconds(column.phase("mix").seconds[part])


def _sent(column: Column) -> str:
    sync = column.plan.weight_sync
    assert sync is not None
    return f"{look.amount(sync.bytes)} by {', '.join(sync.transfers)}"


def _saved(column: Column) -> str:
    assert column.plan.saving is not None
    return f"{column.plan.saving.saved:.1%}"


ROWS: dict[str, Callable[[Column], str]] = {
    "mode": lambda column: str(column.plan.mode),
    "trainer ranks": lambda column: str(column.plan.ranks),
    "learner TP, explorer TP": lambda column: "{learner}, {explorer}".format(**column.plan.tensor_parallel),
    "16 steps": lambda column: look.seconds(column.plan.run_seconds or 0.0),
    "step, explore": _step("explore"),
    "step, mix": _step("mix"),
    "step, on-policy": _step("on-policy"),
    "explorer samples, mix": _part("explore"),
    "learner samples, mix": _part("learner_generate"),
    "update, mix": _part("update"),
    "weight sync, mix": _part("weight_sync"),
    "sleep and wake, mix": _part("sleep_wake"),
    "rollout FLOPs saved against GRPO": _saved,
    "sent at each weight sync": _sent,
}


def _item(column: Column, key: str) -> str:
    size = column.ledger.ledger.get(key, 0)
    return look.gib(size) if size else ""


def _line(name: str, cells: Iterator[str]) -> str:
    return f"| {name} | {' | '.join(cells)} |"


if __name__ == "__main__":
    plans = columns()
    for lines in (*tables(plans), varied(plans), problems()):
        print("\n".join(lines), end="\n\n")
