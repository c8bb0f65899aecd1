import dataclasses
import json

import pytest
import teacher as teachers

from llama_jax.config.distill import AnswerConfig, DistillConfig, RetryConfig, TeacherConfig


@pytest.fixture
def serve(monkeypatch):
    """A function that starts a teacher and returns it; the environment holds its key."""
    monkeypatch.setenv("TEACHER_KEY", teachers.KEY)
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")
    running = []

    def start(behave=lambda body, count: teachers.say(body)):
        running.append(teachers.Teacher(behave))
        return running[-1]

    yield start
    for teacher in running:
        teacher.close()


@pytest.fixture
def settings(tmp_path):
    """A function that returns settings for a teacher, and conversations to be asked."""

    def make(url, conversations=(("hello",),), teacher=None, **changes):
        (tmp_path / "instructions.json").write_text(json.dumps(conversations))
        asked = TeacherConfig(model="m", url=url, key_variable="TEACHER_KEY", concurrency=2)
        basis = DistillConfig(
            workdir=str(tmp_path / "work"),
            instructions=str(tmp_path / "instructions.json"),
            teacher=dataclasses.replace(asked, **teacher or {}),
            answer=AnswerConfig(),
            retry=RetryConfig(attempts=3, wait=0.01, longest_wait=2.0),
        )
        return dataclasses.replace(basis, **changes)

    return make
