"""What a page consists of."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from s2l_ray.report.facts import Facts
from s2l_ray.report.planned import PlannedDevice, PlannedPhase
from s2l_ray.report.samples import SampledPrompt
from s2l_ray.report.settings import Setting
from s2l_ray.report.svg import as_svg

if TYPE_CHECKING:
    from matplotlib.figure import Figure


@dataclass(frozen=True)
class Drawn:
    """A figure of the page."""

    svg: str
    caption: str


@dataclass(frozen=True)
class Tile:
    """One of the numbers at the top."""

    value: str
    label: str


@dataclass(frozen=True)
class RunSection:
    """What the page has of each run."""

    title: str
    figures: list[Drawn]
    phases: list[PlannedPhase]
    devices: list[PlannedDevice]
    prompts: list[SampledPrompt]
    settings: list[Setting]
    configuration: str


@dataclass(frozen=True)
class ResultSection:
    """What the page has of an experiment, an evaluation, or a comparison of diversity."""

    title: str
    paragraphs: list[str]
    figures: list[Drawn] = field(default_factory=list)
    tables: list[Facts] = field(default_factory=list)


def drawn(place: str, figures: Mapping[str, Callable[[], Figure | None]]) -> list[Drawn]:
    """Those of the figures, by their captions, that there are data for.

    Args:
        place: tells the figures from those of other places of the page.
    """
    made = [(caption, as_svg(make, f"{place}/{number}")) for number, (caption, make) in enumerate(figures.items())]
    return [Drawn(svg, caption) for caption, svg in made if svg is not None]
