r"""Chat templates as data: how each speaker's turn is written.

A turn is a sequence of texts, special tokens (Special) and what is said (TEXT, INPUT). Sources:
Llama-2-chat: Meta's reference of Llama 2; Instruct: card, README, program and training file of
Llama-2-7B-32K-Instruct; oasst: Open-Assistant, format v2.5; chatml: OpenHermes; oig: OpenChatKit;
alpaca: Stanford Alpaca. How Instruct's card and README go on after an answer is stated nowhere;
here what separates a question from its answer separates turns too.
"""

import dataclasses
from collections.abc import Mapping

from llama_jax.text.chat.parts import BOS, EOS


class Special(str):
    """The name of a special token."""


class Slot(str):
    """A place for what is said."""


TEXT, INPUT = Slot("text"), Slot("input")
Turn = tuple[str, ...]


@dataclasses.dataclass(frozen=True, kw_only=True)
class Template:
    """How turns are written, and what may stand in them."""

    user: Turn
    opening: Turn = ()  # What of the assistant's turn a prompt ends with.
    answer: Turn  # The rest of it, which is learned up to the last special token.
    # Without a form for it, what the system says is folded into the first question.
    system: Turn = ()
    fold: str = "{system}\n\n{user}"
    user_with_input: Turn = ()  # Without, the input follows the instruction after an empty line.
    between: str = ""  # Stands between an answer and what is asked next.
    strips: bool = False  # White space around what is said is left out.
    trims_end: bool = False  # White space at the end of the conversation is left out.
    alternates: bool = True  # Questions and answers must follow each other.
    single: bool = False  # There is one question and one answer.
    # Texts that open or close turns: what is said must not hold them.
    marks: tuple[str, ...] = ()
    refusal: str = ""  # What Meta's reference answers then; "" names the text that is there.
    stops: tuple[str, ...] = ()  # Texts at which an answer ends, where no special token says so.
    learns_next: bool = False  # The token that opens the turn after an answer is learned as well.

    @property
    def assistant(self) -> Turn:
        """How the assistant's turn is written."""
        return (*self.opening, *self.answer)

    @property
    def ends(self) -> tuple[str, ...]:
        """The special tokens that end an answer."""
        return tuple(piece for piece in self.answer if isinstance(piece, Special))

    @property
    def specials(self) -> set[str]:
        """All special tokens."""
        turns = (self.user, self.assistant, self.system, self.user_with_input)
        return {piece for turn in turns for piece in turn if isinstance(piece, Special)}


def _closed(role: str) -> Turn:
    return (Special(role), TEXT, Special(EOS))


def _chatml(role: str) -> Turn:
    return (Special("<|im_start|>"), f"{role}\n", TEXT, Special("<|im_end|>"), "\n")


def _alpaca(preamble: str, *middle: str) -> Turn:
    return (f"{preamble}\n\n### Instruction:\n", TEXT, *middle, "\n\n### Response:")


_INST = ("[INST]", "[/INST]")
_TASK = "Below is an instruction that describes a task"
_WRITE = "Write a response that appropriately completes the request."

TEMPLATES: Mapping[str, Template] = {
    "llama2_chat": Template(
        user=(Special(BOS), "[INST] ", TEXT, " [/INST]"),
        answer=(" ", TEXT, " ", Special(EOS)),
        fold="<<SYS>>\n{system}\n<</SYS>>\n\n{user}",
        strips=True,
        marks=(*_INST, "<<SYS>>", "<</SYS>>"),
        refusal="Error: special tags are not allowed as part of the prompt.",
    ),
    "instruct_card": Template(
        user=("[INST]\n", TEXT, "\n[/INST]"),
        opening=("\n\n",),
        answer=(TEXT,),
        between="\n\n",
        marks=_INST,
        stops=("[INST]",),
    ),
    "instruct_readme": Template(
        user=("[INST] ", TEXT, " [/INST]"),
        answer=(" ", TEXT),
        between=" ",
        marks=_INST,
        stops=("[INST]",),
    ),
    "instruct_script": Template(
        user=("  [INST]  ", TEXT, "  [/INST]"),
        opening=(" ", " "),
        answer=(TEXT,),
        marks=_INST,
        stops=("[INST]",),
    ),
    "instruct_training": Template(
        user=("[INST]  ", TEXT, "  [/INST]"),
        opening=(" ", " "),
        answer=(TEXT,),
        between="    ",
        trims_end=True,
        marks=_INST,
        stops=("[INST]",),
    ),
    "oasst": Template(
        system=_closed("<|system|>"),
        user=_closed("<|prompter|>"),
        opening=(Special("<|assistant|>"),),
        answer=(TEXT, Special(EOS)),
        alternates=False,
        learns_next=True,
    ),
    "chatml": Template(
        system=_chatml("system"),
        user=_chatml("user"),
        opening=_chatml("assistant")[:2],
        answer=_chatml("assistant")[2:],
        alternates=False,
    ),
    "oig": Template(
        user=("<human>: ", TEXT),
        opening=("\n<bot>:",),
        answer=(" ", TEXT),
        between="\n",
        marks=("<human>:", "<bot>:"),
        stops=("<human>",),
    ),
    "alpaca": Template(
        user=_alpaca(f"{_TASK}. {_WRITE}"),
        user_with_input=_alpaca(
            f"{_TASK}, paired with an input that provides further context. {_WRITE}",
            "\n\n### Input:\n",
            INPUT,
        ),
        answer=(TEXT,),
        single=True,
        marks=("### Instruction:", "### Input:", "### Response:"),
        stops=("### Instruction:",),
    ),
}
