# SPDX-License-Identifier: Apache-2.0
# Part of longspan. See LICENSE.
#
# What cannot be done is an exception of Python that says what was expected and what was found.
import ml_dtypes
import numpy as np
import pytest
from test_arrays import OnlyDLPack

import longspan


class OnCuda(OnlyDLPack):
    """A tensor that says, in its capsule, that it lies on a GPU."""

    def __dlpack__(self, **options):
        from longspan import _core
        capsule = _core.as_dlpack(self.array).__dlpack__()
        import ctypes
        get = ctypes.pythonapi.PyCapsule_GetPointer
        get.restype, get.argtypes = ctypes.c_void_p, [ctypes.py_object, ctypes.c_char_p]
        # DLTensor: void* data; then DLDevice {int type; int id}
        ctypes.c_int.from_address(get(capsule, b"dltensor") + 8).value = 2
        return capsule


class Refuses:
    def __dlpack__(self, **options):
        raise BufferError("this tensor requires grad")

    def __dlpack_device__(self):
        return (1, 0)


class NoCapsule(Refuses):
    def __dlpack__(self, **options):
        return 5


class ReadOnly(OnlyDLPack):
    def __dlpack__(self, **options):
        return self.array.__dlpack__(**options)


q = np.ones((2, 6, 4, 8), np.float32)
k = np.ones((2, 9, 2, 8), np.float32)
read_only = np.broadcast_to(q, q.shape)
unaligned = np.frombuffer(bytearray(q.nbytes + 1), np.uint8)[1:].view(np.float32).reshape(q.shape)

