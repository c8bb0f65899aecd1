"""The training command as a whole: continues bitwise, survives kills, refuses what is wrong."""

import json
import os
import random
import re
import shutil
import signal
import time
from pathlib import Path

import numpy as np
import pytest
from trainer import Trainer

from llama_jax.checkpoint import layout
from llama_jax.config.data import SourceConfig
from llama_jax.config.evaluate import EvaluateConfig, EvaluatorConfig, SubjectConfig
from llama_jax.config.model import ComputeConfig
from llama_jax.config.prepare import PrepareConfig, PrepareSourceConfig, TokenizerTrainingConfig
from llama_jax.converters import weights
from llama_jax.evaluate import evaluate
from llama_jax.prepare import prepare
from llama_jax.training import job

pytestmark = pytest.mark.process
STEPS = 40


@pytest.fixture(scope="module")
def data(tmp_path_factory) -> Path:
    """A prepared folder of this project's own text, so little that a run meets it twice."""
    folder = tmp_path_factory.mktemp("data")
    source = PrepareSourceConfig(
        path=str(Path(__file__).parents[1] / "llama_jax"), pattern="model/*.py"
    )
    prepare(
        PrepareConfig(
            output=str(folder / "prepared"),
            sources={"code": source},
            tokenizer_training=TokenizerTrainingConfig(vocab=512),
            held_out=0.15,
        )
    )
    return folder / "prepared"


@pytest.fixture
def trainer(tmp_path, data) -> Trainer:
    return Trainer(tmp_path, data)


@pytest.fixture(scope="module")
def straight(tmp_path_factory, data) -> Trainer:
    """A run that nothing interrupts."""
    trainer = Trainer(tmp_path_factory.mktemp("straight"), data)
    trainer.run()
    assert trainer.steps()[-1] == STEPS and len(trainer.losses()) == STEPS
    small = json.loads((data / "code" / "held_out" / "manifest.json").read_text())
    assert small["tokens"] < 0.8 * STEPS * 4 * 32, "the run must cross an epoch of this source"
    return trainer


def assert_same_run(trainer: Trainer, straight: Trainer) -> None:
    assert trainer.losses() == straight.losses()
    assert trainer.fingerprints(STEPS) == straight.fingerprints(STEPS)


def test_the_same_command_twice_gives_the_same_bits(trainer, straight):
    trainer.run()
    assert_same_run(trainer, straight)


def test_a_finished_run_is_a_completed_job(straight):
    found = job.record(straight.workdir)
    assert (found["status"], found["steps_completed"]) == ("completed", STEPS)
    assert found["token_count"] == STEPS * 4 * 32 and found["param_count"] > 512 * 32
    kinds = [event["type"] for event in found["events"]]
    assert kinds[0] == "JOB_PENDING" and kinds.count("CHECKPOINT_SAVE") == len(straight.steps())
    assert "EPOCH_COMPLETE" in kinds and kinds[-1] == "JOB_COMPLETE"


def test_a_run_survives_sigterm_again_and_again(trainer, straight):
    rng, stops = random.Random(0), 0
    while stops < 10:
        if trainer.steps() and trainer.steps()[-1] == STEPS:
            assert_same_run(trainer, straight)
            shutil.rmtree(trainer.workdir)
        target = trainer.logged() + rng.randint(1, 6)
        process = trainer.start()
        trainer.wait_for_step(target, process)
        if process.is_alive():
            os.kill(process.pid, signal.SIGTERM)
        process.join(timeout=200)
        assert process.exitcode in (0, 75), trainer.log.read_text()
        if process.exitcode == 75:
            stops += 1
            # Saved where it stopped: nothing that was logged is lost.
            assert trainer.steps()[-1] == trainer.logged()
    trainer.run()
    assert_same_run(trainer, straight)


