"""Reads and writes Hugging Face PEFT's folder of adapters. What is read is untrusted.

adapter_config.json          r, alpha, targets and everything that PEFT might do otherwise
adapter_model.safetensors    base_model.model.<name in the model>.lora_A.weight [r, inputs],
                             lora_B.weight [outputs, r]; of the embedding lora_embedding_A, _B

Ours are [inputs, r] and [r, outputs], with every dimension apart and the layers stacked. Rows of b
lie as the rows of their base do: neither q nor k is permuted (names.py).
"""

import dataclasses
import math
import re
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
from safetensors.numpy import save_file

from llama_jax.config.lora import LoraConfig
from llama_jax.config.model import ModelConfig
from llama_jax.converters import names, safetensors_reader
from llama_jax.converters.cast import DTYPES, cast
from llama_jax.converters.json_fields import Fields
from llama_jax.core import files
from llama_jax.core.errors import DataError
from llama_jax.sharding import place

CONFIG = "adapter_config.json"
TENSORS = "adapter_model.safetensors"
PREFIX = "base_model.model."
# Fields that change no number here, whatever they hold; of the others only empty ones are read.
_READ = {"r", "lora_alpha", "lora_dropout", "use_rslora", "bias", "init_lora_weights", "peft_type"}
_IGNORED = {
    *("auto_mapping", "base_model_name_or_path", "revision", "inference_mode", "task_type"),
    *("peft_version", "target_modules", "exclude_modules", "megatron_config", "megatron_core"),
    *("qalora_group_size", "loftq_config", "eva_config", "ensure_weight_tying"),
}
# Others (PiSSA, OLoRA, LoftQ, CorDA) change the base too.
_INITS = (True, False, "gaussian", "orthogonal", "eva")
_PARTS = {"a": "lora_A.weight", "b": "lora_B.weight"}
_EMBEDDING_PARTS = {"a": "lora_embedding_A", "b": "lora_embedding_B"}
_TENSOR_NAME = re.compile(r"(.+?)\.(lora_(?:embedding_)?[AB](?:\.weight)?)")
_COPY = PREFIX + "model.embed_tokens.base_layer.weight"  # PEFT puts the base's embedding in too.


@dataclasses.dataclass(frozen=True)
class Pair:
    """One adapted parameter of ours, and where PEFT keeps its a and b."""

    name: str  # attention/q, as in LoraConfig.targets
    tensor: names.Tensor

    @property
    def folder(self) -> str:
        """Returns where a and b are in our parameters: layers/attention/q/lora."""
        return f"{self.tensor.ours.rpartition('/')[0]}/lora"

    @property
    def is_embedding(self) -> bool:
        """True of the one that PEFT names otherwise."""
        return self.name == "embed"

    @property
    def sizes(self) -> tuple[int, ...]:
        """Returns the shape of one layer's kernel."""
        return self.tensor.shape[1:] if self.tensor.layers else self.tensor.shape

    @property
    def inputs(self) -> tuple[int, ...]:
        """Returns the leading dimensions of the kernel, which are summed over."""
        return self.sizes[: place.INPUTS[self.tensor.ours.removeprefix("layers/")]]

    @property
    def outputs(self) -> tuple[int, ...]:
        """Returns the dimensions of the kernel after `inputs`."""
        return self.sizes[len(self.inputs) :]

    def tensor_names(self, part: str) -> Iterator[str]:
        """Yields the names of a or b in the order of the layers."""
        word = (_EMBEDDING_PARTS if self.is_embedding else _PARTS)[part]
        for name in self.tensor.names():
            yield f"{PREFIX}{name.removesuffix('.weight')}.{word}"

    def their_shape(self, part: str, r: int) -> tuple[int, int]:
        """Returns the shape of a or b of one layer."""
        return (r, math.prod(self.inputs)) if part == "a" else (math.prod(self.outputs), r)

    def to_ours(self, part: str, array: np.ndarray) -> np.ndarray:
        """Returns a as [inputs, r], b as [r, outputs]."""
        apart = (*self.inputs, -1) if part == "a" else (-1, *self.outputs)
        return array.T.reshape(apart)

    def to_theirs(self, part: str, array: np.ndarray, r: int) -> np.ndarray:
        """Returns one layer of a as [r, inputs], of b as [outputs, r]."""
        return array.reshape((-1, r) if part == "a" else (r, -1)).T


