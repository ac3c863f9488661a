"""Models and data by their place on the Hub, against a server on loopback that speaks its API."""

from __future__ import annotations

import fcntl
import hashlib
import json
import socket
from collections.abc import Iterator
from itertools import pairwise
from pathlib import Path

import pyarrow
import pyarrow.parquet
import pytest

from s2l_ray.config import Config, load_config
from s2l_ray.config.embedded import DIRECTORY
from s2l_ray.errors import ConfigError, HubError, ModelError
from s2l_ray.hub.fetching import cached_model, fetch_file, fetch_model, fetch_split, model_files
from s2l_ray.hub.names import Repository, dataset_split, model_repository
from s2l_ray.hub.splits import files_of
from s2l_ray.placement.node_files import HubModel, NodeFiles
from s2l_ray.planner.architecture import ModelShape
from s2l_ray.reporter import SilentReporter
from s2l_ray.tasks.compat import model_directory
from s2l_ray.tasks.data import load_problems
from s2l_ray.tasks.sources import Pin, fetch_sources
from tests.support.hub_server import HubServer, hub_server

LARGE, SMALL = DIRECTORY / "large", DIRECTORY / "small"
TOKEN = "hf_that_nobody_may_see"


@pytest.fixture
def hub(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[HubServer]:
    with hub_server() as server:
        use(server.url, tmp_path, monkeypatch)
        yield server


def use(url: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """What HF_ENDPOINT, HF_HOME and HF_HUB_OFFLINE=0 do to a process that starts with them."""
    constants = "huggingface_hub.constants."
    monkeypatch.setattr(constants + "ENDPOINT", url)
    monkeypatch.setattr(constants + "HUGGINGFACE_CO_URL_TEMPLATE", url + "/{repo_id}/resolve/{revision}/{filename}")
    monkeypatch.setattr(constants + "HF_HUB_CACHE", str(tmp_path / "cache" / "hub"))
    monkeypatch.setattr(constants + "HF_HUB_OFFLINE", False)
    monkeypatch.delenv("HF_TOKEN", raising=False)


def files_in(directory: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in directory.iterdir() if path.is_file()}


def fetched(text: str, timeout_s: float = 60.0):
    return fetch_model(model_repository(text), lambda done, total: None, timeout_s)


def rows(*questions: str) -> bytes:
    return b"".join(json.dumps({"question": q, "answer": "1"}).encode() + b"\n" for q in questions)


# ---- names ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "id", "revision"),
    [
        ("Qwen/Qwen3-8B-Base", "Qwen/Qwen3-8B-Base", None),
        ("org/name@v1.0", "org/name", "v1.0"),
        ("org/name@refs/pr/7", "org/name", "refs/pr/7"),
        ("org/name@feature%2Fx", "org/name", "feature/x"),
    ],
)
def test_a_model_is_named_by_repository_and_revision(text: str, id: str, revision: str | None) -> None:
    found = model_repository(text)
    assert found == Repository("model", id, revision)
    assert str(found) == text


@pytest.mark.parametrize("text", ["model", "./org/name", "../name", "/models/name", "a/b/c", "~/models", "org/name@"])
def test_a_path_names_no_model_of_the_hub(text: str) -> None:
    assert model_repository(text) is None


@pytest.mark.parametrize(
    ("text", "id", "revision", "path", "split"),
    [
        ("hf://datasets/org/name", "org/name", None, "", None),
        ("hf://datasets/org/name:train", "org/name", None, "", "train"),
        ("hf://datasets/org/name@v2/main:test", "org/name", "v2", "main", "test"),
        ("hf://datasets/org/name/data/a.jsonl", "org/name", None, "data/a.jsonl", None),
        ("hf://datasets/o/n@refs/convert/parquet/default:train", "o/n", "refs/convert/parquet", "default", "train"),
    ],
)
def test_a_split_is_named_by_address(text: str, id: str, revision: str | None, path: str, split: str | None) -> None:
    found = dataset_split(text)
    assert found is not None
    assert (found.repository, found.path, found.split) == (Repository("dataset", id, revision), path, split)
    assert str(found) == text


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("data.train=hf://org/name", "data.train: .*it has the form hf://datasets/ORG/NAME"),
        ("data.eval=hf://datasets/name", "data.eval: .*it has the form hf://datasets/ORG/NAME"),
        ("models.learner=org/name@..", r"models.learner: '\.\.' is not the name of a branch"),
        ("data.train=hf://datasets/org/name@a%00b", "data.train: 'a%00b' is not the name of a branch"),
        ("models.learner=hf://org/name", "models.learner: .*write ORG/NAME or ORG/NAME@REVISION"),
    ],
)
def test_an_impossible_address_is_an_error_of_the_configuration(override: str, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        load_config("quickstart", [override])


# ---- which files ----------------------------------------------------------------------------------------------------


def test_of_a_model_only_what_is_loaded_is_fetched() -> None:
    names = ["config.json", "model-00001-of-00002.safetensors", "model-00002-of-00002.safetensors", "README.md"]
    names += ["model.safetensors.index.json", "consolidated.safetensors", "pytorch_model.bin", "onnx/model.onnx"]
    names += ["tokenizer.json", "merges.txt", "additional_chat_templates/tools.jinja", "original/params.json"]
    assert model_files(names) == [
        *("additional_chat_templates/tools.jinja", "config.json", "merges.txt", "model-00001-of-00002.safetensors"),
        *("model-00002-of-00002.safetensors", "model.safetensors.index.json", "tokenizer.json"),
    ]
    assert model_files(["weights.safetensors", "config.json"]) == ["config.json", "weights.safetensors"]


PLAIN = ["README.md", "data/train-00001-of-00002.parquet", "data/train-00000-of-00002.parquet", "data/test.parquet"]
SUBSETS = ["main/train.parquet", "main/test.parquet", "socratic/train.parquet", "training_notes.jsonl"]
CONFIGS = """---
configs:
- config_name: main
  data_files:
  - {split: train, path: "main/train*.parquet"}
  - {split: test, path: [main/test.parquet]}
- config_name: socratic
  data_files: socratic/train.parquet
---
"""


def configs(data_files: str) -> str:
    return f"---\nconfigs: [{{config_name: main, data_files: {data_files}}}]\n---\n"


@pytest.mark.parametrize(
    ("split", "names", "readme", "files"),
    [
        (":train", PLAIN, None, ["data/train-00000-of-00002.parquet", "data/train-00001-of-00002.parquet"]),
        (":test", PLAIN, "no front matter", ["data/test.parquet"]),
        ("/data/test.parquet", PLAIN, None, ["data/test.parquet"]),
        ("", ["aime.jsonl", "README.md"], None, ["aime.jsonl"]),
        ("/main:test", SUBSETS, CONFIGS, ["main/test.parquet"]),
        ("/socratic", SUBSETS, CONFIGS, ["socratic/train.parquet"]),
        ("/main:train", SUBSETS, None, ["main/train.parquet"]),
        (":train", SUBSETS, CONFIGS.replace("_name: main", "_name: main\n  default: true"), ["main/train.parquet"]),
        (":test", ["a.jsonl", "b.jsonl"], configs("{train: a.jsonl, test: b.jsonl}"), ["b.jsonl"]),
        ("", ["a.jsonl", "old/b.jsonl"], configs("'*.jsonl'"), ["a.jsonl"]),
        ("", ["a.jsonl", "old/b.jsonl"], configs("'**/*.jsonl'"), ["a.jsonl", "old/b.jsonl"]),
    ],
)
def test_a_split_is_found_by_readme_or_by_names(split: str, names: list[str], readme: str | None, files: list[str]):
    assert files_of(dataset_split("hf://datasets/o/n" + split), names, readme) == files


@pytest.mark.parametrize(
    ("split", "names", "readme", "message"),
    [
        ("", PLAIN, None, "name a split, as in hf://datasets/o/n:train; its files are"),
        (":dev", PLAIN, None, "no file is named after the split dev"),
        (":train", SUBSETS, CONFIGS, "name one of its subsets, as in hf://datasets/o/n/main:train: main, socratic"),
        ("/main:dev", SUBSETS, CONFIGS, "it has no split dev: train, test"),
        ("/main", SUBSETS, CONFIGS, "name one of its splits: train, test, as in hf://datasets/o/n/main:train"),
        ("/other:train", SUBSETS, None, "neither a subset nor a file or directory other"),
        (":train", ["train.csv"], None, "no .jsonl or .parquet file"),
        ("/train.csv", ["train.csv"], None, "train.csv, which cannot be read"),
        ("/main:test", ["x.parquet"], CONFIGS, "names main/test.parquet, and the repository has no such file"),
    ],
)
def test_a_split_that_is_not_there_is_an_error_that_names_what_is(
    split: str, names: list[str], readme: str | None, message: str
) -> None:
    with pytest.raises(HubError, match=message):
        files_of(dataset_split("hf://datasets/o/n" + split), names, readme)


NESTED = "a: &a [x, x]\n" + "".join(
    f"{new}: &{new} [*{old}, *{old}]\n" for old, new in pairwise("abcdefghijklmnopqrstuvwxyz")
)


@pytest.mark.parametrize(
    "readme",
    [
        *map(configs, ("5", "true", "[5]", "[{split: train}]", "[{path: 5}]", "{train: {}}")),
        "---\nconfigs: [{data_files: a.jsonl, config_name: 2024-13-45}]\n---\n",
        f"---\nx: {'[' * 1000}\n---\n",
        f"---\n{NESTED}configs: [{{config_name: *z, data_files: {{*y : a.jsonl}}}}]\n---\n",
        "---" + "\n" * 30_000,
    ],
)
def test_front_matter_that_makes_no_sense_leaves_the_names_of_files(readme: str) -> None:
    assert files_of(dataset_split("hf://datasets/o/n:train"), ["train.jsonl"], readme) == ["train.jsonl"]


# ---- fetching -------------------------------------------------------------------------------------------------------


def test_a_model_is_fetched_once_and_whole(hub: HubServer) -> None:
    files = files_in(LARGE)
    commit = hub.add("models", "tiny/large", files | {"pytorch_model.bin": b"not this"})
    found = fetched("tiny/large")
    assert (found.repository.revision, found.asked_hub) == (commit, True)
    assert files_in(found.directory) == files
    once = hub.downloads()
    assert sorted(once) == sorted(files)
    assert fetched(f"tiny/large@{commit}").directory == found.directory
    assert hub.downloads() == once
    assert model_directory("models.learner", "tiny/large") == found.directory


def test_what_is_not_fetched_is_named_by_its_key(hub: HubServer) -> None:
    with pytest.raises(ModelError, match="models.learner: tiny/none is neither a directory nor a model of the Hub in"):
        model_directory("models.learner", "tiny/none")
    assert hub.requests == []


def test_a_plan_fetches_no_more_than_the_shape(hub: HubServer) -> None:
    hub.add("models", "tiny/shaped", files_in(SMALL))
    assert ModelShape.load("tiny/shaped").hidden == ModelShape.load(str(SMALL)).hidden
    assert hub.downloads() == ["config.json"]


def test_a_split_of_several_files_is_read_in_order(hub: HubServer, tmp_path: Path) -> None:
    table = pyarrow.Table.from_pylist([{"question": "c?", "answer": "3"}])
    pyarrow.parquet.write_table(table, tmp_path / "t.parquet")
    names = {"train-0.jsonl": rows("a?", "b?"), "train-1.parquet": (tmp_path / "t.parquet").read_bytes()}
    hub.add("datasets", "org/sums", names | {"test.jsonl": rows("d?"), "README.md": b"---\nlicense: mit\n---\n"})
    split = dataset_split("hf://datasets/org/sums:train")
    found = fetch_split(split, lambda done, total: None, 60.0)
    assert sorted(hub.downloads()) == ["README.md", "train-0.jsonl", "train-1.parquet"]
    problems = load_problems(str(split.at(found.directory.name))).problems
    assert [(p.id, p.question) for p in problems] == [
        ("train-0-000001", "a?"),
        ("train-0-000002", "b?"),
        ("train-1-000001", "c?"),
    ]
    assert len(load_problems(str(split), limit=1).problems) == 1


def test_progress_is_told_in_megabytes(hub: HubServer) -> None:
    hub.add("models", "tiny/wide", {"config.json": b"{}", "model.safetensors": bytes(3_500_000)})
    told: list[tuple[int, int]] = []
    fetch_model(model_repository("tiny/wide"), lambda done, total: told.append((done, total)), 60.0)
    assert told
    assert {total for _, total in told} == {3}
    assert all(0 <= done <= 3 for done, _ in told)


# ---- what can go wrong ----------------------------------------------------------------------------------------------


def test_a_repository_that_is_not_there(hub: HubServer) -> None:
    with pytest.raises(HubError, match="has no model org/none, or none that may be read with the token in HF_TOKEN"):
        fetched("org/none")
    with pytest.raises(HubError, match="has no data set org/none"):
        fetch_split(dataset_split("hf://datasets/org/none:train"), lambda done, total: None, 60.0)


def test_a_revision_that_is_not_there(hub: HubServer) -> None:
    hub.add("models", "org/one", {"config.json": b"{}"})
    with pytest.raises(HubError, match="the model org/one has no revision v2"):
        fetched("org/one@v2")


@pytest.mark.parametrize("gated", [True, False])
def test_a_token_opens_what_is_gated_or_private(
    hub: HubServer, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str], gated: bool
) -> None:
    hub.add("models", "org/closed", {"config.json": b"{}", "model.safetensors": b"0"}, gated=gated, token=TOKEN)
    with pytest.raises(HubError, match="is gated: accept its terms" if gated else "set HF_TOKEN if it is private"):
        fetched("org/closed")
    monkeypatch.setenv("HF_TOKEN", TOKEN)
    assert fetched("org/closed").files == ("config.json", "model.safetensors")
    assert f"Bearer {TOKEN}" in hub.authorisations
    assert TOKEN not in "".join(capfd.readouterr())


