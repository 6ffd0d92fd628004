"""PyTorch's files without torch: what was saved is read, one record at a time, and checked."""

import gc
import tracemalloc
import weakref
from collections import OrderedDict

import jax.numpy as jnp
import numpy as np
import pickle_parts
import pytest
import torch_writer as writer

from skipjax.weights import torch_file


def numbers(*shape, dtype="float32", seed=0):
    values = np.random.default_rng(seed).normal(size=shape) * 40
    return values.astype(writer.dtype(dtype))


def read_back(path, name):
    return np.asarray(torch_file.state_dict(path)[name])


def same(got, expected):
    assert got.dtype == expected.dtype and got.shape == expected.shape
    assert got.flags.c_contiguous and got.flags.writeable
    assert got.tobytes() == expected.tobytes()


@pytest.fixture
def path(tmp_path):
    return tmp_path / "model.pt"


def test_every_dtype_comes_back_bit_by_bit(path, subtests):
    for name in (*writer.STORAGES, *writer.UNTYPED):
        for byteorder in ("little", "big"):
            with subtests.test(dtype=name, byteorder=byteorder):
                values = np.abs(numbers(3, 4)).astype(writer.dtype(name))
                writer.save(path, {"weight": writer.tensor(values)}, byteorder=byteorder)
                tensor = torch_file.state_dict(path)["weight"]
                assert tensor.shape == (3, 4) and tensor.dtype == writer.dtype(name)
                same(np.asarray(tensor), values)


def test_every_protocol_that_torch_can_write_is_read(path, subtests):
    plain = {"epoch": 3, "loss": 0.25, "name": "é☺", "betas": (0.9, 0.999), "none": None}
    plain |= {"flags": [True, False], "big": -(10**30), "nested": {"a": [{}, (), [[1]]]}, 7: 8}
    weights = {"weight": writer.tensor(numbers(2, 3)), "size": writer.Size((1, 2))}
    for protocol in (2, 3, 4, 5):
        whole = plain | {"state": weights, "dtype": writer.torch_dtype("float16")}
        with subtests.test(protocol):
            writer.save(path, whole, protocol)
            got = torch_file.read(path)
            same(np.asarray(got["state"].pop("weight")), numbers(2, 3))
            assert got == plain | {"state": {"size": (1, 2)}, "dtype": np.dtype("float16")}


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
    tensors = torch_file.state_dict(path)
    same(np.asarray(tensors["a"]), numbers(6).reshape(2, 3))
    same(np.asarray(tensors["b"]), np.ascontiguousarray(numbers(6)[1::2]))
    np.asarray(tensors["tied"])[:] = 0
    same(np.asarray(tensors["a"]), numbers(6).reshape(2, 3))


def test_parameters_and_the_metadata_of_a_module_are_read(path):
    state = OrderedDict(weight=writer.Parameter(writer.tensor(numbers(2, 3))))
    state["alone"] = writer.tensor(numbers(2))
    state._metadata = OrderedDict({"": {"version": 1}, "layer": {"version": 2}})  # pyright: ignore
    writer.save(path, state)
    assert list(torch_file.state_dict(path)) == ["weight", "alone"]
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
    tensor = torch_file.state_dict(str(path))["weight"]
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
    tensors = torch_file.state_dict(path)
    same(np.asarray(tensors["b"]), numbers(100))
    for name in ("a", "c"):
        with pytest.raises(ValueError, match="model.pt: the CRC-32 of 'model/data/.' is wrong"):
            np.asarray(tensors[name])


def test_nothing_is_held_but_what_is_asked_for(path):
    values = numbers(2**20)
    writer.save(path, {"all": writer.tensor(values), "part": writer.tensor(values[7:10])})
    tensors = torch_file.state_dict(path)
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


def test_one_of_several_state_dicts_is_taken_by_its_key(path):
    model, ema = ({"weight": writer.tensor(numbers(2, seed=seed))} for seed in (1, 2))
    writer.save(path, {"state_dict": model, "ema": ema | {"decay": 0.5}, "epoch": 3, "log": {}})
    assert set(torch_file.read(path)) == {"state_dict", "ema", "epoch", "log"}
    same(np.asarray(torch_file.state_dict(path, "ema")["weight"]), numbers(2, seed=2))
    writer.refused(path, r"give as the key one of these.*: 'state_dict' \(1\), 'ema' \(1\)$")
    for key in ("epoch", "log", "none"):
        match = f"no tensors under the key '{key}'; there are some under: 'state_dict' .1., 'ema'"
        with pytest.raises(ValueError, match=match):
            torch_file.state_dict(path, key)


def test_what_is_no_tensor_is_left_out_of_a_state_dict(path):
    content = {"weight": writer.tensor(numbers(2)), "epoch": 1, "name": "x", "config": {"a": [1]}}
    writer.save(path, content | {"nothing": None})
    assert list(torch_file.state_dict(path)) == ["weight"]


def test_what_is_no_flat_dict_of_tensors_is_refused(path, subtests):
    def made(value):
        if isinstance(value, dict):
            return {key: made(part) for key, part in value.items()}
        if isinstance(value, list):
            return [made(part) for part in value]
        return writer.tensor(numbers(2)) if value == "tensor" else value

    for content, match in [
        ([1, 2], "holds an object of type list; wanted is a dict"),
        (3, "holds an object of type int; wanted is a dict"),
        ({}, "holds no tensors, nor dicts of them"),
        ({"epoch": 3, "loss": [1.0]}, "holds no tensors, nor dicts of them"),
        ({"deep": {"deeper": {"weight": "tensor"}}}, "holds no tensors, nor dicts of them"),
        ({"w": "tensor", "more": [{"v": "tensor"}]}, "among the tensors is 'more', a list"),
        ({"w": "tensor", 3: "tensor"}, "among the tensors is 3, a Tensor"),
    ]:
        with subtests.test(content):
            writer.refused(writer.save(path, made(content)), match)


def test_other_files_are_told_apart(path, subtests):
    old = "before 1.6, or a bare pickle; save it again"
    for head, match in [
        (b"", "is empty: download or copy it again"),
        (b"\r\n <!DOCTYPE html><html>", "is a web page, so the download failed"),
        (b"<?xml version='1.0'?><Error>", "is a web page, so the download failed"),
        (b"version https://git-lfs.github.com/spec/v1\noid", "run git lfs pull"),
        (b"\x40\0\0\0\0\0\0\0" + b'{"weight":{"dtype":"F32"', "is a safetensors file"),
        (b"\x80\x02\x8a\nl\xfc\x9cF\xf9 j\xa8P\x19.", old),
        (b"\x80", old),
        (b"storages".ljust(257, b"\0") + b"ustar", old),
        (b"\x1f\x8b\x08\0", "begins with b'.x1f.*' and is no zip archive"),
        (b"PK\3\4", "does not end as a zip archive does; the file is damaged or cut short"),
        (b"PK\3\4" + bytes(500), "does not end as a zip archive does"),
    ]:
        with subtests.test(head[:20]):
            path.write_bytes(head)
            writer.refused(path, match)


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


def test_files_that_cannot_be_opened_are_told_by_the_system(tmp_path):
    with pytest.raises(FileNotFoundError):
        torch_file.read(tmp_path / "missing.pt")
    with pytest.raises(IsADirectoryError):
        torch_file.read(tmp_path)
