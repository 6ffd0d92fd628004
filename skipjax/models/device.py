"""The device that computations go to."""

import jax


def default_device() -> jax.Device:
    """A device of the platform that computations go to unless they are told otherwise."""
    default = jax.config.jax_default_device  # pyright: ignore
    if default is None or isinstance(default, str):
        return jax.local_devices(backend=default)[0]
    return default
