"""The four steps of an instruction-tuned model, end to end, as `make instruct-demo` takes them.

The models are trained for two steps only: that every command finds what the one before it left is
what is shown here, and that the exported model answers in transformers as it does here.
"""

import os
import pathlib
import re
import subprocess
import sys

import pytest

ROOT = pathlib.Path(__file__).parents[1]
pytestmark = pytest.mark.process


def run(folder, *command):
    environment = os.environ | {"PYTHONPATH": str(ROOT)}
    done = subprocess.run(
        [sys.executable, *command], cwd=folder, env=environment, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stdout[-2000:] + done.stderr[-2000:]
    return done.stdout


def test_distill_mix_train_test_and_deploy(tmp_path):
    pytest.importorskip("httpx", reason="httpx is in the extra [distill]")
    pytest.importorskip("torch", reason="torch is in the extra [test]")
    pytest.importorskip("transformers", reason="transformers is in the extra [test]")
    door = ("-m", "llama_jax.prepare", f"--config={ROOT}/configs/demo_prepare.py")
    run(tmp_path, *door, "--config.sources.stdlib.pattern=[a-h]*.py")
    door = ("-m", "llama_jax.train", f"--config={ROOT}/configs/demo_extend.py")
    held_out = "--config.evaluation.evaluators.held_out"
    small = (
        *("--config.init_from=", "--config.steps=2", "--config.optim.warmup_steps=1"),
        *(f"{held_out}.sequence_length=256", f"{held_out}.rows=2"),
    )
    run(tmp_path, *door, *small)
    quick = ("--steps=2", "--warmup=1", "--limit=6", f"--output={tmp_path / 'instruct.md'}")
    printed = run(tmp_path, str(ROOT / "benchmarks/instruct.py"), *quick)
    page = (tmp_path / "instruct.md").read_text()
    assert re.search(r"^\| student after \| [0-9.]+ \| [0-9.]+% \|$", page, re.M), page
    assert "The exported folder in transformers: the same answer." in page
    assert "6 answered of 6" in printed or "6 conversations" in printed, printed
    made = tmp_path / "runs/demo/instruct"
    answers = (made / "distilled/instructions.jsonl").read_text().splitlines()
    assert len(answers) == 6 and all('"[INST]  ' in line for line in answers)
    assert "runs/demo/instruct/student  completed" in printed
