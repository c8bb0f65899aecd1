"""The log-probabilities in a reply -> ids and numbers, checked; anything may stand there.

choices[0].logprobs.content of OpenAI's API, one entry for each token that the host wrote:

    {"token": "token_id:29871", "logprob": -0.25, "top_logprobs": [{"token", "logprob"}, ...]}

"token_id:N" is what vLLM writes for return_tokens_as_token_ids; a text would not say which id it
is. The same numbers are kept, and dumped, as

    {"ids": [29871], "logprobs": [-0.25], "top_ids": [[...]], "top_logprobs": [[...]]}

They are of the model as it is, before temperature, top_p and penalties, unless vLLM was started
with another --logprobs-mode. Tokens are all that the host wrote: that which ended the answer too
(EOS), and those of a stop word that the text no longer has. vLLM counts all of them in
usage.completion_tokens, so a reply that tells another number lacks some, and is refused.

Of one token, top_logprobs are in the order of the host. vLLM lists the written token first, whether
or not it is among the k most probable, and k entries in all: where it is not, k - 1 others follow.
One entry more than k is accepted if it is the written token and none is less probable.

-9999.0 and less: vLLM writes -9999.0 for -inf and for what it does not know. A written token has
some probability, so there it is refused; of another token it says 0, and stays.
"""

import dataclasses
import json
import math
import re
from collections.abc import Mapping
from typing import Any

from llama_jax.config.distill import AnswerConfig
from llama_jax.distillation.answer import Unusable

ROUNDING = 1e-3  # By so much a log-probability, and a sum of probabilities, may be too large.
UNKNOWN = -9999.0

_TOKEN = re.compile(r"token_id:(0|-?[1-9][0-9]{0,17})")


@dataclasses.dataclass(frozen=True)
class Logprobs:
    """An answer's tokens, their log-probabilities, and those of the most probable at each place."""

    ids: list[int]
    logprobs: list[float]
    top_ids: list[list[int]]
    top_logprobs: list[list[float]]

    def text(self) -> str:
        """Returns the JSON object that is kept and dumped."""
        return json.dumps(vars(self), allow_nan=False)


def read(choice: Mapping[str, Any], count: int, asked: AnswerConfig) -> Logprobs:
    """Returns the log-probabilities of an answer.

    Args:
        choice: The answer, as parsed.
        count: Tokens that the host says it wrote; -1 if it does not.
        asked: How many for each token, and which ids the student has.

    Raises:
        Unusable: There are none, or something about them is wrong.
    """
    said = choice.get("logprobs")
    content = said.get("content") if isinstance(said, dict) else None
    if not isinstance(content, list):
        raise Unusable("the reply has no log-probabilities, logprobs.content is no list")
    if not content:
        raise Unusable("the log-probabilities are empty")
    if count not in (-1, len(content)):
        raise Unusable(f"log-probabilities of {len(content)} tokens, but {count} were written")
    found = Logprobs([], [], [], [])
    for place, entry in enumerate(content, 1):
        try:
            _add(found, entry, asked)
        except Unusable as error:
            raise Unusable(f"log-probabilities of token {place}: {error}") from None
    return found


def _add(found: Logprobs, entry: Any, asked: AnswerConfig) -> None:
    """Adds one token and its most probable ones."""
    token, logprob = _pair(entry, asked.vocab)
    if logprob <= UNKNOWN:
        raise Unusable(f"{logprob} is what a host writes that does not know it")
    listed = entry.get("top_logprobs")
    if not isinstance(listed, list):
        raise Unusable("top_logprobs is no list")
    pairs = [_pair(other, asked.vocab) for other in listed]
    top = dict(pairs)
    if len(top) < len(pairs):
        raise Unusable("top_logprobs has an id twice")
    _check_count(top, token, asked.top_logprobs)
    if abs(top.setdefault(token, logprob) - logprob) > ROUNDING:
        raise Unusable(f"{logprob} here and {top[token]} in top_logprobs")
    if (total := sum(map(math.exp, top.values()))) > 1 + ROUNDING:
        raise Unusable(f"the probabilities sum to {total:.6g}")
    found.ids.append(token)
    found.logprobs.append(logprob)
    found.top_ids.append([number for number, _ in pairs])
    found.top_logprobs.append([value for _, value in pairs])


def _check_count(top: Mapping[int, float], token: int, wanted: int) -> None:
    """Raises unless there are `wanted` entries, or these and the written token."""
    is_one_more = len(top) == wanted + 1 and top.get(token) == min(top.values())
    if len(top) != wanted and not is_one_more:
        raise Unusable(f"top_logprobs has {len(top)} entries, asked were {wanted}")


def _pair(entry: Any, vocab: int) -> tuple[int, float]:
    """Returns the id and the log-probability of an entry."""
    if not isinstance(entry, dict):
        raise Unusable("an entry is no JSON object")
    name = entry.get("token")
    form = _TOKEN.fullmatch(name) if isinstance(name, str) else None
    if form is None:
        raise Unusable(f"{_shown(name)} is not of the form token_id:N")
    if not 0 <= (token := int(form[1])) < vocab:
        raise Unusable(f"id {token} is none of the student's {vocab}")
    return token, _logprob(entry.get("logprob"))


def _logprob(value: Any) -> float:
    try:
        number = float(value) if type(value) in (int, float) else math.nan
    except OverflowError:  # An integer of 400 digits.
        number = math.inf
    if not math.isfinite(number):
        raise Unusable(f"logprob {_shown(value)} is no finite number")
    if number > ROUNDING:
        raise Unusable(f"logprob {number} is above 0")
    return number


def _shown(value: Any) -> str:
    """Returns a value as one short line; of a list or an object, only what it is."""
    is_plain = isinstance(value, str | int | float | None)
    return repr(value)[:40] if is_plain else f"a {type(value).__name__}"
