"""The tables of sharding/README.md, cell by cell."""

import dataclasses
import functools
import pathlib

import pytest
from mesh_training import SETTINGS, Training, assert_close

from llama_jax.config.lora import LoraConfig
from llama_jax.config.mesh import MeshConfig

README = pathlib.Path(__file__).parents[2] / "llama_jax/sharding/README.md"
STEPS = 3
MESHES = {
    "none": MeshConfig(data=2, fsdp=2, tensor=2),
    "gather": MeshConfig(fsdp=2, context=2, tensor=2),
    "ring": MeshConfig(fsdp=2, context=2, tensor=2),
    "ulysses": MeshConfig(fsdp=2, context=2, tensor=2),
}
# The mesh splits rows into 4 or 2; 16 tokens per device then are 4 or 8 chunks.
ACCUMULATED = {"accumulate": 2}
IN_CHUNKS = {"loss": dataclasses.replace(SETTINGS.loss, chunk=16)}
COLUMNS = {
    "plain": {},
    "accumulated": ACCUMULATED,
    "loss in chunks": IN_CHUNKS,
    "both": ACCUMULATED | IN_CHUNKS,
}


def table(first: str) -> list[tuple[list[str], list[str]]]:
    """Returns (head, cells) of each row of the table whose head begins with `first`."""
    lines = README.read_text().split(f"| {first} |")[1].split("\n\n")[0].splitlines()
    head, _, *rows = ([cell.strip() for cell in line.strip("| ").split("|")] for line in lines)
    return [([first, *head], row) for row in rows]


# Both packings of a program follow each other: it is compiled once.
COMBINATIONS = sorted(
    (attention, method, column, packing, cell)
    for head, (attention, method, packing, *cells) in table("attention")
    for column, cell in zip(head[3:], cells, strict=True)
)
MEMORY = [
    (row[0], method, cell)
    for head, row in table("what changes memory")
    for method, cell in zip(head[1:], row[1:], strict=True)
]


LORA = [
    (row[0], method, cell)
    for head, row in table("LoRA")
    for method, cell in zip(head[1:], row[1:], strict=True)
]
EVERY_TARGET = LoraConfig(r=4, targets=("*",))
ADAPTERS = {
    "every target": EVERY_TARGET,
    "dropout": dataclasses.replace(EVERY_TARGET, dropout=0.2),
    "int8 base": dataclasses.replace(EVERY_TARGET, quantization="int8"),
    "nf4 base": dataclasses.replace(EVERY_TARGET, quantization="nf4"),
}


def test_the_tables_name_every_combination():
    keys = {(attention, method, packing) for attention, method, _, packing, _ in COMBINATIONS}
    assert len(keys) == 3 * 4 * 2 and len(COMBINATIONS) == 96 and len(MEMORY) == 21
    assert {what for what, *_ in LORA} == set(ADAPTERS) and len(LORA) == 16
    assert {cell for *_, cell in COMBINATIONS + MEMORY + LORA} == {"=", "refused"}


@functools.cache
def on_one_device(packing: str, what: str = "plain"):
    return Training(memory_settings(what)).run(STEPS, packing)


@functools.cache
def on_one_device_accumulated(what: str):
    return Training(memory_settings(what, **ACCUMULATED)).run(STEPS, "segments")


@functools.lru_cache(maxsize=1)
def trained(attention: str, method: str, column: str) -> Training:
    """Returns the training of one cell, for both packings."""
    parallel = "auto" if method == "none" else method
    compute = {"attention": attention, "context_parallel": parallel}
    config = memory_settings("plain", compute=compute, mesh=MESHES[method], **COLUMNS[column])
    return Training(config)


def memory_settings(what: str, **changes):
    name, _, value = what.partition(" ")
    match name:
        case "remat":
            part = {"compute": dataclasses.replace(SETTINGS.compute, remat=value)}
        case "first_moment_dtype":
            part = {"optim": dataclasses.replace(SETTINGS.optim, first_moment_dtype=value)}
        case _ if what in ADAPTERS:
            part = {"lora": ADAPTERS[what], "init_from": "unused"}
        case "residual_dropout":
            part = {"model": dataclasses.replace(SETTINGS.model, residual_dropout=0.2)}
        case _:
            part = {}
    config = dataclasses.replace(SETTINGS, **part)
    compute = dataclasses.replace(config.compute, **changes.pop("compute", {}))
    return dataclasses.replace(config, compute=compute, **changes)


def check(make, cell: str, packing: str, what: str = "plain", alone=None):
    """Checks what `make()` says, or what it trains; `alone` gives what one device does."""
    if cell == "refused":
        with pytest.raises(ValueError, match=r"^config\.(compute|model|lora)\.\w+ is .*Set|Use"):
            make()
        return
    training = make()
    metrics, gradients, params = training.run(STEPS, packing)
    want = alone() if alone else on_one_device(packing, what)
    want_metrics, want_gradients, want_params = want
    assert_close(metrics, want_metrics)
    optim = training.config.optim
    coarse = optim.first_moment_dtype == "bfloat16"
    if not coarse:
        assert_close(gradients, want_gradients)
    # Rounding of the gradient may round the bfloat16 moment the other way: 2^-8 of an update.
    assert_close(params, want_params, STEPS * optim.learning_rate * 2**-8 if coarse else 1e-5)


@pytest.mark.parametrize(("attention", "method", "column", "packing", "cell"), COMBINATIONS)
def test_combination(attention, method, column, packing, cell):
    check(functools.partial(trained, attention, method, column), cell, packing)


@pytest.mark.parametrize(("what", "method", "cell"), MEMORY)
def test_memory_setting(what, method, cell):
    compute = {"context_parallel": "auto" if method == "none" else method}
    config = memory_settings(what, compute=compute, mesh=MESHES[method])
    check(functools.partial(Training, config), cell, "segments", what)


@pytest.mark.parametrize(("what", "method", "cell"), LORA)
def test_adapters(what, method, cell):
    compute = {"context_parallel": "auto" if method == "none" else method}
    both = COLUMNS["both"]
    config = memory_settings(what, compute=compute, mesh=MESHES[method], **both)
    # Zeros are drawn for each micro-batch, so one device has as many.
    alone = functools.partial(on_one_device_accumulated, what)
    check(functools.partial(Training, config), cell, "segments", what, alone)
    if (what, cell) == ("dropout", "="):
        without = on_one_device_accumulated("every target")[0]
        assert alone()[0][0]["loss"] != without[0]["loss"]
