"""The embedded family: its tokenizer, its pretraining, and a build that is whole or not there."""

from __future__ import annotations

import fcntl
import json
import os
import shutil
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import psutil
import pytest
import torch
from transformers import AutoModelForCausalLM, AutoTokenizer, Qwen3ForCausalLM

from s2l_ray.cli import main
from s2l_ray.commands.family import recipe_of
from s2l_ray.config import parse_config
from s2l_ray.errors import ConfigError, DataError, DiskError, ModelError
from s2l_ray.machine.cpu import this_cpu
from s2l_ray.miniature.build import EMBEDDED, Family, build_family
from s2l_ray.miniature.countdown import CountdownProblem, check, generate, parse_question
from s2l_ray.miniature.curves import KS, count_right, measure_curve
from s2l_ray.miniature.pretrain import Optimisation, encode, learning_rate, model_config, pretrain
from s2l_ray.miniature.recipe import QUICK, TINY, Shape
from s2l_ray.miniature.tokenizer import build_tokenizer
from tests.support.paths import ROOT
from tests.support.patience import PATIENCE_S
from tests.support.small_disk import small_disk

MICRO = Shape(width=32, layers=1, ffn=32)
TRACE = "20 + 5 = 25 ; 25 - 8 = 17 ; 17 / 1 = 17 ."
PROBLEM = CountdownProblem((1, 5, 20, 8), 17, TRACE)


def ignore(*_: object) -> None:
    """A report that nobody reads."""


# Tokenizer


def test_a_problem_is_25_tokens_and_comes_back_as_its_text(tmp_path: Path) -> None:
    build_tokenizer().save_pretrained(tmp_path)
    tokenizer = AutoTokenizer.from_pretrained(tmp_path)
    ids = tokenizer(f"{PROBLEM.prompt} {TRACE}").input_ids
    # Words in order: <pad> . <unk> 0..99 + - * / = ; : >
    assert ids[:7] == [4, 8, 23, 11, 109, 20, 110]
    assert ids[7:] == [23, 103, 8, 107, 28, 108, 28, 104, 11, 107, 20, 108, 20, 106, 4, 107, 20, 1]
    assert tokenizer.decode(ids) == f"{PROBLEM.prompt} {TRACE}"
    assert tokenizer.decode(ids[7:], skip_special_tokens=True) == TRACE.removesuffix(" .")
    assert (tokenizer.eos_token_id, tokenizer.pad_token_id, len(tokenizer)) == (1, 0, 111)


def test_encode_gives_one_row_of_prompt_and_trace_per_problem() -> None:
    sequences, prompt_tokens = encode([PROBLEM], build_tokenizer())
    assert prompt_tokens == 7
    assert sequences[0].tolist()[5:9] == [20, 110, 23, 103]


# Pretraining


def test_learning_rate_by_hand() -> None:
    assert learning_rate(0, 1000, 2e-3) == pytest.approx(2e-5)
    assert learning_rate(49, 1000, 2e-3) == pytest.approx(1e-3)
    assert learning_rate(99, 1000, 2e-3) == learning_rate(499, 1000, 2e-3) == pytest.approx(2e-3)
    assert learning_rate(749, 1000, 2e-3) == pytest.approx(2e-3 * (1 - 0.95 / 2))
    assert learning_rate(999, 1000, 2e-3) == pytest.approx(1e-4)


@pytest.mark.parametrize(("shape", "parameters"), [(QUICK.small, 121_152), (QUICK.large, 881_792)])
def test_parameter_counts_by_hand(shape: tuple[int, int, int], parameters: int) -> None:
    """Embeddings 2 * 111 w, final norm w; a layer has 4 w^2 attention, 3 w f feed-forward, 2 w + 2 * 32 norms."""
    width, layers, ffn = shape
    by_hand = 2 * 111 * width + width + layers * (4 * width**2 + 3 * width * ffn + 2 * width + 64)
    assert by_hand == parameters
    model = Qwen3ForCausalLM(model_config(Shape(*shape), build_tokenizer()))
    assert sum(p.numel() for p in model.parameters()) == parameters


def test_the_loss_is_that_of_the_solution_tokens_alone(tmp_path: Path) -> None:
    """One batch holds all problems, so the reported loss is the untrained model's; transformers computes the same."""
    problems, tokenizer = generate(64, "train", 1), build_tokenizer()
    how = Optimisation(epochs=1, bfloat16=False, seed=7)
    reported: list[tuple[int, int, float]] = []
    loss = pretrain(problems, tokenizer, MICRO, how, tmp_path, lambda *numbers: reported.append(numbers))
    torch.manual_seed(7)
    untrained = Qwen3ForCausalLM(model_config(MICRO, tokenizer))
    sequences, _ = encode(problems, tokenizer)
    labels = sequences.clone()
    labels[:, :7] = -100
    assert loss == pytest.approx(untrained(sequences, labels=labels).loss.item(), abs=1e-5)
    assert reported == [(1, 1, loss)]


