"""Conversations run forward with a teacher, several at a time; every answer is kept at once.

A conversation is asked turn by turn, each with the answers before it, so its turns come one after
the other and conversations side by side. What was answered before is taken from the cache; of equal
requests that are made at the same time one is sent.

Asked to stop, it sends nothing more, waits for what is under way (it is paid for) and keeps that.
"""

import asyncio
import contextlib
import dataclasses
import signal
import sys
from collections.abc import AsyncIterator, Awaitable, Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from typing import Any, TypeVar

from llama_jax.config.distill import DistillConfig
from llama_jax.core.errors import RetryError
from llama_jax.distillation import prompts, request
from llama_jax.distillation.answer import Answer, Unusable
from llama_jax.distillation.cache import Cache
from llama_jax.distillation.client import Client, Refused
from llama_jax.distillation.instructions import Turns
from llama_jax.distillation.patience import Patience, Stopped
from llama_jax.distillation.request import Request
from llama_jax.distillation.tally import Tally

T = TypeVar("T")

# One request may be refused for its own sake, being too long. So many, and no answer to any: it is
# the settings.
REFUSED_BEFORE_ANY_ANSWER = 3

STOPPING = "stopping: {} requests are under way; interrupt again to leave without their answers"


@dataclasses.dataclass(frozen=True)
class Failure:
    """A conversation without an answer to one of its turns."""

    id: str
    turn: int  # From 1.
    reason: str
    is_final: bool  # Asking again would bring the same.


class Collection:
    """One run over the conversations that are not finished."""

    def __init__(self, config: DistillConfig, cache: Cache, tally: Tally):
        self._config, self._cache, self._tally = config, cache, tally
        self.failures: list[Failure] = []
        self.stopped_by = 0  # The signal.
        self._stopping = asyncio.Event()
        self._patience = Patience(config.retry, self._stopping)
        self._under_way: dict[str, asyncio.Task[Answer]] = {}
        self._error: Exception | None = None
        # SQLite waits for the disk; the connections need not. One thread, so one at a time.
        self._writer = ThreadPoolExecutor(1)

    def run(self, todo: Iterable[Turns]) -> None:
        """Asks until all are finished or failed, or a signal stops it.

        Raises:
            ValueError: The host will answer no request: a key, a model or a setting is wrong.
            RetryError: Nothing comes from it any more.
            OSError: An answer cannot be kept.
            KeyboardInterrupt: A second signal: what is under way is lost.
        """
        try:
            asyncio.run(self._run(iter(todo)))
        except asyncio.CancelledError:
            raise KeyboardInterrupt from None
        finally:
            self._writer.shutdown()
        if self._error is not None:
            raise self._error

    async def _run(self, todo: Iterator[Turns]) -> None:
        async with self._listening(), Client(self._config.teacher, self._config.answer) as ask:
            self._client = ask
            async with asyncio.TaskGroup() as workers:
                for _ in range(self._config.teacher.concurrency):
                    workers.create_task(self._work(todo))

    @contextlib.asynccontextmanager
    async def _listening(self) -> AsyncIterator[None]:
        """Stops at the first signal and leaves at the second."""
        loop, me = asyncio.get_running_loop(), asyncio.current_task()

        def stop(number: int) -> None:
            if self.stopped_by and me is not None:
                me.cancel()
            elif self._under_way:
                print(STOPPING.format(len(self._under_way)), file=sys.stderr, flush=True)
            self.stopped_by = number
            self._stopping.set()

        numbers = (signal.SIGINT, signal.SIGTERM)
        for number in numbers:
            loop.add_signal_handler(number, stop, number)
        try:
            yield
        finally:
            for number in numbers:
                loop.remove_signal_handler(number)

    async def _work(self, todo: Iterator[Turns]) -> None:
        for turns in todo:
            try:
                await self._converse(turns)
            except Stopped:
                return
            except (ValueError, OSError, RetryError) as error:
                self._error = self._error or error
                self._stopping.set()
                return
            self._tally.retries = self._patience.retries
            self._tally.show()

    async def _converse(self, turns: Turns) -> None:
        """Asks every turn of a conversation and keeps it, or notes where it failed."""
        teacher, answer = self._config.teacher, self._config.answer
        name = request.conversation_id(teacher, answer, turns)
        answers: list[str] = []
        keys: list[str] = []
        try:
            for i in range(len(turns)):
                wanted = request.make(teacher, answer, turns[: i + 1], answers)
                answers.append((await self._answer(wanted)).text)
                keys.append(wanted.key)
        except (Unusable, Refused) as error:
            is_final = isinstance(error, Refused)
            self.failures.append(Failure(name, len(answers) + 1, str(error), is_final))
            self._tally.failed += 1
            self._refuse_all_refused(error)
            return
        text, told = prompts.join(turns, answers), keys if answer.top_logprobs else ()
        await self._kept(self._cache.finish, name, turns, text, told)
        self._tally.done += 1

    def _refuse_all_refused(self, error: Exception) -> None:
        """Raises if the host has refused everything so far."""
        refused = sum(failure.is_final for failure in self.failures)
        if refused >= REFUSED_BEFORE_ANY_ANSWER and not self._tally.asked + self._tally.kept:
            raise ValueError(
                f"{self._config.teacher.url} refused the first {refused} requests and answered "
                f"none. It says: {error}. Look at config.teacher and config.answer."
            )

    async def _answer(self, wanted: Request) -> Answer:
        """Returns the answer to a request, sending it if nobody does yet."""
        task = self._under_way.get(wanted.key)
        if task is None:
            task = asyncio.create_task(self._fetch(wanted))
            self._under_way[wanted.key] = task
            task.add_done_callback(lambda _: self._under_way.pop(wanted.key))
        return await task

    async def _fetch(self, wanted: Request) -> Answer:
        if stored := await self._kept(self._cache.answer, wanted.key):
            self._tally.kept += 1
            return stored
        answer = await self._patience.answer(partial(self._client.ask, wanted))
        await self._kept(self._cache.store, wanted.key, answer)
        self._tally.count(answer)
        return answer

    def _kept(self, act: Callable[..., T], *values: Any) -> Awaitable[T]:
        """Returns what the cache does; once begun it is done, whoever is cancelled meanwhile."""
        loop = asyncio.get_running_loop()
        return asyncio.shield(loop.run_in_executor(self._writer, act, *values))
