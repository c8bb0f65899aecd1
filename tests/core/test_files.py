import pytest

from llama_jax.core import files
from llama_jax.core.errors import DataError


def test_a_new_folder_appears_only_when_it_is_complete(tmp_path):
    with files.new_folder(tmp_path / "out") as building:
        (building / "a.txt").write_text("a")
        assert not (tmp_path / "out").exists()
    assert (tmp_path / "out" / "a.txt").read_text() == "a"
    assert [path.name for path in tmp_path.iterdir()] == ["out"]


def test_a_failed_folder_leaves_nothing(tmp_path):
    with pytest.raises(RuntimeError), files.new_folder(tmp_path / "out") as building:
        (building / "a.txt").write_text("a")
        raise RuntimeError
    assert not list(tmp_path.iterdir())


def test_an_existing_folder_is_never_replaced(tmp_path):
    (tmp_path / "out").mkdir()
    with (
        pytest.raises(ValueError, match="exists already"),
        files.new_folder(tmp_path / "out"),
    ):
        pass


def test_a_file_is_replaced_at_once_or_stays(tmp_path):
    path = tmp_path / "x.json"
    files.write_json(path, {"a": 1})
    with pytest.raises(TypeError):
        files.write_json(path, {"a": object()})
    assert files.read_json(path) == {"a": 1}
    assert [entry.name for entry in tmp_path.iterdir()] == ["x.json"]


@pytest.mark.parametrize("content", [b"", b"{", b"\xff\xfe", b"[" * 100_000])
def test_broken_json_is_a_data_error_with_the_file(tmp_path, content):
    path = tmp_path / "x.json"
    path.write_bytes(content)
    with pytest.raises(DataError, match=r"x\.json is not readable as JSON"):
        files.read_json(path)
