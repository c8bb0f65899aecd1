"""What a person reads."""

import dataclasses
import io
import types

from rich.console import Console

from llama_jax.planning import memory, roofline, topology
from llama_jax.planning.collectives import Collective
from llama_jax.planning.plan import Plan
from llama_jax.planning.report import report
from llama_jax.telemetry import hardware

GIB = 2**30
CHIP = hardware.chip("NVIDIA H100 80GB HBM3")


def plan(**changes) -> Plan:
    sent = Collective(
        "all-gather", ("fsdp",), "NVLink", 8, 192, 45 * 10**9, 450e9, "f32[8]", 9 * 10**9
    )
    work = roofline.Work(model=40e12, recomputed=8e12, tokens=4096)
    made = Plan(
        program="train step",
        topology=topology.parse("gpu:h100:8"),
        device_kind="NVIDIA H100 80GB HBM3",
        chip=CHIP,
        mesh={"data": 1, "fsdp": 8, "context": 1, "tensor": 1},
        memory=memory.divide(
            peak=40 * GIB,
            arguments=10 * GIB,
            parameters=3 * GIB,
            optimizer=6 * GIB,
            gradients=3 * GIB,
            activations=8 * GIB,
            cache=0,
            usable=int(CHIP.usable_gib * GIB),
        ),
        work=work,
        collectives=(sent,),
        memory_bytes=10**11,
        roofline=roofline.roofline(work, 10**11, [sent], CHIP),
        out_of_memory="",
        lower_seconds=1.0,
        compile_seconds=12.0,
        program_bytes=800_000,
    )
    return dataclasses.replace(made, **changes)


def text(made: Plan, width: int = 80) -> str:
    file = io.StringIO()
    Console(file=file, width=width, highlight=False).print(report(made))
    return file.getvalue()


def test_it_fits_a_terminal_and_is_plain_in_a_pipe():
    lines = text(plan()).splitlines()
    assert max(map(len, lines)) <= 80
    assert "\x1b" not in "".join(lines)


def test_the_arithmetic_can_be_redone():
    shown = " ".join(text(plan()).split())
    assert "4.8e+13 FLOP / 9.89e+14 FLOP/s" in shown
    assert "1e+11 B / 3.352e+12 B/s" in shown
    assert "4.5e+10 B / 4.5e+11 B/s" in shown
    # 45e9 / 450e9 = 0.1 s binds; 40e12 / (0.1 x 989e12) = 40.4%; 4096 / 0.1
    assert "Bound by NVLink: 0.1 s" in shown
    assert "MFU 40.4%" in shown and "40,960 tokens/s per device" in shown


def test_every_kind_of_memory_is_shown_with_how_it_is_known():
    shown = " ".join(text(plan()).split())
    assert "parameters 3.00 4.2% exact" in shown
    assert "activations 8.00" in shown and "temporaries 19.00" in shown
    assert "Fits: 31.20 GiB of 71.20 are left." in shown


def test_what_does_not_fit_says_by_how_much_or_in_the_compilers_words():
    large = dataclasses.replace(plan().memory, peak=80 * GIB)
    assert "Does not fit: 8.80 GiB too much." in text(plan(memory=large))
    assert plan(out_of_memory="Used 17.5G of 15.75G hbm.").fits is False
    failed = plan(out_of_memory="Used 17.5G of 15.75G hbm.", roofline=None, collectives=())
    assert "The compiler says: Used 17.5G of 15.75G hbm." in text(failed)


def test_many_collectives_are_summed_below():
    many = tuple(
        types.SimpleNamespace(**vars(plan().collectives[0]), seconds=0.1) for _ in range(15)
    )
    assert "3 others" in text(plan(collectives=many))
