"""Files of instructions -> what a person says in each conversation, turn by turn.

| file | a conversation is |
|---|---|
| JSON or JSON lines, ["turn", ...] | the list, as Together's script read it; one text is one turn |
| {"conversations": [{"from", "value"}]} | what "human" or "user" says (ShareGPT) |
| {"messages": [{"role", "content"}]} | what "user" says |
| {"turns": ["turn", ...]} | the list |
| {"instruction", "input"} | the instruction, an empty line, the input if there is one |
| {"prompt"} or {"text"} | the text |
| Parquet and Arrow | a row is one of these objects |
| anything else | every line of the file that is not empty |

What systems and other teachers said is not used.
"""

import dataclasses
import json
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

from llama_jax.config.data import SourceConfig
from llama_jax.config.distill import DistillConfig
from llama_jax.core.errors import DataError
from llama_jax.data.sources import files, jsonl, utf8
from llama_jax.data.sources.document import Record, Unreadable
from llama_jax.data.sources.formats import FORMATS, tell
from llama_jax.data.sources.left_out import LeftOut
from llama_jax.data.sources.records import conversation, fields
from llama_jax.distillation import prompts

Turns = tuple[str, ...]


@dataclasses.dataclass(frozen=True)
class Instructions:
    """Conversations in the order of the files, each once; and what was left out, by reason."""

    conversations: list[Turns]
    left_out: Counter[str]


def read(config: DistillConfig) -> Instructions:
    """Returns the conversations of config.instructions, at most config.limit.

    Raises:
        ValueError: There is no such file.
        DataError: A record cannot be read and text.on_error is "stop", too many cannot, or none
            has a question in it.
    """
    source = SourceConfig(path=config.instructions)
    left_out = LeftOut(source.path, config.text.as_of_texts())
    found: dict[Turns, None] = {}
    for turns in _all(source, left_out, found):
        if reason := _unfit(turns, found):
            left_out.counts[reason] += 1
        else:
            found[turns] = None
            if len(found) == config.limit:
                break
    else:
        left_out.judge(len(found))
    if not found:
        raise DataError(
            f"{source.path} holds no instruction; left out: {dict(left_out.counts) or 'nothing'}."
        )
    return Instructions(list(found), left_out.counts)


def _unfit(turns: Turns, found: Mapping[Turns, None]) -> str:
    """Returns why a conversation is not asked, "" if it is."""
    if not turns:
        return "no question"
    if any(prompts.marker_in(turn) for turn in turns):
        return "holds [INST]"
    return "a duplicate" if turns in found else ""


def _all(source: SourceConfig, left_out: LeftOut, found: Mapping[Turns, None]) -> Iterator[Turns]:
    paths = files.list_files(source)
    total = sum(path.stat().st_size for path in paths)
    for path in paths:
        place = {}
        try:
            for record, unit, parse in _records(path, source):
                place = {unit: record.number} if record.number else {}
                try:
                    yield tuple(turn for turn in parse(record.value) if turn.strip())
                except Unreadable as problem:
                    left_out.document(problem, path, place, record.value, len(found))
        except Unreadable as problem:
            left_out.rest_of_file(problem, path, place, total)


def _records(
    path: Path, source: SourceConfig
) -> Iterator[tuple[Record, str, Callable[[Any], list[str]]]]:
    """Yields records, what they are called, and what reads one."""
    format = tell(path)
    if format is FORMATS["text"]:
        for record in jsonl.read(path, source):
            yield record, "line", _line
    for record in format.read(path, source) if format is not FORMATS["text"] else ():
        yield record, format.unit, _json if format is FORMATS["jsonl"] else _turns


def _line(data: Any) -> list[str]:
    return [utf8.decode(data).strip()]


def _json(data: Any) -> list[str]:
    text = utf8.decode(data)
    try:
        return _turns(json.loads(text))
    except (ValueError, RecursionError) as error:
        raise Unreadable("broken JSON", str(error)) from None


def _turns(value: Any) -> list[str]:
    """Returns the human turns of a record."""
    if isinstance(value, Unreadable):
        raise value
    if isinstance(value, str | list):
        return fields.texts({"turns": value}, "turns")
    if not isinstance(value, dict):
        raise Unreadable("no conversation", f"it is a {type(value).__name__}")
    for name, parse in _SHAPES.items():
        if name in value:
            return parse(value)
    known, wanted = ", ".join(map(repr, list(value)[:8])), ", ".join(map(repr, _SHAPES))
    raise Unreadable("no field", f"the record has {known or 'no fields'} and none of {wanted}")


def _sharegpt(record: Mapping[str, Any]) -> list[str]:
    messages = conversation.sharegpt_messages(record)
    return [message.text for message in messages if message.role == "user"]


def _messages(record: Mapping[str, Any]) -> list[str]:
    said = fields.objects(record, "messages")
    return [fields.text(turn, "content") for turn in said if fields.text(turn, "role") == "user"]


def _instruction(record: Mapping[str, Any]) -> list[str]:
    parts = [fields.text(record, "instruction"), fields.text({"input": "", **record}, "input")]
    return ["\n\n".join(part for part in parts if part.strip())]


_SHAPES: dict[str, Callable[[Mapping[str, Any]], list[str]]] = {
    "conversations": _sharegpt,
    "messages": _messages,
    "turns": lambda record: fields.texts(record, "turns"),
    "instruction": _instruction,
    "prompt": lambda record: [fields.text(record, "prompt")],
    "text": lambda record: [fields.text(record, "text")],
}
