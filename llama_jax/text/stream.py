"""Ids -> text, piece by piece, that never shows half a character."""

from llama_jax.text.tokenizer import Tokenizer

_REPLACEMENT = "\ufffd"  # What half a character decodes to.


class TextStream:
    """Text of ids that arrive one by one; all pieces together are decode(all ids).

    ids     ▁Say   ▁   <0xF0>  <0x9F>  <0xA6>  <0x99>  !
    pieces  Say    _   ""      ""      ""      ""      🦙!

    Here _ is a space. A run of byte pieces is held back until it ends: what its first bytes mean
    can depend on its last. Each piece is the difference of two decodings of a short window, because
    a decoder strips the space before the first word only.
    """

    def __init__(self, tokenizer: Tokenizer):
        self._tokenizer = tokenizer
        self._shown: list[int] = []  # The last ids that gave text: what the window follows.
        self._window: list[int] = []

    def push(self, id: int) -> str:
        """Returns the text that is certain after one more id; perhaps nothing."""
        if self._tokenizer.is_control(id):
            return ""
        self._window.append(id)
        if self._tokenizer.is_byte(id):
            return ""
        text = self._text()
        # Tokenizers without byte pieces (GPT-2's kind) cut characters inside ordinary pieces.
        return "" if text.endswith(_REPLACEMENT) else self._advance(text)

    def finish(self) -> str:
        """Returns what was held back; half a character is shown as U+FFFD."""
        return self._advance(self._text())

    def _text(self) -> str:
        before = self._tokenizer.decode(self._shown)
        return self._tokenizer.decode(self._shown + self._window)[len(before) :]

    def _advance(self, text: str) -> str:
        if text:  # Else what follows would be taken for a start, and lose its space.
            self._shown, self._window = self._window, []
        return text
