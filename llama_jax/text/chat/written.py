r"""A template of the table and a conversation -> parts.

Learned of an answer is all that does not stand in a prompt, up to the special token that ends it:

    <|im_start|> assistant \n  Hello  <|im_end|> \n
          0          0      0    1        1       0
"""

from collections.abc import Iterable, Sequence

from llama_jax.text.chat import conversation
from llama_jax.text.chat.conversation import Loss, Message, Refused, Role
from llama_jax.text.chat.parts import Part
from llama_jax.text.chat.table import INPUT, TEXT, Special, Template, Turn


def write(
    template: Template, messages: Iterable[Message], loss: Loss, compat: bool = False
) -> list[Part]:
    """Returns a conversation up to its last answer, with what is learned of it.

    Args:
        template: How it is written.
        messages: Who says what.
        loss: What is learned.
        compat: All before the first question is learned as well, as Open-Assistant's programs did:
            they counted turns from -1, which is odd, as the numbers of answers are.

    Raises:
        Refused: The template has no form for it, or there is no answer.
    """
    messages = conversation.answered(_checked(template, messages))
    if template.trims_end:
        messages[-1] = messages[-1]._replace(text=messages[-1].text.rstrip())
    learned = conversation.learned(messages, loss)
    first = next(i for i, message in enumerate(messages) if message.role == "user")
    parts: list[Part] = []
    for i, message in enumerate(messages):
        is_before = compat and i < first
        turn = _turn(template, message, after_answer=i > 0 and messages[i - 1].role == "assistant")
        is_whole = loss == "all" or is_before
        flags = _flags(turn, is_whole, i in learned, len(template.opening))
        if (template.learns_next and i - 1 in learned) or (compat and i <= first):
            flags[0] = True
        parts += _parts(turn, message, flags, template)
    return parts


def prompt(template: Template, messages: Iterable[Message]) -> list[Part]:
    """Returns a conversation up to where the assistant begins.

    Raises:
        Refused: The template has no form for it, or it does not end with a question.
    """
    messages = _checked(template, messages)
    conversation.check_ends_with_question(messages)
    parts: list[Part] = []
    for i, message in enumerate(messages):
        turn = _turn(template, message, after_answer=i > 0 and messages[i - 1].role == "assistant")
        parts += _parts(turn, message, [False] * len(turn), template)
    return parts + [_part(piece, "assistant", False) for piece in template.opening]


def _checked(template: Template, messages: Iterable[Message]) -> list[Message]:
    """Returns the messages with words, the system's folded in, after checking their order."""
    messages = conversation.with_words(messages)
    for message in messages:
        for mark in template.marks:
            if mark in message.text or mark in message.input:
                said = template.refusal or f"the {message.role} says {mark}, which marks turns."
                raise Refused("special tags", said)
    if not template.system:
        messages = _folded(template, messages)
    roles = [message.role for message in messages]
    expected = ("user", "assistant") * len(roles)
    if template.alternates and roles != list(expected[: len(roles)]):
        said = ", ".join(roles[:6])
        raise Refused("turns out of order", f"user and assistant must alternate; these are {said}.")
    if template.single and len(messages) > 2:
        raise Refused("too many turns", "the template has one question and one answer.")
    return messages


def _folded(template: Template, messages: list[Message]) -> list[Message]:
    count = next((i for i, m in enumerate(messages) if m.role != "system"), len(messages))
    system, rest = messages[:count], messages[count:]
    if not system or not rest or rest[0].role != "user":
        return messages  # Nothing to fold, or an order that is refused.
    said = "\n\n".join(message.text for message in system)
    whole = template.fold.format(system=said, user=rest[0].text)
    return [rest[0]._replace(text=whole), *rest[1:]]


def _turn(template: Template, message: Message, after_answer: bool) -> Turn:
    turns = {"system": template.system, "user": template.user, "assistant": template.assistant}
    turn = turns[message.role]
    if message.role == "user" and message.input.strip() and template.user_with_input:
        turn = template.user_with_input
    if template.between and after_answer:
        turn = (template.between, *turn)
    return turn


def _flags(turn: Turn, whole: bool, answer: bool, first: int) -> list[bool]:
    """Returns which pieces of a turn are learned; of an answer, those from number `first` on."""
    if whole or not answer:
        return [whole] * len(turn)
    first -= turn[first - 1 : first] == (" ",)  # Where a prompt ends in a space, it is left out.
    ends = [i for i, piece in enumerate(turn) if isinstance(piece, Special) and i > first]
    last = max([turn.index(TEXT), *ends])
    return [first <= i <= last for i in range(len(turn))]


def _parts(
    turn: Turn, message: Message, flags: Sequence[bool], template: Template
) -> Iterable[Part]:
    for piece, is_learned in zip(turn, flags, strict=True):
        if piece is TEXT:
            said = message.text
            if message.input.strip() and INPUT not in turn:
                said += f"\n\n{message.input}"
            yield Part(said.strip() if template.strips else said, message.role, False, is_learned)
        elif piece is INPUT:
            yield Part(message.input, message.role, False, is_learned)
        else:
            yield _part(piece, message.role, is_learned)


def _part(piece: str, role: Role, is_learned: bool) -> Part:
    return Part(str(piece), role, isinstance(piece, Special), is_learned)
