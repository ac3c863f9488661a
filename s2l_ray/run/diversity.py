"""The samples of a comparison: each source is a recording of a bank, so what was sampled once is read again."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from s2l_ray.bank.date import dated
from s2l_ray.bank.exploring import plan_recording
from s2l_ray.bank.needed import every_request
from s2l_ray.bank.preparing import training_prompts
from s2l_ray.bank.rollout_bank import RolloutBank
from s2l_ray.config import Config, load_config
from s2l_ray.config.embedded import source_name
from s2l_ray.display import FetchDisplay, TaskDisplay
from s2l_ray.diversity.matching import Match, match_temperature
from s2l_ray.diversity.sources import Sampled, SampledSource, SourceKind
from s2l_ray.errors import ConfigError
from s2l_ray.kinds import Source
from s2l_ray.placement.dtype import DtypeChoice, choose_dtype
from s2l_ray.placement.inventory import Inventory
from s2l_ray.rollouts.records import Prompt, RolloutSet
from s2l_ray.run.exploration import Recorded, nodes, record
from s2l_ray.tasks.compat import check_models
from s2l_ray.tasks.sources import fetch_sources


@dataclass(frozen=True)
class Wanted:
    """A source that is to be sampled."""

    name: str
    kind: SourceKind
    model: str
    """Its value as models.explorer, which engines that record sample from."""
    sampling: dict[str, Any]
    """As rollout.explorer."""
    stream: int
    """Added to the seed: sources are sampled independently of each other, also two of one model."""


@dataclass(frozen=True)
class Comparison:
    """What is to be compared: the learner, its temperatures and the explorers, on held-out problems.

    Args:
        config: of a training run: its learner, problems (data.eval), verifier, sampling and engines.
        explorers: models, as values of models.explorer.
        temperatures: of the learner, for token-level sources.
        samples: of each problem.
        problems: the first ones of data.eval; None: all.
        bank: directory of the recordings.
    """

    config: Config
    explorers: Sequence[str]
    temperatures: Sequence[float]
    samples: int
    problems: int | None
    bank: Path

    @property
    def learner(self) -> Wanted:
        """The learner as it is trained."""
        rollout = self.config.rollout
        return Wanted("learner", "learner", self.config.models.learner, rollout.learner.model_dump(), 0)

    def learner_at(self, temperature: float) -> Wanted:
        """The learner at another temperature."""
        sampling = self.learner.sampling | {"temperature": temperature}
        return replace(
            self.learner, name=f"learner T={temperature:.3g}", kind="token_level", sampling=sampling, stream=1
        )

    @property
    def policies(self) -> list[Wanted]:
        """The explorers; of one model that is given twice, the second is another sample."""
        names = [Path(source_name(model).removeprefix("embedded:")).name for model in self.explorers]
        sampling = self.config.rollout.explorer.model_dump()
        return [
            Wanted(f"explorer {name}" + (f" #{count}" if count > 1 else ""), "policy_level", model, sampling, 2 + i)
            for i, (name, model) in enumerate(zip(names, self.explorers, strict=True))
            for count in [names[: i + 1].count(name)]
        ]

    def config_of(self, wanted: Wanted) -> Config:
        """The configuration that records this source: the held-out problems in place of the training problems."""
        config = self.config
        if config.data.eval is None:
            raise ConfigError("data.eval: diversity is measured on held-out problems; give their file")
        changed = {
            "models": {"explorer": wanted.model},
            "data": {"train": config.data.eval, "train_limit": self.problems or config.data.eval_limit},
            "rollout": {"explorer": wanted.sampling, "explorer_seed": config.seed + wanted.stream},
            "bank": {"path": str(self.bank), "mode": "readwrite", "recording": None},
        }
        return config_with(config, changed)


def config_with(config: Config, changed: dict[str, Any]) -> Config:
    """The same configuration with some keys of its sections changed, checked again."""
    values = config.model_dump()
    for section, keys in changed.items():
        values[section] |= keys
    return Config.model_validate(values)


class Samples:
    """Samples sources on the nodes, or reads what was sampled before. Use it within `open_samples`."""

    def __init__(self, comparison: Comparison, inventory: Inventory, dtype: DtypeChoice, display: TaskDisplay) -> None:
        self.dtype = dtype
        self._comparison, self._inventory, self._display = comparison, inventory, display
        self._answers: dict[str, str] = {}

    def at_temperatures(self) -> Sampled:
        """The learner, the learner at each temperature of the comparison, and the explorers.

        Raises:
            S2LError: as `s2l explore`.
        """
        comparison = self._comparison
        hot = [comparison.learner_at(temperature) for temperature in comparison.temperatures]
        sources = [self.of(wanted) for wanted in (comparison.learner, *hot, *comparison.policies)]
        return Sampled(sources, self._answers, {})

    def at_matches(self, tolerance: float) -> Sampled:
        """The learner, and each explorer beside the learner at the temperature where it is right as often.

        Raises:
            S2LError: as `s2l explore`.
            DataError: there is no such temperature.
        """
        sources, matches = [self.of(self._comparison.learner)], {}
        for wanted in self._comparison.policies:
            explorer = self.of(wanted)
            hot, matches[explorer.name] = self._matched(explorer, tolerance)
            if hot.name not in [source.name for source in sources]:
                sources.append(hot)
            sources.append(explorer)
        return Sampled(sources, self._answers, matches)

    def of(self, wanted: Wanted) -> SampledSource:
        """A source's samples. What the bank lacks is sampled first.

        Raises:
            S2LError: as `s2l explore`.
        """
        config = dated(self.dtype.applied_to(self._comparison.config_of(wanted)), bank=True)
        prompts, samples = training_prompts(config), self._comparison.samples
        self._answers = {prompt.id: prompt.answer for prompt in prompts}
        plan = plan_recording(config, prompts, samples)
        if plan.requests:
            self._display.say(
                f"sampling {wanted.name}: {plan.rollouts} of {len(prompts) * samples} rollouts are missing"
            )
            record(config, plan, prompts, self._inventory, Recorded(plan.rollouts), self._display)
        bank = RolloutBank(plan.settings, {prompt.id: prompt for prompt in prompts})
        source: Source = "explorer" if wanted.kind == "policy_level" else "learner"
        return SampledSource(
            wanted.name,
            wanted.kind,
            source_name(wanted.model),
            float(wanted.sampling["temperature"]),
            _read(bank, config, prompts, samples, source),
        )

    def _matched(self, source: SampledSource, tolerance: float) -> tuple[SampledSource, Match]:
        """The learner at the temperature at which it is right as often as `source`, and how it was found."""
        wanted, start = right_share(source), self._comparison.config.rollout.learner.temperature
        tried: dict[float, SampledSource] = {}

        def pass_at_1(temperature: float) -> float:
            tried[temperature] = self.of(self._comparison.learner_at(temperature))
            found = right_share(tried[temperature])
            self._display.say(f"learner T={temperature:.3g}: pass@1 {found:.1%}; {source.name}: {wanted:.1%}")
            return found

        match = match_temperature(pass_at_1, wanted, start=start, tolerance=tolerance)
        return tried[match.temperature], match


@contextmanager
def open_samples(comparison: Comparison, display: TaskDisplay) -> Iterator[Samples]:
    """Check the models, and have nodes for as long as samples are needed.

    Raises:
        ModelError: an explorer and the learner cannot share rollouts.
        PlacementError: see `exploration.nodes`.
    """
    for model in comparison.explorers:
        check_models(comparison.config.models.learner, model, comparison.config.models.trust_remote_code)
    config = comparison.config_of(comparison.learner)
    with nodes(config, display.say) as inventory:
        dtype = choose_dtype(config, inventory)
        display.say(f"computing in {dtype.describe()}")
        yield Samples(comparison, inventory, dtype, display)


def load_models(
    config: str, overrides: list[str], models: Sequence[str], display: TaskDisplay
) -> tuple[Config, list[str]]:
    """The configuration with the learner, and the explorers: its own, or those given, the learner first.

    What is on the Hub is fetched.

    Raises:
        ConfigError: see `load_config`.
        HubError: see `fetch_sources`.
    """
    learner = {"models.learner": models[0]} if models else {}
    explorers = [{"models.explorer": explorer} for explorer in models[1:]]
    configs = [
        fetch_sources(load_config(config, overrides, learner | explorer), FetchDisplay(display))[0]
        for explorer in explorers or [{}]
    ]
    return configs[0], [each.models.explorer for each in configs]


def right_share(source: SampledSource) -> float:
    """pass@1 over all samples."""
    return sum(rollout.judged.status == "right" for rollout in source.rollouts) / len(source.rollouts)


def _read(
    bank: RolloutBank, config: Config, prompts: Sequence[Prompt], samples: int, source: Source
) -> list[RolloutSet]:
    """Each problem's samples in the order of their draws, as rollouts of `source`; recorded ones are an explorer's."""
    parts: dict[str, list[RolloutSet]] = {}
    for request in every_request(config, [prompt.id for prompt in prompts], samples):
        parts.setdefault(request.prompt_id, []).append(bank.read(request)[0])
    found = []
    for prompt in prompts:
        rollouts = [rollout for part in parts[prompt.id] for rollout in part.rollouts]
        marked = [replace(rollout, index=i, source=source) for i, rollout in enumerate(rollouts)]
        found.append(RolloutSet(prompt.id, prompt.token_ids, marked))
    return found
