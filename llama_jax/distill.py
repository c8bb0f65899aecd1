"""Instructions in, a teacher's answers out.

    python -m llama_jax.distill --config=configs/distill_llama2_7b_32k_instruct.py

Writes, in `workdir`:

    answers.sqlite        every answer, from the moment it came: it is never asked for again
    instructions.jsonl    {"text": "[INST] ... [/INST] ..."}: all finished conversations
    logprobs.jsonl        with answer.top_logprobs, the same lines' log-probabilities
    failures.jsonl        conversations that failed in the last run, and why
    config.json           the settings of the last run, commit and versions; no key

Killed at any moment it loses what was under way, and the same command continues. The file of texts
is a source of `llama_jax.prepare`. It can be written at any time, and from a database of Together's
released script:

    python -m llama_jax.distill --config=configs/distill_llama2_7b_32k_instruct.py --dump
    python -m llama_jax.distill --dump=runs/distill/llama2_7b_32k_instruct
    python -m llama_jax.distill --dump=results.db

For a trainer of your own that learns from the teacher's probabilities, a host that runs vLLM also
tells those of the most probable ids at each token that it wrote (training here reads the texts
alone):

    python -m llama_jax.distill --config=configs/distill_llama2_7b_32k_instruct.py \
        --config.teacher.api=openai --config.teacher.url=http://127.0.0.1:8000/v1 \
        --config.teacher.model=meta-llama/Llama-2-70b-chat-hf --config.teacher.key_variable= \
        --config.answer.top_logprobs=8 --config.answer.vocab=32000

A reply whose numbers cannot be right (an id that the student lacks, probabilities that sum to more
than 1, none at all) is asked again as any other that is unusable; what they are, and that they go
on where a stop word cut the text: llama_jax/distillation/logprobs.py.
"""

import contextlib
import json
import signal
import sys
from collections.abc import Iterator
from pathlib import Path

from llama_jax.checkpoint import lock
from llama_jax.config import command, load
from llama_jax.config.distill import DistillConfig
from llama_jax.core import errors, files
from llama_jax.core.errors import RetryError
from llama_jax.core.provenance import provenance
from llama_jax.distillation import client, dump, instructions, old_database, repair, request
from llama_jax.distillation.cache import Cache
from llama_jax.distillation.collection import Collection
from llama_jax.distillation.instructions import Instructions, Turns
from llama_jax.distillation.tally import Tally

FAILURES = "failures.jsonl"


def main(config: DistillConfig) -> int:
    """Asks what is not answered yet and writes all that is; returns the exit code."""
    client.key_of(config.teacher)  # A missing key shows before the files are read.
    wanted = instructions.read(config)
    workdir = Path(config.workdir)
    with lock.owner(workdir), _opened(workdir) as cache:
        return distill(config, wanted, cache)


def distill(config: DistillConfig, wanted: Instructions, cache: Cache) -> int:
    """Runs the conversations forward and dumps the cache; returns the exit code."""
    workdir = Path(config.workdir)
    if config.old_database:
        _adopt(Path(config.old_database), cache)
    todo = [turns for turns in wanted.conversations if not _is_finished(config, cache, turns)]
    files.write_json(workdir / "config.json", {"settings": load.as_dict(config), **provenance()})
    left_out = ", ".join(f"{count} {reason}" for reason, count in wanted.left_out.items())
    print(
        f"{len(wanted.conversations)} conversations, {len(wanted.conversations) - len(todo)} of "
        f"them answered before; left out: {left_out or 'nothing'}"
    )
    tally = Tally(config.teacher, len(todo), cache.usage())
    collection = Collection(config, cache, tally)
    try:
        with tally.shown():
            collection.run(todo)
    finally:
        _write_failures(workdir / FAILURES, collection)
        print(f"{tally.words()}; {tally.cut} answers end at max_tokens")
    _tell(dump.write(cache, workdir))
    return _exit_code(collection, tally)


def _exit_code(collection: Collection, tally: Tally) -> int:
    """Returns 0, or says what is missing and returns what the process must exit with."""
    if collection.stopped_by:
        print(
            f"stopped: {tally.done} of {tally.total} conversations were answered and are saved. "
            "The same command continues."
        )
        is_interrupt = collection.stopped_by == signal.SIGINT
        return errors.EXIT_INTERRUPTED if is_interrupt else errors.EXIT_RETRY
    failures = collection.failures
    if not failures:
        return 0
    text = f"{len(failures)} of {tally.total} conversations failed, see {FAILURES}"
    if all(failure.is_final for failure in failures):
        print(f"{text}; the teacher refuses them. The last: {failures[-1].reason}")
        return 0 if tally.done else errors.EXIT_BAD_DATA
    raise RetryError(
        f"{text}. The last: {failures[-1].reason}. The same command asks them again, and no other."
    )


def _is_finished(config: DistillConfig, cache: Cache, turns: Turns) -> bool:
    """True if the conversation is in the cache, also under the released script's key."""
    names = [request.conversation_id(config.teacher, config.answer, turns)]
    if not config.answer.top_logprobs:  # The script had none.
        names.append(old_database.key(turns))
    return any(cache.turns(name) == list(turns) for name in names)


def _adopt(path: Path, cache: Cache) -> None:
    """Copies the conversations of an old database; a second time changes nothing."""
    wrong = 0
    with cache.at_once():
        for name, turns, text in old_database.read(path):
            wrong += not turns
            if turns:
                cache.finish(name, turns, text)
    if wrong:
        print(f"{path}: {wrong} rows are not what their keys say, and left out")


def write_dump(path: str) -> None:
    """Writes the texts of a workdir, or of a database of Together's script; asks nothing.

    Raises:
        ValueError: There is no such thing.
        DataError: It is damaged.
    """
    place = Path(path)
    if place.is_file() and old_database.is_one(place) and place.name != dump.CACHE:
        _tell(dump.write_old(place))
        return
    if not (place / dump.CACHE).is_file():
        raise ValueError(
            f"{place} is neither a workdir with {dump.CACHE} nor a database of Together's script. "
            "Type: --dump=WORKDIR"
        )
    with lock.owner(place), _opened(place) as cache:
        _tell(dump.write(cache, place))


@contextlib.contextmanager
def _opened(workdir: Path) -> Iterator[Cache]:
    with repair.open_cache(workdir / dump.CACHE) as cache:
        yield cache


def _write_failures(path: Path, collection: Collection) -> None:
    lines = (
        {"id": failure.id, "turn": failure.turn, "reason": failure.reason}
        for failure in collection.failures
    )
    files.write_pieces(path, (json.dumps(line).encode() + b"\n" for line in lines))


def _tell(dumped: dump.Dumped) -> None:
    wrong = f"; {dumped.wrong} rows are no conversations" if dumped.wrong else ""
    weighed = f"; {dumped.with_logprobs:,} with {dump.LOGPROBS}" if dumped.with_logprobs else ""
    print(f"wrote {dumped.path}: {dumped.lines:,} conversations{weighed}{wrong}")


def start() -> None:
    """Runs the command line; --dump without a value is of the recipe's workdir."""
    instead = {"dump": write_dump}
    if "--dump" not in sys.argv:
        return command.run(DistillConfig, main, instead)
    sys.argv.remove("--dump")
    return command.run(DistillConfig, lambda config: write_dump(config.workdir), instead)


if __name__ == "__main__":
    errors.run(start)
