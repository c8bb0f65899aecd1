"""Stores answers without end, and says which are stored, until it is killed: PATH FIRST."""

import itertools
import sys
from pathlib import Path

from llama_jax.distillation.answer import Answer
from llama_jax.distillation.cache import Cache

cache = Cache(Path(sys.argv[1]))
for i in itertools.count(int(sys.argv[2])):
    cache.store(str(i), Answer(f"answer {i} " * 50, i, i))
    cache.finish(str(i), [f"turn {i}"], f"text {i} " * 50)
    sys.stdout.write(f"{i}\n")
    sys.stdout.flush()
