"""guided-diffusion's names and layouts, read into Flax and back."""

import jax
import ml_dtypes
import numpy as np
import pytest
from adm_shapes import Lazy, lazy, shapes_of
from flax import traverse_util
from reference import CASES, Case

from skipjax.models import param_shapes
from skipjax.weights import adm


@pytest.fixture(scope="module", params=CASES)
def case(request, goldens):
    case = Case(goldens / CASES[request.param])
    return case.state_dict, case.config


def test_every_tensor_lands_at_its_own_name_with_its_values(case):
    state_dict, config = case
    flat = traverse_util.flatten_dict(adm.to_params(state_dict, config))
    assert len(flat) == len(state_dict)
    assert {adm.name(path) for path in flat} == set(state_dict)
    for path, ours in flat.items():
        theirs = state_dict[adm.name(path)]
        assert ours.dtype == theirs.dtype
        if path[-1] == "kernel":
            spatial = range(2, theirs.ndim if theirs.ndim == 4 else 2)
            theirs = theirs.reshape(theirs.shape[:4] if theirs.ndim == 4 else theirs.shape[:2])
            theirs = theirs.transpose(*spatial, 1, 0)
        np.testing.assert_array_equal(ours, theirs)


def test_a_state_dict_comes_back_as_it_was(case):
    state_dict, config = case
    back = adm.state_dict(adm.to_params(state_dict, config))
    assert set(back) == set(state_dict)
    for name, value in state_dict.items():
        np.testing.assert_array_equal(back[name], value, strict=True)


def test_params_come_back_as_they_were(case):
    state_dict, config = case
    params = adm.to_params(state_dict, config)
    back = adm.to_params(adm.state_dict(jax.device_put(params)), config)
    jax.tree.map(np.testing.assert_array_equal, back, params)


def test_shapes_are_those_that_the_network_makes(case):
    state_dict, config = case
    assert shapes_of(config) == {name: value.shape for name, value in state_dict.items()}


@pytest.mark.parametrize("dtype", [np.float16, ml_dtypes.bfloat16])
def test_dtype_is_kept(case, dtype):
    state_dict, config = case
    half = {name: value.astype(dtype) for name, value in state_dict.items()}
    params = adm.to_params(half, config)
    assert {leaf.dtype for leaf in jax.tree.leaves(params)} == {np.dtype(dtype)}
    assert {value.dtype for value in adm.state_dict(params).values()} == {np.dtype(dtype)}


def test_values_are_read_once_each_in_order_and_converted_before_the_next(case):
    shapes, config = shapes_of(case[1]), case[1]
    read, converted, flat = [], [], traverse_util.flatten_dict(param_shapes(config))
    state_dict = {name: Lazy(shape, log=read) for name, shape in reversed(shapes.items())}

    def convert(path, array):
        assert isinstance(array, np.ndarray) and array.shape == flat[path].shape
        converted.append(path)
        assert len(read) == len(converted)
        return len(converted)

    params = adm.to_params(state_dict, config, convert)
    assert read == list(state_dict.values())
    order = {adm.name(path): leaf for path, leaf in traverse_util.flatten_dict(params).items()}
    assert [order[name] for name in state_dict] == list(range(1, len(read) + 1))


def test_nothing_is_copied_on_the_way(case):
    state_dict, config = case
    ours = traverse_util.flatten_dict(adm.to_params(state_dict, config))
    assert all(np.shares_memory(leaf, state_dict[adm.name(path)]) for path, leaf in ours.items())


def test_no_value_is_read_of_a_state_dict_that_does_not_fit(case):
    _, config = case
    state_dict = lazy(config)
    for broken in (
        state_dict | {"out.0.weight": Lazy((7,))},
        state_dict | {"step": 3},
        {name: value for name, value in state_dict.items() if name != "out.0.bias"},
    ):
        with pytest.raises(ValueError, match="in 1 place[;:]"):
            adm.to_params(broken, config)


def test_names(subtests):
    block = "output_blocks_2_0"
    for path, name in [
        (("time_embed_0", "kernel"), "time_embed.0.weight"),
        (("label_emb", "embedding"), "label_emb.weight"),
        (("input_blocks_10_0", "in_layers_2", "bias"), "input_blocks.10.0.in_layers.2.bias"),
        (("middle_block_1", "proj_out", "kernel"), "middle_block.1.proj_out.weight"),
        (("input_blocks_3_0", "op", "kernel"), "input_blocks.3.0.op.weight"),
        ((block, "skip_connection", "kernel"), "output_blocks.2.0.skip_connection.weight"),
        (("output_blocks_5_1", "norm", "scale"), "output_blocks.5.1.norm.weight"),
        (("out_2", "kernel"), "out.2.weight"),
        (("out_2", "positional_embedding"), "out.2.positional_embedding"),
        (("out_2", "c_proj", "kernel"), "out.2.c_proj.weight"),
    ]:
        with subtests.test(path):
            assert adm.name(path) == name
