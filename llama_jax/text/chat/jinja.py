r"""A Hugging Face `chat_template` and a conversation -> parts.

What it writes is one text, in which special tokens stand by their names. Those are read from it;
a name that somebody typed is not: before the template sees a message, a character that occurs
nowhere in the conversation is put into it, and afterwards taken out again.

    said        "</s> hello"        seen by the template   "<•/s> hello"
    written     "<s>[INST] <•/s> hello [/INST]"
    parts       <s>   "[INST] </s> hello [/INST]"

What is learned stands between {% generation %} and {% endgeneration %}. In a template without them
it is what one more message adds to a prompt:

    up to the question, with the opening    <|im_start|>user\nHi<|im_end|>\n<|im_start|>assistant\n
    up to the answer                        (the same)  Hello<|im_end|>\n
    learned                                             Hello<|im_end|>
"""

import itertools
import re
from collections.abc import Iterable, Sequence
from typing import Any

from llama_jax.text.chat import conversation
from llama_jax.text.chat.conversation import Loss, Message, Refused, Role
from llama_jax.text.chat.parts import Part
from llama_jax.text.chat.sandbox import Sandbox
from llama_jax.text.tokenizer import Tokenizer

_GENERATION = re.compile(r"\{%-?\s*generation\s*-?%\}")
# Characters that Unicode sets aside for nobody's text. Three of them are needed.
_PRIVATE = [chr(code) for code in range(0xE000, 0xF900)]
Span = tuple[int, int]


