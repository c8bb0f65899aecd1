"""Members in threads of one process; what ends processes is in tests/test_multiprocess.py."""

import socket
import threading
import time
from concurrent.futures import ThreadPoolExecutor

import pytest

from llama_jax.core.errors import RetryError
from llama_jax.distributed import cluster as clusters
from llama_jax.distributed import hub
from llama_jax.distributed.cluster import Cluster
from llama_jax.distributed.member import Member, joined
from llama_jax.distributed.processes import Alone, first_alone


class Ended(Member):
    """Notes why it would end its process."""

    why = ""
    code = 0

    def _exit(self, code, why, stuck):
        self.code, self.why, self.stuck = code, why, stuck
        self._connection.close()
        threading.Event().wait()


@pytest.fixture
def port() -> int:
    return hub.free_port("127.0.0.1")


def member(port: int, process_id: int, count: int, silence=30.0, start=20.0) -> Ended:
    cluster = Cluster(
        host="127.0.0.1", port=port, processes=count, process_id=process_id, told_by="a test"
    )
    return Ended(cluster, start, silence)


@pytest.fixture
def members(port):
    def make(count: int, **seconds: float) -> list[Ended]:
        made = [member(port, process_id, count, **seconds) for process_id in range(count)]
        in_all(made, lambda one: one.join())
        return made

    return make


def in_all(members, act) -> list:
    with ThreadPoolExecutor(len(members)) as pool:
        return list(pool.map(act, members))


def wait_until(condition) -> None:
    deadline = time.monotonic() + 20
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.01)


def test_a_process_alone_agrees_with_itself(monkeypatch):
    for name in (*clusters.OURS, *clusters.JAXS):
        monkeypatch.delenv(name, raising=False)
    with joined(1, 1) as processes:
        assert (processes.id, processes.count) == (0, 1)
        assert processes.exchange("anything", [1, None]) == [[1, None]]
    assert first_alone(Alone(), "made", lambda: 7) == 7


def test_all_get_the_values_of_all_in_order(members):
    five = members(5)
    for turn in range(20):
        everywhere = in_all(five, lambda one, turn=turn: one.exchange("x", [turn, one.id]))
        assert everywhere == [[[turn, process] for process in range(5)]] * 5
    large = in_all(five, lambda one: one.exchange("x", "é" * 300_000))
    assert all(len(text) == 300_000 for texts in large for text in texts)
    in_all(five, lambda one: one.leave())
    assert not any(one.why for one in five)


def test_all_learn_the_same_free_address_for_jax(members):
    addresses = {one.jax_address for one in members(3)}
    (address,) = addresses
    host, chosen = address.split(":")
    with socket.create_server((host, int(chosen))):
        pass


def test_many_processes_meet(members):
    crowd = members(100)
    (agreed,) = {tuple(values) for values in in_all(crowd, lambda one: one.exchange("id", one.id))}
    assert agreed == tuple(range(100))


def test_process_0_is_done_before_the_others_begin(members):
    three, order = members(3), []

    def make(one: Member) -> None:
        if one.id == 0:
            time.sleep(0.2)
        order.append(one.id)

    in_all(three, lambda one: first_alone(one, "data", lambda: make(one)))
    assert order[0] == 0 and sorted(order) == [0, 1, 2]


def test_one_that_is_gone_is_named_to_all_others(members):
    three = members(3)
    three[1]._connection.sock.shutdown(socket.SHUT_RDWR)
    others = [three[0], three[2]]
    wait_until(lambda: all(one.why for one in others))
    for one in others:
        assert one.code == 75 and "process 1 (pid" in one.why and "without a word" in one.why
        assert "process 0" not in one.why and "process 2" not in one.why


def test_two_that_are_gone_together_are_named_together(members):
    four = members(4)
    four[1]._connection.sock.shutdown(socket.SHUT_RDWR)
    time.sleep(0.02)
    four[2]._connection.sock.shutdown(socket.SHUT_RDWR)
    wait_until(lambda: four[0].why and four[3].why)
    assert "process 1 (pid" in four[0].why and "process 2 (pid" in four[0].why