def test_a_hub_that_fails_is_one_error(hub: HubServer) -> None:
    hub.status = 500
    with pytest.raises(HubError, match="answers 500 when asked for the model org/one; try again later"):
        fetched("org/one")


@pytest.mark.parametrize(
    "says",
    [
        *("<html>sign in</html>", "[]", "null", "{}", '{"id": "org/name", "sha": null}'),
        '{"id": "org/name", "sha": "../..", "siblings": []}',
        f'{{"id": "org/name", "sha": "{"a" * 40}", "siblings": [{{"rfilename": 5}}]}}',
        f'{{"id": "org/name", "sha": "{"a" * 40}", "siblings": [{{"rfilename": "config.json", "size": "big"}}]}}',
    ],
)
def test_an_answer_that_is_not_the_hubs_is_one_error(hub: HubServer, says: str) -> None:
    hub.says = says
    with pytest.raises(HubError, match="no answer of a Hub when asked for the model org/name .*check HF_ENDPOINT"):
        fetched("org/name")


@pytest.mark.parametrize("name", ["../../../train.jsonl", "/tmp/train.jsonl"])
def test_a_file_is_never_written_outside_the_cache(hub: HubServer, name: str) -> None:
    hub.add("datasets", "org/data", {name: rows("1")})
    with pytest.raises(HubError, match="the data set org/data: Invalid filename"):
        fetch_split(dataset_split("hf://datasets/org/data:train"), lambda done, total: None, 60.0)


