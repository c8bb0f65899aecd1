"""Weights count what they are said to count, and a run knows beforehand what it will read."""

import pytest

from llama_jax.config.data import DataConfig, SourceConfig
from llama_jax.data import report
from llama_jax.data.packing import open_rows
from llama_jax.data.report import Report, weights
from llama_jax.data.schedule import Phase, Schedule
from llama_jax.data.tokens import TokenStore


@pytest.fixture
def sources(tmp_path, write_store):
    """Short documents, which fill their rows, and documents that leave a third of theirs empty."""
    short, long = [[1] * 5] * 300, [[2] * 11] * 100
    stores = {
        "short": TokenStore(write_store(tmp_path / "short", short)),
        "long": TokenStore(write_store(tmp_path / "long", long)),
    }

    def make(packing):
        some = SourceConfig(path="")
        return {n: open_rows(s, some, 16, packing, tmp_path) for n, s in stores.items()}

    return make


def config(packing="best_fit", sources=("short", "long"), **settings):
    mixture = {name: SourceConfig(path="", **settings.pop(name, {})) for name in sources}
    return DataConfig(
        tokenizer="", mixture=mixture, packing=packing, sequence_length=16, **settings
    )


def read(config, sources, steps=1000):
    """Returns tokens and documents that were read of each source."""
    schedule = Schedule([Phase(0, 8, weights(config, sources))])
    usage = Report(config, sources, schedule).usage(steps)
    documents = {n: u.epochs * sources[n].stream.documents for n, u in usage.items()}
    return (
        {n: u.tokens for n, u in usage.items()},
        documents,
        {n: u.share for n, u in usage.items()},
    )


def test_weights_over_sequences_tokens_and_documents(sources):
    opened = sources("best_fit")
    assert opened["long"].padding == pytest.approx(6 / 16)
    unequal = {"short": {"weight": 3.0}}
    _, _, shares = read(config(**unequal), opened)
    assert shares["short"] == pytest.approx(0.75)
    tokens, _, _ = read(config(weight_unit="tokens", **unequal), opened)
    assert tokens["short"] / tokens["long"] == pytest.approx(3, rel=1e-3)
    _, documents, _ = read(config(weight_unit="documents", **unequal), opened)
    assert documents["short"] / documents["long"] == pytest.approx(3, rel=1e-3)


def test_weights_over_epochs_read_all_equally_often_to_a_row(sources):
    opened = sources("best_fit")
    settings = config(weight_unit="epochs")
    schedule = Schedule([Phase(0, 5, weights(settings, opened))])
    asked = Report(settings, opened, schedule)
    assert asked.rows == 175
    usage = asked.usage(asked.rows // 5)
    assert [usage[name].epochs for name in ("short", "long")] == [1.0, 1.0]
    twice = Report(
        settings,
        opened,
        Schedule(
            [Phase(0, 5, weights(config(weight_unit="epochs", short={"weight": 2.0}), opened))]
        ),
    ).usage(50)
    assert twice["short"].epochs / twice["long"].epochs == pytest.approx(2, rel=0.02)
    with pytest.raises(ValueError, match="weight_unit is 'epochs' but temperature"):
        config(weight_unit="epochs", temperature=1.0)


@pytest.mark.parametrize("temperature", [1.0, 2.0, float("inf")])
def test_temperature(sources, temperature):
    opened = sources("concat")
    _, _, shares = read(config("concat", temperature=temperature), opened)
    wanted = (1500 / 1100) ** (1 / temperature)
    assert shares["short"] / shares["long"] == pytest.approx(wanted, rel=1e-3)


def test_the_table(sources):
    settings = config()
    schedule = Schedule([Phase(0, 8, {"short": 1.0, "long": 1.0})])
    table = Report(settings, sources("best_fit"), schedule).table(100).splitlines()
    assert table[0].split() == [
        "source", "tokens", "rows", "share", "padding", "epochs", "at", "step", "100",
    ]  # fmt: skip
    assert table[1].split() == ["short", "1,500", "75", "50.00%", "0.00%", "5.33"]
    assert table[2].split() == ["long", "1,100", "100", "50.00%", "37.50%", "4"]


def test_more_epochs_than_allowed_are_refused_with_the_steps_that_are_possible(sources):
    opened = sources("best_fit")
    settings = config(long={"epochs": 2.5})
    schedule = Schedule([Phase(0, 8, {"short": 1.0, "long": 1.0})])
    asked = Report(settings, opened, schedule)
    asked.refuse_more_epochs(62)  # 4 rows of long a step; 2.5 epochs are 250 rows.
    assert asked.usage(62)["long"].epochs <= 2.5 < asked.usage(63)["long"].epochs
    with pytest.raises(ValueError, match=r"mixture.long.epochs is 2.5, .* enough for 62 steps"):
        asked.refuse_more_epochs(63)
    changed = Schedule([*schedule.phases, Phase(40, 8, {"short": 3.0, "long": 1.0})])
    later = Report(settings, opened, changed)
    later.refuse_more_epochs(85)  # 160 rows until step 40, then 2 a step.
    with pytest.raises(ValueError, match="enough for 85 steps"):
        later.refuse_more_epochs(86)


def test_metrics_say_what_was_wanted_and_what_was_read(sources):
    settings, opened = config(), sources("best_fit")
    values = Report(settings, opened, Schedule([Phase(0, 3, {"short": 2.0, "long": 1.0})])).metrics(
        5
    )
    assert values["data/share/short"] == pytest.approx(10 / 15)
    assert values["data/target/short"] == pytest.approx(2 / 3)
    assert values["data/epochs/long"] == pytest.approx(5 / 100)


def test_computed_weights_are_rounded_the_same_everywhere(sources):
    found = weights(config(temperature=3.0), sources("concat"))
    assert all(float(f"{weight:.9g}") == weight for weight in found.values())
    assert report.weights(config(short={"weight": 1 / 3}), sources("concat"))["short"] == 1 / 3
