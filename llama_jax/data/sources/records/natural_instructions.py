"""Natural Instructions: a file is a task -> Tk-Instruct prompts; the target is learned.

Two generations are read. The newer has `Definition` as a list and `Positive Examples` beside it,
the older has `Definition` as a text and `Positive Examples` inside `Examples`; a list of outputs
holds references that are equally right.
"""

import dataclasses
import hashlib
import string
from collections.abc import Iterator, Mapping
from typing import Any

from llama_jax.data.sources.document import Document, Unreadable
from llama_jax.data.sources.pieces import Piece, join
from llama_jax.data.sources.records import fields
from llama_jax.data.sources.records.task import Asked, Example, Task

_USED = ("Definition", "Examples", "Positive Examples", "Negative Examples", "Instances")
_NOTHING = "-"  # Stands where a task has no examples.


def parse(record: Mapping[str, Any]) -> Iterator[Document]:
    """Yields the prompt and target of every instance."""
    task, meta = read_task(record), fields.rest(record, _USED)
    shown, bare = instruction(task), dataclasses.replace(task, examples=())
    for example in task.examples:
        pieces = [Piece(shown + question(example)), Piece(example.output, True)]
        yield join(pieces, meta, example=Asked(bare, example))


def read_task(record: Mapping[str, Any], name: str = "") -> Task:
    """Returns the task of a file of either generation."""
    instances = fields.objects(record, "Instances")
    return Task(
        name,
        "\n".join(fields.texts(record, "Definition")),
        tuple(_example(example) for example in _positives(record)),
        tuple(_example(instance) for instance in instances),
    )


def instruction(task: Task) -> str:
    """Returns the definition and the positive examples, as Tk-Instruct writes them."""
    shown = (positive(k, example) for k, example in enumerate(task.positives, start=1))
    definition = f"Definition: {sentence(task.definition)}\n\n" if task.definition else ""
    return definition + "".join(before + output + after for before, output, after in shown)


def positive(number: int, example: Example) -> tuple[str, str, str]:
    """Returns what precedes the output of an example that is shown, the output, what follows."""
    before = f" Positive Example {number} -\nInput: {sentence(example.input)}\n Output: "
    return before, sentence(example.output), "\n\n"


def question(example: Example) -> str:
    """Returns the end of a prompt, which the example's output follows."""
    return f"Now complete the following example -\nInput: {sentence(example.input)}\nOutput: "


def sentence(text: str) -> str:
    """Returns the text with a full stop where no punctuation ends it."""
    text = text.strip()
    return text if not text or text[-1] in string.punctuation else f"{text}."


def _positives(record: Mapping[str, Any]) -> list[dict[str, Any]]:
    holder = record.get("Examples", record)
    if not isinstance(holder, dict):
        raise Unreadable("not an object", f"'Examples' is a {type(holder).__name__}")
    found = fields.value(holder, "Positive Examples")
    if found == _NOTHING or found == [_NOTHING]:
        return []
    return fields.objects(holder, "Positive Examples")


def _example(instance: Mapping[str, Any]) -> Example:
    """Returns the instance with one of its references: always the same, by a hash of the input."""
    asked, references = fields.text(instance, "input"), fields.texts(instance, "output")
    references = [reference for reference in references if reference.strip()]
    if not references:
        raise Unreadable("no answer", f"the instance {asked[:40]!r} has no output")
    choice = int.from_bytes(hashlib.sha256(asked.encode()).digest()[:8], "big")
    return Example(asked, references[choice % len(references)])