def pairs(model: ModelConfig) -> list[Pair]:
    """Returns everything that can be adapted, in the order of our parameters."""
    found = []
    for tensor in names.tensors(model):
        folder, _, last = tensor.ours.removeprefix("layers/").rpartition("/")
        if last in ("kernel", "embedding") and folder != "head":
            found.append(Pair(folder, tensor))
    return found


def read_settings(folder: Path) -> tuple[LoraConfig, str]:
    """Returns the settings, targets left out, and the name of the base ("" if it has none).

    Raises:
        DataError: A field means what is not done here; the message names it.
    """
    path = folder / CONFIG
    values = files.read_json(path)
    if not isinstance(values, dict):
        raise DataError(f"{path} must hold a JSON object; it holds {type(values).__name__}.")
    if values.get("peft_type") != "LORA":
        raise DataError(f"{path}: peft_type is {values.get('peft_type')!r:.80}; it must be 'LORA'.")
    for name, value in values.items():
        if name not in _READ | _IGNORED and value:
            raise DataError(f"{path}: {name} is {value!r:.80}, which is not done here.")
    if values.get("bias", "none") != "none":
        raise DataError(f"{path}: bias is {values['bias']!r:.80}; only 'none' is done here.")
    if values.get("init_lora_weights", True) not in _INITS:
        raise DataError(
            f"{path}: init_lora_weights is {values['init_lora_weights']!r:.80}, which changes the "
            "base too. Let PEFT convert it to plain LoRA first (save_pretrained with "
            "path_initial_model_for_weight_conversion)."
        )
    fields = Fields(values, str(path))
    try:
        config = LoraConfig(
            r=fields.count("r", 8),
            targets=("*",),
            alpha=fields.number("lora_alpha", 8),
            dropout=fields.number("lora_dropout", 0.0),
            rank_stabilized=fields.flag("use_rslora", False),
        )
    except ValueError as error:
        raise DataError(f"{path}: {error}") from None
    base = values.get("base_model_name_or_path")
    return config, base if isinstance(base, str) else ""