def test_without_process_0_the_others_end(members):
    three = members(3)
    for guest in list(three[0]._hub._guests):
        guest.sock.shutdown(socket.SHUT_RDWR)
    wait_until(lambda: all(one.why for one in three[1:]))
    assert all(one.code == 75 and "process 0 has ended" in one.why for one in three[1:])


@pytest.mark.parametrize(("code", "common"), [(65, 65), (70, 70), (78, 78), (74, 75), (75, 75)])
def test_an_end_that_is_final_is_final_for_all(members, code, common):
    two = members(2)
    two[1]._say_end(code, "because", stuck=False)
    wait_until(lambda: two[0].why)
    assert two[0].code == common
    assert f"ended with exit code {code}: because" in two[0].why
    assert not two[1].why


def test_one_that_is_stuck_makes_the_others_show_where_they_stand(members):
    two = members(2)
    two[1].tell_stuck("watchdog")
    wait_until(lambda: two[0].why)
    assert two[0].stuck and two[0].code == 75


def test_processes_at_different_places_end_with_both_places(members):
    two = members(2)
    for one, what in zip(two, ("saving 4", "saving 6"), strict=True):
        one._connection.send({"tell": what, "value": None})
    wait_until(lambda: all(one.why for one in two))
    assert "saving 4" in two[0].why and "saving 6" in two[0].why and two[0].code == 70


def test_silence_ends_all_but_work_does_not(members):
    two = members(2, silence=1.0)
    time.sleep(1.0)
    assert two[0].exchange is not None and not two[0].why
    two[1]._connection.send = lambda message: None  # As if stopped.
    wait_until(lambda: two[0].why)
    assert "process 1 (pid" in two[0].why and "silent for 1 seconds" in two[0].why


NOISE = (
    b"", b"GET / HTTP/1.1\r\n\r\n", b"\x00\xff" * 50, b"[]\n", b'{"tell": "x"}\n',
    b'{"hello": 1}\n', b'{"hello": [], "of": 2, "name": "x"}\n',
    b'{"hello": 1, "of": 2, "name": 3}\n',
)  # fmt: skip


def test_strangers_at_the_port_disturb_nobody(port):
    first = member(port, 0, 2)
    for noise in NOISE:
        with socket.create_connection(("127.0.0.1", port)) as stranger:
            stranger.sendall(noise)
    second = member(port, 1, 2)
    in_all([first, second], lambda one: one.join())
    assert in_all([first, second], lambda one: one.exchange("x", one.id)) == [[0, 1]] * 2


def test_others_may_start_before_process_0(port):
    second = member(port, 1, 2)
    thread = threading.Thread(target=second.join)
    thread.start()
    time.sleep(0.3)
    member(port, 0, 2).join()
    thread.join(20)
    assert second.jax_address


def test_a_process_0_that_never_starts_is_told(port):
    with pytest.raises(RetryError, match=rf"process 0 is missing: .*127.0.0.1:{port} .* a test"):
        member(port, 1, 2, start=0.5).join()


def test_hosts_by_name_meet_on_every_interface(port):
    """Process 0 listens on all interfaces unless all are on its machine."""
    listener = hub._listen("a-host", port)
    with listener, socket.create_connection(("127.0.0.1", port), timeout=5):
        assert listener.getsockname()[0] in ("::", "0.0.0.0")
    with hub._listen("localhost", port) as listener:
        assert listener.getsockname()[0] == "127.0.0.1"


def test_a_taken_port_is_told_at_once():
    told = pytest.raises(RetryError, match="process 0 cannot listen on port")
    with socket.create_server(("127.0.0.1", 0)) as other, told:
        member(other.getsockname()[1], 0, 2)


def test_ids_for_people():
    assert hub.ids({3, 1}) == "1, 3"
    assert hub.ids(range(12)) == "0, 1, 2, 3, 4, 5, 6, 7, 8, 9 and 2 more"
