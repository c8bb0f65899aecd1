import jax.numpy as jnp
import optax

from llama_jax.core import tree

PARAMS = {"layers": {"q": {"kernel": jnp.ones((2, 3))}}, "norm": {"scale": jnp.ones(3)}}


def test_leaves_are_named_by_their_path():
    assert list(tree.named_leaves(PARAMS)) == ["layers/q/kernel", "norm/scale"]


def test_moments_carry_the_names_of_their_parameters():
    names = tree.named_leaves(optax.adam(0.1).init(PARAMS))
    assert "0/mu/layers/q/kernel" in names and "0/nu/norm/scale" in names


def test_map_sees_name_and_leaf():
    named = tree.map_named(lambda name, leaf: (name, leaf.size), PARAMS)
    assert named["layers"]["q"]["kernel"] == ("layers/q/kernel", 6)


def test_size_counts_scalars():
    assert tree.size(PARAMS) == 9