class Folder:
    """A PEFT folder that has been checked; with a model, that its tensors are adapters of it.

    Raises:
        DataError: They are not; the message names file and tensor or field.
    """

    def __init__(self, path: Path):
        self.path = Path(path)
        settings, self.base = read_settings(self.path)
        if not (self.path / TENSORS).is_file():
            raise DataError(
                f"{self.path} lacks {TENSORS}. Another file (adapter_model.bin) must first be "
                "saved as safetensors by PEFT."
            )
        self._places = safetensors_reader.header(self.path / TENSORS)
        is_bfloat16 = {place.dtype for place in self._places.values()} == {"bfloat16"}
        self.lora = dataclasses.replace(
            settings, targets=self._targets(), dtype="bfloat16" if is_bfloat16 else "float32"
        )

    def read(self, model: ModelConfig) -> dict[str, np.ndarray]:
        """Returns our a and b by name, the layers stacked.

        Raises:
            DataError: A tensor is missing, surplus or misshapen for this model.
        """
        found, left = {}, set(self._places) - {_COPY}
        for pair in pairs(model):
            if pair.name not in self.lora.targets:
                continue
            for part in "ab":
                tensors = list(pair.tensor_names(part))
                left -= set(tensors)
                arrays = [pair.to_ours(part, self._tensor(pair, part, name)) for name in tensors]
                stacked = np.stack(arrays) if pair.tensor.layers else arrays[0]
                found[f"{pair.folder}/{part}"] = stacked
        if left:
            raise DataError(
                f"{self.path / TENSORS} holds {min(left)}, which this model has no place for."
            )
        return found

    def embedding(self) -> np.ndarray | None:
        """Returns the copy of the base's embedding [V, D], if PEFT put one in."""
        if _COPY not in self._places:
            return None
        return safetensors_reader.read(self._places[_COPY], _COPY)

    def _targets(self) -> tuple[str, ...]:
        known = {_module(name): ours for ours, name in _modules()}
        targets = []
        for name in self._places:
            match = _TENSOR_NAME.fullmatch(name)
            module = _module(match[1].removeprefix(PREFIX)) if match else ""
            if name != _COPY and module not in known:
                raise DataError(
                    f"{self.path / TENSORS} holds {name:.200}, which is not read here: adapters "
                    f"are of {', '.join(known)}."
                )
            targets += [known[module]] if module in known else []
        if not targets:
            raise DataError(f"{self.path / TENSORS} holds no adapters.")
        return tuple(dict.fromkeys(targets))

    def _tensor(self, pair: Pair, part: str, name: str) -> np.ndarray:
        place = self._places.get(name)
        if place is None:
            raise DataError(
                f"{self.path / TENSORS} lacks {name}; a module is adapted in all layers or in none."
            )
        want = pair.their_shape(part, self.lora.r)
        if place.shape != want:
            raise DataError(
                f"{place.file}: {name} has shape {list(place.shape)}; by {CONFIG} and the model it "
                f"must be {list(want)}."
            )
        if place.dtype not in DTYPES:
            raise DataError(f"{place.file}: {name} is stored as {place.dtype}; it must be a float.")
        return cast(safetensors_reader.read(place, name), self.lora.dtype, name)


def write(
    folder: Path,
    lora: LoraConfig,
    model: ModelConfig,
    leaf_of: Callable[[str], np.ndarray],
    base: str,
) -> None:
    """Writes the adapters that `leaf_of` gives by our names, as PEFT saves them."""
    tensors = {}
    adapted = [pair for pair in pairs(model) if pair.name in lora.adapted]
    for pair in adapted:
        for part in "ab":
            leaf = np.asarray(leaf_of(f"{pair.folder}/{part}"))
            layers = leaf if pair.tensor.layers else [leaf]
            for name, layer in zip(pair.tensor_names(part), layers, strict=True):
                tensors[name] = np.ascontiguousarray(pair.to_theirs(part, layer, lora.r))
    save_file(tensors, folder / TENSORS, metadata={"format": "pt"})
    files.write_json(folder / CONFIG, _settings(lora, adapted, base))


def _settings(lora: LoraConfig, adapted: list[Pair], base: str) -> dict[str, Any]:
    alpha = int(lora.alpha) if math.floor(lora.alpha) == lora.alpha else lora.alpha
    return {
        "peft_type": "LORA",
        "task_type": "CAUSAL_LM",
        "base_model_name_or_path": base or None,
        "r": lora.r,
        "lora_alpha": alpha,
        "lora_dropout": lora.dropout,
        "use_rslora": lora.rank_stabilized,
        "target_modules": [_module(pair.tensor.theirs).split(".")[-1] for pair in adapted],
        "bias": "none",
        "fan_in_fan_out": False,
        "init_lora_weights": True,
        "inference_mode": True,
        "modules_to_save": None,
    }


def _modules() -> Iterator[tuple[str, str]]:
    """Yields our name and PEFT's module of everything that can be adapted."""
    shape = ModelConfig(layers=1, embed=2, mlp=2, heads=1, kv_heads=1, head_dim=2, vocab=2)
    for pair in pairs(shape):
        yield pair.name, pair.tensor.theirs


def _module(name: str) -> str:
    """Returns the module of a tensor without its layer: self_attn.q_proj, embed_tokens."""
    name = name.removesuffix(".weight").removeprefix("model.")
    return re.sub(r"^layers\.(\d+|\{\})\.", "", name)
