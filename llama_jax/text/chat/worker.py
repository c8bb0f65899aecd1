"""The program that sandbox.py starts: renders what it is sent until nobody sends any more.

It imports nothing of this package, so that it starts in a tenth of a second. The environment is the
one that chat templates are written for: transformers' (`utils/chat_template_utils.py`, 5.23), with
its filters and names, and without the time of day, where the caller gives a date.
"""

import contextlib
import datetime
import functools
import json
import sys
from collections.abc import Callable
from typing import Any

import jinja2
import jinja2.ext
import jinja2.nodes
import jinja2.parser
import jinja2.sandbox
import jinja2.utils

Variables = dict[str, Any]


class Generation(jinja2.ext.Extension):
    """{% generation %} ... {% endgeneration %}: puts the caller's marks around what is inside."""

    tags = {"generation"}  # noqa: RUF012

    def parse(self, parser: jinja2.parser.Parser) -> jinja2.nodes.Node:
        """Returns the block as a call of `marked`."""
        line = next(parser.stream).lineno
        body = parser.parse_statements(("name:endgeneration",), drop_needle=True)
        call = self.call_method("_marked", [jinja2.nodes.ContextReference()])
        return jinja2.nodes.CallBlock(call, [], [], body).set_lineno(line)

    def _marked(self, context: Any, caller: Callable[[], str]) -> str:
        opening, closing = context.get("generation_marks") or ("", "")
        return f"{opening}{caller()}{closing}"


class Namespace(jinja2.utils.Namespace):
    """Jinja's namespace, without names that Python keeps to itself."""

    def __init__(*args: Any, **kwargs: Any):  # namespace(self=...) is allowed.
        self, *rest = args
        for name in (attributes := dict(*rest, **kwargs)):
            _refuse_private(name)
        jinja2.utils.Namespace.__init__(self, attributes)

    def __setitem__(self, name: str, value: Any) -> None:
        _refuse_private(name)
        super().__setitem__(name, value)


def _refuse_private(name: Any) -> None:
    if isinstance(name, str) and name.startswith("_"):
        raise jinja2.exceptions.SecurityError(f"{name!r} cannot be set")


def environment(date: str | None) -> jinja2.Environment:
    """Returns where templates run; `date` is the day it is, "" is none, None is today."""
    env = jinja2.sandbox.ImmutableSandboxedEnvironment(
        trim_blocks=True, lstrip_blocks=True, extensions=[Generation, jinja2.ext.loopcontrols]
    )

    def raise_exception(message: str) -> None:
        raise jinja2.exceptions.TemplateError(message)

    def strftime_now(form: str) -> str:
        if date == "":
            raise jinja2.exceptions.TemplateError(
                "it asks for the day it is; set chat.date, so that the same settings always give "
                "the same tokens"
            )
        day = datetime.datetime.fromisoformat(date) if date else datetime.datetime.now()
        return day.strftime(form)

    def tojson(
        value: Any,
        ensure_ascii: bool = False,
        indent: int | None = None,
        separators: tuple[str, str] | None = None,
        sort_keys: bool = False,
    ) -> str:
        options: dict[str, Any] = {"indent": indent, "separators": separators}
        return json.dumps(value, ensure_ascii=ensure_ascii, sort_keys=sort_keys, **options)

    env.filters["tojson"] = tojson
    env.globals |= {
        "raise_exception": raise_exception,
        "strftime_now": strftime_now,
        "namespace": Namespace,
    }
    return env


@functools.lru_cache(maxsize=1)
def compiled(template: str, date: str | None) -> jinja2.Template:
    """Returns the template, ready to be rendered."""
    return environment(date).from_string(template)


def answer(template: str, variables: Variables) -> str:
    """Returns the text; pieces are counted as they come, so no more than allowed is ever held."""
    pieces, size = [], 0
    found = compiled(template, variables.pop("date", None))
    for piece in found.generate(**variables) if variables else ():  # Without any it is a trial.
        size += len(piece)
        if size > LARGEST:
            raise OverflowError(f"it writes more than {LARGEST} characters")
        pieces.append(piece)
    return "".join(pieces)


def _limit(memory: int) -> None:
    try:
        import resource
    except ImportError:  # Windows has no such limits.
        return
    with contextlib.suppress(ValueError, OSError):
        resource.setrlimit(resource.RLIMIT_AS, (memory, memory))
        resource.setrlimit(resource.RLIMIT_CORE, (0, 0))


def main() -> None:
    """Answers every line of standard input."""
    for line in sys.stdin.buffer:
        request = json.loads(line)
        try:
            kind, text = b"=", answer(request["template"], request["variables"])
        except jinja2.exceptions.TemplateSyntaxError as error:
            kind, text = b"!", f"the chat template's line {error.lineno}: {error.message}."
        except jinja2.exceptions.TemplateError as error:
            kind, text = b"!", f"the chat template refuses the conversation: {error}."
        except MemoryError:
            kind, text = b"!", "the chat template takes more memory than it may have."
        except Exception as error:  # Whatever a template makes Python raise is its own fault.
            kind, text = b"!", f"the chat template fails: {type(error).__name__}: {error}."
        data = text.encode("utf-8", "surrogatepass")
        if len(data) > LARGEST:
            kind, data = b"!", f"the chat template writes more than {LARGEST} bytes.".encode()
        sys.stdout.buffer.write(kind + len(data).to_bytes(8, "big") + data)
        sys.stdout.buffer.flush()


if __name__ == "__main__":
    LARGEST = int(sys.argv[2])
    _limit(int(sys.argv[1]))
    main()
