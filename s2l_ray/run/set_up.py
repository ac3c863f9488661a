"""Setting a run up: everything that can be checked without an engine is checked, then the actors are started."""

from __future__ import annotations

import importlib
from contextlib import ExitStack
from dataclasses import asdict, dataclass
from typing import get_args

from actors.blueprint import RunNeeds
from actors.graph import ActorGraph
from s2l_ray.bank.date import dated
from s2l_ray.bank.preparing import prepare as prepare_bank
from s2l_ray.compute import ComputeMeter
from s2l_ray.config import Config
from s2l_ray.config.own_code import OwnFunction, own_functions
from s2l_ray.errors import ConfigError
from s2l_ray.kinds import Source
from s2l_ray.machine.disk import write_whole
from s2l_ray.machine.ending import held
from s2l_ray.machine.places import output_path, refuse_session_directory
from s2l_ray.placement.dtype import DtypeChoice
from s2l_ray.placement.plan import Plan
from s2l_ray.planner.architecture import ModelShape
from s2l_ray.planner.show.serialise import plan_json
from s2l_ray.redaction import has_password
from s2l_ray.reporter import Reporter
from s2l_ray.rollouts.stragglers import STRAGGLERS, known_stragglers
from s2l_ray.run.checkpoints import Checkpoint
from s2l_ray.run.damaged import damaged_aside
from s2l_ray.run.directory import RunDirectory
from s2l_ray.run.driver_log import DriverLog
from s2l_ray.run.earlier import begun_on, pins_of
from s2l_ray.run.from_mirror import fetch, open_mirror
from s2l_ray.run.inputs import Inputs, load_inputs, with_absolute_paths
from s2l_ray.run.mirror import Mirror
from s2l_ray.run.planning import plan_run
from s2l_ray.run.run_actors import RunActors
from s2l_ray.run.tracking import RunTracking
from s2l_ray.run.trial_terms import TrialTerms
from s2l_ray.run.uploader import Uploader
from s2l_ray.tasks.sources import fetch_sources


@dataclass(frozen=True)
class RunParts:
    """What a run consists of when nothing is missing for its first step but weights in the learner's engines."""

    settings: Config
    """Resolved: absolute paths, data.date and models.dtype as the run uses them."""
    dtype: DtypeChoice
    inputs: Inputs
    directory: RunDirectory
    checkpoint: Checkpoint | None
    """The checkpoint that the run resumes from; None: it begins at its first step."""
    stragglers: dict[int, list[str]]
    """Prompt ids by step: groups known beforehand that a step does not wait for."""
    tracking: RunTracking
    plan: Plan
    meter: ComputeMeter
    """Of what the steps cost."""
    actors: RunActors
    graph: ActorGraph
    """Of `actors`."""
    uploader: Uploader | None = None
    """Copies checkpoints and reports to checkpoint.mirror."""


