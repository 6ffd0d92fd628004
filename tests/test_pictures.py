"""A picture depends on its id alone: not on its batch, nor on how many devices share the work."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import AxisType, NamedSharding, PartitionSpec

from skipjax import plans, schedules
from skipjax.denoisers import Prediction, clip, from_eps
from skipjax.models import UNet, UNetConfig
from skipjax.sampling import gaussian, integrate, starting_noise

pytestmark = pytest.mark.usefixtures("compiled_in_a_hurry")
ID, SHAPE = 7, (8, 8, 3)
PLAN = plans.skipped(schedules.linear(), 250, cutoff=400)
NETWORK = UNet(
    UNetConfig(
        image_size=8,
        in_channels=3,
        model_channels=32,
        out_channels=3,
        num_res_blocks=1,
        attention_resolutions=(1,),
        channel_mult=(1,),
    )
)


def keys_of(ids):
    return jax.vmap(jax.random.fold_in, (None, 0))(jax.random.key(5), jnp.asarray(ids))


def over_all_devices(array):
    mesh = jax.make_mesh((8,), ("pictures",), axis_types=(AxisType.Auto,))
    return jax.device_put(array, NamedSharding(mesh, PartitionSpec("pictures")))


# Ways to make picture 7: the keys of its batch, and where in the batch it lies.
BATCHES = {
    "alone": lambda: (keys_of([ID]), 0),
    "in_a_batch_of_64": lambda: (keys_of(range(64)), ID),
    "last_of_3": lambda: (keys_of([80, 2, ID]), 2),
    "over_8_devices": lambda: (over_all_devices(keys_of(range(64))), ID),
    "over_8_devices_elsewhere": lambda: (over_all_devices(keys_of([0] * 31 + [ID])), 31),
}
QUICK = ("alone", "over_8_devices_elsewhere")
each_batch = pytest.mark.parametrize(
    "batch",
    [
        pytest.param(batch, id=name, marks=() if name in QUICK else pytest.mark.slow)
        for name, batch in BATCHES.items()
    ],
)


@pytest.fixture(scope="module")
def sample():
    # The last layers of a fresh network are zero: fill them, so that every weight counts.
    shapes = jax.eval_shape(NETWORK.init, jax.random.key(0), jnp.zeros((1, *SHAPE)), jnp.zeros(1))[
        "params"
    ]
    leaves, tree = jax.tree.flatten(shapes)
    rng = np.random.default_rng(0)
    filled = [rng.normal(scale=0.1, size=leaf.shape).astype(np.float32) for leaf in leaves]
    params = jax.tree.unflatten(tree, filled)

    def network(x, t):
        return NETWORK.apply({"params": params}, x, t)

    @jax.jit
    def sample(keys):
        return integrate(PLAN, clip(from_eps(network)), starting_noise(keys, SHAPE), keys)

    return sample


@pytest.fixture(scope="module")
def alone(sample):
    return np.asarray(sample(keys_of([ID])))[0]


@jax.jit
def drawn(keys):
    """The starting noise and the noise of the second step."""
    ones, zeros = np.ones(2), np.zeros(2)
    table = plans.Plan(ones, ones, ones, zeros, zeros[:, None], ones)
    start = starting_noise(keys, SHAPE)
    return start, integrate(table, lambda x, _: Prediction(x, x), start, keys)


def test_there_are_8_devices():
    assert jax.device_count() == 8
    assert len(over_all_devices(jnp.zeros(8)).sharding.device_set) == 8


@each_batch
def test_noise_of_a_picture_is_bit_equal(batch):
    keys, place = batch()
    key = jax.random.fold_in(jax.random.key(5), ID)
    start, step = drawn(keys)
    theirs = starting_noise(key[None], SHAPE)[0]
    assert (start[place] == theirs).all()
    assert (step[place] == gaussian(jax.random.fold_in(key, 1)[None], SHAPE, jnp.float32)[0]).all()


@each_batch
def test_a_picture_is_the_same_to_float_tolerance(sample, alone, batch):
    keys, place = batch()
    out = sample(keys)
    assert len(out.sharding.device_set) == len(keys.sharding.device_set)
    np.testing.assert_allclose(out[place], alone, rtol=0, atol=1e-4)
    assert np.std(alone) > 0.1 and np.isfinite(out).all()


def test_pictures_of_other_ids_differ(sample, alone):
    other = np.asarray(sample(keys_of([8])))[0]
    assert np.abs(other - alone).max() > 0.1
