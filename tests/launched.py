"""Training by several processes, started by the shipped launcher."""

import contextlib
import os
import pathlib
import re
import signal
import subprocess
import sys
import time

from trainer import Trainer

ROOT = pathlib.Path(__file__).parents[1]
LAUNCHER = [sys.executable, "-S", "-E", str(ROOT / "launch" / "local.py")]
FORKED = str(pathlib.Path(__file__).parent / "forked.py")
LIMIT = 120  # Seconds for one start; more is a hang.


@contextlib.contextmanager
def server(folder: pathlib.Path):
    """Yields the socket of a fork server."""
    path = folder / "fork.sock"
    command = [sys.executable, FORKED, "serve", str(path)]
    environment = os.environ | {"PYTHONPATH": str(ROOT)}
    with subprocess.Popen(command, stdout=subprocess.PIPE, env=environment) as process:
        try:
            assert process.stdout.readline() == b"ready\n"
            yield path
        finally:
            process.kill()


class Launched(Trainer):
    """A run directory, and the launchers whose processes train in it."""

    def __init__(self, folder: pathlib.Path, data: pathlib.Path, socket: pathlib.Path):
        super().__init__(folder, data)
        self.command = [sys.executable, "-S", "-E", FORKED, str(socket)]
        self.launchers: list[subprocess.Popen] = []

    def launch(self, processes: int, devices: int, *flags: str, options=(), env=None):
        """Returns a launcher of `processes` with `devices` each, and starts its log anew."""
        self.log.unlink(missing_ok=True)
        options = (f"--processes={processes}", f"--cpu-devices={devices}", "--grace=20", *options)
        command = [*LAUNCHER, *options, "--", *self.command, f"--config={self.recipe}", *flags]
        environment = os.environ | {"PYTHONPATH": str(ROOT)} | (env or {})
        with open(self.log, "wb") as log:
            launcher = subprocess.Popen(command, stdout=log, stderr=log, env=environment)
        self.launchers.append(launcher)
        return launcher

    def finish(self, launcher: subprocess.Popen, expect: int | tuple[int, ...] = 0) -> str:
        """Returns what was printed, once all have ended, as expected and in time."""
        try:
            code = launcher.wait(LIMIT)
        except subprocess.TimeoutExpired:
            launcher.kill()
            raise AssertionError(f"it hangs\n{self.printed()}") from None
        expected = expect if isinstance(expect, tuple) else (expect,)
        assert code in expected, f"exit code {code}\n{self.printed()}"
        return self.printed()

    def train(self, processes: int, devices: int, *flags: str, expect: int = 0, **more) -> str:
        """Trains until all have ended."""
        return self.finish(self.launch(processes, devices, *flags, **more), expect)

    def printed(self) -> str:
        return self.log.read_text(errors="replace") if self.log.exists() else ""

    def wait_for(self, step: int, launcher: subprocess.Popen) -> None:
        """Returns once a step is logged, or the launcher has ended."""
        deadline = time.monotonic() + LIMIT
        while launcher.poll() is None and self.logged() < step:
            assert time.monotonic() < deadline, self.printed()
            time.sleep(0.02)

    def pid(self, process: int) -> int:
        """Returns the pid of a process of the newest start."""
        return int(re.findall(rf"process {process} \(pid (\d+)", self.printed())[-1])

    def kill(self, process: int, number: int = signal.SIGKILL) -> None:
        with contextlib.suppress(ProcessLookupError):
            os.kill(self.pid(process), number)

    def reap(self) -> None:
        """Ends what a failed test has left; its processes end with their launcher."""
        for launcher in self.launchers:
            launcher.kill()
            launcher.wait()
