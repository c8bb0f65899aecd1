"""Trees of arrays with named leaves: 'layers/attention/q/kernel'."""

from collections.abc import Callable
from typing import Any

import jax

Tree = Any


def path_name(path: tuple) -> str:
    """Returns a JAX key path as words joined by '/'."""
    return "/".join(_word(key) for key in path)


def named_leaves(tree: Tree) -> dict[str, Any]:
    """Returns the leaves of a tree by name, in the tree's order."""
    leaves, _ = jax.tree_util.tree_flatten_with_path(tree)
    return {path_name(path): leaf for path, leaf in leaves}


def map_named(function: Callable[[str, Any], Any], tree: Tree) -> Tree:
    """Returns the tree with each leaf replaced by `function(name, leaf)`."""
    return jax.tree_util.tree_map_with_path(
        lambda path, leaf: function(path_name(path), leaf), tree
    )


def size(tree: Tree) -> int:
    """Returns the number of scalars in a tree of arrays or of their shapes."""
    return sum(leaf.size for leaf in jax.tree.leaves(tree))


def _word(key: Any) -> str:
    for attribute in ("key", "name", "idx"):
        if hasattr(key, attribute):
            return str(getattr(key, attribute))
    raise TypeError(f"unknown tree key {key!r}")
