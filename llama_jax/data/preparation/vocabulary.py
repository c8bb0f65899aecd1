"""The tokenizer of a recipe: trained on a sample of the training documents, or copied."""

import heapq
from pathlib import Path

from llama_jax.config.prepare import PrepareConfig
from llama_jax.core import files
from llama_jax.data.preparation.parts import is_held_out, uniform
from llama_jax.data.sources.documents import Reader
from llama_jax.telemetry import progress
from llama_jax.text import added_tokens
from llama_jax.text.tokenizer import copy_tokenizer, load_tokenizer
from llama_jax.text.training import train_tokenizer


def make(folder: Path, config: PrepareConfig) -> None:
    """Writes the tokenizer's folder; one that is there is done.

    Raises:
        ValueError: The text is not enough for so many pieces, or the given tokenizer is none.
    """
    if folder.exists():
        return
    with files.new_folder(folder) as building:
        if config.tokenizer_from == "use":
            copy_tokenizer(load_tokenizer(config.tokenizer), building)
        else:
            texts = sample(config)
            with progress.bar("Training the tokenizer", None):
                model = train_tokenizer(texts, config.tokenizer_training)
            (building / "tokenizer.model").write_bytes(model)
        found = load_tokenizer(building)
        names = config.added_tokens
        added_tokens.extend(found.files()[0], found.special, found.vocab_size, names)


def sample(config: PrepareConfig) -> list[str]:
    """Returns about `megabytes` of whole training documents: those with the smallest hash.

    They are spread evenly over all documents, and no more than they is ever in memory.
    """
    budget = int(config.tokenizer_training.megabytes * 1e6)
    kept: list[tuple[float, str, str]] = []  # A heap with the largest hash on top.
    size = 0
    readers = {name: Reader(s, config.text) for name, s in sorted(config.sources.items())}
    total, before = sum(reader.bytes for reader in readers.values()), 0
    with progress.bar("Reading documents", total, "bytes") as show:
        for source, reader in readers.items():
            for document in reader:
                show(before + reader.bytes_read)
                if is_held_out(document, config):
                    continue
                if document.ids is not None:
                    raise ValueError(
                        f"{document.name} holds ids and no text, so no tokenizer can be trained on "
                        "it. Set config.tokenizer_from='use' and config.tokenizer."
                    )
                name = f"{source}/{document.name}"
                text = document.text[:budget]
                heapq.heappush(kept, (-uniform(config.seed, "tokenizer", name), name, text))
                size += len(text)
                while size > budget and len(kept) > 1:
                    size -= len(heapq.heappop(kept)[2])
            before += reader.bytes
    return [text for _, _, text in sorted(kept, reverse=True)]
