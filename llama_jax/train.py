"""Trains a Llama: python -m llama_jax.train --config=configs/X.py [--config.steps=100 ...]

Read this first. The same command with the same workdir continues where it stopped. Started as
several processes (launch/), it is one run on the devices of all.
"""

from contextlib import closing
from functools import partial

from llama_jax.checkpoint import lock
from llama_jax.checkpoint.manager import CheckpointManager
from llama_jax.config import command
from llama_jax.config.train import TrainConfig
from llama_jax.core import errors
from llama_jax.data.loader import Loader
from llama_jax.distributed.member import joined
from llama_jax.distributed.processes import Processes, first_alone
from llama_jax.evaluation.perplexity import Evaluator, make_evaluators
from llama_jax.model import llama
from llama_jax.optim import optimizers
from llama_jax.sharding.layout import Layout
from llama_jax.sharding.mesh import make_mesh
from llama_jax.text.tokenizer import check_vocabulary, load_tokenizer
from llama_jax.training.beginning import begin
from llama_jax.training.best import Best
from llama_jax.training.directory import RunDirectory
from llama_jax.training.length import with_steps
from llama_jax.training.parallelism import resolve
from llama_jax.training.run import Run
from llama_jax.training.step import compile_step


def main(config: TrainConfig) -> int:
    """Trains in `config.workdir`, which this run alone may use; returns the exit code."""
    directory = RunDirectory(config)
    with joined(config.distributed.start, config.distributed.silence) as processes:
        directory.refuse_differences(processes)
        with lock.owner(directory.path, processes):
            return train(config, directory, processes)


def train(config: TrainConfig, directory: RunDirectory, processes: Processes) -> int:
    """Trains to the last step, or until asked to stop; returns the exit code."""
    layout = Layout(make_mesh(config.mesh), config.sharding)
    config = resolve(config, layout)
    if processes.id == 0:
        size = "a toy" if config.toy else f"{config.model.layers} layers"
        print(f"{size}, attention {config.compute.attention}, on {layout.device_kind}")
    tokenizer = load_tokenizer(config.data.tokenizer)
    check_vocabulary(tokenizer, config.model.vocab, config.data.added_ids)

    def open_data() -> tuple[Loader, list[Evaluator]]:
        loader = Loader(config.data, config.seed, tokenizer, directory.cache, layout)
        evaluators = make_evaluators(
            config.evaluation.evaluators,
            config.model,
            config.compute,
            config.data.text,
            tokenizer,
            directory.cache,
            layout.whole_rows(),  # Perplexity by position wants rows in their own order.
            config.lora,
        )
        return loader, evaluators

    # One process turns raw text into tokens, and the others read them.
    loader, evaluators = first_alone(processes, "data", open_data)
    config = with_steps(config, loader.report.rows)

    graph, _ = llama.abstract(config.model, config.compute, layout, config.lora)
    optimizer = optimizers.adamw(config.optim, config.steps)

    with CheckpointManager(directory.checkpoints, config.checkpoint, processes) as checkpoints:
        state, base = begin(config, optimizer, layout, directory, loader, checkpoints, processes)
        start = int(state.step)
        best = Best.until(start, config.evaluation, directory.metrics, processes)
        if processes.id == 0:
            directory.write(tokenizer, start if best.is_enough else config.steps)
        meta = directory.record() | {"data": loader.fingerprint} | base
        loader.report.refuse_more_epochs(config.steps)

        if start >= config.steps or best.is_enough:
            if processes.id == 0:
                why = f"; {best.told()}" if best.is_enough else ""
                print(f"nothing to do: {directory.path} is at step {start} of {config.steps}{why}")
            return 0
        if processes.id == 0:
            print(loader.report.table(config.steps))
        with (
            Run(config, directory, start, processes, loader.report) as run,
            closing(loader.batches(start)) as batches,
        ):
            with run.phase("compile"):
                train_step = compile_step(config, graph, optimizer, state, layout)
            for step in range(start, config.steps):
                with run.phase("data"):
                    batch = next(batches)
                state = run.step(step, train_step, state, batch)
                checkpoints.check()  # A save that failed in the background ends the run here.

                done = step + 1
                stop = run.must_stop(done)
                if config.evaluation.due(done, config.steps):
                    losses = run.evaluate(done, evaluators, state.all_params)
                    best = best.after(done, losses)
                    stop = stop or best.is_enough
                if stop or best.step == done or config.checkpoint.due(done, config.steps):
                    run.save(done, checkpoints, state, meta, best.step)
                if stop:
                    break
            run.finish(checkpoints, best)
        return run.exit_code


if __name__ == "__main__":
    errors.run(partial(command.run, TrainConfig, main))
