"""One run as several processes: the same numbers, and no hang whatever happens to one of them."""

import json
import os
import random
import shutil
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path

import launched
import pytest
import slurm
from launched import Launched
from safetensors.numpy import load_file

from llama_jax import convert
from llama_jax.config.prepare import PrepareConfig, PrepareSourceConfig, TokenizerTrainingConfig
from llama_jax.prepare import prepare

pytestmark = [pytest.mark.process, pytest.mark.timeout(300)]
STEPS = 12
FLAGS = (
    f"--config.steps={STEPS}",
    "--config.distributed.start=30",
    "--config.distributed.silence=10",
    "--config.checkpoint.every=4",
    "--config.accumulate=1",
)
LONG = ("--config.steps=100000", *FLAGS[1:])


@pytest.fixture(scope="module")
def data(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("data")
    source = PrepareSourceConfig(
        path=str(Path(__file__).parents[1] / "llama_jax"), pattern="model/*.py"
    )
    prepare(
        PrepareConfig(
            output=str(folder / "prepared"),
            sources={"code": source},
            tokenizer_training=TokenizerTrainingConfig(vocab=512),
            held_out=0.2,
        )
    )
    return folder / "prepared"


@pytest.fixture(scope="module")
def server(tmp_path_factory):
    with launched.server(tmp_path_factory.mktemp("server")) as path:
        yield path


@pytest.fixture
def run(tmp_path, data, server):
    run = Launched(tmp_path, data, server)
    yield run
    run.reap()


@pytest.fixture(scope="module")
def straight(tmp_path_factory, data, server) -> Launched:
    """Two processes with two devices each, which nothing interrupts."""
    run = Launched(tmp_path_factory.mktemp("straight"), data, server)
    run.train(2, 2, *FLAGS)
    assert run.steps()[-1] == STEPS and len(run.losses()) == STEPS
    return run


def values(run: Launched) -> dict[int, float]:
    return {step: float.fromhex(bits) for step, bits in run.losses().items()}


def batch_hashes(run: Launched) -> list[int]:
    hashes = [json.loads(row)["train/batch_hash"] for row in run.rows()]
    assert all(type(value) is int for value in hashes)
    return hashes


def assert_near(run: Launched, straight: Launched, relative: float) -> None:
    """The same batches in the same order, and losses that differ by rounding at most."""
    ours, theirs = values(run), values(straight)
    assert ours.keys() == theirs.keys()
    for step, loss in ours.items():
        assert loss == pytest.approx(theirs[step], rel=relative, abs=0), step
    assert batch_hashes(run) == batch_hashes(straight)


def assert_same(run: Launched, straight: Launched) -> None:
    assert run.losses() == straight.losses()
    assert batch_hashes(run) == batch_hashes(straight)
    assert run.fingerprints(STEPS) == straight.fingerprints(STEPS)


def assert_quick(run: Launched, launcher: subprocess.Popen, seconds: float, expect: int) -> str:
    """Returns what was printed; all must have ended within `seconds` from now."""
    began = time.monotonic()
    text = run.finish(launcher, expect)
    assert time.monotonic() - began < seconds, text
    return text


def test_the_same_processes_give_the_same_bits(run, straight):
    run.train(2, 2, *FLAGS)
    assert_same(run, straight)


def test_the_command_itself_is_asked_to_stop_and_continues(run, straight):
    """Nothing here is a fork: what a user types, Ctrl-C included."""
    run.command = [sys.executable, "-m", "llama_jax.train"]
    launcher = run.launch(2, 2, *FLAGS)
    run.wait_for(2, launcher)
    launcher.send_signal(signal.SIGINT)
    text = run.finish(launcher, 130)
    assert "[0] stopped and saved" in text
    assert run.steps()[-1] == run.logged() < STEPS
    run.train(2, 2, *FLAGS)
    assert_same(run, straight)


def test_a_run_moves_between_one_two_and_four_processes(run, straight):
    flags = (*FLAGS, "--config.checkpoint.every=1")
    launcher = run.launch(2, 2, *flags)
    run.wait_for(4, launcher)
    run.kill(1)
    text = run.finish(launcher, 75)
    assert "process 1 (pid" in text and "has ended without a word" in text
    launcher = run.launch(4, 1, *flags)
    run.wait_for(run.logged() + 2, launcher)
    run.kill(2, signal.SIGTERM)
    run.finish(launcher, 75)
    assert 4 < run.logged() < STEPS, "it must stop in the middle"
    run.train(1, 4, *flags)
    assert_near(run, straight, 1e-6)


def test_a_run_moves_between_meshes(run, straight):
    flags = (*FLAGS, "--config.checkpoint.every=1")
    launcher = run.launch(2, 2, *flags, "--config.mesh.data=2", "--config.mesh.fsdp=2")
    run.wait_for(5, launcher)
    launcher.terminate()  # The launcher passes it on.
    run.finish(launcher, 75)
    assert run.steps()[-1] == run.logged() < STEPS
    run.train(2, 2, *flags, "--config.mesh.tensor=2", "--config.mesh.fsdp=2")
    assert_near(run, straight, 1e-5)


def test_a_sequence_is_split_over_processes(run):
    flags = (*FLAGS, "--config.model.residual_dropout=0", "--config.checkpoint.every=100")
    run.train(1, 4, *flags)
    whole, hashes = values(run), batch_hashes(run)
    shutil.rmtree(run.workdir)
    run.train(2, 2, *flags, "--config.mesh.context=4", "--config.mesh.fsdp=1")
    assert values(run) == pytest.approx(whole, rel=1e-5)
    assert batch_hashes(run) == hashes


def test_sigterm_to_one_of_two_saves_the_same_step_in_both(run, straight):
    rng, stops = random.Random(0), 0
    while stops < 5:
        if run.steps() and run.steps()[-1] == STEPS:
            assert_same(run, straight)
            shutil.rmtree(run.workdir)
        launcher = run.launch(2, 2, *FLAGS)
        run.wait_for(run.logged() + rng.randint(1, 2), launcher)
        run.kill(stops % 2, signal.SIGTERM)
        text = assert_quick(run, launcher, 15, expect=(0, 75))
        if launcher.returncode == 75:
            stops += 1
            assert run.steps()[-1] == run.logged(), "nothing that was logged may be lost"
            assert "stopped and saved" in text
    run.train(2, 2, *FLAGS)
    assert_same(run, straight)


def test_one_of_two_is_killed_while_saving(run, straight):
    flags = (*FLAGS, "--config.checkpoint.every=1")
    for attempt in range(8):
        launcher = run.launch(2, 2, *flags)
        before = run.steps()[-1] if run.steps() else 0
        victim = attempt % 2
        wait_for_a_save_after(run, launcher, before + 1)
        run.kill(victim)
        text = assert_quick(run, launcher, 15, expect=75)
        assert f"process {1 - victim} ends: process {victim}" in text, text
        assert "without a word" in text
        assert run.steps()[-1] > before, "a committed checkpoint was lost"
    run.train(2, 2, *flags)
    assert_same(run, straight)


def wait_for_a_save_after(run: Launched, launcher: subprocess.Popen, step: int) -> None:
    """Returns when a save of a step after `step` has begun and is not committed."""
    deadline = time.monotonic() + launched.LIMIT
    folder = run.workdir / "checkpoints"
    while True:
        assert time.monotonic() < deadline and launcher.poll() is None, run.printed()
        begun = [int(p.name) for p in folder.glob("*") if p.name.isdecimal()]
        if begun and max(begun) > step and max(begun) not in run.steps():
            return
        time.sleep(0.002)


STUCK = {
    "data": "from llama_jax.data.loader import Loader as Place; name = '_read'",
    "step": "from llama_jax.telemetry.metrics import MetricWindow as Place; name = 'add'",
    "checkpoint": "from llama_jax.checkpoint import manager as Place; name = 'fingerprints'",
    # Where no watchdog looks: the other's tells it to show its stacks.
    "between": "from llama_jax.training.run import Run as Place; name = 'must_stop'",
}
LIMITS = [f"--config.watchdog.{name}=6" for name in ("data", "step", "checkpoint")]
STUCK_HOOK = """
import os, time
{where}
whole = getattr(Place, name)
calls = []

def stuck_here(*arguments):
    calls.append(1)
    if len(calls) > 3:
        time.sleep(1000)
    return whole(*arguments)

if os.environ["LLAMA_JAX_PROCESS_ID"] == "1":
    setattr(Place, name, stuck_here)
"""


@pytest.mark.parametrize("phase", STUCK)
def test_a_stuck_process_ends_all_and_shows_where_it_stands(phase, run):
    hook = {"FORKED_HOOK": STUCK_HOOK.format(where=STUCK[phase])}
    text = run.train(2, 2, *LONG, "--config.checkpoint.every=1", *LIMITS, env=hook, expect=75)
    stuck = [line for line in text.splitlines() if "in stuck_here" in line]
    assert stuck and all(line.startswith("[1]") for line in stuck), text
    assert "made no progress in 6 seconds" in text


def test_a_process_that_stands_still_is_given_up(run):
    launcher = run.launch(2, 2, *LONG, "--config.distributed.silence=5", options=["--grace=1"])
    run.wait_for(3, launcher)
    run.kill(1, signal.SIGSTOP)
    text = assert_quick(run, launcher, 25, expect=75)
    assert "process 0 ends: process 1 (pid" in text and "has been silent for 5 seconds" in text
    with pytest.raises(ProcessLookupError):  # The launcher has reaped it.
        os.kill(run.pid(1), 0)


def test_a_slurm_job_saves_before_its_time_is_up_and_finishes_when_requeued(
    run, straight, tmp_path
):
    environment = slurm.environment(tmp_path) | {
        "JAX_NUM_CPU_DEVICES": "2",
        "CUDA_VISIBLE_DEVICES": "",
    }
    command = [*run.command, f"--config={run.recipe}", *FLAGS]
    requeued = Path(environment["REQUEUED"])
    with open(run.log, "wb") as log:
        job = slurm.sbatch(environment, *command, stdout=log, stderr=log)
        run.launchers.append(job)
        run.wait_for(3, job)
        job.send_signal(signal.SIGUSR1)
        run.finish(job, 75)
        assert requeued.read_text() == f"requeue {environment['SLURM_JOB_ID']}\n"
        assert run.steps()[-1] == run.logged()
        requeued.unlink()
        job = slurm.sbatch(
            environment | {"SLURM_RESTART_COUNT": "1"}, *command, stdout=log, stderr=log
        )
        run.launchers.append(job)
        run.finish(job, 0)
    assert not requeued.exists()
    assert_same(run, straight)


def test_process_0_is_named_although_jax_aborts_the_others(run):
    hook = """
import os, time
from llama_jax.distributed.member import Member
end = Member._end

def late(self, why):
    time.sleep(0.5)
    end(self, why)

Member._end = late
"""
    launcher = run.launch(2, 1, *LONG, env={"FORKED_HOOK": hook})
    run.wait_for(2, launcher)
    run.kill(0)
    assert "process 1 ends: process 0 has ended without a word" in run.finish(launcher, 75)


def test_the_launcher_starts_all_again_when_one_is_killed(run, straight):
    launcher = run.launch(2, 2, *FLAGS, options=["--restarts=2"])
    run.wait_for(5, launcher)
    run.kill(0)
    text = run.finish(launcher, 0)
    assert "[launcher] exit code 75: restart 1" in text
    assert_same(run, straight)


BROKEN = """
import os
from llama_jax.data.loader import Loader
from llama_jax.core.errors import DataError
read = Loader._read

def broken(self, step):
    if step == 5:
        {what}
    return read(self, step)

if os.environ["LLAMA_JAX_PROCESS_ID"] == "1":
    Loader._read = broken
"""


@pytest.mark.parametrize(
    ("what", "code", "told"),
    [
        ("raise DataError('books.jsonl, line 7 is no JSON')", 65, "line 7 is no JSON"),
        ("return step / 0", 70, "ZeroDivisionError"),
    ],
)
def test_an_error_in_one_process_ends_all_and_is_not_tried_again(what, code, told, run):
    hook = {"FORKED_HOOK": BROKEN.format(what=what)}
    text = run.train(2, 1, *LONG, env=hook, options=["--restarts=3"], expect=code)
    assert f"process 0 ends: process 1 (pid {run.pid(1)}" in text
    assert f"ended with exit code {code}" in text and told in text
    assert "restart" not in text


def test_damage_that_one_process_meets_sends_all_to_the_checkpoint_before(run, straight):
    shutil.copytree(straight.workdir, run.workdir)
    hook = """
import os
from llama_jax.checkpoint import reader
from llama_jax.core.errors import DataError
read = reader._read_arrays

def damaged(path, *arguments):
    if path.name == "12":
        raise DataError(f"{path} is damaged")
    return read(path, *arguments)

if os.environ["LLAMA_JAX_PROCESS_ID"] == "1":
    reader._read_arrays = damaged
"""
    text = run.train(2, 2, *FLAGS, env={"FORKED_HOOK": hook})
    assert "continuing from step 8" in text
    assert_same(run, straight)
    assert len(list((run.workdir / "checkpoints").glob("12.corrupt-*"))) == 1


def test_raw_text_becomes_tokens_in_one_process(run, data, tmp_path):
    source = Path(__file__).parents[1] / "llama_jax" / "model"
    hook = f"""
import os
from llama_jax.data import opening
tokenise = opening._tokenise_into

def counted(*arguments):
    with open({str(tmp_path / "count")!r}, "a") as file:
        file.write(os.environ["LLAMA_JAX_PROCESS_ID"])
    tokenise(*arguments)

opening._tokenise_into = counted
"""
    flags = ("--config.steps=2", "--config.optim.warmup_steps=1", "--config.data.threads=1")
    raw = (f"--config.data.mixture.a.path={source}", "--config.data.mixture.a.pattern=*.py")
    run.train(2, 1, *flags, *raw, env={"FORKED_HOOK": hook})
    assert (tmp_path / "count").read_text() == "0"


def test_each_process_reads_its_parts_of_given_weights(run, straight, tmp_path):
    folder = tmp_path / "huggingface"
    convert.main([str(straight.workdir), str(folder), "--format=hf"])
    whole = sum(tensor.nbytes for tensor in load_file(folder / "model.safetensors").values())
    hook = f"""
import os
from llama_jax.converters.huggingface import Folder
read = Folder._parts

def counted(*arguments):
    parts = read(*arguments)
    with open({str(tmp_path)!r} + "/parts" + os.environ["LLAMA_JAX_PROCESS_ID"], "a") as file:
        print(sum(part.nbytes for part in parts), file=file)
    return parts

Folder._parts = counted
"""
    flags = (*FLAGS, "--config.steps=2", "--config.optim.warmup_steps=1")
    flags = (*flags, f"--config.init_from={folder}")
    run.train(2, 2, *flags, env={"FORKED_HOOK": hook})
    two = values(run)
    for process in range(2):
        read = [int(line) for line in (tmp_path / f"parts{process}").read_text().split()]
        assert whole / 2 < sum(read) < 0.51 * whole  # Half, and the norms.
    shutil.rmtree(run.workdir)
    run.train(1, 1, *flags)
    assert two == pytest.approx(values(run), rel=1e-5)


@pytest.mark.parametrize(
    "flags",
    [
        ("--config.lora.targets=('*',)",),
        ("--config.lora.quantization=nf4", "--config.mesh.data=-1", "--config.mesh.fsdp=1"),
    ],
    ids=["split base", "quantized base"],
)
def test_adapters_train_in_two_processes_as_in_one(flags, run, straight):
    flags = (f"--config.init_from={straight.workdir}", "--config.lora.r=4", *flags, *FLAGS[1:])
    flags += ("--config.steps=3", "--config.optim.warmup_steps=1")
    run.train(2, 2, *flags)
    two, record = values(run), run.fingerprints(3)
    assert sorted(two) == [1, 2, 3] and not [name for name in record if "kernel" in name]
    shutil.rmtree(run.workdir)
    run.train(1, 4, *flags)
    assert values(run) == pytest.approx(two, rel=1e-6, abs=0)


def test_evaluation_counts_the_rows_of_all_and_each_process_writes_its_trace(run, data):
    recipe = run.recipe.read_text().replace(
        "    return c",
        f"""    from llama_jax.config.evaluate import EvaluatorConfig
    c.evaluation.every = 2
    c.evaluation.evaluators.own = load.default(EvaluatorConfig(
        source=SourceConfig(path="{data}/code/held_out"), sequence_length=32, rows=6, batch_size=4,
        buckets=4))
    return c""",
    )
    run.recipe.write_text(recipe)
    flags = ("--config.steps=4", "--config.optim.warmup_steps=1", "--config.accumulate=1")
    profile = ("--config.profile.first=1", "--config.profile.steps=1")

    def found() -> list[float]:
        rows = [json.loads(row) for row in run.rows()]
        return [row["eval/own/loss"] for row in rows if "eval/own/loss" in row]

    run.train(1, 4, *flags)
    alone = found()
    shutil.rmtree(run.workdir)
    run.train(2, 2, *flags, *profile)
    assert found() == pytest.approx(alone, rel=1e-6) and len(alone) == 2
    for process in range(2):
        assert list((run.workdir / "profile" / f"process_{process}").rglob("*.xplane.pb"))


def test_a_second_run_on_the_workdir_is_refused(run, tmp_path):
    first = run.launch(2, 1, *LONG)
    run.wait_for(1, first)
    holder, run.log = run.pid(0), tmp_path / "second.txt"
    text = run.train(2, 1, *LONG, expect=78)
    assert f"in use by process {holder}" in text
    assert first.poll() is None
    first.terminate()
    assert first.wait(60) == 75


def test_a_finished_run_has_nothing_to_do(straight):
    before = straight.rows()
    assert straight.train(2, 2, *FLAGS).count("nothing to do") == 1
    assert straight.rows() == before


def alone(run: Launched, process: int, count: int, port: int, *flags: str) -> subprocess.Popen:
    """Starts one process by hand."""
    told = {"COORDINATOR": f"127.0.0.1:{port}", "PROCESSES": count, "PROCESS_ID": process}
    environment = {f"LLAMA_JAX_{name}": str(value) for name, value in told.items()}
    command = [*run.command, f"--config={run.recipe}", *FLAGS, "--config.distributed.start=3"]
    environment |= {"JAX_NUM_CPU_DEVICES": "1"}
    with open(run.log, "ab") as log:
        process = subprocess.Popen(
            [*command, *flags], stdout=log, stderr=log, env=os.environ | environment
        )
    run.launchers.append(process)
    return process


@pytest.fixture
def port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as free:
        return free.getsockname()[1]


def test_a_taken_port_is_one_sentence(run):
    with socket.create_server(("127.0.0.1", 0)) as other:
        port = other.getsockname()[1]
        text = assert_quick(run, alone(run, 0, 2, port), 5, expect=75)
    assert f"process 0 cannot listen on port {port}" in text and "Traceback" not in text


def test_a_process_that_never_starts_is_named(run, port):
    both = [alone(run, process, 4, port) for process in (0, 2)]
    for process in both:
        text = assert_quick(run, process, 20, expect=75)
    assert "processes 1, 3 of 4 did not come within 3 seconds" in text
    assert text.count("did not come") == 2, "each says it"
    assert "Traceback" not in text


def test_a_process_0_that_never_starts_is_named(run, port):
    text = assert_quick(run, alone(run, 1, 2, port), 20, expect=75)
    assert f"process 0 is missing: nobody answered process 1 at 127.0.0.1:{port}" in text
    assert "Traceback" not in text


@pytest.mark.parametrize(
    ("second", "told"),
    [((1, 3), "was told that there are 3 processes, but process 0 was told 2"), ((0, 2), "cannot")],
)
def test_wrong_numbers_are_one_sentence(second, told, run, port):
    first = alone(run, 0, 2, port)
    deadline = time.monotonic() + 20
    while "waits for" not in run.printed():
        assert time.monotonic() < deadline
        time.sleep(0.02)
    text = assert_quick(run, alone(run, *second, port), 10, expect=(75, 78))
    assert told in text
    assert run.finish(first, 75).count("Traceback") == 0


def test_an_id_that_two_have_is_one_sentence(run, port):
    first, second = alone(run, 0, 3, port), alone(run, 1, 3, port)
    deadline = time.monotonic() + 20
    while "process 1 (pid" not in run.printed():
        assert time.monotonic() < deadline
        time.sleep(0.02)
    time.sleep(0.3)
    text = assert_quick(run, alone(run, 1, 3, port), 20, expect=78)
    assert "has the same id as process 1 (pid" in text
    for process in (first, second):
        run.finish(process, 75)
    assert "process 2 of 3 did not come" in run.printed()


def test_other_settings_in_one_process_are_named(run, port):
    first = alone(run, 0, 2, port, "--config.distributed.start=30")
    second = alone(run, 1, 2, port, "--config.distributed.start=30", "--config.seed=1")
    for process in (first, second):
        run.finish(process, 78)
    assert "config.seed: 0 -> 1" in run.printed()
