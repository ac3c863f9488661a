"""What each kind of entry becomes in MLflow. Whatever is sent a second time changes nothing.

MLflow is imported inside functions: its import takes seconds.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from s2l_ray.errors import DataError
from s2l_ray.kinds import EntryKind
from s2l_ray.tracking.mlflow_store import first_line, probe
from s2l_ray.tracking.models import forget_model, log_model
from s2l_ray.tracking.traces import log_rollouts, read_rows
from s2l_ray.tracking.undelivered import Entry
from s2l_ray.tracking.writer import Refused

if TYPE_CHECKING:
    from mlflow import MlflowClient
    from mlflow.entities import Run

MAX_PARAMS = 100
"""Parameters or tags of one request (MLflow's limit)."""
FINAL = frozenset(
    {
        *("INVALID_PARAMETER_VALUE", "BAD_REQUEST", "RESOURCE_DOES_NOT_EXIST", "RESOURCE_ALREADY_EXISTS"),
        *("ALREADY_EXISTS", "NOT_FOUND", "NOT_IMPLEMENTED", "FEATURE_DISABLED", "INVALID_STATE"),
    }
)
"""Error codes of answers that stay the same however often the request is repeated."""

UNSENDABLE = (UnicodeEncodeError, OverflowError)
"""Errors that say of a value that no store can take it: a lone surrogate, or a number that is too large."""
OF_ONE_REQUEST = (404, 405, 413, 414, 501)
"""Statuses of answers that may say something of the request, or that the server is not there."""


class Deliveries:
    """Sends entries of one run to MLflow.

    Args:
        client: of the store.
        run: the MLflow run.
        directory: of the training run; paths of files are relative to it.
        timeout_s: bound on finding out that a database does not answer.
    """

    def __init__(self, client: MlflowClient, run: Run, directory: Path, timeout_s: float) -> None:
        self._client, self._directory, self._timeout_s = client, directory, timeout_s
        self._run_id, self._experiment_id = run.info.run_id, run.info.experiment_id
        self._uri = str(client.tracking_uri)
        self._params = dict(run.data.params)
        self._send: dict[EntryKind, Callable[[Mapping[str, Any]], None]] = {
            "params": self._log_params,
            "tags": self._set_tags,
            "dataset": self._log_dataset,
            "text": lambda values: client.log_text(self._run_id, values["text"], values["file"]),
            "file": self._log_file,
            "model": lambda values: log_model(client, self._run_id, self._experiment_id, values),
            "model_gone": lambda values: forget_model(client, self._run_id, self._experiment_id, values["name"]),
            "traces": self._log_traces,
            "status": self._set_status,
        }

    def __call__(self, entries: Sequence[Entry]) -> None:
        """Send entries: one of any kind, or several of metrics, in one request.

        Raises:
            Refused: the answer is no, or a file of the run is damaged, and will stay so.
            Exception: anything else that went wrong; it may be sent again.
        """
        probe(self._uri, self._timeout_s)
        try:
            if entries[0].kind == "metrics":
                self._log_metrics(entries)
            else:
                self._send[entries[0].kind](entries[0].values)
        except DataError as error:
            raise Refused(str(error)) from error
        except Exception as error:
            if self._is_final(error) or self._is_of_this_request(error):
                raise Refused(first_line(error)) from error
            raise

    def _is_final(self, error: Exception) -> bool:
        from mlflow.exceptions import MlflowException, RestException

        if isinstance(error, UNSENDABLE) or isinstance(error.__cause__, UNSENDABLE):  # a database's come in MLflow's
            return True
        # An answer over HTTP without MLflow's JSON comes from something between, such as a proxy without its server.
        kind = RestException if self._uri.startswith("http") else MlflowException
        return isinstance(error, kind) and error.error_code in FINAL

    def _is_of_this_request(self, error: Exception) -> bool:
        """Whether something between refuses what is too large, or the server is too old for it, but answers others."""
        status = getattr(getattr(error, "response", None), "status_code", None)
        found = re.search(r"failed with error code (\d{3})\b", str(error))
        if (int(found[1]) if found else status) not in OF_ONE_REQUEST:
            return False
        try:
            self._client.get_run(self._run_id)
        except Exception:  # so it is no answer of the server's
            return False
        return True

    def _log_metrics(self, entries: Sequence[Entry]) -> None:
        """values: `metrics` by name, their `step` and `time` in ms. MLflow drops what equals a point that it has."""
        from mlflow.entities import Metric

        metrics = [
            Metric(key, value, entry.values["time"], entry.values["step"])
            for entry in entries
            for key, value in entry.values["metrics"].items()
        ]
        self._client.log_batch(self._run_id, metrics=metrics, synchronous=True)

    def _log_params(self, values: Mapping[str, str]) -> None:
        """values: parameters. They cannot change in MLflow: what a resumed run has changed becomes a tag."""
        from mlflow.entities import Param

        new = {key: value for key, value in values.items() if key not in self._params}
        for batch in _batches([Param(key, value) for key, value in new.items()]):
            self._client.log_batch(self._run_id, params=batch, synchronous=True)
        self._set_tags({f"resumed/{k}": v for k, v in values.items() if self._params.get(k, v) != v})
        self._params |= new

    def _set_tags(self, values: Mapping[str, str]) -> None:
        from mlflow.entities import RunTag

        for batch in _batches([RunTag(key, value) for key, value in values.items()]):
            self._client.log_batch(self._run_id, tags=batch, synchronous=True)

    def _log_dataset(self, values: Mapping[str, Any]) -> None:
        """values: `name`, `digest`, `source`, `profile` and `context`. MLflow has each name and digest once."""
        from mlflow.entities import Dataset, DatasetInput, InputTag

        dataset = Dataset(
            name=values["name"],
            digest=values["digest"],
            source_type="local",
            source=json.dumps({"uri": values["source"]}),
            profile=json.dumps(values["profile"]),
        )
        tags = [InputTag("mlflow.data.context", values["context"])]
        self._client.log_inputs(self._run_id, datasets=[DatasetInput(dataset, tags)])

    def _log_file(self, values: Mapping[str, Any]) -> None:
        """values: `path`, relative to the run directory where it is in it, and the artifact `folder` or None."""
        path = self._directory / values["path"]
        if not path.is_file():
            raise Refused(f"{path} is not there")
        self._client.log_artifact(self._run_id, str(path), values["folder"])

    def _log_traces(self, values: Mapping[str, Any]) -> None:
        """values: `path` of a file of rollouts, `count` of them, their `step`, and the `time` in ms of its end."""
        path = self._directory / values["path"]
        if not path.is_file():
            raise Refused(f"{path} is not there")
        rows = read_rows(path, values["count"])
        log_rollouts(self._uri, self._run_id, self._experiment_id, rows, values["step"], values["time"])

    def _set_status(self, values: Mapping[str, Any]) -> None:
        """values: the `status`, and the `time` in ms at which the run ended."""
        self._client.set_terminated(self._run_id, values["status"], values["time"])


def _batches(items: list[Any]) -> Iterator[list[Any]]:
    for start in range(0, len(items), MAX_PARAMS):
        yield items[start : start + MAX_PARAMS]
