"""Ranking tile sizes: what the compiler's dumps say, and what the command refuses."""

import pytest

from llama_jax.kernels.attention import bundles, tune

USE = """== CAPACITY:
MXU, XLU
    4     3
== UTILIZATION:
"""


def dump(folder, kernel: str, branches: list[tuple[int, int]]) -> None:
    """Writes a kernel that runs one of several branches of (bundles, matrix products in each)."""
    products, text = [0], "0x0 : { start } /* Start region 1 */\n"
    for number, (size, used) in enumerate(branches, start=2):
        text += f"{len(products):#x} PB: {{ }} /* Start region {number} */\n"
        products += [used] * size
        text += f"{len(products) - 1:#x} : {{ }} /* End region {number} */\n"
    text += f"{len(products):#x} : {{ end }} /* End region 1 */\n"
    products += [0]
    rows = "\n".join(f"{used} 0" for used in products)
    (folder / f"17-{kernel}.1-70-final_hlo-static-per-bundle-utilization.txt").write_text(
        USE + rows
    )
    (folder / f"17-{kernel}.1-72-final_bundles.txt").write_text(text)
    (folder / f"17-{kernel}.1-71-schedule-analysis_final_bundles.txt").write_text("something else")


def test_branches_with_products_are_found_and_others_are_not(tmp_path):
    dump(tmp_path, "attention_forward", [(80, 4), (300, 0), (100, 2)])
    found = bundles.hot_regions(tmp_path, "attention_forward")
    assert [(region.bundles, region.matrix_unit) for region in found] == [(80, 1.0), (100, 0.5)]


def test_no_dump_is_an_empty_answer(tmp_path):
    assert bundles.hot_regions(tmp_path, "attention_forward") == []


def test_candidates_are_those_that_a_row_fills():
    options = tune.parser().parse_args(["--tokens=1024", "--queries", "512", "2048"])
    found = {(tiles.queries, tiles.keys, tiles.piece) for tiles in tune.tile_candidates(options)}
    assert found == {
        (512, keys, piece)
        for keys in (256, 512, 1024)
        for piece in (256, 512, 1024)
        if piece <= keys
    }


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--heads=6", "--kv_heads=4"], "--heads is 6 and --kv_heads 4; heads must be a multiple"),
        (["--tokens=0"], "must be at least 1"),
        (["--chip=v5e", "--tokens=100"], "no tile fits rows of 100 tokens"),
        ([], r"no TPU here \(cpu\): nothing can be timed. Type --chip="),
    ],
)
def test_says_what_is_wrong(arguments, message, monkeypatch):
    monkeypatch.setattr(tune, "_described", lambda chip: None)
    with pytest.raises(ValueError, match=message):
        tune.main(arguments)
