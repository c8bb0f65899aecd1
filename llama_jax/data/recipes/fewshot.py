r"""Few-shot packing: many examples of one task in one text, filled up to a number of tokens.

As Tk-Instruct writes them:                      As a conversation:

    Definition: {what to do}                         <human>: {what to do}
    <empty line>                                     <empty line>
     Positive Example 1 -                            {input}
    Input: {input}                                   <bot>: {output}
     Output: {output}                                <human>: {input}
    <empty line>                                     <bot>: {output}
    ...                                              ...
    Now complete the following example -
    Input: {input}
    Output: {output}

Every output is an answer of the text, so that loss can be on all or on the answers alone. Only the
task's own positive examples, which stand before every text of it as a part of the definition, are
not. In what order and with what between them the published long-context mixtures (Natural
Instructions and P3 in 32K tokens) packed examples is not known; here it is by chance, by seed.
"""

import dataclasses
from collections import Counter
from collections.abc import Callable, Iterator, Sequence

from llama_jax.data.recipes.order import shuffled
from llama_jax.data.sources.document import Document
from llama_jax.data.sources.pieces import Piece, join
from llama_jax.data.sources.records import conversation, natural_instructions
from llama_jax.data.sources.records.task import UNSAID, Asked, Example, Task
from llama_jax.text.chat.conversation import Message

Form = Callable[[Task, Sequence[Example]], list[Piece]]
Measure = Callable[[str], int]  # The length of a text: characters, or tokens.

MOST_OF_A_TASK = 500_000  # Examples, as T0 mixes its data sets; larger ones are drawn from.


def tk_instruct(task: Task, examples: Sequence[Example]) -> list[Piece]:
    """Returns the examples as positive ones, numbered after the task's own; the last is asked."""
    pieces = [Piece(natural_instructions.instruction(task))]
    for number, example in enumerate(examples[:-1], start=len(task.positives) + 1):
        before, output, after = natural_instructions.positive(number, example)
        pieces += [Piece(before), Piece(output, True), Piece(after)]
    for example in examples[-1:]:
        question = natural_instructions.question(example)
        pieces += [Piece(question), Piece(example.output, True)]
    return pieces


def dialogue(task: Task, examples: Sequence[Example]) -> list[Piece]:
    """Returns the examples as turns, what to do before the first."""
    messages = [Message("system", task.definition)]
    for example in examples:
        messages += [Message("user", example.input), Message("assistant", example.output)]
    return list(conversation.pieces(messages))


def task_of(name: str, members: Sequence[Asked]) -> Task:
    """Returns the task of which all these examples are."""
    examples = tuple(asked.example for asked in members)
    return dataclasses.replace(members[0].task, name=name, examples=examples)


def pack(
    task: Task,
    form: Form,
    *,
    length: int,
    measure: Measure,
    most: int,
    seed: int,
    dropped: Counter[str],
) -> Iterator[Document]:
    """Yields texts that hold every example of a task once, in an order by chance.

    Args:
        task: What to pack.
        form: `tk_instruct` or `dialogue`.
        length: No text is longer. One is full when the next example, by itself, is longer than
            what is left.
        measure: The length of a text.
        most: Examples of one text at most; -1: as many as fit.
        seed: With the task's name it decides the order.
        dropped: Counts examples that do not fit even alone ("too long"), those without question
            or answer, those that ask the same as the one before, and those beyond MOST_OF_A_TASK.
    """
    examples = shuffled(_usable(task.examples, dropped), seed, task.name)
    if (more := len(examples) - MOST_OF_A_TASK) > 0:
        dropped["more than is taken of a task"] += more
        examples = examples[:MOST_OF_A_TASK]
    sizes = [measure(_text(form, UNSAID, [example])) for example in examples]
    first = number = 0
    while first < len(examples):
        stop = len(examples) if most < 0 else min(first + most, len(examples))
        taken = _taken(task, form, examples[first:stop], sizes[first:stop], length, measure)
        if not taken:
            dropped["too long"] += 1
            first += 1
            continue
        pieces = form(task, examples[first : first + taken])
        yield join(pieces, {"task": task.name, "examples": taken}, f"{task.name}#{number}")
        first, number = first + taken, number + 1


def _usable(examples: Sequence[Example], dropped: Counter[str]) -> list[Example]:
    """Returns those that ask and answer something, and not what the one before them asked."""
    found: list[Example] = []
    previous = None
    for example in examples:
        if not (example.input.strip() and example.output.strip()):
            dropped["no question or no answer"] += 1
        elif example.input == previous:
            dropped["the question before it again"] += 1
        else:
            found.append(example)
        previous = example.input
    return found


def _taken(
    task: Task,
    form: Form,
    examples: list[Example],
    sizes: list[int],
    length: int,
    measure: Measure,
) -> int:
    """Returns how many of the first examples fit; their own sizes say how far to look."""
    taken, used = 0, measure(_text(form, task, []))
    while more := _fitting(sizes[taken:], length - used):
        while more and (now := measure(_text(form, task, examples[: taken + more]))) > length:
            more -= 1
        if not more:
            break
        taken, used = taken + more, now
    return taken


def _fitting(sizes: list[int], room: int) -> int:
    for number, size in enumerate(sizes):
        room -= size
        if room < 0:
            return number
    return len(sizes)


def _text(form: Form, task: Task, examples: list[Example]) -> str:
    return "".join(piece.text for piece in form(task, examples))