def test_pretraining_learns(tmp_path: Path) -> None:
    """Guessing over the whole vocabulary costs ln(111) = 4.7; knowing the form "a op b = c ; ..." alone, far less."""
    problems = generate(64, "train", 1)
    assert pretrain(problems, build_tokenizer(), MICRO, Optimisation(epochs=150), tmp_path, ignore) < 2.5


def test_pretraining_is_a_function_of_its_recipe(tmp_path: Path) -> None:
    problems, tokenizer = generate(128, "train", 1), build_tokenizer()
    for name, seed in {"a": 1, "b": 1, "c": 2}.items():
        pretrain(problems, tokenizer, MICRO, Optimisation(epochs=3, seed=seed), tmp_path / name, ignore)
    a, b, c = (AutoModelForCausalLM.from_pretrained(tmp_path / name).lm_head.weight for name in "abc")
    assert torch.equal(a, b) and not torch.equal(a, c)


def test_too_few_problems_for_a_batch_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="63 problems do not fill one batch of 64"):
        pretrain(generate(63, "train", 1), build_tokenizer(), MICRO, Optimisation(epochs=1), tmp_path, ignore)


# The family that the package carries

CARRIED = json.loads(EMBEDDED.manifest.read_text())


def overlap(a: tuple[float, float, float], b: tuple[float, float, float]) -> bool:
    """Whether the intervals of two estimates meet."""
    return a[1] <= b[2] and b[1] <= a[2]


def test_the_package_carries_the_family_of_the_recipe() -> None:
    assert EMBEDDED.is_whole() and EMBEDDED.fingerprint() == QUICK.fingerprint
    pretraining = generate(QUICK.problems, "train", QUICK.seed)
    training = generate(QUICK.train_problems, "train", QUICK.seed + 1, exclude=pretraining)
    heldout = generate(QUICK.heldout_problems, "heldout", QUICK.seed)
    for file, problems in ((EMBEDDED.train, training), (EMBEDDED.heldout, heldout)):
        rows = [json.loads(line) for line in file.read_text().splitlines()]
        assert [row["question"] for row in rows] == [problem.question for problem in problems]


def test_names_of_the_embedded_family_become_its_paths() -> None:
    values = {"models": {"learner": "embedded:large", "explorer": "embedded:small"}}
    config = parse_config(values | {"data": {"train": "embedded:train.jsonl", "eval": "embedded:heldout.jsonl"}})
    assert (config.models.learner, config.models.explorer) == (str(EMBEDDED.large), str(EMBEDDED.small))
    assert (config.data.train, config.data.eval) == (str(EMBEDDED.train), str(EMBEDDED.heldout))
    with pytest.raises(
        ConfigError, match="models.learner: the embedded family has embedded:small, .*got 'embedded:huge'"
    ):
        parse_config({"models": {"learner": "embedded:huge", "explorer": "e"}, "data": {"train": "t"}})


@pytest.mark.parametrize("size", ["small", "large"])
def test_the_carried_models_solve_what_the_manifest_says(size: str) -> None:
    problems = generate(128, "heldout", QUICK.seed)
    curve = measure_curve(EMBEDDED.directory / size, problems, samples=16, seed=2)
    said = CARRIED["pass_at_k"][size]
    assert all(overlap(curve[k], said[str(k)]) for k in (1, 4, 16)), (curve, said)


@pytest.mark.parametrize("size", ["small", "large"])
def test_the_recipe_begins_as_it_did_for_the_carried_models(size: str, tmp_path: Path) -> None:
    """Losses of steps 1, 21 and 41, on any CPU and in either type."""

    class Enough(Exception):
        pass

    losses: list[float] = []

    def report(done: int, total: int, loss: float) -> None:
        losses.append(loss)
        if done > 40:
            raise Enough

    problems = generate(QUICK.problems, "train", QUICK.seed)
    how = Optimisation(epochs=QUICK.epochs, seed=QUICK.seed, bfloat16=this_cpu().native)
    with pytest.raises(Enough):
        pretrain(problems, build_tokenizer(), getattr(QUICK, size), how, tmp_path, report)
    assert losses == pytest.approx(CARRIED["loss"][size][:3], rel=0.02)


@pytest.mark.skipif("S2L_TEST_RECIPE" not in os.environ, reason="S2L_TEST_RECIPE=1 pretrains the family: 5 to 12 min")
@pytest.mark.timeout(3600)
def test_the_recipe_gives_the_curves_of_the_carried_models(tmp_path: Path) -> None:
    built = build_family(tmp_path / "family", measure=True)
    curves = json.loads(built.manifest.read_text())["pass_at_k"]
    for size, said in CARRIED["pass_at_k"].items():
        assert all(overlap(curves[size][k], said[k]) for k in said), (size, curves[size], said)