def test_a_repository_without_a_model(hub: HubServer) -> None:
    hub.add("models", "org/name", {"README.md": b"coming soon"})
    with pytest.raises(HubError, match="has no files of a model"):
        fetched("org/name")


def test_a_lock_that_a_killed_process_left_is_waited_for_within_the_bound(hub: HubServer, tmp_path: Path) -> None:
    hub.add("models", "org/name", {"config.json": b"{}"})
    fetched("org/name")
    lock = next((tmp_path / "cache" / "hub" / ".locks").rglob("*.lock"))
    hub.add("models", "org/name", {"config.json": b"{ }"})
    with lock.with_name(f"{hashlib.sha1(b'{ }').hexdigest()}.lock").open("w") as held:
        fcntl.flock(held, fcntl.LOCK_EX)
        with pytest.raises(HubError, match="did not arrive .* within 1 s .*remove what is in .*/.locks"):
            fetched("org/name", 1.0)


@pytest.mark.parametrize("commit", ["", "..", "\xff"])
def test_a_damaged_cache_has_no_snapshot(hub: HubServer, tmp_path: Path, commit: str) -> None:
    hub.add("models", "org/name", {"config.json": b"{}"})
    fetched("org/name")
    [reference] = (tmp_path / "cache" / "hub").glob("models--org--name/refs/main")
    reference.write_bytes(commit.encode("latin-1"))
    assert cached_model(model_repository("org/name")) is None


