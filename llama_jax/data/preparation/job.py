"""One recipe at work: which stages there are, and what a rank of each does.

    read -> clean -> drop duplicates -> drop contaminated -> (dialogues) -> tokens     of each part

and then a merge.

Every rank reads its files itself and writes whole folders, so a stage needs nothing in memory of
the one before it, and what is finished stays finished.
"""

import contextlib
import dataclasses
import functools
import operator
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from functools import partial
from pathlib import Path

import numpy as np

from llama_jax.config.cleaning import DecontaminateConfig
from llama_jax.config.prepare import PrepareConfig
from llama_jax.core import files
from llama_jax.core.errors import DataError
from llama_jax.data.preparation import building, chats, cleaning, merge
from llama_jax.data.preparation.account import Account
from llama_jax.data.preparation.decontaminate import Hit, Index
from llama_jax.data.preparation.deduplication import Deduplication
from llama_jax.data.preparation.executors import Stage, need
from llama_jax.data.preparation.parts import Part, digest, is_held_out, parts_of
from llama_jax.data.sources.document import Document
from llama_jax.data.sources.documents import Reader
from llama_jax.data.sources.files import name_in
from llama_jax.data.sources.records import table
from llama_jax.data.token_writer import TokenWriter, tokenise
from llama_jax.telemetry import progress
from llama_jax.text.chat.chat import Chat
from llama_jax.text.tokenizer import Tokenizer, load_tokenizer


@dataclasses.dataclass(frozen=True)
class Job:
    """A recipe, its parts, and where unfinished work lies."""

    config: PrepareConfig
    parts: tuple[Part, ...]
    work: Path
    tokenizer: Path  # A folder.
    tokenizer_sha256: str
    sets_sha256: str  # Of the evaluation sets; "" without any.
    chats_sha256: str  # Of the chat templates that are files.

    @classmethod
    def start(cls, config: PrepareConfig, work: Path, tokenizer: Path) -> "Job":
        """Returns the job; evaluation sets and the tokenizer count as they are now."""
        for name, source in config.sources.items():
            for setting in ("deduplicate.methods", "filters.rules", "filters.language_model"):
                if value := operator.attrgetter(setting)(source):
                    need("datatrove", f"config.sources.{name}.{setting} is {value!r}")
        sets = Index(config.decontaminate).sets_sha256 if config.decontaminate.sets else ""
        found = load_tokenizer(tokenizer)
        chats.check(config, found)
        templates = chats.digest(config)
        parts = tuple(parts_of(config))
        return cls(config, parts, work, tokenizer, found.sha256, sets, templates)

    @property
    def digest(self) -> str:
        """A hash of everything that decides the result."""
        return self._digest_of(self.parts)

    def stages(self, output: Path) -> list[Stage]:
        """Returns all stages, in order."""
        found = []
        for name in sorted(self.config.sources):
            found += self.deduplication(name).stages(name, partial(_read_clean, self, name))
        here = self.config.executor.kind == "process"
        found.append(Stage("tokenise", len(self.parts), partial(_make, self), shows=here))
        return [*found, Stage("merge", 1, partial(_merge, self, output), shows=True)]

    def folder(self, part: Part) -> Path:
        """Returns where a finished part lies; another place if anything that decides it changes."""
        alone = not self.config.sources[part.source].deduplicate.methods
        read = [part] if alone else self.of(part.source)
        return self.work / "parts" / f"{part.source}-{part.rank:05d}-{self._digest_of(read)}"

    def _digest_of(self, parts: Sequence[Part]) -> str:
        more = self.tokenizer_sha256, self.sets_sha256, self.chats_sha256
        return digest(parts, self.config, *more)

    def reader(self, part: Part) -> Reader:
        """Returns what reads a part."""
        return Reader(self.config.sources[part.source], self.config.text, part.files)

    def of(self, source: str) -> list[Part]:
        """Returns the parts of a source."""
        return [part for part in self.parts if part.source == source]

    def deduplication(self, source: str) -> Deduplication:
        """Returns what finds the documents of a source that are alike."""
        config, parts = self.config.sources[source], self.of(source)
        names = tuple(name_in(config, path) for part in parts for path in part.files)
        folder = self.work / "duplicates" / self.digest / source
        return Deduplication(config.deduplicate, folder, len(parts), names)


def _read_clean(job: Job, source: str, rank: int) -> Iterator[Document]:
    reader = job.reader(job.of(source)[rank])
    return cleaning.clean(reader, job.config.sources[source], Counter())


