"""A conversation as the text that the teacher reads and the student is trained on.

The prompt of turn 2, as Together's released script sends it (_ is a space):

    __[INST]__turn 1__[/INST]__answer 1__[INST]__turn 2__[/INST]__

A line of the training file has four spaces before every [INST] but the first, because the released
one inserted two more, and nothing around it: no BOS, EOS, system prompt or label.
"""

from collections.abc import Sequence

MARKERS = ("[INST]", "[/INST]")


def ask(turn: str) -> str:
    """Returns a human turn as it stands in a prompt."""
    return f"  [INST]  {turn}  [/INST]  "


def join(turns: Sequence[str], answers: Sequence[str]) -> str:
    """Returns the conversation so far; its last turn may have no answer yet."""
    parts = [ask(turn) for turn in turns]
    for i, answer in enumerate(answers):
        parts[i] += answer
    return "".join(parts)


def split(turns: Sequence[str], text: str) -> list[str] | None:
    """Returns the answers in join(turns, answers); None if `text` is nothing of the kind."""
    answers = []
    for i, turn in enumerate(turns):
        if not text.startswith(ask(turn)):
            return None
        text = text.removeprefix(ask(turn))
        end = text.find(ask(turns[i + 1])) if i + 1 < len(turns) else len(text)
        if end < 0:
            return None
        answers.append(text[:end])
        text = text[end:]
    return answers


def line(turns: Sequence[str], answers: Sequence[str]) -> str:
    """Returns the text of one training example."""
    pairs = zip(turns, answers, strict=True)
    return "".join(f"  {ask(turn)}{answer}" for turn, answer in pairs).strip()


def marker_in(text: str) -> str:
    """Returns the first of the template's words that stands in `text`, or ""."""
    return next((marker for marker in MARKERS if marker in text), "")