TYPE_ERRORS = {
    "keyword": (lambda: longspan.attention(q, k, k, causal=True), "causal"),
    "backward keyword": (lambda: longspan.attention_backward(q, q, k, k, q, q, is_causal=True), "is_causal"),
    "list": (lambda: longspan.attention([1.0], k, k), "query must be an array .*found list"),
    "none": (lambda: longspan.attention(q, None, k), "^key must be an array .*found NoneType"),
    "none of a backward call": (lambda: longspan.attention_backward(None, q, k, k, q, q), "^doutput must be .*found NoneType"),
    "none of hashing": (lambda: longspan.lsh_attention(q, None, None), "^value must be an array .*found NoneType"),
    "none of a merge": (lambda: longspan.merge([(q, None)]), "^lse must be an array .*found NoneType"),
    "none of weights": (lambda: longspan.attention_weights(q, q, None, rows=[0]), "^lse must be .*found NoneType"),
    "none of an explanation": (lambda: longspan.explain(q, None, q), "^key must be .*found NoneType"),
    "none of a cache": (lambda: longspan.KVCache(2, 8, 8, "float32", 2).append(k, None), "^value must be .*found NoneType"),
    "complex": (lambda: longspan.attention(q.astype(complex), k, k), "query has dtype complex128"),
    "integers": (lambda: longspan.attention(q, k.astype(np.int64), k), "key must be float32.*found int64"),
    "big-endian": (lambda: longspan.attention(q.astype(">f4"), k, k), "query has dtype >f4"),
    "float8": (lambda: longspan.attention(q.astype(ml_dtypes.float8_e4m3fn), k, k), "float8_e4m3fn"),
    "objects": (lambda: longspan.attention(q.astype(object), k, k), "query has dtype object"),
    "dtypes that differ": (lambda: longspan.attention(q, k.astype(np.float64), k),
                           "query has float32, key has float64"),
    "a float mask": (lambda: longspan.attention(q, k, k, mask=np.zeros((6, 9))), "found float64.*bias="),
    "a word for a mask": (lambda: longspan.attention(q, k, k, mask="causal"), "mask must be an array.*found str"),
    "a boolean bias": (lambda: longspan.attention(q, k, k, bias=np.ones((6, 9), bool)), "bias must be.*found bool"),
    "float lengths": (lambda: longspan.attention(q, k, k, mask=longspan.key_lengths(np.ones(2))),
                      "lengths must be int32 or int64; found float64"),
    "a list of floats": (lambda: longspan.key_lengths([1.7, 2.9]), "^lengths must be a whole number; found float"),
    "a list of words": (lambda: longspan.key_lengths(["3", "4"]), "^lengths must be a whole number; found str"),
    "float offsets": (lambda: longspan.causal([1.9, 1.9]), "^query_offset must be a whole number; found float"),
    "float documents": (lambda: longspan.documents([0, 10.9, 33]), "^cu_seqlens_q must be a whole number; found float"),
    "float documents of keys": (lambda: longspan.documents([0, 9], (0, 9.0)), "^cu_seqlens_k must be .*found float"),
    "a float offset": (lambda: longspan.causal(1.5), "^query_offset must be a whole number; found float"),
    "a float prefix": (lambda: longspan.prefix(1.5), "^length must be a whole number; found float"),
    "a float window": (lambda: longspan.window(1.5, 0), "^left must be a whole number; found float"),
    "a word for a scale": (lambda: longspan.attention(q, k, k, scale="0.5"), "^scale must be a number; found str"),
    "no softcap": (lambda: longspan.attention(q, k, k, softcap=None), "^softcap must be a number; found NoneType"),
    "a list for dropout": (lambda: longspan.attention(q, k, k, dropout_p=[0.5]), "^dropout_p must be a number; found list"),
    "a float seed": (lambda: longspan.attention(q, k, k, seed=1.5), "^seed must be a whole number; found float"),
    "a float chunk": (lambda: longspan.attention(q, k, k, key_chunk=8.0), "^key_chunk must be a whole number; found float"),
    "no layout": (lambda: longspan.attention(q, k, k, layout=None), "^layout must be a word; found NoneType"),
    "a float number of hashes": (lambda: longspan.lsh_attention(q, None, q, num_hashes=1.5), "^num_hashes must be .*float"),
    "a word for buckets": (lambda: longspan.lsh_attention(q, None, q, num_buckets="8"), "^num_buckets must be .*str"),
    "a number for a word": (lambda: longspan.lsh_attention(q, None, q, dedup=1), "^dedup must be a word; found int"),
    "one side of a window": (lambda: longspan.lsh_attention(q, None, q, local_window=3), "^local_window must be two .*3"),
    "a float sample": (lambda: longspan.diagnose_lsh(q, None, q, samples=2.5), "^samples must be .*found float"),
    "a float row": (lambda: longspan.explain(q, q, q, rows=(0, 1.5)), "^rows must be a whole number; found float"),
    "one row": (lambda: longspan.explain(q, q, q, rows=3), "^rows must be two whole numbers; found 3"),
    "float columns": (lambda: longspan.explain(q, q, q).text(60.5), "^columns must be a whole number; found float"),
    "float threads": (lambda: longspan.set_num_threads(1.5), "^n must be a whole number; found float"),
    "a word for a size": (lambda: longspan.KVCache(2, "8", 8, "float32"), "^head_dim must be a whole number; found str"),
    "a float truncation": (lambda: longspan.KVCache(2, 8, 8, "float32").truncate(1.5), "^n must be a whole .*float"),
    "no function": (lambda: longspan.predicate(q), "predicate: expected a function.*found ndarray"),
    "a predicate of numbers": (lambda: longspan.attention(q, k, k, mask=longspan.predicate(lambda b, h, i, j: j - i)),
                               "predicate: expected booleans; found int64"),
    "device": (lambda: longspan.attention(q, OnCuda(k), k), "key is on cuda:0; longspan computes on the CPU"),
    "refused": (lambda: longspan.attention(Refuses(), k, k), "query gives no DLPack tensor"),
    "no capsule": (lambda: longspan.attention(NoCapsule(), k, k), r"query gives no DLPack tensor \(NoCapsule\)"),
    "no capsule for out": (lambda: longspan.attention(q, k, k, out=NoCapsule()), r"out gives no DLPack tensor \(NoCapsule\)"),
    "mask and number": (lambda: longspan.causal() & 1, "&"),
}
VALUE_ERRORS = {
    "head_dim": (lambda: longspan.attention(q, k[..., :7], k), "query has 8, key has 7"),
    "seqlen": (lambda: longspan.attention(q, k, k[:, :5]), "key has 9, value has 5"),
    "batch": (lambda: longspan.attention(q, k[:1], k[:1]), r"query \[2, 6, 4, 8\], key \[1, 9, 2, 8\]"),
    "heads": (lambda: longspan.attention(q[:, :, :3], k, k), "query has 3 heads, key has 2"),
    "ranks": (lambda: longspan.attention(q, k[0], k[0]), "query has 4, key has 3"),
    "rank 1": (lambda: longspan.attention(q[0, 0, 0], k, k), r"rank 1, \[8\]"),
    "rank 0": (lambda: longspan.attention(np.float32(1), k, k), "rank 0"),
    "rank 5": (lambda: longspan.attention(q[None], k, k), "query must have at most 4 axes; found 5"),
    "no head_dim": (lambda: longspan.attention(q[..., :0], k[..., :0], k), "head_dim must be at least 1"),
    "alignment": (lambda: longspan.attention(q, k, k, query_offset="start"), "\"end\".*found \"start\""),
    "no offset": (lambda: longspan.attention(q, k, k, mask=longspan.causal()), "query has 6, key has 9.*0.*end"),
    "no offset of a window": (lambda: longspan.attention(q, k, k, mask=longspan.window(3, 0)), "query_offset"),
    "offsets": (lambda: longspan.attention(q, k, k, mask=longspan.causal([1, 2, 3])), "3"),
    "layout": (lambda: longspan.attention(q, k, k, layout="sbhd"), "\"bhsd\"; found \"sbhd\""),
    "wrong layout": (lambda: longspan.attention(q, k, k, layout="bhsd"), "query has 6 heads, key has 9"),
    "bias": (lambda: longspan.attention(q, k, k, bias=q), r"\[2, 4, 6, 9\]; found \[2, 6, 4, 8\]"),
    "mask": (lambda: longspan.attention(q, k, k, mask=np.ones((6, 8), bool)), r"\[6, 8\]"),
    "lengths": (lambda: longspan.attention(q, k, k, mask=longspan.key_lengths([3, 10])), "10"),
    "documents": (lambda: longspan.attention(q[:1], k[:1], k[:1], mask=longspan.documents([0, 7])), "7"),
    "sinks": (lambda: longspan.attention(q, k, k, sinks=np.ones(2)), r"\[num_heads\] = \[4\]; found \[2\]"),
    "dropout": (lambda: longspan.attention(q, k, k, dropout_p=1.5), "1.5"),
    "scale": (lambda: longspan.attention(q, k, k, scale=np.nan), "nan"),
    "softcap": (lambda: longspan.attention(q, k, k, softcap=-1), "-1"),
    "seed": (lambda: longspan.attention(q, k, k, seed=2**64), "18446744073709551616"),
    "a large offset": (lambda: longspan.attention(q, k, k, query_offset=2**70), r"^query_offset must be in -2\^63..2\^63 - 1"),
    "a large offset of a mask": (lambda: longspan.causal(2**63), r"^query_offset must be in -2\^63.*found 9223372036854775808"),
    "a large window": (lambda: longspan.window(2**63, 0), r"^left must be in -2\^63..2\^63 - 1; found 9223372036854775808"),
    "a large length": (lambda: longspan.key_lengths([1, -2**63 - 1]), r"^lengths must be in -2\^63..2\^63 - 1"),
    "a large chunk": (lambda: longspan.attention(q, k, k, query_chunk=2**64), r"^query_chunk must be in -2\^63"),
    "a large scale": (lambda: longspan.attention(q, k, k, scale=10**400), "^scale must be in the range of float64"),
    "many threads": (lambda: longspan.set_num_threads(2**31), r"^n must be in -2\^31..2\^31 - 1; found 2147483648"),
    "half a window": (lambda: longspan.lsh_attention(q, None, q, local_window=(3,)), r"^local_window must be two .*\(3,\)"),
    "chunk": (lambda: longspan.attention(q, k, k, key_chunk=-4), "-4"),
    "out": (lambda: longspan.attention(q, k, k, out=np.empty((2, 6, 4, 7), np.float32)), r"\[2, 6, 4, 7\]"),
    "out of another type": (lambda: longspan.attention(q, k, k, out=np.empty(q.shape)), "found float64"),
    "read-only out": (lambda: longspan.attention(q, k, k, out=read_only), "out must be writable"),
    "read-only out by DLPack": (lambda: longspan.attention(q, k, k, out=ReadOnly(read_only)), "out must be writable"),
    "out is an input": (lambda: longspan.attention(q, k, k, out=q), "overlaps query"),
    "unaligned": (lambda: longspan.attention(unaligned, k, k), "query must be aligned"),
    "a predicate's shape": (lambda: longspan.attention(q, k, k, mask=longspan.predicate(
        lambda b, h, i, j: np.ones(5, bool))), "5"),
    "no parts": (lambda: longspan.merge([]), "at least one part"),
    "half a part": (lambda: longspan.merge([(q,)]), "unpack"),
    "parts": (lambda: longspan.merge([(q, q[..., 0].swapaxes(1, 2)), (k, k[..., 0].swapaxes(1, 2))]),
              r"\[2, 6, 4, 8\].*\[2, 9, 2, 8\]|\[2, 9, 2, 8\].*\[2, 6, 4, 8\]"),
    "doutput": (lambda: longspan.attention_backward(k, q, k, k, q, q[..., 0].swapaxes(1, 2)), r"\[2, 9, 2, 8\]"),
    "threads": (lambda: longspan.set_num_threads(-1), "-1"),
}


