"""Errors that a user can act on. Each message names the key, row or resource, and says what to do."""


class S2LError(Exception):
    """Base of every error that s2l-ray raises on purpose; the CLI prints these without a traceback."""


class ConfigError(S2LError):
    """A configuration key is unknown, has the wrong type, or its value is impossible."""


class DataError(S2LError):
    """A data file is missing, or one of its rows is malformed (file, line and field are named)."""


class ModelError(S2LError):
    """A model directory is missing, or explorer and learner cannot share rollouts."""


class HubError(S2LError):
    """A model or data set on the Hub does not exist, may not be read, or cannot be fetched."""


class EngineError(S2LError):
    """A vLLM engine did not start (the message has its reason and where its log is)."""


class EngineAsleepError(EngineError):
    """An engine was asked to compute while its memory is the trainer's."""


class EngineDiedError(EngineError):
    """A vLLM engine can compute nothing any more: one of its processes is gone, or a step of it failed."""


class ActorLostError(S2LError):
    """An actor of the run died: its process was killed, its node went away, or Ray was stopped."""


class FailureBudgetError(ActorLostError):
    """An actor died more often than recovery.max_restarts allows."""


class NodeLostError(ActorLostError):
    """A node of the cluster went away with an actor of the run, which has its place there."""


class BankError(S2LError):
    """The bank has no recording that this run may read, lacks rollouts, or cannot be read or written."""


class StorageError(S2LError):
    """The object store of checkpoint.mirror refuses a request, does not answer, or holds something damaged."""


class DiskError(S2LError):
    """A file cannot be written: its disk is full or read-only, or the place is not one to write to."""


class PlacementError(S2LError):
    """No Ray can be joined or started, or the cluster cannot hold what the configuration asks for."""


class NodesChangedError(PlacementError):
    """The cluster's nodes are others than when the placement group of a trial was planned."""


class TrackingError(S2LError):
    """The MLflow server or store does not answer."""


class StaleWeightsError(S2LError):
    """A learner engine was asked to sample with weights that it does not hold."""


class BroadcastError(S2LError):
    """A weight sync failed for one of its members; the others must receive the version again, without it."""


class WeightMismatchError(S2LError):
    """After a weight sync a learner engine holds other weights than the trainer (cluster.verify_weights)."""


class GroupError(S2LError):
    """A rollout group is not exactly G rollouts of one prompt."""


class HealthError(S2LError):
    """The numbers of a run went wrong in a way that `health` ends it for."""


class StepTimeoutError(S2LError):
    """Part of a step did not finish within its bound."""
