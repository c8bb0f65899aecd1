"""A template and a tokenizer: conversation -> ids to train on, ids to go on from, where to stop."""

import dataclasses
import difflib
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from llama_jax.core import files
from llama_jax.core.errors import DataError
from llama_jax.text.chat import parts, written
from llama_jax.text.chat.conversation import Loss, Message, Refused
from llama_jax.text.chat.jinja import JinjaTemplate
from llama_jax.text.chat.parts import BOS, EOS, Encoded, Part
from llama_jax.text.chat.table import TEMPLATES, Template
from llama_jax.text.tokenizer import Tokenizer

LARGEST_TEMPLATE = 1 << 20
IN_FOLDER = ("chat_template.jinja", "tokenizer_config.json")


@dataclasses.dataclass(frozen=True)
class Chat:
    """What is said, in the tokens of a model.

    A template of the table gets a BOS before it and, if it has no token that ends an answer, an EOS
    after it; a Jinja template says itself which there are.
    """

    template: Template | JinjaTemplate
    tokenizer: Tokenizer

    def encode(
        self,
        messages: Iterable[Message],
        loss: Loss = "completion",
        *,
        bos: bool = True,
        eos: bool = True,
        before: str = "",
        compat: bool = False,
    ) -> Encoded:
        """Returns the conversation up to its last answer.

        Args:
            messages: Who says what.
            loss: What of it is learned.
            bos: Put BOS first, where the template does not.
            eos: Put EOS last, where the template has no token that ends an answer.
            before: A text to put behind the first BOS.
            compat: See written.py.

        Raises:
            Refused: The template has no form for it, or there is no answer.
        """
        found = self._written(messages, loss, compat)
        if self._is_framed and eos and not self.ends:
            found.append(Part(EOS, found[-1].role, True, found[-1].is_learned))
        return parts.encode(self._framed(found, bos, before), self.tokenizer)

    def prompt(
        self, messages: Iterable[Message], *, bos: bool = True, before: str = ""
    ) -> list[int]:
        """Returns the conversation up to where the assistant begins.

        Raises:
            Refused: The template has no form for it, or it does not end with a question.
        """
        found = self.prompt_parts(messages)
        if found and not found[-1].is_special:
            # A tokenizer writes a space together with the word after it, which is still to come.
            found[-1] = found[-1]._replace(text=found[-1].text.removesuffix(" "))
        return parts.encode(self._framed(found, bos, before), self.tokenizer).ids

    def prompt_parts(self, messages: Iterable[Message]) -> list[Part]:
        """Returns what `prompt` encodes, before BOS is put before it."""
        if isinstance(self.template, JinjaTemplate):
            return self.template.prompt(messages)
        return written.prompt(self.template, messages)

    @property
    def ends(self) -> tuple[str, ...]:
        """The special tokens that end an answer."""
        return self.template.ends

    @property
    def stop_ids(self) -> tuple[int, ...]:
        """The ids at which an answer ends."""
        known = parts.special_ids(self.tokenizer)
        return tuple(dict.fromkeys([self.tokenizer.eos_id, *(known[name] for name in self.ends)]))

    @property
    def stop_strings(self) -> tuple[str, ...]:
        """The texts at which an answer ends."""
        return () if isinstance(self.template, JinjaTemplate) else self.template.stops

    def close(self) -> None:
        """Ends the process of a Jinja template, which the next conversation would start again."""
        if isinstance(self.template, JinjaTemplate):
            self.template.close()

    @property
    def _is_framed(self) -> bool:
        return not isinstance(self.template, JinjaTemplate)

    def _written(self, messages: Iterable[Message], loss: Loss, compat: bool) -> list[Part]:
        if isinstance(self.template, JinjaTemplate):
            return self.template.write(messages, loss)
        return written.write(self.template, messages, loss, compat)

    def _framed(self, found: list[Part], bos: bool, before: str) -> list[Part]:
        known = parts.special_ids(self.tokenizer)
        opens = found[0].is_special and known.get(found[0].text) == known[BOS]
        head = found[:1] if opens else [Part(BOS, None, True)] * (bos and self._is_framed)
        return [*head, *([Part(before)] if before else []), *found[len(head) * opens :]]


def load_chat(name: str, tokenizer: Tokenizer, date: str | None = None) -> Chat:
    """Returns the template of a name, or in a file or folder, for a tokenizer.

    Args:
        name: One of the table; a Jinja file; a tokenizer_config.json, or a folder that holds one.
        tokenizer: Whose ids are written.
        date: The day it is for a Jinja template (ISO); "" is none, None is today.

    Raises:
        ValueError: There is none, or the tokenizer lacks one of its special tokens.
        DataError: The file holds no template.
    """
    if name in TEMPLATES:
        return _checked(Chat(TEMPLATES[name], tokenizer))
    path = Path(name)
    if not path.exists():
        close = difflib.get_close_matches(name, TEMPLATES, n=1)
        hint = f" Did you mean {close[0]!r}?" if close else ""
        raise ValueError(
            f"{name!r} is no chat template; it must be one of {', '.join(TEMPLATES)}, or a Jinja "
            f"file, a tokenizer_config.json or a folder with one of them.{hint}"
        )
    path = template_file(path)
    try:
        return Chat(JinjaTemplate(read_template(path), tokenizer, date), tokenizer)
    except Refused as problem:
        raise DataError(f"{path}: {problem}") from None


def template_file(path: Path) -> Path:
    """Returns the file that holds the Jinja template of a file or folder.

    Raises:
        ValueError: The folder holds none.
    """
    if not path.is_dir():
        return path
    for name in IN_FOLDER:
        if (path / name).is_file():
            return path / name
    raise ValueError(f"{path} holds no {' and no '.join(IN_FOLDER)}. Name a chat template.")


def read_template(path: Path) -> str:
    """Returns the Jinja template in a file.

    Raises:
        DataError: It holds none.
    """
    if (size := path.stat().st_size) > LARGEST_FILE[path.suffix == ".json"]:
        raise DataError(f"{path} has {size} bytes; no chat template is that large.")
    if path.suffix == ".json":
        found = files.read_json(path)
        text = _default(found.get("chat_template") if isinstance(found, dict) else None)
    else:
        try:
            text = path.read_text(encoding="utf-8")
        except UnicodeDecodeError as error:
            raise DataError(f"{path} is not UTF-8: byte {error.start}.") from None
    if not isinstance(text, str) or not text.strip():
        raise DataError(f"{path} holds no chat template: it has no text 'chat_template'.")
    return text


# A tokenizer_config.json also holds tens of thousands of added tokens.
LARGEST_FILE = (LARGEST_TEMPLATE, 16 * LARGEST_TEMPLATE)


def _default(found: Any) -> Any:
    """Returns the template that is meant without a name, of several with names."""
    if not isinstance(found, list):
        return found
    named = {entry.get("name"): entry.get("template") for entry in found if isinstance(entry, dict)}
    return named.get("default")


def _checked(chat: Chat) -> Chat:
    assert isinstance(chat.template, Template)
    known = parts.special_ids(chat.tokenizer)
    if lacking := sorted(chat.template.specials - set(known)):
        raise ValueError(parts.missing(lacking, known))
    return chat
