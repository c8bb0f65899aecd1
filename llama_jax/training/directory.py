"""The run directory: who owns it, what it was started with, what is written once."""

import re
import sys
from pathlib import Path
from typing import Any

from llama_jax.config import load
from llama_jax.config.train import TrainConfig
from llama_jax.core import files
from llama_jax.core.provenance import provenance
from llama_jax.data.loader import fingerprint_differences
from llama_jax.distributed.processes import Processes, agreed
from llama_jax.telemetry.writers import METRICS
from llama_jax.text.tokenizer import Tokenizer, copy_tokenizer

CONFIG = "config.json"

# Settings that may change when a run continues: they change speed, care, places and reports, not
# results. What is behind the paths of the data is compared by content.
FREE = re.compile(
    r"config\.("
    r"workdir|max_skipped|accept_changes|mesh|sharding|checkpoint|evaluation|log|profile|watchdog"
    r"|distributed|compute\.(attention|attention_chunk|context_parallel|remat)|loss\.chunk"
    r"|data\.(threads|prefetch|tokenizer|mixture\.[^.]+\.(path|epochs))"
    r")[.:]"
)


class RunDirectory:
    """The folder `workdir` of a run and the places in it."""

    def __init__(self, config: TrainConfig):
        self.path = Path(config.workdir)
        self.settings = load.as_dict(config)
        self._accept_changes = config.accept_changes

    @property
    def checkpoints(self) -> Path:
        """Checkpoints by step."""
        return self.path / "checkpoints"

    @property
    def metrics(self) -> Path:
        """The numbers of steps and evaluations, a line each."""
        return self.path / METRICS

    @property
    def cache(self) -> Path:
        """Raw sources as tokens, so that a restart need not tokenise them again."""
        return self.path / "cache"

    def record(self) -> dict[str, Any]:
        """Returns what config.json holds: the model, all settings, commit and versions."""
        return {
            "model": self.settings["model"],
            "settings": self.settings,
            **provenance(),
        }

    def written(self) -> dict[str, Any] | None:
        """Returns what config.json holds since an earlier start; None if there is none."""
        path = self.path / CONFIG
        return files.read_json(path) if path.is_file() else None

    def refuse_changes(
        self, old: dict[str, Any], fingerprint: dict[str, Any] | None = None
    ) -> None:
        """Refuses to continue what other settings or, if `fingerprint` is given, other data made.

        Raises:
            ValueError: They differ in what decides results, and accept_changes is not set.
        """
        changes = load.differences(old["settings"], self.settings)
        changes = [line for line in changes if not FREE.match(line)]
        if fingerprint is not None:
            changes += fingerprint_differences(old["data"], fingerprint)
        if not changes:
            return
        listed = "\n  ".join(changes)
        if not self._accept_changes:
            raise ValueError(
                f"{self.path} was trained with other settings:\n  {listed}\n"
                "Use another config.workdir, or continue with these changes on purpose: "
                "--config.accept_changes=True"
            )
        if fingerprint is not None:  # The last look: tell it once.
            print(f"{self.path} continues with changes:\n  {listed}", file=sys.stderr)

    def refuse_differences(self, processes: Processes) -> None:
        """Refuses to train if this process was started with other settings than process 0.

        Raises:
            ValueError: See above; the message names the settings.
        """
        first = agreed(processes, "settings", self.settings)
        if changes := load.differences(first, self.settings):
            listed = "\n  ".join(changes)
            raise ValueError(
                f"process {processes.id} was started with other settings than process 0:\n  "
                f"{listed}\nStart all processes with the same command."
            )

    def write_end(self, steps: int) -> None:
        """Writes after how many steps the run is finished, where that is known now only."""
        files.write_json(self.path / CONFIG, (self.written() or self.record()) | {"steps": steps})

    def write(self, tokenizer: Tokenizer, steps: int) -> None:
        """Writes config.json and a copy of the tokenizer, which converters and readers need.

        `steps` are those of the whole run, which epochs may have decided.
        """
        files.write_json(self.path / CONFIG, self.record() | {"steps": steps})
        folder = self.path / "tokenizer"
        folder.mkdir(exist_ok=True)
        copy_tokenizer(tokenizer, folder)
