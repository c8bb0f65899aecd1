"""What is kept, and that removal is one rename followed by deletion."""

from llama_jax.checkpoint import retention


def test_the_newest_and_the_multiples_are_kept():
    steps = [10, 20, 25, 30, 40, 50]
    assert retention.surplus(steps, keep_last=2, keep_every=0) == [10, 20, 25, 30]
    assert retention.surplus(steps, keep_last=2, keep_every=20) == [10, 25, 30]
    assert retention.surplus(steps, keep_last=6, keep_every=0) == []
    assert retention.surplus(steps, keep_last=2, keep_every=20, best=10) == [25, 30]
    assert retention.surplus([], keep_last=2, keep_every=0) == []


def test_what_is_added_leaves_its_place_at_once_and_then_the_disk(tmp_path):
    trash = retention.Trash(tmp_path)
    for _ in range(2):  # The same name twice, as when a step is saved, lost and saved again.
        (tmp_path / "7" / "deep").mkdir(parents=True)
        (tmp_path / "7" / "deep" / "file").write_text("x")
        trash.add(tmp_path / "7")
        assert not (tmp_path / "7").exists()
    assert len(list((tmp_path / ".trash").iterdir())) == 2
    trash.empty()
    trash.wait()
    assert list((tmp_path / ".trash").iterdir()) == []
