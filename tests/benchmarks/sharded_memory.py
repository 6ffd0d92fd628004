"""Stable Diffusion XL over several devices: what lies on each, without any weight.

Every array is described and none is made. First the bytes of each part on a device by the rule of
`skipjax.sharding`, its weights split over `--split` of them; then the sampling program of a
picture for each row of devices, guided (two calls in one), is compiled for as many virtual CPU
devices, and its `memory_analysis` says what it takes there: arguments, and temporary arrays as the
compiler for CPUs lays them out. Compiling takes minutes and gigabytes: `--no-compile` leaves it
out.

    python tests/benchmarks/sharded_memory.py [--devices 8] [--split 8] [--side 128] [--no-compile]
"""

import argparse
import math
import time
from typing import Any

import jax
import jax.numpy as jnp
from measuring import line

from skipjax import grids, plans, sharding
from skipjax.generation import program
from skipjax.guidance import ClassifierFree
from skipjax.models import (
    AutoencoderKLConfig,
    CLIPTextConfig,
    UNet2DConditionConfig,
    param_shapes,
)
from skipjax.pretrained import Pretrained
from skipjax.weights import unet2d_condition

GB = 1e9
UNET = UNet2DConditionConfig(
    sample_size=128,
    block_out_channels=(320, 640, 1280),
    down_block_types=("DownBlock2D", "CrossAttnDownBlock2D", "CrossAttnDownBlock2D"),
    up_block_types=("CrossAttnUpBlock2D", "CrossAttnUpBlock2D", "UpBlock2D"),
    transformer_layers_per_block=(1, 2, 10),
    attention_head_dim=(5, 10, 20),
    cross_attention_dim=2048,
    use_linear_projection=True,
    addition_embed_type="text_time",
    addition_time_embed_dim=256,
    projection_class_embeddings_input_dim=2816,
)
VAE = AutoencoderKLConfig(
    block_out_channels=(128, 256, 512, 512),
    down_block_types=("DownEncoderBlock2D",) * 4,
    up_block_types=("UpDecoderBlock2D",) * 4,
    layers_per_block=2,
    scaling_factor=0.13025,
)
CLIP_L = CLIPTextConfig(hidden_size=768, intermediate_size=3072, num_attention_heads=12)
BIG_G = CLIPTextConfig(
    hidden_size=1280,
    intermediate_size=5120,
    num_hidden_layers=32,
    num_attention_heads=20,
    projection_dim=1280,
    hidden_act="gelu",
    with_projection=True,
)


def main() -> None:
    """Describes, compiles and prints."""
    parser = argparse.ArgumentParser(description="Stable Diffusion XL over several devices.")
    parser.add_argument("--devices", type=int, default=8, help="how many, virtual ones")
    parser.add_argument("--split", type=int, default=8, help="that a copy of the weights lies on")
    parser.add_argument("--side", type=int, default=128, help="of a latent")
    parser.add_argument("--dtype", default="bfloat16", help="of weights, and to compute in")
    parser.add_argument("--compile", action=argparse.BooleanOptionalAction, default=True)
    options = parser.parse_args()
    jax.config.update("jax_num_cpu_devices", options.devices)
    mesh = sharding.mesh(model=options.split)
    on_a_device = 0.0
    parts = {"U-Net": UNET, "VAE": VAE, "CLIP-L": CLIP_L, "bigG": BIG_G}
    for name, config in parts.items():
        weights = described(config, mesh, options.dtype)
        whole = sum(leaf.size * leaf.dtype.itemsize for leaf in jax.tree.leaves(weights)) / GB
        mine = bytes_of(weights) / GB
        on_a_device += mine
        detail = f"{mine:.3f} GB of {whole:.3f} GB"
        line(f"{name}: on a device / its share", mine / (whole / options.split), 1.05, detail)
    print(f"weights of all parts on each device: {on_a_device:.3f} GB")
    if options.compile:
        compiled(mesh, options.side, options.dtype)


def described(config: Any, mesh: Any, dtype: str) -> Any:
    """Params as they lie on a mesh, without their content."""

    def leaf(shape: Any) -> jax.ShapeDtypeStruct:
        return jax.ShapeDtypeStruct(shape.shape, dtype, sharding=sharding.split(mesh, shape.shape))

    return jax.tree.map(leaf, param_shapes(config))


def bytes_of(weights: Any) -> int:
    """On the device that holds most of them."""
    shards = (
        leaf.dtype.itemsize * math.prod(leaf.sharding.shard_shape(leaf.shape))
        for leaf in jax.tree.leaves(weights)
    )
    return sum(shards)


def compiled(mesh: Any, side: int, dtype: str) -> None:
    """The sampling program for a picture for each row of devices."""
    params = described(UNET, mesh, dtype)
    model = unet2d_condition.model(UNET, "xl").replace(params=params)
    assert isinstance(model, Pretrained)
    plan = plans.ddim(model.schedule, grids.trailing(1000, 30))
    num, over = mesh.shape[sharding.DATA], sharding.pictures(mesh, params)

    def array(*shape: int, dtype: Any = jnp.float32) -> jax.ShapeDtypeStruct:
        return jax.ShapeDtypeStruct((num, *shape), dtype, sharding=over)

    told = {"text": array(77, 2048), "pooled": array(1280), "time_ids": array(6)}
    ways = (ClassifierFree(jnp.float32(5.0)),)
    began = time.perf_counter()
    key, ids = jax.random.key(0), array(dtype=jnp.uint32)
    transform = jax.tree_util.Partial(lambda denoise: denoise)
    before = model.core, plan, key, ids, told, told, ways, transform, None
    lowered = program.lower(*before, shape=(side, side, 4), dtype=jnp.dtype(dtype))
    print(f"traced and lowered in {time.perf_counter() - began:.0f} s")
    said: Any = lowered.compile().memory_analysis()
    print(
        f"{num} pictures of {8 * side} x {8 * side} on {mesh.size} devices, on each: "
        f"{said.argument_size_in_bytes / GB:.3f} GB of arguments, "
        f"{said.temp_size_in_bytes / GB:.3f} GB of temporary arrays; "
        f"compiled in {time.perf_counter() - began:.0f} s"
    )


if __name__ == "__main__":
    main()