# Building


def test_a_built_family_is_ordinary_models_and_rows(family: Family) -> None:
    for directory, shape in ((family.small, TINY.small), (family.large, TINY.large)):
        model = AutoModelForCausalLM.from_pretrained(directory)
        config = model.config
        assert (config.hidden_size, config.num_hidden_layers, config.intermediate_size) == shape
        assert config.model_type == "qwen3" and config.dtype == torch.float32
        assert {file.stat().st_mode & 0o444 for file in directory.iterdir()} == {directory.stat().st_mode & 0o444}
        assert config.eos_token_id == model.generation_config.eos_token_id == 1
        assert len(AutoTokenizer.from_pretrained(directory)) == config.vocab_size == 111
    pretraining = {p.question for p in generate(TINY.problems, "train", TINY.seed)}
    train, heldout = (
        [json.loads(row) for row in file.read_text().splitlines()] for file in (family.train, family.heldout)
    )
    assert (len(train), len(heldout)) == (TINY.train_problems, TINY.heldout_problems)
    assert not pretraining & {row["question"] for row in train}, "RL problems must be new to the models"
    assert not {row["question"] for row in train} & {row["question"] for row in heldout}
    assert check("1 + 1 = 2", heldout[0]["answer"]).status == "wrong"


def test_a_family_of_another_recipe(tmp_path: Path) -> None:
    few = ["problems=64", "epochs=1", "train_problems=8", "heldout_problems=4"]
    words = ["numbers=3", "small=[32,1,96]", "large=[64,1,96]", *few]
    assert main(["family", "build", *words, "--measure", "--to", str(tmp_path / "family")]) == 0
    family = Family(tmp_path / "family")
    rows = [json.loads(row) for file in (family.train, family.heldout) for row in file.read_text().splitlines()]
    assert [len(parse_question(row["question"])[0]) for row in rows] == [3] * 12
    assert sum(p.numel() for p in AutoModelForCausalLM.from_pretrained(family.small).parameters()) == 20_576
    said = json.loads(family.manifest.read_text())
    assert said["recipe_fingerprint"] == recipe_of(words).fingerprint
    assert set(said["pass_at_k"]["small"]) == set(map(str, KS))


def test_right_answers_are_counted_by_problem_whatever_the_batch(family: Family, monkeypatch) -> None:
    """A model that always says the same trace solves exactly the problem whose trace that is."""
    problems = generate(3, "heldout", 1)
    said = build_tokenizer()(problems[1].trace).input_ids

    def forward(self, input_ids, past_key_values=0, **_):
        logits = torch.zeros(len(input_ids), 1, 111)
        logits[:, :, said[min(past_key_values, len(said) - 1)]] = 1e4
        return SimpleNamespace(logits=logits, past_key_values=past_key_values + 1)

    monkeypatch.setattr(Qwen3ForCausalLM, "forward", forward)
    monkeypatch.setattr("s2l_ray.miniature.curves.BATCH", 5)
    assert count_right(family.small, problems, samples=4, seed=1) == [0, 4, 0]


def test_the_same_recipe_is_not_built_twice(family: Family) -> None:
    before = family.manifest.stat().st_mtime_ns

    def fail(*_: object) -> None:
        raise AssertionError("it trains again")

    assert build_family(family.directory, recipe=TINY, progress=fail) == family
    assert family.manifest.stat().st_mtime_ns == before


def test_every_part_of_a_recipe_is_in_its_fingerprint() -> None:
    changed = [
        TINY.model_copy(update={"numbers": 3}),
        TINY.model_copy(update={"problems": 641}),
        TINY.model_copy(update={"epochs": 3}),
        TINY.model_copy(update={"small": (32, 2, 192)}),
        TINY.model_copy(update={"large": (64, 4, 193)}),
        TINY.model_copy(update={"train_problems": 1}),
        TINY.model_copy(update={"heldout_problems": 1}),
        TINY.model_copy(update={"seed": 2}),
    ]
    assert len({recipe.fingerprint for recipe in [TINY, *changed]}) == 9


@pytest.mark.parametrize("name", ["notes.txt", "manifest.json"])
def test_a_directory_that_is_no_family_is_never_replaced(tmp_path: Path, name: str) -> None:
    (tmp_path / name).write_text("[]")
    with pytest.raises(ModelError, match="is not an embedded family"):
        build_family(tmp_path, recipe=TINY, force=True)
    assert (tmp_path / name).read_text() == "[]"


