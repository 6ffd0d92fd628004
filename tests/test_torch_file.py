"""PyTorch's files without torch: what was saved is read, one record at a time, and checked."""

import gc
import pickle
import struct
import tracemalloc
import weakref
from collections import OrderedDict

import jax.numpy as jnp
import numpy as np
import pickle_parts
import pytest
import torch_writer as writer

from skipjax.weights.readers import state_dict


def numbers(*shape, dtype="float32", seed=0):
    values = np.random.default_rng(seed).normal(size=shape) * 40
    return values.astype(writer.dtype(dtype))


def read_back(path, name):
    return np.asarray(state_dict.read(path)[name])


def same(got, expected):
    assert got.dtype == expected.dtype and got.shape == expected.shape
    assert got.flags.c_contiguous and got.flags.writeable
    assert got.tobytes() == expected.tobytes()


@pytest.fixture
def path(tmp_path):
    return tmp_path / "model.pt"


@pytest.fixture(params=[False, True], ids=["zip", "legacy"])
def legacy(request):
    return request.param


def test_every_dtype_comes_back_bit_by_bit(path, subtests):
    for name in (*writer.STORAGES, *writer.UNTYPED):
        for byteorder in ("little", "big"):
            with subtests.test(dtype=name, byteorder=byteorder):
                values = np.abs(numbers(3, 4)).astype(writer.dtype(name))
                writer.save(path, {"weight": writer.tensor(values)}, byteorder=byteorder)
                tensor = state_dict.read(path)["weight"]
                assert tensor.shape == (3, 4) and tensor.dtype == writer.dtype(name)
                same(np.asarray(tensor), values)


def test_every_protocol_that_torch_can_write_is_read(path, legacy, subtests):
    plain = {"epoch": 3, "loss": 0.25, "name": "é☺", "betas": (0.9, 0.999), "none": None}
    plain |= {"flags": [True, False], "big": -(10**30), "nested": {"a": [{}, (), [[1]]]}, 7: 8}
    plain |= {"size": writer.Size((1, 2)), "dtype": writer.torch_dtype("float16")}
    plain |= {"raw": [b"x", bytearray(b"y")], "set": {1, 2}, (3, 4): 5, None: 6}
    whole = plain | {"weight": writer.tensor(numbers(2, 3))}
    for protocol in (2, 3, 4, 5):
        with subtests.test(protocol):
            if legacy:
                path.write_bytes(b"".join(writer.legacy(whole, protocol)))
            else:
                writer.save(path, whole, protocol)
            assert list(state_dict.read(path)) == ["weight"]
            same(read_back(path, "weight"), numbers(2, 3))


def test_many_storages_of_older_torch_are_told_apart(path):
    shared = writer.Storage(numbers(6))
    saved = {f"layer.{i}": writer.tensor(numbers(i, seed=i)) for i in range(5)}
    saved |= {"a": writer.Tensor(shared, (3,), (2,), 1), "b": writer.Tensor(shared, (6,), (1,))}
    path.write_bytes(b"".join(writer.legacy(saved)))
    for i in range(5):
        same(read_back(path, f"layer.{i}"), numbers(i, seed=i))
    same(read_back(path, "a"), np.ascontiguousarray(numbers(6)[1::2]))
    same(read_back(path, "b"), numbers(6))


def test_a_file_of_older_torch_that_is_cut_or_goes_on_otherwise_is_refused(path):
    parts = writer.legacy({"weight": writer.tensor(numbers(30)), "b": writer.tensor(numbers(3))})
    whole = b"".join(parts)
    for length in range(30, len(whole)):
        path.write_bytes(whole[:length])
        writer.refused(path, "cut short|bare pickle|is no .safetensors")
    for index, part, match in [
        (1, pickle.dumps(1000, 2), "a protocol of torch's that is known"),
        (4, pickle.dumps(["0"], 2), "names other storages than follow"),
        (4, pickle.dumps(["0", "2"], 2), "names other storages than follow"),
        (4, pickle.dumps(["0", "0"], 2), "names other storages than follow"),
        (4, pickle.dumps([0, 1], 2), "names other storages than follow"),
        (4, pickle.dumps("01", 2), "names other storages than follow"),
        (5, struct.pack("<q", 29), "should have 120 bytes, but has 116"),
        (5, struct.pack("<q", 2**62), "its storage '0' is not whole"),
        (5, struct.pack("<q", -1), "its storage '0' is not whole"),
    ]:
        path.write_bytes(b"".join([*parts[:index], part, *parts[index + 1 :]]))
        writer.refused(path, match)


def views():
    base = numbers(6, 4)
    yield "rows", base[2:5]
    yield "columns", base[:, 1:3]
    yield "every other", base.reshape(-1)[1::2]
    yield "transposed", base.T
    yield "permuted", base.reshape(2, 3, 4).transpose(2, 0, 1)
    yield "one element", base[3, 2]
    yield "overlapping", np.lib.stride_tricks.as_strided(base, (4, 4), (16, 4))
    yield "none of it", base[6:]
    yield "expanded to itself", np.broadcast_to(base.reshape(-1)[:3], (5, 3))


def test_views_are_read_as_they_look(path, subtests):
    for kind, view in views():
        with subtests.test(kind):
            writer.save(path, {"weight": writer.tensor(view)})
            same(read_back(path, "weight"), np.array(view, order="C"))