def set_up(
    config: Config,
    reporter: Reporter,
    stack: ExitStack,
    actors: RunActors | None = None,
    terms: TrialTerms | None = None,
) -> RunParts:
    """Set a run up.

    Args:
        config: of the run.
        reporter: told what is under way.
        stack: takes what has to be undone, also if this raises. It ends the MLflow run, stops the actors, copies
            what is left to the mirror, unlocks the run directory and ends a private Ray, in this order.
        actors: of a run before this one; those that fit are used, and all of them are undone like the run's own.
        terms: of the trial of Ray Tune that the run is, if it is one.

    Raises:
        S2LError: anything that a user can correct; if possible before an engine is started.
    """
    log = stack.enter_context(DriverLog(reporter, config.schedule.steps, config.name))  # hears of the rest's undoing
    reporter = log
    # A stack undoes last what it was given first, but the run directory has to be locked before Ray is started. So each
    # gets a stack of its own here, in the order of undoing reversed. MLflow is first to end: where Ray was ended at the
    # same time as this process, stopping actors may not return.
    ending_ray, unlocking, uploading, stopping_actors, ending_mlflow = (
        stack.enter_context(ExitStack()) for _ in range(5)
    )
    actors = actors or RunActors()
    actors.take()
    ending_ray.callback(actors.end_ray)
    stopping_actors.callback(actors.stop)

    _refuse_places_that_go_with_ray(config)
    refuse_password(config.tracking.uri)
    reporter.phase("checking models and data")
    config = with_absolute_paths(config)
    directory = RunDirectory.acquire(config, reporter.phase, terms)
    unlocking.callback(directory.close)
    log.open(directory.path)
    mirror = open_mirror(config)
    with damaged_aside(directory, reporter.phase, reporter.note):
        if mirror:
            fetch(mirror, directory, config, reporter.phase, reporter.note)
    config, pins = fetch_sources(config, reporter, pins_of(config.run_path))
    config = dated(config, begun_on(config), bank=config.bank.mode != "off")
    inputs = load_inputs(config)
    own = own_functions(config)
    for code in _foreign_code(config, own):
        reporter.note(code)

    reporter.phase("connecting to Ray")
    actors.connect(config.cluster, reporter.note)
    planned = plan_run(config, reporter, directory.dtype)
    settings = planned.settings
    meter = compute_meter(settings)
    directory.adopt(settings, inputs.contents)
    directory.remember(
        hub={key: asdict(pin) for key, pin in pins.items()}, own_code=[function.record() for function in own]
    )
    checkpoint = directory.to_resume(settings, inputs.contents)
    bank = prepare_bank(settings, inputs.train)
    stragglers = known_stragglers(settings, inputs.train, directory.path / STRAGGLERS)

    if settings.tracking.enabled:
        reporter.phase("opening MLflow")
        importlib.import_module("mlflow")  # takes seconds, which a stop need not wait for
    with held():
        tracking = ending_mlflow.enter_context(RunTracking.open(settings, directory, inputs, bank, reporter))
    write_whole(directory.path / "plan.json", plan_json(planned.plan, settings.models))
    tracking.tracker.log_artifact(directory.path / "plan.json")

    uploader = uploading.enter_context(_uploader(settings, mirror, directory, reporter)) if mirror else None
    needs = RunNeeds(
        settings, planned.layout, inputs.train, inputs.held_out, inputs.contents, reporter, stragglers, bank
    )
    graph = actors.graph_for(needs, _first_step(checkpoint, directory))
    return RunParts(
        settings,
        planned.dtype,
        inputs,
        directory,
        checkpoint,
        stragglers,
        tracking,
        planned.plan,
        meter,
        actors,
        graph,
        uploader,
    )


def compute_meter(settings: Config) -> ComputeMeter:
    """What works out the FLOPs of a run's steps.

    Raises:
        ModelError: a model's shape is not known.
    """
    goal = settings.objective
    return ComputeMeter(
        {source: ModelShape.load(getattr(settings.models, source)).forward_cost for source in get_args(Source)},
        reference=goal.kl > 0,
        kl_in_reward=goal.kl > 0 and goal.kl_in == "reward",
        lora=settings.trainer.lora_rank > 0,
        old_from_engine=goal.old_logprobs == "engine",
    )


def _foreign_code(config: Config, own: list[OwnFunction]) -> list[str]:
    """What is said of code that is not this package's."""
    said = [f"your code runs here: {function.describe()}" for function in own]
    if config.models.trust_remote_code:
        said.append("models.trust_remote_code: Python files that come with the models run here, as this user")
    return said


def _first_step(checkpoint: Checkpoint | None, directory: RunDirectory) -> int:
    """The step that the run goes on with. A trial that Tune gives another state of has got about as far as its own."""
    if checkpoint:
        return checkpoint.step + 1
    return directory.checkpoints[-1][0] + 1 if directory.checkpoints else 1


def _uploader(settings: Config, mirror: Mirror, directory: RunDirectory, reporter: Reporter) -> Uploader:
    """Copies to the mirror from now on; what it is copying stays in the run directory until that is done."""
    checkpoint = settings.checkpoint
    uploader = Uploader(
        mirror, directory.path, checkpoint.keep, checkpoint.mirror_timeout_s, reporter, directory.pointed
    )
    directory.in_use = lambda: uploader.uploading
    return uploader


def refuse_password(uri: str | None) -> None:
    """Refuse a tracking.uri that would be written to config.yaml, and copied to checkpoint.mirror, with its password.

    Raises:
        ConfigError: it has one.
    """
    if uri and has_password(uri):
        raise ConfigError(
            "tracking.uri has a password, which RUN_DIR/config.yaml would show. Leave the key out and put the URI into "
            "the environment variable MLFLOW_TRACKING_URI; a server's user and password can also be in "
            "MLFLOW_TRACKING_USERNAME and MLFLOW_TRACKING_PASSWORD"
        )


def _refuse_places_that_go_with_ray(config: Config) -> None:
    refuse_session_directory("run_dir", config.run_path)
    if config.bank.mode in ("write", "readwrite") and "://" not in config.bank.path:
        refuse_session_directory("bank.path", output_path(config.bank.path))
    mirror = config.checkpoint.mirror
    if mirror and "://" not in mirror:
        refuse_session_directory("checkpoint.mirror", output_path(mirror))
