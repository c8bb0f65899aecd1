"""How often is asked, and how long is waited between."""

import asyncio
import contextlib
import random
from collections.abc import Awaitable, Callable

from llama_jax.config.distill import RetryConfig
from llama_jax.core.errors import RetryError
from llama_jax.distillation.answer import Answer, Unusable


class Stopped(Exception):
    """The run is asked to stop: nothing more is sent."""


class Patience:
    """Attempts of all requests of a run.

    Args:
        config: How many, and how long between.
        stopping: Once it is set, nobody waits and nothing is sent.
    """

    def __init__(self, config: RetryConfig, stopping: asyncio.Event):
        self._config, self._stopping = config, stopping
        self._open_at = 0.0  # The host asked all requests to wait until then.
        self._in_a_row = 0
        self.retries = 0

    async def answer(self, attempt: Callable[[], Awaitable[Answer]]) -> Answer:
        """Returns what `attempt` returns, when it is called often enough.

        Raises:
            Unusable: It was not usable at the last attempt.
            RetryError: Nothing comes from the host any more, or it asks for a long wait.
            Stopped: The run is asked to stop.
        """
        for number in range(self._config.attempts):
            if number:
                self.retries += 1
            await self._sleep_until(self._open_at)
            try:
                answer = await attempt()
            except Unusable as error:
                self._count(error)
                if number + 1 == self._config.attempts:
                    raise
                now = asyncio.get_running_loop().time()
                await self._sleep_until(now + self._pause(number))
            else:
                self._in_a_row = 0
                return answer
        raise AssertionError("the last attempt returns or raises")

    def _pause(self, number: int) -> float:
        """Returns wait * 2^number, and less by up to a half so that requests part."""
        # 2^1000 attempts later a float would be too small.
        longest = min(self._config.wait * 2 ** min(number, 64), self._config.longest_wait)
        return longest * random.uniform(0.5, 1)

    def _count(self, error: Unusable) -> None:
        self._in_a_row += 1
        if error.wait > self._config.longest_wait:
            raise RetryError(
                f"the teacher asks to wait {error.wait:.0f} s ({error}), longer than "
                f"config.retry.longest_wait={self._config.longest_wait:g}. Everything answered is "
                "saved; the same command continues later."
            )
        self._open_at = max(self._open_at, asyncio.get_running_loop().time() + error.wait)
        if self._in_a_row >= self._config.in_a_row:
            raise RetryError(
                f"{self._in_a_row} attempts in a row brought no answer, the last: {error}. "
                "Everything answered is saved; the same command continues."
            )

    async def _sleep_until(self, time: float) -> None:
        """Returns at `time`, or later if the host meanwhile asked everybody to wait longer.

        Raises:
            Stopped: The run is asked to stop.
        """
        loop = asyncio.get_running_loop()
        while not self._stopping.is_set() and (rest := max(time, self._open_at) - loop.time()) > 0:
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(self._stopping.wait(), rest)
        if self._stopping.is_set():
            raise Stopped