@pytest.mark.parametrize("name", TYPE_ERRORS)
def test_type_errors(name):
    call, words = TYPE_ERRORS[name]
    with pytest.raises(TypeError, match=words):
        call()


@pytest.mark.parametrize("name", VALUE_ERRORS)
def test_value_errors(name):
    call, words = VALUE_ERRORS[name]
    with pytest.raises(ValueError, match=words):
        call()


def test_what_an_import_lacks_is_said():
    from subprocess import run
    import sys
    code = "import sys; sys.modules['numpy'] = None; import longspan"
    result = run([sys.executable, "-c", code], capture_output=True, text=True)
    assert result.returncode == 1 and "ImportError: longspan needs NumPy: pip install numpy" in result.stderr


def test_an_exception_of_a_predicate_is_the_calls():
    def may_see(batch, head, query, key):
        raise LookupError("no table for this head")

    with pytest.raises(LookupError, match="no table for this head"):
        longspan.attention(q, k, k, mask=longspan.predicate(may_see))


def test_memory_that_is_not_there():
    huge = np.broadcast_to(np.float32(0), (1, 2**45, 1, 8))  # 8 TiB of numbers, 4 bytes of memory
    with pytest.raises(MemoryError):
        longspan.attention(huge, k[:1, :, :1], k[:1, :, :1])
