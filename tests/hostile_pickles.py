"""Pickles that no state dict needs, by what is wrong with them, and what is said of each."""

import math

from pickle_parts import name, number, text, view

CANARY = "canary-of-test-pickle-machine"
HEAD = b"\x80\x02"
ORDERED = name("collections", "OrderedDict") + b")R"
# Six floats, which `view` makes tensors of.
STORAGE = bytes(24)


def call(module, attribute, *arguments):
    """What calls a global, were it to be called."""
    return name(module, attribute) + b"(" + b"".join(map(text, arguments)) + b"tR"


def opcode_i(module, attribute, argument):
    return b"(" + text(argument) + f"i{module}\n{attribute}\n".encode()


# What Python runs when it unpickles them: each makes a folder CANARY.
CODE = f"import os; os.mkdir({CANARY!r})"
RUNS = {
    "os.mkdir": call("os", "mkdir", CANARY),
    "posix.mkdir": call("posix", "mkdir", CANARY),
    "exec": call("builtins", "exec", CODE),
    "eval": call("builtins", "eval", f"__import__('os').mkdir({CANARY!r})"),
    "old builtins": call("__builtin__", "eval", f"__import__('os').mkdir({CANARY!r})"),
    "INST": opcode_i("os", "mkdir", CANARY),
    "OBJ": b"(" + name("os", "mkdir") + text(CANARY) + b"o",
    "STACK_GLOBAL": text("os") + text("mkdir") + b"\x93" + text(CANARY) + b"\x85R",
    "in a list": b"](" + call("os", "mkdir", CANARY) + b"e",
    "dropped": call("os", "mkdir", CANARY) + b"0N",
    "as metadata": ORDERED + b"}" + text("_metadata") + call("os", "mkdir", CANARY) + b"sb",
}
RUNS["getattr"] = name("builtins", "getattr") + call("builtins", "__import__", "os")
RUNS["getattr"] += text("mkdir") + b"\x86R" + text(CANARY) + b"\x85R"
# Of these the pickle and what it is refused for; the head and the end are left to add.
REFUSED = {
    "os.system": (call("os", "system", "true"), "asks for 'os.system', which is refused"),
    "posix.system": (call("posix", "system", "true"), "asks for 'posix.system', which is refused"),
    "subprocess": (call("subprocess", "call", "true"), "asks for 'subprocess.call', which is"),
    "nt": (call("nt", "system", "x"), "asks for 'nt.system', which is refused"),
    "a submodule of torch": (call("torch.hub", "load", "x"), "asks for 'torch.hub.load'"),
    "a name with dots": (text("torch") + text("Size.mro") + b"\x93", "asks for 'torch.Size.mro'"),
    "torch.load": (call("torch", "load", "x"), "asks for 'torch.load'"),
    "a parameter with attributes": (
        name("torch._utils", "_rebuild_parameter_with_state"),
        "asks for 'torch._utils._rebuild_parameter_with_state'",
    ),
    "a global of many lines": (text("a\nb" * 99) + text("c") + b"\x93", r"asks for 'a\\nba"),
    "a global of a number": (b"K\1K\2\x93", "asks for a global whose name is not a string"),
    "a global that does not end": (b"c" + b"a" * 999, "name of a global that does not end"),
    "EXT1": (b"\x82\1", r"uses the opcode b'\\x82'"),
    "EXT2": (b"\x83\1\0", r"uses the opcode b'\\x83'"),
    "EXT4": (b"\x84\1\0\0\0", r"uses the opcode b'\\x84'"),
    "NEWOBJ": (name("torch", "Size") + b")\x81", r"uses the opcode b'\\x81'"),
    "NEWOBJ_EX": (name("torch", "Size") + b")}\x92", r"uses the opcode b'\\x92'"),
    "PERSID": (b"Pstorage\n", "uses the opcode b'P'"),
    "DUP": (b"N2", "uses the opcode b'2'"),
    "LONG4": (b"\x8b\xff\xff\xff\x7f1", r"uses the opcode b'\\x8b'"),
    "BYTEARRAY8": (b"\x96" + b"\xff" * 8, r"uses the opcode b'\\x96'"),
    "a call of a string": (text("os") + b")R", "calls something other than a function"),
    "a call of a dtype": (name("torch", "float32") + b")R", "calls something other than"),
    "a call with a list": (name("collections", "OrderedDict") + b"]R", "calls something other"),
    "a call with items": (call("collections", "OrderedDict", "x"), "a function with 1 arguments"),
    "a call with too little": (name("torch._utils", "_rebuild_tensor_v2") + b")R", "with 0 arg"),
    "a parameter of a number": (
        name("torch._utils", "_rebuild_parameter") + b"(K\1\x88" + ORDERED + b"tR",
        "a parameter that is not a tensor",
    ),
    "a size of strings": (call("torch", "Size", "x"), "torch.Size of something other than ints"),
    "a size of bools": (name("torch", "Size") + b"\x88\x85\x85R", "something other than ints"),
    "a function as the value": (name("torch", "Size"), "holds a Function as a value"),
    "a storage as the value": (
        b"("
        + text("storage")
        + name("torch", "FloatStorage")
        + text("0")
        + text("cpu")
        + b"K\6tQ",
        "holds a Storage as a value",
    ),
    "an unknown persistent id": (text("module") + b"Q", "a persistent id that is not torch's"),
    "a persistent id of lists": (b"(]]]]]tQ", "a persistent id that is not torch's"),
    "a dtype as a tag": (
        b"(" + name("torch", "int8") + name("torch", "int8") * 4 + b"tQ",
        "a persistent id that is not torch's",
    ),
    "a string that is not UTF-8": (text(b"\xff"), "a string that is not UTF-8"),
    "half of a surrogate pair": (text(b"\xed\xa0\x80"), "a string that is not UTF-8"),
    "a huge string": (b"X\xff\xff\xff\xff", "is cut short"),
    "a huge string8": (b"\x8d" + b"\xff" * 8, "is cut short"),
    "a huge frame": (b"\x95" + b"\xff" * 8, "is cut short"),
    "a huge memo": (b"Nr\0\0\0\x80", "memorises in another order"),
    "a memo of nothing": (b"q\0", "memorises in another order"),
    "a recall of nothing": (b"h\0", "recalls what it did not memorise"),
    "a far recall": (b"j\xff\xff\xff\xff", "recalls what it did not memorise"),
    "a call of nothing": (b"R", "takes from an empty stack"),
    "a tuple of nothing": (b"N\x87", "takes from an empty stack"),
    "a tuple without a mark": (b"Nt", "goes back to a mark where there is none"),
    "items without a mark": (b"}NNu", "goes back to a mark where there is none"),
    "an item beyond a mark": (b"}(Na", "needs a list where there is none"),
    "an append to a tuple": (b")Na", "needs a list where there is none"),
    "an append to a tensor": (view((6,), (1,)) + b"Na", "needs a list where there is none"),
    "an item of a list": (b"]K\0Ns", "needs a dict where there is none"),
    "an item of a global": (name("torch", "Size") + text("x") + b"Ns", "needs a dict"),
    "a key without a value": (b"}(Nu", "a key without a value"),
    "a list as a key": (b"}]Ns", "a list as the key of a dict"),
    "a tensor as a key": (b"}" + view((6,), (1,)) + b"Ns", "a Tensor as the key of a dict"),
    "a bool as a key": (b"}\x88Ns", "a bool as the key of a dict"),
    "a deep tuple as a key": (b"})" + b"\x85" * 150_000 + b"Ns", "a tuple as the key of a dict"),
    "ints that collide": (b"}" + number(2**61 - 1) + b"Ns", "a int as the key of a dict"),
    "a key twice": (b"}" + (text("w") + b"Ns") * 2, "sets the key 'w' of a dict twice"),
    "attributes of a list": (b"]}b", "needs a dict where there is none"),
    "attributes of a tensor": (view((6,), (1,)) + b"}b", "needs a dict where there is none"),
    "attributes that are none": (ORDERED + b"Nb", "gives a NoneType as attributes of a dict"),
    "a list in itself": (b"]\x94h\0a", "a container inside of itself"),
    "a dict in itself": (b"}\x94" + text("x") + b"h\0s", "a container inside of itself"),
    "a circle of three": (
        b"]\x94](}" + text("x") + b"h\0s" + b"ea",
        "a container inside of itself",
    ),
    "deep lists": (b"]" * 66 + b"a" * 65, "nests deeper than 64 containers"),
    "deep tuples": (b")" + b"\x85" * 150_000, "nests deeper than 64 containers"),
    "deep marks": (b"(" * 1000 + b"t" * 1000, "nests deeper than 64 containers"),
    "a billion laughs": (
        b"(]\x94" + b"".join(b"](" + b"h%c" % n * 10 + b"e\x94" for n in range(30)) + b"t",
        "repeats what it holds to more than 1,000,000 parts",
    ),
    "a million containers": (b"(" + b"]" * 1_000_000 + b"t", "makes more than 200,000 containers"),
    "a million steps": (b"(" + b"N" * 1_000_000 + b"t", "takes more than 1,000,000 steps"),
    "a million memos": (b"N" + b"\x94" * 1_000_000, "takes more than 1,000,000 steps"),
    "protocol 1": (b"\x80\1N", "is of protocol 1; accepted are 2 to 5"),
    "protocol 6": (b"\x80\6N", "is of protocol 6; accepted are 2 to 5"),
    "two objects": (b"NN", "something other than one object"),
    "an open mark": (b"(N", "something other than one object"),
}

