"""What kept something from being fetched, in one message that says what to do."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from s2l_ray.errors import HubError
from s2l_ray.hub.cache import cache
from s2l_ray.hub.names import Repository
from s2l_ray.hub.progress import FetchTimeoutError
from s2l_ray.redaction import redact


@contextmanager
def explained(repository: Repository, timeout_s: float = 0.0) -> Iterator[None]:
    """Say in one message what kept the block from fetching, and what to do."""
    from httpx2 import HTTPError
    from huggingface_hub import constants
    from huggingface_hub.errors import (
        EntryNotFoundError,
        GatedRepoError,
        HfHubHTTPError,
        LocalEntryNotFoundError,
        OfflineModeIsEnabled,
        RepositoryNotFoundError,
        RevisionNotFoundError,
    )

    hub, what = redact(constants.ENDPOINT), f"the {_kind(repository)} {repository.id}"
    try:
        yield
    except (FetchTimeoutError, TimeoutError):
        message = (
            f"{what} did not arrive from {hub} within {timeout_s:.0f} s (cluster.fetch_timeout_s); what did arrive is "
            "kept, and the same command goes on from there. If a process that fetched it was killed on a file system "
            f"without locks, remove what is in {cache() / '.locks'}"
        )
    except OfflineModeIsEnabled:
        message = (
            f"{what} is not in the local cache ({cache()}) and HF_HUB_OFFLINE is set; unset it, or fetch it where "
            f"there is a network: hf download {_arguments(repository)}"
        )
    except GatedRepoError:
        message = (
            f"{what} is gated: accept its terms at {hub}/{_page(repository)}, and put a token of that account into the "
            "environment variable HF_TOKEN"
        )
    except RepositoryNotFoundError:
        message = (
            f"{hub} has no {_kind(repository)} {repository.id}, or none that may be read with the token in HF_TOKEN; "
            "correct the name, or set HF_TOKEN if it is private"
        )
    except RevisionNotFoundError:
        message = f"{what} has no revision {repository.revision}; see {hub}/{_page(repository)}/commits"
    except LocalEntryNotFoundError as error:
        message = (
            f"{what} did not arrive from {hub} ({_line(error.__cause__ or error)}); the same command goes on from there"
        )
    except EntryNotFoundError as error:
        message = f"{what}: {_line(error)}"
    except HfHubHTTPError as error:
        message = f"{hub} answers {error.response.status_code} when asked for {what}; try again later"
    except HTTPError as error:
        message = (
            f"{hub} does not answer ({_line(error)}) and {what} is not in the local cache ({cache()}); check the "
            "network and HF_ENDPOINT, or fetch it elsewhere"
        )
    except OSError as error:
        message = _not_written(what, hub, error)
    else:
        return
    raise HubError(message)


def _not_written(what: str, hub: str, error: OSError) -> str:
    if error.errno is None:  # huggingface_hub's own: the size is not what it should be
        return f"{what} did not arrive whole from {hub} ({_line(error)}); try again"
    return f"{what} cannot be written to {cache()} ({error.strerror}); set HF_HOME to another place"


@contextmanager
def understood(repository: Repository) -> Iterator[None]:
    """Say in one message what the block makes of an answer that is not the Hub's."""
    from huggingface_hub import constants

    what = f"the {_kind(repository)} {repository.id}"
    try:
        yield
    except UnicodeEncodeError:  # of a request's headers; its message has a part of the token
        raise HubError(
            "HF_TOKEN (or the file of HF_TOKEN_PATH) is not a token: it has other characters than ASCII"
        ) from None
    except ValueError as error:
        if "filename" in str(error):  # one that would lead out of the cache
            raise HubError(f"{what}: {_line(error)}") from error
        raise HubError(_not_a_hub(what, redact(constants.ENDPOINT), error)) from error
    except (TypeError, KeyError, AttributeError, AssertionError) as error:
        raise HubError(_not_a_hub(what, redact(constants.ENDPOINT), error)) from error


def _not_a_hub(what: str, hub: str, error: Exception) -> str:
    return (
        f"{hub} gives no answer of a Hub when asked for {what} ({type(error).__name__}: {_line(error)}); check "
        "HF_ENDPOINT, and whether a proxy answers in its place"
    )


def _line(error: BaseException) -> str:
    return redact((str(error).strip() or type(error).__name__).splitlines()[0])


def _kind(repository: Repository) -> str:
    return {"model": "model", "dataset": "data set"}[repository.kind]


def _page(repository: Repository) -> str:
    return f"datasets/{repository.id}" if repository.kind == "dataset" else repository.id


def _arguments(repository: Repository) -> str:
    kind = " --repo-type dataset" if repository.kind == "dataset" else ""
    revision = f" --revision {repository.revision}" if repository.revision else ""
    return f"{repository.id}{kind}{revision}"
