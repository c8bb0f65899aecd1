"""Open-Assistant's trees: a question, its answers, what is asked then -> one text per branch.

    prompter "Hi"                                     conversations
      assistant "Hello"                               Hi / Hello / How? / Well.
        prompter "How?"                               Hi / Hey
          assistant "Well."
        prompter "(nobody answered)"
      assistant "Hey"

A branch ends with its last answer. Messages that were deleted, or did not pass review, are left out
with all that follows them. Every answer of a branch is learned, so one that is followed by several
questions is learned in each of them.
"""

from collections.abc import Iterator, Mapping
from typing import Any, NamedTuple

from llama_jax.data.sources.document import Document, Unreadable
from llama_jax.data.sources.records import fields
from llama_jax.data.sources.records.conversation import document, role
from llama_jax.text.chat.conversation import Message


class _Node(NamedTuple):
    message: Message
    parent: int  # Its place in the list; -1 is none.


def parse(record: Mapping[str, Any]) -> Iterator[Document]:
    """Yields a conversation for each branch of the tree."""
    nodes = _nodes(fields.value(record, "prompt"))
    meta = fields.rest(record, ("prompt",))
    for last in _last_answers(nodes):
        yield document(_branch(nodes, last), meta)


def _nodes(root: Any) -> list[_Node]:
    """Returns the messages of the tree, each after what it replies to."""
    nodes: list[_Node] = []
    open_: list[tuple[Any, int]] = [(root, -1)]
    while open_:
        found, parent = open_.pop()
        if not isinstance(found, Mapping):
            raise Unreadable("not an object", f"a message is a {type(found).__name__}")
        message = Message(role(found, "role"), fields.text(found, "text"))
        expected = "user" if parent < 0 or nodes[parent].message.role != "user" else "assistant"
        if message.role != expected:
            raise Unreadable("turns out of order", f"the {message.role} speaks for the {expected}")
        if found.get("deleted") is True or found.get("review_result") is False:
            continue
        nodes.append(_Node(message, parent))
        replies = fields.objects({"replies": [], **found}, "replies")
        open_ += [(reply, len(nodes) - 1) for reply in reversed(replies)]
    return nodes


def _last_answers(nodes: list[_Node]) -> list[int]:
    """Returns the answers after which nothing is answered."""
    answers = [i for i, node in enumerate(nodes) if node.message.role == "assistant"]
    followed = {nodes[nodes[i].parent].parent for i in answers}
    return [i for i in answers if i not in followed]


def _branch(nodes: list[_Node], last: int) -> list[Message]:
    messages = []
    while last >= 0:
        messages.append(nodes[last].message)
        last = nodes[last].parent
    return messages[::-1]