V3 = view((1,), (1,)).replace(b"_v2", b"_v3")[:-2] + name("torch", "complex128") + b"tR"
UNTYPED = (b"torch\nFloatS", b"torch.storage\nUntypedS"), (number(6) + b"tQ", number(24) + b"tQ")
TENSORS = {
    "two dtypes": (V3, "a dtype other than that of its storage"),
    "part of an element": (V3.replace(*UNTYPED[0]).replace(*UNTYPED[1]), "not a whole number of"),
    "beyond the end": (view((7,), (1,)), "reaches beyond its end"),
    "an offset beyond the end": (view((6,), (1,), offset=1), "reaches beyond its end"),
    "a stride beyond the end": (view((2, 3), (4, 1)), "reaches beyond its end"),
    "terabytes by stride 0": (view((2**40,), (0,)), "repeats them to 1099511627776"),
    "more by overlap": (view((3, 4), (1, 1)), "repeats them to 12"),
    "a product beyond 64 bits": (view((2**62,) * 60, (0,) * 60), "to a number of 3721 bits"),
    "an extent beyond 64 bits": (view((2, 2), (2**62, 2**62)), "reaches beyond its end"),
    "an empty one too large": (view((0, 2**62, 2**62), (1, 1, 1)), "sizes that no array can have"),
    "a negative size": (view((-1,), (1,)), "-1 as a size or stride"),
    "a negative stride": (view((6,), (-1,), offset=5), "-1 as a size or stride"),
    "a negative offset": (view((1,), (1,), offset=-1), "-1 as a size or stride"),
    "a bool as a size": (view((True,), (1,)), "a bool as a size or stride"),
    "NaN as a size": (view((math.nan,), (1,)), "a float as a size or stride"),
    "a float as a stride": (view((1,), (1.0,)), "a float as a size or stride"),
    "a huge size": (view((2**2000,), (1,)), "a number of 2001 bits as a size or stride"),
    "a huge offset": (view((0,), (1,), offset=2**63), "9223372036854775808 as a size or stride"),
    "65 dimensions": (view((1,) * 65, (1,) * 65), "a tensor of 65 dimensions"),
    "fewer strides": (view((2, 3), (1,)), "sizes and strides are not two such tuples"),
    "no such storage": (view((6,), (1,), key="1"), "needs the storage '1', which has no record"),
    "a path as a storage": (
        view((6,), (1,), key="../data.pkl"),
        "needs the storage '../data.pkl'",
    ),
    "a storage of less": (view((5,), (1,), numel=5), "has 24 bytes, but should have 5 elements"),
    "a storage of more": (view((6,), (1,), numel=7), "has 24 bytes, but should have 7 elements"),
    "a storage of a bool": (view((1,), (1,), numel=True), "a persistent id that is not torch's"),
    "a storage of less than 0": (view((0,), (1,), numel=-1), "should have -1 elements of 4"),
    "another dtype": (view((6,), (1,), storage="DoubleStorage"), "should have 6 elements of 8"),
    "quantised": (view((6,), (1,), storage="QInt8Storage"), "asks for 'torch.QInt8Storage'"),
    "no dtype": (
        view((6,), (1,)).replace(*UNTYPED[0]).replace(*UNTYPED[1]),
        "something other than a storage and a dtype",
    ),
    "no storage": (
        name("torch._utils", "_rebuild_tensor_v2") + b"(NK\0))\x89" + ORDERED + b"tR",
        "something other than a storage and a dtype",
    ),
    "hooks": (view((6,), (1,)).replace(b")Rt", b")R" + text("x") + b"Nst"), "a tensor with hooks"),
    "no hooks": (view((6,), (1,)).replace(ORDERED, b"N"), "a tensor with hooks"),
    "negated": (
        view((6,), (1,))[:-2] + b"}" + text("neg") + b"\x88stR",
        "a negated or conjugated tensor",
    ),
    "bools of other bytes": (
        view((24,), (1,), numel=24, storage="BoolStorage"),
        "has bools other than 0 and 1",
    ),
}
