"""Finished parts -> the output folder, in the order of sources and files."""

import shutil
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

import numpy as np
from grain.experimental import index_shuffle

from llama_jax.config.chat import ChatConfig
from llama_jax.config.prepare import PrepareConfig
from llama_jax.core import files
from llama_jax.core.errors import DataError
from llama_jax.data.order import ROUNDS
from llama_jax.data.preparation import picture
from llama_jax.data.preparation.account import Account
from llama_jax.data.preparation.decontaminate import Hit, Index
from llama_jax.data.preparation.mixing import Mixer
from llama_jax.data.preparation.parts import recipe, uniform
from llama_jax.data.sources.left_out import LeftOut
from llama_jax.data.sources.quarantine import Quarantine
from llama_jax.data.token_writer import TokenWriter
from llama_jax.data.tokens import TokenStore
from llama_jax.telemetry import progress
from llama_jax.text.tokenizer import Tokenizer, load_tokenizer

RECIPE, REPORT, PICTURE = "recipe.json", "report.json", "lengths.png"
CONTAMINATION = "contamination.json"  # What of the evaluation sets was found where.
ACCOUNT, HITS = "account.json", "hits.json"  # Of a part.


def merge(
    parts: Mapping[str, Sequence[Path]],
    tokenizer: Path,
    output: Path,
    config: PrepareConfig,
    index: Index | None,
) -> None:
    """Writes the output from the parts of every source; one that is there is done.

    Args:
        parts: Folders of each source's parts, in order.
        tokenizer: Its folder.
        output: Where to.
        config: The recipe.
        index: The evaluation sets, if documents that repeat them were removed.

    Raises:
        DataError: A source holds no documents.
        ValueError: No document of a source was chosen for training, or to be held out.
    """
    if output.exists():
        return
    with files.new_folder(output) as building:
        shutil.copytree(tokenizer, building / "tokenizer")
        pieces = load_tokenizer(tokenizer)
        accounts = {
            name: _merge_source(name, folders, building / name, pieces, config)
            for name, folders in parts.items()
        }
        report = {name: account.as_json() for name, account in accounts.items()}
        files.write_json(building / REPORT, report)
        picture.write(building / PICTURE, accounts)
        if index is not None:
            files.write_json(building / CONTAMINATION, index.report(_hits(parts)))
        files.write_json(building / RECIPE, recipe(config))


def _copy(
    stores: Sequence[TokenStore],
    writer: TokenWriter,
    config: PrepareConfig,
    chat: ChatConfig,
    drawn: int,
) -> int:
    """Copies documents of all stores in an order that the seed decides; joins some short ones.

    It does not depend on where one store ends and the next begins, and none of it is in memory.
    Of the order the first `drawn` are copied. Returns how many were joined to another.
    """
    mixer = Mixer(chat, config.seed, writer.add_ids)
    ends = np.cumsum([store.manifest.documents for store in stores])
    count, seed = int(ends[-1]), int(uniform(config.seed, "order", "") * 2**32)
    with progress.bar(f"Writing {writer.folder.parent.name}, {writer.folder.name}", drawn) as show:
        for i in range(drawn):
            mixer.add(i, *_read_one(stores, ends, _number(i, count, seed, config.shuffle)))
            show(i + 1)
    mixer.finish()
    if drawn == count:  # Of a part of the documents nobody knows it.
        writer.text_bytes += sum(store.manifest.text_bytes for store in stores)
    return mixer.joined


def _number(i: int, count: int, seed: int, shuffle: bool) -> int:
    """Returns which document is written as number i of `count`."""
    return int(index_shuffle(i, count - 1, seed, ROUNDS)) if shuffle else i


def _read_one(
    stores: Sequence[TokenStore], ends: np.ndarray, number: int
) -> tuple[np.ndarray, np.ndarray | None]:
    """Returns ids and weights of a document, counted over all stores.

    Store i ends before number ends[i].
    """
    place = int(np.searchsorted(ends, number, side="right"))
    store = stores[place]
    first = number - int(ends[place] - store.manifest.documents)
    start, stop = store.offsets[first : first + 2].tolist()
    weights = store.read_weights(start, stop) if store.has_weights else None
    return store.read(start, stop), weights


def _judge(path: str, account: Account, config: PrepareConfig) -> None:
    """Checks that no more of a source was unreadable than may be."""
    left_out = LeftOut(path, config.text)
    left_out.counts.update(account.dropped)
    left_out.documents, left_out.bytes = account.unreadable, account.damaged_bytes
    left_out.judge(account.read)
    left_out.judge_bytes(account.read_bytes)


def _hits(parts: Mapping[str, Sequence[Path]]) -> Iterator[Hit]:
    for name, folders in parts.items():
        for folder in folders:
            for hit in files.read_json(folder / HITS):
                yield Hit(**hit | {"document": f"{name}/{hit['document']}"})


def _drawn(name: str, wanted: int, count: int) -> int:
    """Returns how many documents are written; there must be so many."""
    if wanted > count:
        raise DataError(
            f"config.sources.{name}.documents is {wanted} but {count} are there for training. Set "
            "it to that or less, or to 0 for all."
        )
    return wanted


def _merge_source(
    name: str, parts: Sequence[Path], folder: Path, tokenizer: Tokenizer, config: PrepareConfig
) -> Account:
    account = Account()
    for part in parts:
        account += Account.of_json(files.read_json(part / ACCOUNT))
    _judge(config.sources[name].path, account, config)
    if not account.documents:
        raise DataError(
            f"{config.sources[name].path} holds no documents (left out: "
            f"{dict(account.dropped) or 'nothing'})."
        )
    folder.mkdir()
    for split in ["train", "held_out"] if config.held_out else ["train"]:
        # What was left out belongs to neither; it is counted once, beside the larger.
        dropped = account.dropped if split == "train" else Counter[str]()
        stores = [TokenStore(part / split, tokenizer) for part in parts]
        drawn = count = sum(map(len, stores))
        if split == "train" and (wanted := config.sources[name].documents):
            drawn = _drawn(name, wanted, count)
            account.dropped += Counter({"not drawn": count - drawn})
        weighted = stores[0].has_weights
        settings = config.text, recipe(config), weighted
        with TokenWriter(folder / split, tokenizer, *settings) as writer:
            joined = _copy(stores, writer, config, config.sources[name].chat, drawn)
            account.reshaped += Counter(joined=joined)  # Nothing, if there are none.
            reshaped = account.reshaped if split == "train" else Counter(joined=joined)
            if not writer.finish(dropped, +reshaped).documents:
                raise ValueError(
                    f"no document of {name} was chosen for {split}: config.held_out is "
                    f"{config.held_out}. Change it, change config.seed, or use more documents."
                )
    quarantine = Quarantine()
    for part in parts:
        quarantine.extend(part)
    quarantine.write(folder / "train")
    return account
