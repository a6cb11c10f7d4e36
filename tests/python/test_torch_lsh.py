# SPDX-License-Identifier: Apache-2.0
# Part of longspan. See LICENSE.
#
# Hashed attention on tensors of PyTorch: the numbers of the NumPy functions, as operators.
import numpy as np
import pytest
from frameworks import package
from reference import check

import longspan

torch = package("torch")

import longspan.torch  # noqa: E402

BATCH, SEQLEN, HEADS, HEADS_KV, DIM, DIM_V = 2, 61, 4, 2, 8, 6
HASHING = {"num_hashes": 3, "num_buckets": 8, "chunk_len": 8, "seed": 5}


def make(shared, dtype=torch.float64, grad=True):
    generator = torch.Generator().manual_seed(3)
    heads_kv = HEADS if shared else HEADS_KV
    shapes = ((BATCH, SEQLEN, HEADS, DIM), (BATCH, SEQLEN, heads_kv, DIM), (BATCH, SEQLEN, heads_kv, DIM_V))
    tensors = [torch.randn(shape, generator=generator, dtype=dtype).requires_grad_(grad) for shape in shapes]
    return [tensors[0], None if shared else tensors[1], tensors[2]]


def arrays(tensors):
    return [None if x is None else x.detach().numpy() for x in tensors]


OPTIONS = {
    "plain": {},
    "causal": {"mask": longspan.causal()},
    "padding": {"mask": longspan.causal() & longspan.key_lengths([50, 61])},
    "log-count": {"dedup": "log-count", "chunks_after": 1},
    "cyclic": {"dedup": "none", "wrap": "round"},
    "factors": {"num_buckets": (4, 2), "local_window": (3, 0)},
    "whole": {"whole_buckets": True, "softcap": 2.0},
    "preset": {"preset": "lucidrains"},
}


@pytest.mark.parametrize("shared", [True, False])
@pytest.mark.parametrize("name", OPTIONS)
def test_values_and_gradients_are_those_of_the_arrays(name, shared):
    if name in ("cyclic", "preset") and not shared:
        pytest.skip("for a shared query and key only")
    options = {**HASHING, **OPTIONS[name]}
    inputs = make(shared)
    output, lse, buckets = longspan.torch.lsh_attention(*inputs, return_lse=True, return_buckets=True, **options)
    expected = longspan.lsh_attention(*arrays(inputs), return_lse=True, return_buckets=True, **options)
    for got, same in zip((output, lse), expected):
        assert np.array_equal(got.detach().numpy(), same)
    for got, same in zip((buckets,) if shared else buckets, (expected[2],) if shared else expected[2]):
        assert got.dtype == torch.int32 and np.array_equal(got.numpy(), same)
    doutput, dlse = torch.randn_like(output), torch.randn_like(lse)
    leaves = [x for x in inputs if x is not None]
    got = torch.autograd.grad((output, lse), leaves, (doutput, dlse))
    gradients = longspan.lsh_attention_backward(doutput.numpy(), *arrays(inputs), *expected[:2], dlse=dlse.numpy(),
                                                **options)
    for a, b in zip(got, [x for x in gradients[:3] if x is not None]):
        check(a.numpy(), b, 1e-13)
    again = longspan.torch.lsh_attention(*inputs, **{**options, "buckets": buckets})
    assert torch.equal(again, output)


def test_gradcheck_with_sinks():
    # Buckets are constants here as they are there: central differences must not move a row to another.
    query, _, value = make(True)
    query, value = (x.detach()[:1, :12, :2].clone().requires_grad_() for x in (query, value))
    options = {**HASHING, "chunk_len": 4, "mask": longspan.causal()}
    _, buckets = longspan.torch.lsh_attention(query, None, value, return_buckets=True, **options)
    sinks = torch.randn(2, dtype=torch.float64, requires_grad=True)

    def call(query, value, sinks):
        return longspan.torch.lsh_attention(query, None, value, sinks=sinks, return_lse=True, buckets=buckets, **options)

    assert torch.autograd.gradcheck(call, (query, value, sinks))


@pytest.mark.parametrize("shared", [True, False])
@pytest.mark.parametrize("grad", [True, False])
def test_opcheck(shared, grad):
    from longspan.torch import _lsh, _operators

    scores, _ = _operators.score_arguments(longspan.causal(), None, None, None, None, None, 0.0)
    hashing = (None, None, None, 5, 3, [8], 8, 1, 0, None, None, None, None, False, None)
    torch.library.opcheck(_lsh._operator.operator, (*make(shared, torch.float32, grad), *scores, *hashing))


@pytest.mark.parametrize("shared", [True, False])
def test_compile(shared):
    def model(query, key, value):
        return longspan.torch.lsh_attention(query * 2, key, value, mask=longspan.causal(), **HASHING).relu()

    compiled = torch.compile(model, fullgraph=True, backend="aot_eager")
    results = []
    for call in (model, compiled):
        inputs = make(shared, torch.float32)
        output = call(*inputs)
        output.square().sum().backward()
        results.append([output.detach(), *(x.grad for x in inputs if x is not None)])
    for expected, got in zip(*results):
        check(got.numpy(), expected.numpy(), 1e-6)


def test_rotations_and_autocast():
    query, _, value = make(True, torch.float32)
    rotations = torch.randn(HEADS, DIM, 3, 4)
    output = longspan.torch.lsh_attention(query, None, value, rotations=rotations, num_hashes=3, chunk_len=8)
    assert np.array_equal(output.detach().numpy(), longspan.lsh_attention(
        *arrays((query, None, value)), rotations=rotations.numpy(), num_hashes=3, chunk_len=8))
    output.sum().backward()
    assert value.grad.abs().sum() > 0
    with torch.autocast("cpu", torch.bfloat16):
        assert longspan.torch.lsh_attention(query, None, value, **HASHING).dtype == torch.bfloat16
    transposed = longspan.torch.lsh_attention(query.transpose(1, 2), None, value.transpose(1, 2), layout="bhsd", **HASHING)
    assert torch.equal(transposed.transpose(1, 2), longspan.torch.lsh_attention(query, None, value, **HASHING))


def test_double_backward_is_an_error_in_words():
    query, _, value = make(True)
    output = longspan.torch.lsh_attention(query, None, value, **HASHING)
    gradient, = torch.autograd.grad(output.square().sum(), query, create_graph=True)
    with pytest.raises(RuntimeError, match="double backward"):
        gradient.sum().backward()


@pytest.mark.parametrize("options, words", [({"num_buckets": 7}, "7"), ({"dedup": "twice"}, "exact, log-count, none.*twice"),
                                            ({"buckets": torch.zeros(2, 4, 3, 60, dtype=torch.int32)}, "60")])
def test_errors(options, words):
    with pytest.raises(ValueError, match=words):
        longspan.torch.lsh_attention(*make(True), **{**HASHING, **options})