class JinjaTemplate:
    """A template as people publish it beside a tokenizer."""

    def __init__(self, source: str, tokenizer: Tokenizer, date: str | None = None):
        """`date` (ISO) is the day it is for the template, "" is none, None is today.

        Raises:
            Refused: It is not a template.
        """
        self._sandbox, self._date = Sandbox(source), date
        self._sandbox.render()  # Nothing yet: it only must be a template.
        self._has_generation = bool(_GENERATION.search(source))
        by_id = {id: name for name, id in tokenizer.special.items()}
        ids = {"bos": tokenizer.bos_id, "eos": tokenizer.eos_id, "pad": tokenizer.pad_id}
        self._variables = {
            f"{role}_token": by_id[id] for role, id in ids.items() if id is not None and id in by_id
        }
        known = sorted(tokenizer.special, key=len, reverse=True)
        self._special = re.compile("|".join(map(re.escape, known)) or r"(?!)")

    def write(self, messages: Iterable[Message], loss: Loss) -> list[Part]:
        """Returns a conversation up to its last answer, with what is learned of it.

        Raises:
            Refused: The template refuses it, or does not tell what is learned.
        """
        messages = conversation.answered(conversation.with_words(messages))
        marks = _unused(messages)
        text = self._render(messages, marks, generation=self._has_generation)
        spans: list[Span] = []
        if self._has_generation:
            text, spans = _spans(text, marks[1], marks[2])
            spans = _chosen(spans, messages, loss)
        elif loss != "all":
            spans = self._added(text, messages, marks, loss)
        return self._parts(text, spans, marks[0], whole=loss == "all")

    def prompt(self, messages: Iterable[Message]) -> list[Part]:
        """Returns a conversation up to where the assistant begins.

        Raises:
            Refused: The template refuses it, or it does not end with a question.
        """
        messages = conversation.with_words(messages)
        conversation.check_ends_with_question(messages)
        marks = _unused(messages)
        return self._parts(self._render(messages, marks, opening=True), [], marks[0])

    @property
    def ends(self) -> tuple[str, ...]:
        """The special tokens that end an answer."""
        try:
            parts = self.write([Message("user", "a"), Message("assistant", "b")], "completion")
        except Refused:  # Then nothing is known but EOS.
            return ()
        return tuple(part.text for part in parts if part.is_special and part.is_learned)

    def close(self) -> None:
        """Ends the process that renders."""
        self._sandbox.close()

    def _render(
        self,
        messages: Sequence[Message],
        marks: str,
        opening: bool = False,
        generation: bool = False,
    ) -> str:
        guarded = [
            {"role": m.role, "content": self._guarded(_content(m), marks[0])} for m in messages
        ]
        more: dict[str, Any] = {"generation_marks": list(marks[1:])} if generation else {}
        return self._sandbox.render(
            messages=guarded,
            tools=None,
            documents=None,
            add_generation_prompt=opening,
            date=self._date,
            **self._variables,
            **more,
        )

    def _guarded(self, text: str, guard: str) -> str:
        return self._special.sub(lambda found: found[0][:1] + guard + found[0][1:], text)

    def _added(self, text: str, messages: Sequence[Message], marks: str, loss: Loss) -> list[Span]:
        """Returns what each answer adds to the prompt before it."""
        spans = []
        for i in sorted(conversation.learned(messages, loss)):
            before = self._render(messages[:i], marks, opening=True)
            after = self._render(messages[: i + 1], marks) if i + 1 < len(messages) else text
            if not (after.startswith(before) and text.startswith(after)):
                raise Refused(
                    "unknown answers",
                    "the chat template writes earlier messages in another way once there are later "
                    "ones, so what the assistant says cannot be told. Mark it in the template with "
                    "{% generation %}, or take one of the named templates.",
                )
            spans.append((len(before), self._end(after, len(before))))
        return spans

    def _end(self, text: str, start: int) -> int:
        """Returns where an answer ends: at its last special token, if but space follows it."""
        ends = [found.end() for found in self._special.finditer(text, start)]
        return ends[-1] if ends and not text[ends[-1] :].strip() else len(text)

    def _parts(
        self, text: str, spans: Sequence[Span], guard: str, whole: bool = False
    ) -> list[Part]:
        """Returns the text cut at special tokens and where learning begins and ends."""
        tokens = [found.span() for found in self._special.finditer(text)]
        cuts = sorted({0, len(text), *(at for span in (*spans, *tokens) for at in span)})
        starts = {start for start, _ in tokens}
        parts = []
        for start, stop in itertools.pairwise(cuts):
            is_answer = any(first <= start and stop <= last for first, last in spans)
            role: Role | None = "assistant" if is_answer else None
            said = text[start:stop].replace(guard, "")
            parts.append(Part(said, role, start in starts, whole or is_answer))
        return parts


def _content(message: Message) -> str:
    return "\n\n".join(filter(None, (message.text, message.input)))


def _unused(messages: Sequence[Message]) -> str:
    """Returns three characters that occur in no message."""
    used = set().union(*(_content(message) for message in messages)) if messages else set()
    free = [character for character in _PRIVATE if character not in used][:3]
    if len(free) < 3:
        raise Refused("no free character", "the conversation uses all private characters.")
    return "".join(free)


def _spans(text: str, opening: str, closing: str) -> tuple[str, list[Span]]:
    """Returns the text without marks, and where what stood between them is."""
    pieces: list[str] = []
    spans: list[Span] = []
    length = start = 0
    for piece in re.split(f"([{opening}{closing}])", text):
        if piece == opening:
            start = length
        elif piece == closing:
            spans.append((start, length))
        else:
            pieces.append(piece)
            length += len(piece)
    return "".join(pieces), spans


def _chosen(spans: list[Span], messages: Sequence[Message], loss: Loss) -> list[Span]:
    """Returns those of the marked answers that are learned."""
    count = sum(message.role == "assistant" for message in messages)
    if len(spans) != count:
        raise Refused(
            "unknown answers",
            f"the chat template marks {len(spans)} answers of {count} as generation.",
        )
    turns = [i for i, message in enumerate(messages) if message.role == "assistant"]
    asked = conversation.learned(messages, loss)
    return [span for i, span in zip(turns, spans, strict=True) if i in asked]
