"""`python -m llama_jax.train` in forks of one server: a new process without its seconds of imports.

    server   python forked.py serve SOCKET        imports the program, then forks on request
    stub     python -S -E forked.py SOCKET ...    stands for the process: what a launcher starts

A fork gets the stub's arguments, environment and outputs. The stub passes SIGTERM on, ends as the
fork ends, and when it is killed the fork is too.
"""

import array
import json
import os
import select
import signal
import socket
import sys


def stub(path: str, arguments: list[str]) -> None:
    with socket.socket(socket.AF_UNIX) as server:
        server.connect(path)
        order = json.dumps([arguments, dict(os.environ)]).encode()
        fds = array.array("i", [1, 2])
        server.sendmsg(
            [len(order).to_bytes(4, "big")], [(socket.SOL_SOCKET, socket.SCM_RIGHTS, fds)]
        )
        server.sendall(order)
        signal.signal(signal.SIGTERM, lambda *_: server.sendall(b"t"))
        code = int.from_bytes(server.recv(1), "big")
        if code > 128:  # The fork was killed by signal 256 - code.
            os.kill(os.getpid(), 256 - code)
        os._exit(code)


def serve(path: str) -> None:
    from llama_jax import train

    assert train
    signal.signal(signal.SIGCHLD, signal.SIG_IGN)
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(path)
        listener.listen(64)
        print("ready", flush=True)
        while True:
            connection, _ = listener.accept()
            if os.fork() == 0:
                listener.close()
                mind(connection)
            connection.close()


def mind(connection: socket.socket) -> None:
    """Forks the process that was ordered, and passes signals and the exit code on."""
    signal.signal(signal.SIGCHLD, signal.SIG_DFL)
    header, fds, _, _ = socket.recv_fds(connection, 4, 2)
    size, order = int.from_bytes(header, "big"), b""
    while len(order) < size:
        order += connection.recv(1 << 16)
    child = os.fork()
    if child == 0:
        connection.close()
        become(*json.loads(order), fds)
    descriptor = os.pidfd_open(child)
    code = None
    while code is None:
        readable, _, _ = select.select([connection, descriptor], [], [])
        if descriptor in readable:
            status = os.waitpid(child, 0)[1]
            code = os.waitstatus_to_exitcode(status) % 256
        elif connection.recv(1):
            os.kill(child, signal.SIGTERM)
        else:
            os.kill(child, signal.SIGKILL)
    connection.send(bytes([code]))
    os._exit(0)


def become(arguments: list[str], environment: dict[str, str], fds: list[int]) -> None:
    for descriptor, fd in enumerate(fds, 1):
        os.dup2(fd, descriptor)
    os.environ.clear()
    os.environ.update(environment)
    sys.argv = ["train", *arguments]
    import jax

    # Read from the environment when JAX was imported, which was long ago.
    if devices := environment.get("JAX_NUM_CPU_DEVICES"):
        jax.config.update("jax_num_cpu_devices", int(devices))
    write_what_is_compiled_in_every_process()
    if hook := environment.get("FORKED_HOOK"):  # A test's way to break this one process.
        exec(hook, {})
    from llama_jax import train
    from llama_jax.config import command
    from llama_jax.core import errors

    try:
        errors.run(lambda: command.run(train.TrainConfig, train.main))
    except SystemExit as end:
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(end.code if isinstance(end.code, int) else 1)


def write_what_is_compiled_in_every_process() -> None:
    """Makes every process fill the compilation cache: JAX leaves that to process 0.

    On CPUs each process has programs of its own, so the others would compile at every start.
    """
    from unittest import mock

    from jax._src import compiler, distributed

    write = compiler._cache_write

    def write_as_first(*arguments):
        with mock.patch.object(distributed.global_state, "process_id", 0):
            write(*arguments)

    compiler._cache_write = write_as_first


if __name__ == "__main__":
    if sys.argv[1] == "serve":
        serve(sys.argv[2])
    else:
        stub(sys.argv[1], sys.argv[2:])