def test_a_password_of_the_endpoint_and_a_token_that_is_none_are_not_shown(
    hub: HubServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("huggingface_hub.constants.ENDPOINT", hub.url.replace("://", "://user:secret@"))
    with pytest.raises(HubError, match=r"http://\*\*\*@127") as caught:
        fetched("org/absent")
    assert "secret" not in str(caught.value)
    monkeypatch.setenv("HF_TOKEN", "s\xe9cret")
    with pytest.raises(HubError, match="HF_TOKEN .* is not a token"):
        fetched("org/absent")


def test_no_hub_at_all(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with socket.create_server(("127.0.0.1", 0)) as free:
        url = f"http://127.0.0.1:{free.getsockname()[1]}"
    use(url, tmp_path, monkeypatch)
    with pytest.raises(HubError, match="does not answer .*and the model tiny/large is not in the local cache"):
        fetched("tiny/large")
    with pytest.raises(HubError, match="does not answer"):  # at once, without the retries of a download
        fetch_file(model_repository("tiny/large"), "config.json")
    with hub_server() as hub:
        use(hub.url, tmp_path, monkeypatch)
        hub.add("models", "tiny/large", files_in(LARGE))
        directory = fetched("tiny/large").directory
    use(url, tmp_path, monkeypatch)
    found = fetched("tiny/large")
    assert (found.directory, found.asked_hub) == (directory, False)


def test_offline_the_cache_is_used_and_nobody_asked(hub: HubServer, monkeypatch: pytest.MonkeyPatch) -> None:
    hub.add("models", "org/one", {"config.json": b"{}", "model.safetensors": b"0"})
    directory = fetched("org/one").directory
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    asked = len(hub.requests)
    assert fetched("org/one").directory == directory
    with pytest.raises(HubError, match=r"HF_HUB_OFFLINE is set; .*: hf download org/two --revision v1"):
        fetched("org/two@v1")
    with pytest.raises(HubError, match="HF_HUB_OFFLINE is set"):
        fetch_file(model_repository("org/two"), "config.json")
    assert len(hub.requests) == asked


def test_a_download_that_takes_too_long_ends_and_goes_on_later(hub: HubServer) -> None:
    hub.add("models", "org/slow", {"config.json": b"{}", "model.safetensors": bytes(25_000_000)})
    hub.pause_s = 0.001
    with pytest.raises(HubError, match=r"did not arrive from .* within 1 s \(cluster.fetch_timeout_s\)"):
        fetched("org/slow", timeout_s=1.0)
    hub.pause_s = 0.0
    assert (fetched("org/slow").directory / "model.safetensors").stat().st_size == 25_000_000


def test_a_disk_that_is_too_small_is_said_beforehand(hub: HubServer, monkeypatch: pytest.MonkeyPatch) -> None:
    hub.add("models", "org/large", {"config.json": b"{}", "model.safetensors": bytes(1000)})
    monkeypatch.setattr("s2l_ray.hub.fetching.shutil.disk_usage", lambda place: type("Usage", (), {"free": 10}))
    with pytest.raises(HubError, match="GB free; set HF_HOME to a place with more"):
        fetched("org/large")
    assert hub.downloads() == []


def test_a_file_that_is_not_there(hub: HubServer) -> None:
    hub.add("models", "org/bare", {"model.safetensors": b"0"})
    with pytest.raises(HubError, match="the model org/bare"):
        fetch_file(model_repository("org/bare"), "config.json")
    assert cached_model(model_repository("org/bare")) is None


def test_a_node_with_a_cache_of_its_own_fetches_for_itself(hub: HubServer) -> None:
    commit = hub.add("models", "org/one", {"config.json": b"{}", "model.safetensors": b"0"})
    model = HubModel("models.learner", model_repository(f"org/one@{commit}"), 60.0)
    assert NodeFiles(models=(model,)).problems(0) == []
    assert cached_model(model.repository) is not None
    other = HubModel("models.explorer", model_repository("org/none"), 60.0)
    (problem,) = NodeFiles(models=(model, other)).problems(0)
    assert problem.startswith("models.explorer: ") and "has no model org/none" in problem


# ---- the configuration ----------------------------------------------------------------------------------------------


def configured(*overrides: str) -> Config:
    return load_config(
        "quickstart", ["models.learner=tiny/large", "data.train=hf://datasets/org/sums:train", *overrides]
    )


def test_sources_are_pinned_to_commits_that_a_resumed_run_keeps(hub: HubServer) -> None:
    model = {"config.json": b"{}", "model.safetensors": b"0"}
    first = hub.add("models", "tiny/large", model)
    data = hub.add("datasets", "org/sums", {"train.jsonl": rows("a?")})
    config, pins = fetch_sources(configured(), SilentReporter())
    assert config.models.learner == f"tiny/large@{first}"
    assert config.models.explorer == configured().models.explorer
    assert config.data.train == f"hf://datasets/org/sums@{data}:train"
    assert pins == {
        "models.learner": Pin("tiny/large", f"tiny/large@{first}"),
        "data.train": Pin("hf://datasets/org/sums:train", f"hf://datasets/org/sums@{data}:train"),
    }
    second = hub.add("models", "tiny/large", model | {"model.safetensors": b"1"})
    again, _ = fetch_sources(configured(), SilentReporter(), pins)
    assert again.models.learner == f"tiny/large@{first}"
    renamed, _ = fetch_sources(configured("models.learner=tiny/large@main"), SilentReporter(), pins)
    assert renamed.models.learner == f"tiny/large@{second}"


def test_the_key_is_named_when_something_cannot_be_fetched(hub: HubServer) -> None:
    hub.add("models", "tiny/large", {"config.json": b"{}"})
    with pytest.raises(HubError, match="^data.train: .*has no data set org/sums"):
        fetch_sources(configured(), SilentReporter())


def test_a_directory_comes_before_the_hub(hub: HubServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "tiny" / "large").mkdir(parents=True)
    monkeypatch.chdir(tmp_path)
    config, pins = fetch_sources(configured("data.train=embedded:train.jsonl"), SilentReporter())
    assert (config.models.learner, pins, hub.requests) == ("tiny/large", {}, [])