def test_a_run_survives_being_killed_at_any_moment(trainer, straight):
    rng, kills, newest = random.Random(1), 0, 0
    while kills < 25:
        process = trainer.start()
        trainer.wait_for_step(newest + 1, process)
        time.sleep(rng.uniform(0, 0.3))
        kills += process.is_alive()
        process.kill()
        process.join(timeout=60)
        steps = trainer.steps()
        assert not steps or steps[-1] >= newest, "a committed checkpoint was lost"
        newest = steps[-1] if steps else 0
        if newest == STEPS:  # Done too soon: once more from the start.
            assert_same_run(trainer, straight)
            shutil.rmtree(trainer.workdir)
            newest = 0
    trainer.run()
    assert_same_run(trainer, straight)


def test_two_resumes_from_one_checkpoint_are_one_run(trainer, straight, tmp_path):
    process = trainer.start()
    trainer.wait_for_step(11, process)
    process.kill()
    process.join(timeout=60)
    copy = tmp_path / "copy"
    shutil.copytree(trainer.workdir, copy)
    trainer.run()
    assert_same_run(trainer, straight)
    shutil.rmtree(trainer.workdir)
    copy.rename(trainer.workdir)
    trainer.run()
    assert_same_run(trainer, straight)


def test_a_damaged_newest_checkpoint_is_set_aside_and_the_run_is_the_same(trainer, straight):
    shutil.copytree(straight.workdir, trainer.workdir)
    newest = trainer.workdir / "checkpoints" / str(STEPS)
    arrays = max((newest / "state").rglob("*"), key=lambda path: path.stat().st_size)
    content = bytearray(arrays.read_bytes())
    content[len(content) // 2] ^= 16
    arrays.write_bytes(bytes(content))
    (trainer.workdir / "config.json").unlink()
    text = trainer.run()
    assert "damaged" in text and "corrupt-" in text
    assert_same_run(trainer, straight)
    assert list(newest.parent.glob(f"{STEPS}.corrupt-*"))


def test_a_finished_run_has_nothing_to_do(straight):
    before = straight.rows()
    assert "nothing to do" in straight.run()
    assert straight.rows() == before


def test_what_a_run_directory_holds(straight):
    config = json.loads((straight.workdir / "config.json").read_text())
    assert config["settings"]["steps"] == STEPS
    assert config["model"] == config["settings"]["model"]
    assert config["versions"]["jax"] and config["commit"]
    assert (straight.workdir / "tokenizer" / "tokenizer.model").is_file()
    assert list((straight.workdir / "tensorboard").glob("events*"))
    row = json.loads(straight.rows()[-1])
    for name in (
        "train/loss", "train/perplexity", "train/accuracy", "train/learning_rate",
        "train/grad_norm", "train/param_norm", "throughput/tokens_per_second",
        "throughput/tflops_per_device_causal", "throughput/tflops_per_device_full",
        "throughput/step_time_s", "data/wait_time_s", "data/tokens_seen", "goodput/fraction",
        "optim/skipped_steps", "data/share/a", "data/target/b", "data/epochs/b",
    ):  # fmt: skip
        assert name in row, name


def test_other_settings_in_the_same_workdir_are_refused_by_name(straight):
    text = straight.run("--config.optim.learning_rate=0.5", expect=78)
    assert "config.optim.learning_rate: 0.0003 -> 0.5" in text
    assert "accept_changes" in text
    text = straight.run("--config.model.layers=3", expect=78)
    assert "config.model.layers: 2 -> 3" in text
    text = straight.run("--config.data.mixture.a.weight=5", expect=78)
    assert "config.data.mixture.a.weight" in text


def test_other_data_behind_the_same_path_is_refused(trainer, data, tmp_path):
    moved = tmp_path / "moved"
    shutil.copytree(data / "code", moved)
    flag = f"--config.data.mixture.b.path={moved}"
    short = ("--config.steps=4", "--config.optim.warmup_steps=1")
    trainer.run(*short, f"{flag}/held_out")
    shutil.rmtree(moved / "held_out")
    shutil.copytree(data / "code" / "train", moved / "held_out")
    text = trainer.run(*short, f"{flag}/held_out", expect=78)
    assert "data.mixture.b.tokens_sha256" in text


def test_settings_that_decide_nothing_may_change(straight):
    straight.run("--config.log.every=7", "--config.data.threads=1", "--config.data.prefetch=0")


def test_changes_may_be_accepted_on_purpose(trainer):
    trainer.run("--config.steps=4", "--config.optim.warmup_steps=1")
    more = ("--config.steps=6", "--config.optim.warmup_steps=1")
    assert "config.steps: 4 -> 6" in trainer.run(*more, expect=78)
    trainer.run(*more, "--config.accept_changes=True")
    assert trainer.steps()[-1] == 6


def test_weights_may_change_on_purpose_and_the_step_is_recorded(trainer):
    trainer.run("--config.steps=4", "--config.optim.warmup_steps=1")
    trainer.run(
        "--config.steps=8",
        "--config.optim.warmup_steps=1",
        "--config.data.mixture.a.weight=12",
        "--config.accept_changes=True",
    )
    record = layout.read_record(trainer.workdir / "checkpoints", 8)
    assert [(phase["step"], phase["weights"]) for phase in record["data"]["phases"]] == [
        (0, {"a": 1.0, "b": 4.0}),
        (4, {"a": 12.0, "b": 4.0}),
    ]
    rows = {row["step"]: row for row in map(json.loads, trainer.rows())}
    assert rows[4]["data/target/a"] == 0.2 and rows[5]["data/target/a"] == 0.75
    assert abs(rows[4]["data/share/a"] - 0.2) <= 1 / 16
    assert abs(rows[8]["data/share/a"] - (3.2 + 12) / 32) <= 2 / 32


def test_a_run_says_what_it_will_read_and_refuses_too_many_epochs(trainer):
    flags = ("--config.steps=4", "--config.optim.warmup_steps=1")
    text = trainer.run(*flags, "--config.data.mixture.a.epochs=0.001", expect=78)
    assert re.search(r"data.mixture.a.epochs is 0.001, which is enough for \d+ steps", text)
    text = trainer.run(*flags, "--config.data.packing=best_fit")
    assert re.search(r"source +tokens +rows +share +padding +epochs at step 4\n", text)
    assert (trainer.workdir / "data.png").read_bytes()[:4] == b"\x89PNG"


def test_a_second_process_on_the_workdir_is_refused(trainer, tmp_path):
    first = trainer.start("--config.steps=100000")
    trainer.wait_for_step(1, first)
    trainer.log = tmp_path / "second.txt"
    try:
        text = trainer.run(expect=78)
    finally:
        first.kill()
        first.join(timeout=60)
    assert f"in use by process {first.pid}" in text


def test_non_finite_steps_are_skipped_then_the_run_stops(trainer):
    # The first update throws the weights so far off that no later loss is finite.
    text = trainer.run(
        "--config.optim.learning_rate=1e38",
        "--config.optim.schedule=constant",
        "--config.optim.warmup_steps=0",
        "--config.max_skipped=3",
        expect=65,
    )
    assert "not both finite" in text and "3 in a row" in text and "rows" in text


def evaluating(recipe: str, data: Path, rows: int = 8) -> str:
    """Returns the recipe with held-out rows to measure every other step."""
    return recipe.replace(
        "    return c",
        f"""    from llama_jax.config.evaluate import EvaluatorConfig
    c.evaluation.every = 2
    c.evaluation.evaluators.own = load.default(EvaluatorConfig(
        source=SourceConfig(path="{data}/code/held_out"), sequence_length=32, rows={rows},
        batch_size=4, buckets=4))
    return c""",
    )


def test_held_out_evaluation_is_reported(trainer, data):
    trainer.recipe.write_text(evaluating(trainer.recipe.read_text(), data, rows=6))
    text = trainer.run("--config.steps=4", "--config.optim.warmup_steps=1")
    assert "step 2 own: loss" in text and "step 4 own: loss" in text
    rows = [json.loads(row) for row in trainer.rows()]
    found = [row for row in rows if "eval/own/perplexity" in row]
    assert [row["step"] for row in found] == [2, 4]
    assert {f"eval/own/perplexity_at_{start}" for start in (0, 8, 16, 24)} <= set(found[0])


def test_denoised_rows_train_and_continue_bitwise(trainer):
    flags = ["--config.steps=4", "--config.optim.warmup_steps=1", "--config.data.packing=concat"]
    flags += ["--config.data.mixture.a.denoise=1.0", "--config.data.mixture.b.denoise=0.5"]
    text = trainer.run(*flags, expect=78)
    assert "512 pieces and data.denoise adds 103 ids but config.model.vocab is 512. Set" in text
    flags.append("--config.model.vocab=615")
    trainer.run(*flags)
    losses, arrays = trainer.losses(), trainer.fingerprints(4)
    assert sorted(losses) == [1, 2, 3, 4]
    shutil.rmtree(trainer.workdir / "checkpoints" / "4")
    trainer.run(*flags)
    assert (trainer.losses(), trainer.fingerprints(4)) == (losses, arrays)
    text = trainer.run(*flags, "--config.data.denoise.loss=all", expect=78)
    assert "config.data.denoise.loss: 'answers' -> 'all'" in text


def adapting(base: Path, **settings) -> list[str]:
    """Flags that train adapters on a base: six steps, of which 2, 4 and 6 are saved."""
    lora = {"r": 4, "targets": "('*',)", "dropout": 0.2} | settings
    flags = ["--config.steps=6", "--config.optim.warmup_steps=1", f"--config.init_from={base}"]
    return flags + [f"--config.lora.{name}={value}" for name, value in lora.items()]


def test_adapters_are_all_that_is_saved_and_continue_bitwise(trainer, straight, tmp_path):
    flags = adapting(straight.workdir)
    process = trainer.start(*flags)
    trainer.wait_for_step(5, process)
    process.kill()
    process.join(timeout=60)
    assert trainer.steps()
    trainer.run(*flags)
    losses, arrays = trainer.losses(), trainer.fingerprints(6)
    shutil.rmtree(trainer.workdir)
    trainer.run(*flags)
    assert (trainer.losses(), trainer.fingerprints(6)) == (losses, arrays)
    assert len(losses) == 6
    params = {name for name in arrays if name.startswith("params/")}
    assert len(params) == 16 and all("/lora/" in name for name in params)
    assert not [name for name in arrays if "base" in name or "kernel" in name]
    # It is a checkpoint like any other: its base is where it says, and merged.
    adapted, plain = weights.find(trainer.workdir), weights.find(straight.workdir)
    assert (adapted.step, adapted.base.path) == (6, straight.workdir)
    q = "layers/attention/q/kernel"
    assert (adapted.leaf(q) != plain.leaf(q)).any()
    np.testing.assert_array_equal(adapted.leaf("norm/scale"), plain.leaf("norm/scale"))
    text = trainer.run(*flags, "--config.lora.alpha=9", expect=78)
    assert "config.lora.alpha: 8.0 -> 9.0" in text
    # Begun anew from what it had learned.
    record = layout.read_record(trainer.workdir / "checkpoints", 6)["base"]
    assert (record["path"], record["step"]) == (str(straight.workdir), STEPS)
    first = trainer.workdir.rename(tmp_path / "first")
    more = adapting(straight.workdir, init_from=first, r=5)
    assert "config.lora.r is 5 but the adapters" in trainer.run(*more, expect=78)
    trainer.run(*adapting(straight.workdir, init_from=first))
    assert trainer.losses()[1] != losses[1]


def test_adapters_on_a_quantized_base_continue_bitwise_and_are_evaluated_as_trained(
    trainer, straight, data, tmp_path
):
    held_out = EvaluatorConfig(
        source=SourceConfig(path=f"{data}/code/held_out"), sequence_length=32, rows=8, batch_size=8
    )
    trainer.recipe.write_text(evaluating(trainer.recipe.read_text(), data))
    flags = [*adapting(straight.workdir, quantization="nf4"), "--config.steps=4"]
    trainer.run(*flags, "--config.optim.learning_rate=0.01")
    losses, arrays = trainer.losses(), trainer.fingerprints(4)
    assert len(losses) == 4 and not [name for name in arrays if "codes" in name]
    own = [json.loads(row).get("eval/own/loss") for row in trainer.rows()]
    shutil.rmtree(trainer.workdir / "checkpoints" / "4")
    trainer.run(*flags, "--config.optim.learning_rate=0.01")
    assert (trainer.losses(), trainer.fingerprints(4)) == (losses, arrays)
    # The base is quantized, then merged, there; beside its adapters, and in bits, here.
    results = evaluate(
        EvaluateConfig(
            workdir=str(tmp_path / "evaluation"),
            subjects={
                "adapted": SubjectConfig(checkpoint=str(trainer.workdir)),
                "base": SubjectConfig(checkpoint=str(straight.workdir)),
            },
            evaluators={"own": held_out},
            compute=ComputeConfig(dtype="float32"),
        )
    )["own"]
    assert results["adapted"].loss == pytest.approx([x for x in own if x][-1], rel=1e-5)
    assert abs(results["base"].loss - results["adapted"].loss) > 1e-3


def test_profile_writes_a_trace(trainer):
    flags = ("--config.profile.first=1", "--config.profile.steps=2")
    trainer.run("--config.steps=4", "--config.optim.warmup_steps=1", *flags)
    assert list((trainer.workdir / "profile").rglob("*.xplane.pb"))


BAD = {
    "an unknown setting": (
        ["--config.modle.layers=3"],
        "has no setting 'modle'. Did you mean \"model\"",
        78,
    ),
    "a wrong type": (["--config.steps=1.5"], "--config.steps=1.5: invalid literal for int()", 78),
    "a word without a flag": (["lr=5"], "'lr=5' is not a flag", 78),
    "an ignored setting": (
        ["--config.model.rope.factor=2"],
        "config.model.rope: factor is 2.0 but scaling is 'none'",
        78,
    ),
    "a missing tokenizer": (["--config.data.tokenizer=/nowhere"], "/nowhere", 78),
    "a missing source": (["--config.data.mixture.a.path=/nowhere"], "/nowhere", 78),
    "a small vocabulary": (["--config.model.vocab=100"], "100", 78),
    "too long a sequence": (
        ["--config.data.sequence_length=64"],
        "data.sequence_length is 64 but the model reads at most 32 tokens",
        78,
    ),
    "a mesh that does not fit": (["--config.mesh.fsdp=3"], "devices are attached", 78),
    "weights that are not there": (["--config.init_from=/nowhere"], "/nowhere", 78),
    "adapters of nothing": (["--config.lora.r=4"], "lora.r is 4 but init_from is empty", 78),
    "batch size and accumulation": (["--config.data.batch_size=5"], "multiple of", 78),
}


@pytest.mark.parametrize("what", BAD)
def test_bad_input_is_one_clear_sentence(what, trainer):
    flags, sentence, code = BAD[what]
    text = trainer.run(*flags, expect=code)
    assert sentence in text, text
    assert "Traceback" not in text, text
    assert not (trainer.workdir / "checkpoints").exists() or not trainer.steps()


EVALUATED = """
    from llama_jax.config.evaluate import EvaluatorConfig
    c.evaluation.evaluators.kept = load.default(EvaluatorConfig(
        source=SourceConfig(path="{data}/code/held_out"),
        sequence_length=32, rows=4, batch_size=4, buckets=1))
    c.evaluation.every = 1
    c.evaluation.best = "kept"
    return c
"""


def best_and_last(trainer: Trainer) -> tuple[int, int]:
    """Returns the step of the lowest loss, and of the last evaluation."""
    rows = [json.loads(row) for row in trainer.rows()]
    losses = {row["step"]: row["eval/kept/loss"] for row in rows if "eval/kept/loss" in row}
    return min(losses, key=losses.get), max(losses)


def test_the_best_checkpoint_stays_and_a_run_that_gets_worse_ends(trainer, data):
    text = trainer.recipe.read_text()
    trainer.recipe.write_text(text.replace("    return c\n", EVALUATED.format(data=data)))
    worse = (
        "--config.optim.learning_rate=0.3",
        "--config.optim.schedule=constant",
        "--config.optim.warmup_steps=0",
        "--config.model.residual_dropout=0.0",
        "--config.checkpoint.every=100",
        "--config.checkpoint.keep_last=2",
        "--config.evaluation.patience=6",
    )
    printed = trainer.run(*worse)
    best, last = best_and_last(trainer)
    assert last == best + 6 < STEPS
    assert trainer.steps()[-2:] == sorted({best, best + 6}) and best in trainer.steps()
    assert json.loads((trainer.workdir / "checkpoints/best.json").read_text()) == {"step": best}
    assert "finished early" in printed and f"at step {best}" in printed
    assert "nothing to do" in trainer.run(*worse)
    assert job.record(trainer.workdir)["status"] == "completed"
    # More patience goes on, and newer checkpoints do not push the best one out.
    trainer.run(*worse, "--config.evaluation.patience=9", "--config.checkpoint.every=1")
    best, last = best_and_last(trainer)
    assert last in (best + 9, STEPS)
    assert trainer.steps() == sorted({best, last - 1, last})


def test_epochs_decide_the_number_of_steps(trainer):
    recipe = trainer.recipe.read_text().replace("    c.steps = 40\n", "")
    trainer.recipe.write_text(recipe)
    printed = trainer.run("--config.epochs=0.5", "--config.data.weight_unit=epochs",
                          "--config.data.mixture.b.weight=1.0")  # fmt: skip
    counts = [int(line.split()[2].replace(",", "")) for line in printed.splitlines()
              if line.startswith(("a ", "b "))]  # fmt: skip
    assert trainer.steps()[-1] == sum(counts) // 2 // 4
    told = job.record(trainer.workdir)
    assert (told["status"], told["n_steps"]) == ("completed", trainer.steps()[-1])
    epochs = [float(line.split()[-1]) for line in printed.splitlines() if line[:2] in ("a ", "b ")]
    assert epochs == pytest.approx([0.5, 0.5], abs=0.06)


def test_epochs_beside_steps_or_less_than_a_step_are_refused(trainer):
    expected = "steps is 40 but epochs is 1.0, which decides their number"
    assert expected in trainer.run("--config.epochs=1", expect=78)
    trainer.recipe.write_text(trainer.recipe.read_text().replace("    c.steps = 40\n", ""))
    printed = trainer.run("--config.epochs=0.001", expect=78)
    assert "epochs is 0.001 but" in printed and "are less than one step of 4" in printed


def test_a_toy_is_made_of_the_recipe_and_the_command_line_comes_last(trainer):
    printed = trainer.run("--config.toy=True", "--config.steps=3", "--config.model.layers=3")
    toy = trainer.workdir.with_name("run_toy")
    written = json.loads((toy / "config.json").read_text())["settings"]
    assert "a toy, attention" in printed and not trainer.workdir.exists()
    assert (written["steps"], written["model"]["layers"], written["model"]["embed"]) == (3, 3, 32)
    assert layout.steps(toy / "checkpoints") == [3]