def test_scalars_empty_and_deep_tensors_keep_their_shape(path, subtests):
    for shape in [(), (0,), (3, 0, 2), (1, 1, 1), (2,) * 15]:
        with subtests.test(shape):
            values = numbers(*shape).reshape(shape)
            writer.save(path, {"weight": writer.tensor(values)})
            same(read_back(path, "weight"), values)


def test_a_stride_along_one_element_may_be_any_number(path):
    values = numbers(6)
    tensor = writer.Tensor(writer.Storage(values), (1, 6, 1), (2**62, 1, 2**63 - 1))
    writer.save(path, {"weight": tensor})
    same(read_back(path, "weight"), values.reshape(1, 6, 1))


def test_tensors_that_share_a_storage_are_read_each_for_itself(path):
    storage = writer.Storage(numbers(6))
    first = writer.Tensor(storage, (2, 3), (3, 1))
    writer.save(path, {"a": first, "b": writer.Tensor(storage, (3,), (2,), 1), "tied": first})
    tensors = state_dict.read(path)
    same(np.asarray(tensors["a"]), numbers(6).reshape(2, 3))
    same(np.asarray(tensors["b"]), np.ascontiguousarray(numbers(6)[1::2]))
    np.asarray(tensors["tied"])[:] = 0
    same(np.asarray(tensors["a"]), numbers(6).reshape(2, 3))


def test_parameters_and_the_metadata_of_a_module_are_read(path):
    state = OrderedDict(weight=writer.Parameter(writer.tensor(numbers(2, 3))))
    state["alone"] = writer.tensor(numbers(2))
    state._metadata = OrderedDict({"": {"version": 1}, "layer": {"version": 2}})  # pyright: ignore
    writer.save(path, state)
    assert list(state_dict.read(path)) == ["weight", "alone"]
    same(read_back(path, "weight"), numbers(2, 3))


def test_files_of_older_torch_have_no_byteorder_nor_a_zip64_end(path):
    old = [
        entry
        for entry in writer.entries({"weight": writer.tensor(numbers(3))}, root="archive")
        if entry.name.split("/", 1)[1] in ("data.pkl", "data/0", "version")
    ]
    path.write_bytes(writer.archive(old, long=False))
    same(read_back(path, "weight"), numbers(3))


def test_the_first_way_of_torch_to_make_a_tensor_is_known(path):
    code = pickle_parts.view((2, 3), (3, 1)).replace(b"_rebuild_tensor_v2", b"_rebuild_tensor")
    code = code.replace(b"\x89" + pickle_parts.name("collections", "OrderedDict") + b")R", b"")
    path.write_bytes(
        writer.archive(writer.wrap(pickle_parts.dict_of(code), [numbers(6).tobytes()]))
    )
    same(read_back(path, "weight"), numbers(2, 3))


def test_numpy_and_jax_convert_as_they_do_from_arrays(path):
    writer.save(path, {"weight": writer.tensor(numbers(2, 3, dtype="bfloat16"))})
    tensor = state_dict.read(str(path))["weight"]
    expected = numbers(2, 3, dtype="bfloat16")
    same(np.asarray(tensor, np.float32), expected.astype(np.float32))
    same(np.array(tensor, copy=True), expected)
    assert jnp.asarray(tensor).dtype == jnp.bfloat16  # pyright: ignore
    with pytest.raises(ValueError, match="model.pt: is read into new memory"):
        np.asarray(tensor, copy=False)


def test_only_the_record_that_is_asked_for_is_read(path):
    records = writer.entries({k: writer.tensor(numbers(100)) for k in ("a", "b", "c")})
    for record in records:
        if record.name in ("model/data/0", "model/data/2"):
            record.crc = 1
    path.write_bytes(writer.archive(records))
    tensors = state_dict.read(path)
    same(np.asarray(tensors["b"]), numbers(100))
    for name in ("a", "c"):
        with pytest.raises(ValueError, match="model.pt: the CRC-32 of the 400 bytes at .* wrong"):
            np.asarray(tensors[name])


def test_nothing_is_held_but_what_is_asked_for(path):
    values = numbers(2**20)
    writer.save(path, {"all": writer.tensor(values), "part": writer.tensor(values[7:10])})
    tensors = state_dict.read(path)
    tracemalloc.start()
    part = np.asarray(tensors["part"])
    assert tracemalloc.get_traced_memory()[0] < 2**16
    tracemalloc.reset_peak()
    whole = np.asarray(tensors["all"])
    assert tracemalloc.get_traced_memory()[1] < values.nbytes + 2**20
    tracemalloc.stop()
    gone = weakref.ref(whole)
    del whole
    gc.collect()
    assert gone() is None and part.shape == (3,)


def test_torchscript_and_other_archives_are_told_apart(path):
    records = writer.entries({"weight": writer.tensor(numbers(2))})
    for extra in ("model/constants.pkl", "model/code/model.py"):
        path.write_bytes(writer.archive([*records, writer.Entry(extra, b"")]))
        writer.refused(path, r"is a TorchScript archive.*torch.jit.load\(path\).state_dict")
    path.write_bytes(writer.archive([writer.Entry("word/document.xml", b"")]))
    writer.refused(path, "is a zip archive with 0 data.pkl")
    both = [*records, *writer.entries({}, root="other")]
    path.write_bytes(writer.archive(both))
    writer.refused(path, "is a zip archive with 2 data.pkl")