def _make(job: Job, rank: int) -> None:
    """Writes a part: train, held_out, account.json, hits.json; one that is there is done."""
    part, config = job.parts[rank], job.config
    if (folder := job.folder(part)).exists():
        return
    tokenizer, account = load_tokenizer(job.tokenizer), Account()
    hits: list[Hit] = []
    weighted = table.has_answers(config.sources[part.source])
    with contextlib.ExitStack() as stack:
        building = stack.enter_context(files.new_folder(folder))
        writers = {
            name: stack.enter_context(
                TokenWriter(building / name, tokenizer, config.text, {}, weighted)
            )
            for name in (["train", "held_out"] if config.held_out else ["train"])
        }
        reader = job.reader(part)
        show = stack.enter_context(_bar(job, rank, reader))
        chat = _chat(job, part, tokenizer, stack)
        kept = _chosen(job, part, reader, account, hits)
        built = _built(job, part, kept, tokenizer, chat, account)
        for document, ids, weights in _tokens(job, part, built, tokenizer, chat, reader, account):
            name = "held_out" if is_held_out(document, config) else "train"
            writers[name].add(document, ids, weights)
            account.add(document.text, len(ids))
            show(reader.bytes_read)
        reader.quarantine.write(building)
        account.dropped.update(reader.dropped)
        account.read, account.read_bytes = reader.found, reader.bytes
        account.unreadable, account.damaged_bytes = reader.left_out.documents, reader.left_out.bytes
        for writer in writers.values():
            writer.finish({})
        files.write_json(building / merge.ACCOUNT, account.as_json())
        files.write_json(building / merge.HITS, [dataclasses.asdict(hit) for hit in hits])


def _chat(job: Job, part: Part, tokenizer: Tokenizer, stack: contextlib.ExitStack) -> Chat | None:
    """Returns the chat template of a part, if one is set."""
    config = job.config.sources[part.source].chat
    if not config.template:
        return None
    chat = chats.load(config, tokenizer)
    stack.callback(chat.close)
    return chat


def _tokens(
    job: Job,
    part: Part,
    documents: Iterator[Document],
    tokenizer: Tokenizer,
    chat: Chat | None,
    reader: Reader,
    account: Account,
) -> Iterator[tuple[Document, list[int], np.ndarray | None]]:
    """Returns a part's documents with ids and weights, by a chat template if one is set."""
    text, config = job.config.text, job.config.sources[part.source].chat
    if chat is None:
        return tokenise(documents, tokenizer, text)
    return chats.encode(documents, chat, config, text, job.config.seed, reader, account)


def _bar(job: Job, rank: int, reader: Reader) -> contextlib.AbstractContextManager:
    """Returns a bar for a part; ranks in other processes are shown by the one that waits."""
    if job.config.executor.kind != "process":
        return contextlib.nullcontext(lambda done: None)
    title = f"Tokenising {job.parts[rank].source}, part {rank + 1} of {len(job.parts)}"
    return progress.bar(title, reader.bytes, "bytes")


def _built(
    job: Job,
    part: Part,
    documents: Iterable[Document],
    tokenizer: Tokenizer,
    chat: Chat | None,
    account: Account,
) -> Iterator[Document]:
    """Returns the documents of a part in the form that is written; the others are counted."""
    text, source = job.config.text, job.config.sources[part.source]

    def count(document: Document) -> int:
        if chat is not None:
            return chats.length(document, chat, source.chat, text)
        return len(tokenizer.encode(text.before + document.text, text.add_bos, text.add_eos))

    return building.build(documents, source.build, count, job.config.seed, account.dropped)


def _chosen(
    job: Job, part: Part, reader: Reader, account: Account, hits: list[Hit]
) -> Iterator[Document]:
    """Yields the clean documents of a part that are neither duplicates nor contaminated."""
    tally: Counter[str] = Counter()
    clean = cleaning.clean(reader, job.config.sources[part.source], account.dropped)
    clean = _tallied(clean, tally, "clean")
    kept = job.deduplication(part.source).kept(clean, part.rank)
    for document in _tallied(kept, tally, "kept"):
        found = []
        if job.config.decontaminate.sets:
            index = _index(job.config.decontaminate, job.sets_sha256)
            found = index.hits(document.name, document.text)
        if found:
            hits += found
            account.dropped["contaminated"] += 1
        else:
            yield document
    if gone := tally["clean"] - tally["kept"]:
        account.dropped["duplicate"] += gone


def _tallied(documents: Iterable[Document], tally: Counter, name: str) -> Iterator[Document]:
    for document in documents:
        tally[name] += 1
        yield document


def _merge(job: Job, output: Path, rank: int) -> None:
    assert rank == 0
    by_source: dict[str, list[Path]] = {}
    for part in job.parts:
        by_source.setdefault(part.source, []).append(job.folder(part))
    sets = job.config.decontaminate
    index = _index(sets, job.sets_sha256) if sets.sets else None
    merge.merge(by_source, job.tokenizer, output, job.config, index)


@functools.lru_cache(maxsize=1)
def _index(config: DecontaminateConfig, sets_sha256: str) -> Index:
    """Returns the evaluation sets' n-grams, read once in each process."""
    index = Index(config)
    if index.sets_sha256 != sets_sha256:
        raise DataError(f"{config.sets} was changed while it was used. Type the command again.")
    return index