def test_a_family_with_something_else_beside_it_is_not_replaced(tmp_path: Path) -> None:
    shutil.copytree(EMBEDDED.directory, tmp_path / "family")
    (tmp_path / "family" / "my_run").mkdir()
    with pytest.raises(
        ModelError, match="family holds my_run besides the family, which building it again would remove"
    ):
        build_family(tmp_path / "family", recipe=TINY)
    assert (tmp_path / "family" / "my_run").is_dir()


def test_a_directory_for_building_that_holds_something_else_is_left_alone(tmp_path: Path) -> None:
    scratch = tmp_path / ".family.building"
    scratch.mkdir()
    (scratch / "notes.txt").write_text("mine")
    with pytest.raises(ModelError, match=r"\.family\.building is needed for building, and holds something else"):
        build_family(tmp_path / "family", recipe=TINY)
    assert (scratch / "notes.txt").read_text() == "mine"


def test_places_that_cannot_be_replaced_are_refused_before_anything_is_trained(tmp_path: Path) -> None:
    with pytest.raises(ModelError, match="/proc is where a file system is mounted"):
        build_family(Path("/proc"), recipe=TINY)
    (tmp_path / "a").symlink_to("b")
    (tmp_path / "b").symlink_to("a")
    with pytest.raises(ModelError, match="a is a link that goes in a circle"):
        build_family(tmp_path / "a", recipe=TINY)
    os.mkfifo(tmp_path / "manifest.json")
    with pytest.raises(ModelError, match="is not an embedded family"):
        build_family(tmp_path, recipe=TINY)
    with pytest.raises(DataError, match="train_problems: countdown has hardly more than"):
        build_family(
            tmp_path / "many", recipe=TINY.model_copy(update={"numbers": 2, "problems": 64, "train_problems": 999})
        )


def test_two_builds_of_one_directory_do_not_meet(tmp_path: Path) -> None:
    scratch = tmp_path / ".family.building"
    scratch.mkdir()
    with (scratch / ".lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        with pytest.raises(ModelError, match="another process is building"):
            build_family(tmp_path / "family", recipe=TINY)
    assert not (tmp_path / "family").exists()


def test_an_error_in_training_comes_up_and_leaves_nothing(tmp_path: Path) -> None:
    with pytest.raises(RuntimeError, match="(?s)pretraining the (small|large) model failed.*10 problems do not fill"):
        build_family(tmp_path / "family", recipe=TINY.model_copy(update={"problems": 10}))
    assert not list(tmp_path.iterdir())


def test_a_disk_that_is_too_small_for_the_family_is_one_message(tmp_path: Path) -> None:
    """The larger model's weights take about 700 kB."""
    with small_disk(tmp_path / "disk", 400) as disk:
        with pytest.raises(DiskError, match="disk/.*cannot be written: No space left on device; free some space"):
            build_family(disk / "family", recipe=TINY.model_copy(update={"problems": 64, "epochs": 1}))
        assert not list(disk.iterdir())


def test_a_killed_build_keeps_the_old_family_and_the_next_one_replaces_it(tmp_path: Path) -> None:
    old = Family(tmp_path / "family")
    old.directory.mkdir()
    old.manifest.write_text('{"recipe_fingerprint": "of another recipe"}')
    script = tmp_path / "endless.py"
    script.write_text(
        "from pathlib import Path\n"
        "from s2l_ray.miniature.build import build_family\n"
        "from s2l_ray.miniature.recipe import TINY\n"
        "if __name__ == '__main__':\n"
        "    target = Path(__file__).with_name('family')\n"
        "    recipe = TINY.model_copy(update={'epochs': 10**6})\n"
        "    build_family(target, recipe=recipe, progress=lambda *a: print(*a, flush=True))\n"
    )
    environment = os.environ | {"PYTHONPATH": str(ROOT)}
    parent = subprocess.Popen([sys.executable, script], stdout=subprocess.PIPE, text=True, env=environment)
    assert parent.stdout.readline().split()[0] in ("small", "large")
    children = psutil.Process(parent.pid).children(recursive=True)
    parent.kill()
    parent.wait(timeout=PATIENCE_S)
    _, alive = psutil.wait_procs(children, timeout=PATIENCE_S)
    assert len(children) >= 2 and not alive, "a killed build must not leave training processes behind"
    assert [p.name for p in old.directory.iterdir()] == ["manifest.json"]
    assert any((tmp_path / ".family.building").iterdir())

    recipe = TINY.model_copy(update={"problems": 64, "epochs": 1})
    family = build_family(tmp_path / "family", recipe=recipe)
    assert family.is_whole() and family.fingerprint() == recipe.fingerprint
    assert sorted(p.name for p in tmp_path.iterdir()) == ["endless.py", "family"]
    parts = ["heldout.jsonl", "large", "manifest.json", "small", "train.jsonl"]
    assert sorted(p.name for p in family.directory.iterdir()) == parts
