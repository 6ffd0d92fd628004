"""Parts of pickles, opcode by opcode, to make of them what torch.save would not."""

import pickle
import struct


def text(value):
    """A string."""
    encoded = value if isinstance(value, bytes) else value.encode()
    return b"X" + struct.pack("<L", len(encoded)) + encoded


def number(value):
    if isinstance(value, bool):
        return b"\x88" if value else b"\x89"
    if isinstance(value, float):
        return b"G" + struct.pack(">d", value)
    encoded = pickle.encode_long(value)
    return b"\x8a" + bytes([len(encoded)]) + encoded


def numbers(values):
    return b"(" + b"".join(map(number, values)) + b"t"


def name(module, attribute):
    return b"c" + f"{module}\n{attribute}\n".encode()


def view(shape, strides, offset=0, key="0", numel=6, storage="FloatStorage"):
    """A tensor, by _rebuild_tensor_v2."""
    code = name("torch._utils", "_rebuild_tensor_v2") + b"("
    code += b"(" + text("storage") + name("torch", storage) + text(key) + text("cpu")
    code += number(numel) + b"tQ" + number(offset) + numbers(shape) + numbers(strides)
    return code + b"\x89" + name("collections", "OrderedDict") + b")Rt" + b"R"


def dict_of(code, key="weight"):
    """A whole pickle: {key: what the code makes}."""
    return b"\x80\x02}" + text(key) + code + b"s."
