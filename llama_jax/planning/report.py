"""A plan as tables that fit a terminal of 80 columns, with the arithmetic behind each number."""

from collections.abc import Iterator

from rich import box
from rich.console import Group, RenderableType
from rich.table import Table
from rich.text import Text

from llama_jax.planning.plan import Plan
from llama_jax.planning.roofline import Term
from llama_jax.telemetry.hardware import GIB

MEMORY = (
    ("parameters", "exact: shapes and shardings"),
    ("optimizer", "exact: shapes and shardings"),
    ("gradients", "exact: as the parameters, in the dtype of the sum"),
    ("cache", "exact: keys and values"),
    ("inputs", "the program's other arguments"),
    ("activations", "buffers stacked by the loop over layers"),
    ("temporaries", "the rest of the compiler's peak"),
)
COLLECTIVES = 12  # Lines; what is left out is summed.


def report(plan: Plan) -> RenderableType:
    """Returns everything that a person is shown."""
    parts: list[RenderableType] = [Text(_title(plan), style="bold"), _memory(plan)]
    if plan.collectives:
        parts.append(_collectives(plan))
    if plan.roofline:
        parts.append(_roofline(plan))
    parts += [Text(sentence) for sentence in _conclusions(plan)]
    return Group(*parts)


def _title(plan: Plan) -> str:
    mesh = " ".join(f"{axis}={size}" for axis, size in plan.mesh.items())
    return (
        f"{plan.program} on {plan.topology.name}: {plan.topology.count} devices "
        f"({plan.device_kind}), mesh {mesh}"
    )


def _memory(plan: Plan) -> Table:
    usable = plan.memory.usable
    table = _table("memory per device", ("GiB", "of usable"), "how it is known")
    for kind, how in MEMORY:
        size = getattr(plan.memory, kind)
        if size or kind in ("parameters", "temporaries"):
            table.add_row(kind, *_sizes(size, usable), how)
    table.add_section()
    how = "the compiler ran out of memory" if plan.out_of_memory else "the compiler's peak"
    table.add_row("peak", *_sizes(plan.memory.peak, usable), how, style="bold")
    if usable:
        table.add_row("usable", *_sizes(usable, usable), f"of {plan.device_kind}")
    return table


def _sizes(size: int, usable: int | None) -> tuple[str, str]:
    return f"{size / GIB:.2f}", f"{size / usable:.1%}" if usable else "-"


def _collectives(plan: Plan) -> Table:
    table = _table("collectives, one step", ("times", "GB", "s"), "axes, link", "received")
    table.add_column("the largest", overflow="fold")
    shown, rest = plan.collectives[:COLLECTIVES], plan.collectives[COLLECTIVES:]
    for found in shown:
        seconds = "-" if found.seconds is None else f"{found.seconds:.3g}"
        where = f"{'+'.join(found.axes)} ({found.group}) {found.link}"
        size = f"{found.bytes / 1e9:.3g}"
        share = f"{found.largest_bytes / found.bytes:.0%} {found.largest}"
        table.add_row(found.kind, f"{found.times:,}", size, seconds, where, share)
    if rest:
        size = f"{sum(found.bytes for found in rest) / 1e9:.3g}"
        table.add_row(f"{len(rest)} others", "", size, "", "", "")
    return table


def _roofline(plan: Plan) -> Table:
    assert plan.roofline is not None
    table = _table("roofline, one step", ("seconds",), "work / rate")
    for term in plan.roofline.terms:
        style = "bold" if term.name == plan.roofline.bound else ""
        table.add_row(term.name, f"{term.seconds:.4g}", _arithmetic(term), style=style)
    return table


def _arithmetic(term: Term) -> str:
    unit = "FLOP" if term.name == "compute" else "B"
    return f"{term.amount:.4g} {unit} / {term.rate:.4g} {unit}/s"


def _conclusions(plan: Plan) -> Iterator[str]:
    work, found = plan.work, plan.roofline
    yield f"FLOPs per device: {work.model:.4g} of the model + {work.recomputed:.4g} recomputed."
    if found and plan.chip:
        yield (
            f"Bound by {found.bound}: {found.step_seconds:.4g} s per step if all overlaps, "
            f"{found.serial_seconds:.4g} s if nothing does."
        )
        yield (
            f"MFU {found.mfu:.1%} = {work.model:.4g} / ({found.step_seconds:.4g} s x "
            f"{plan.chip.peak_flops:.4g} FLOP/s); {found.tokens_per_second:,.0f} tokens/s per "
            f"device = {work.tokens:,.0f} / {found.step_seconds:.4g} s."
        )
    yield (
        f"Lowered in {plan.lower_seconds:.1f} s, compiled in {plan.compile_seconds:.1f} s, "
        f"{plan.program_bytes / 1e6:.2f} MB of program."
    )
    yield _verdict(plan)


def _verdict(plan: Plan) -> str:
    if plan.out_of_memory:
        return f"Does not fit. The compiler says: {plan.out_of_memory}"
    if plan.fits is None:
        return "No memory limit is known for this device, so nothing is said about fitting."
    usable = plan.memory.usable or 0
    if plan.fits:
        return f"Fits: {(usable - plan.memory.peak) / GIB:.2f} GiB of {usable / GIB:.2f} are left."
    return f"Does not fit: {(plan.memory.peak - usable) / GIB:.2f} GiB too much."


def _table(title: str, numbers: tuple[str, ...], last: str, note: str = "") -> Table:
    built = Table(
        title=f"{title} ({note})" if note else title,
        title_justify="left",
        title_style="italic",
        box=box.SIMPLE_HEAD,
        padding=(0, 1, 0, 0),
    )
    built.add_column("", no_wrap=True)
    for name in numbers:
        built.add_column(name, justify="right", no_wrap=True)
    built.add_column(last, overflow="fold")
    return built
