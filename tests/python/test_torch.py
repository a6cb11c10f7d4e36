# SPDX-License-Identifier: Apache-2.0
# Part of longspan. See LICENSE.
#
# Exact attention on tensors of PyTorch: values, gradients, operators, torch.compile, autocast, threads.
import os
import subprocess
import sys
import threading

import numpy as np
import pytest
from frameworks import package
from reference import Attention, check

import longspan

torch = package("torch")

import longspan.torch  # noqa: E402

BATCH, SEQLEN_Q, SEQLEN_K, HEADS, HEADS_KV, DIM, DIM_V = 2, 19, 27, 4, 2, 8, 6


def make(dtype=torch.float64, grad=True, seqlen_q=SEQLEN_Q, seqlen_k=SEQLEN_K):
    generator = torch.Generator().manual_seed(3)
    shapes = ((BATCH, seqlen_q, HEADS, DIM), (BATCH, seqlen_k, HEADS_KV, DIM), (BATCH, seqlen_k, HEADS_KV, DIM_V))
    return [torch.randn(shape, generator=generator, dtype=dtype).requires_grad_(grad) for shape in shapes]


def eager(query, key, value, hidden=None, bias=None, sinks=None, softcap=0.0):
    """The literal formula in PyTorch, [batch, seqlen, num_heads, dim]: output and lse."""
    query, key, value = (x.transpose(1, 2) for x in (query, key, value))
    key, value = (x.repeat_interleave(query.shape[1] // x.shape[1], 1) for x in (key, value))
    scores = query @ key.transpose(-1, -2) / query.shape[-1] ** 0.5
    if softcap:
        scores = softcap * torch.tanh(scores / softcap)
    if bias is not None:
        scores = scores + bias
    if hidden is not None:
        scores = scores.masked_fill(hidden, -torch.inf)
    if sinks is not None:
        scores = torch.cat([scores, sinks.view(1, -1, 1, 1).expand(*scores.shape[:3], 1)], -1)
    lse = torch.logsumexp(scores, -1)
    weights = torch.exp(scores - lse[..., None])[..., :key.shape[2]]
    return (weights @ value).transpose(1, 2), lse


ROWS, COLUMNS = torch.arange(SEQLEN_Q)[:, None], torch.arange(SEQLEN_K)
HOLES = torch.rand((BATCH, 1, SEQLEN_Q, SEQLEN_K), generator=torch.Generator().manual_seed(5)) < 0.7
CASES = {
    "plain": ({}, {}),
    "causal": ({"mask": longspan.causal("end")}, {"hidden": ROWS + SEQLEN_K - SEQLEN_Q < COLUMNS}),
    "window": ({"mask": longspan.window(5, 2, 3)}, {"hidden": (COLUMNS > ROWS + 5) | (COLUMNS < ROWS - 2)}),
    "lengths": ({"mask": longspan.key_lengths(torch.tensor([20, 11]))},
                {"hidden": COLUMNS >= torch.tensor([20, 11])[:, None, None, None]}),
    "dense": ({"mask": HOLES}, {"hidden": ~HOLES}),
    "by batch": ({"mask": longspan.causal(torch.tensor([4, 8]))},
                 {"hidden": COLUMNS > ROWS + torch.tensor([4, 8])[:, None, None, None]}),
    "predicate": ({"mask": longspan.predicate(lambda b, h, i, j: (i + j) % 3 > 0)},
                  {"hidden": (ROWS + COLUMNS) % 3 == 0}),
    "softcap": ({"softcap": 1.5}, {"softcap": 1.5}),
}


@pytest.mark.parametrize("name", CASES)
def test_gradients_are_those_of_the_formula(name):
    ours, theirs = CASES[name]
    inputs = make()
    bias = torch.randn((BATCH, HEADS, SEQLEN_Q, SEQLEN_K), dtype=torch.float64, requires_grad=True)
    sinks = torch.randn(HEADS, dtype=torch.float64, requires_grad=True)
    output, lse = longspan.torch.attention(*inputs, bias=bias, sinks=sinks, return_lse=True, **ours)
    expected, expected_lse = eager(*inputs, bias=bias, sinks=sinks, **theirs)
    check(output.detach().numpy(), expected.detach().numpy(), 1e-12)
    check(lse.detach().numpy(), expected_lse.detach().numpy(), 1e-12)
    doutput, dlse = torch.randn_like(output), torch.randn_like(lse)
    leaves = (*inputs, bias, sinks)
    got = torch.autograd.grad((output, lse), leaves, (doutput, dlse))
    for gradient, formula in zip(got, torch.autograd.grad((expected, expected_lse), leaves, (doutput, dlse))):
        check(gradient.numpy(), formula.numpy(), 1e-11)


@pytest.mark.parametrize("dtype, bound", [(torch.float32, 2e-6), (torch.bfloat16, 1e-2), (torch.float16, 2e-3)])
def test_types(dtype, bound):
    query, key, value = make(dtype)
    output, lse = longspan.torch.attention(query, key, value, return_lse=True)
    assert output.dtype == dtype and lse.dtype == torch.float32
    output.backward(torch.ones_like(output))
    doubles = [x.detach().double().requires_grad_() for x in (query, key, value)]
    expected, _ = eager(*doubles)
    expected.backward(torch.ones_like(expected))
    check(output.detach().double().numpy(), expected.detach().numpy(), bound)
    for x, y in zip((query, key, value), doubles):
        assert x.grad.dtype == dtype
        check(x.grad.double().numpy(), y.grad.numpy(), 3 * bound)


def test_gradcheck():
    query, key, value = make(seqlen_q=3, seqlen_k=5)
    bias = torch.randn(3, 5, dtype=torch.float64, requires_grad=True)
    sinks = torch.randn(HEADS, dtype=torch.float64, requires_grad=True)

    def call(*inputs):
        return longspan.torch.attention(*inputs[:3], bias=inputs[3], sinks=inputs[4], softcap=3.0, dropout_p=0.2, seed=4,
                                        mask=longspan.causal("end"), return_lse=True)

    assert torch.autograd.gradcheck(call, (query, key, value, bias, sinks))
    assert torch.autograd.gradcheck(lambda *x: call(*x)[1], (query, key, value, bias, sinks))


def test_only_what_is_asked_for_gets_a_gradient():
    query, key, value = make(grad=False)
    value.requires_grad_()
    bias = torch.zeros((SEQLEN_Q, SEQLEN_K), dtype=torch.float64)
    longspan.torch.attention(query, key, value, bias=bias).sum().backward()
    assert query.grad is None and key.grad is None and bias.grad is None and value.grad.abs().sum() > 0


def test_layout_and_ranks():
    query, key, value = make()
    expected, lse = longspan.torch.attention(query, key, value, return_lse=True)
    output, same = longspan.torch.attention(*(x.transpose(1, 2) for x in (query, key, value)), layout="bhsd",
                                            return_lse=True)
    assert torch.equal(output.transpose(1, 2), expected) and torch.equal(same, lse)
    assert torch.equal(longspan.torch.attention(query[1], key[1], value[1]), expected[1])
    assert torch.equal(longspan.torch.attention(query[1, :, 2], key[1, :, 1], value[1, :, 1]), expected[1, :, 2])


def test_a_bias_of_a_narrow_type_gets_its_gradient():
    query, key, value = make(torch.bfloat16)
    bias = torch.randn((HEADS, 1, SEQLEN_K), dtype=torch.bfloat16).requires_grad_()
    longspan.torch.attention(query, key, value, bias=bias).float().square().sum().backward()
    assert bias.grad.dtype == torch.bfloat16 and bias.grad.shape == bias.shape and bias.grad.abs().sum() > 0


OPTIONS = [{}, {"mask": longspan.causal("end")}, {"mask": longspan.key_lengths(torch.tensor([3, 5]))},
           {"mask": torch.rand(4, 6) < 0.8}, {"bias": torch.randn(4, 6, requires_grad=True), "softcap": 2.0},
           {"sinks": torch.randn(HEADS, requires_grad=True), "dropout_p": 0.3, "seed": torch.tensor(9)},
           {"mask": longspan.window(2, 1, torch.tensor([0, 2])), "alibi_slopes": torch.rand(HEADS),
            "query_offset": 2}]


@pytest.mark.parametrize("options", OPTIONS, ids=lambda options: " ".join(options) or "plain")
@pytest.mark.parametrize("grad", [False, True])
def test_opcheck(options, grad):
    from longspan.torch import _attention, _operators

    options = {"mask": None, "bias": None, "alibi_slopes": None, "sinks": None, "query_offset": None, "scale": None,
               "softcap": 0.0, **options}
    arguments, _ = _operators.score_arguments(**options)
    torch.library.opcheck(_attention._operator.operator, (*make(torch.float32, grad, 4, 6), *arguments))


@pytest.mark.parametrize("options", OPTIONS, ids=lambda options: " ".join(options) or "plain")
def test_compile_has_no_graph_breaks_and_changes_nothing(options):
    def model(query, key, value):
        query = query * 1.5
        output, lse = longspan.torch.attention(query, key, value, return_lse=True, **options)
        return output.relu(), lse

    compiled = torch.compile(model, fullgraph=True, backend="aot_eager")
    results = []
    for call in (model, compiled):
        inputs = make(torch.float32, True, 4, 6)
        output, lse = call(*inputs)
        (output.square().sum() + lse.sum()).backward()
        results.append([output.detach(), lse.detach(), *(x.grad for x in inputs)])
    for expected, got in zip(*results):
        check(got.numpy(), expected.numpy(), 1e-6)


def test_compile_by_inductor_with_masks_made_inside_and_lengths_that_change():
    @torch.compile(fullgraph=True, dynamic=True)
    def model(query, key, value, lengths):
        mask = longspan.causal("end") & longspan.key_lengths(lengths) & longspan.window(query.shape[1], 0, "end")
        return longspan.torch.attention(query.sin(), key, value, mask=mask).cos()

    for seqlen in (5, 9, 30):
        query, key, value = make(torch.float32, True, seqlen, seqlen)
        lengths = torch.tensor([seqlen, seqlen - 3])
        output = model(query, key, value, lengths)
        expected = longspan.torch.attention(query.sin(), key, value,
                                            mask=longspan.causal() & longspan.key_lengths(lengths)).cos()
        check(output.detach().numpy(), expected.detach().numpy(), 1e-6)
        got, formula = (torch.autograd.grad(x.sum(), (query, key, value)) for x in (output, expected))
        for a, b in zip(got, formula):
            check(a.numpy(), b.numpy(), 1e-5)


def test_autocast_and_no_grad():
    query, key, value = make(torch.float32)
    with torch.autocast("cpu", torch.bfloat16):
        output = longspan.torch.attention(query, key, value)
    assert output.dtype == torch.bfloat16
    output.sum().backward()
    assert query.grad.dtype == torch.float32 and query.grad.abs().sum() > 0
    with torch.autocast("cpu", torch.bfloat16), torch.no_grad():
        check(longspan.torch.attention(query, key, value, key_chunk=64).float().numpy(), output.detach().float().numpy(), 1e-2)
        assert longspan.torch.attention(query, key, value, query_chunk=16).dtype == torch.bfloat16
        wide = torch.empty_like(output, dtype=torch.float32)
        assert longspan.torch.attention(query, key, value, out=wide) is wide
        check(wide.numpy(), output.detach().float().numpy(), 1e-2)
    with torch.no_grad():
        assert not longspan.torch.attention(query, key, value).requires_grad
    with torch.inference_mode():
        check(longspan.torch.attention(query, key, value).numpy(),
              Attention(*(x.detach().numpy() for x in (query, key, value))).output, 2e-6)


def test_dropout_follows_its_seed():
    query, key, value = make(torch.float32, grad=False)

    def call(seed):
        return longspan.torch.attention(query, key, value, dropout_p=0.5, seed=seed)

    assert torch.equal(call(7), call(torch.tensor(7)))
    assert not torch.equal(call(7), call(8))
    assert torch.equal(call(2**64 - 1), torch.from_numpy(longspan.attention(
        *(x.numpy() for x in (query, key, value)), dropout_p=0.5, seed=2**64 - 1)))


@pytest.mark.parametrize("seed", [-1, 2**64])
def test_seeds_out_of_range(seed):
    query, key, value = make(grad=False)
    with pytest.raises(ValueError, match=rf"seed must be in 0..2\^64 - 1; found {seed}"):
        longspan.torch.attention(query, key, value, dropout_p=0.5, seed=seed)
    with pytest.raises(ValueError, match=rf"seed must be in 0..2\^64 - 1; found {seed}"):
        longspan.torch.lsh_attention(query, key, value, seed=seed)


def test_the_operator_itself_has_the_same_gradients():
    from longspan.torch import _attention, _operators

    results = []
    for call in (_attention._operator, _attention._operator.operator):
        inputs = make()
        bias = torch.ones(SEQLEN_Q, SEQLEN_K, dtype=torch.float64, requires_grad=True)
        arguments, _ = _operators.score_arguments(longspan.key_lengths([20, 11]), bias, None, None, None, None, 0.0)
        output, lse = call(*inputs, *arguments)
        (output.square().sum() + lse.sum()).backward()
        results.append([output.detach(), *(x.grad for x in (*inputs, bias))])
    assert all(torch.equal(a, b) for a, b in zip(*results))


def test_double_backward_is_an_error_in_words():
    query, key, value = make()
    gradient, = torch.autograd.grad(longspan.torch.attention(query, key, value).square().sum(), query, create_graph=True)
    with pytest.raises(RuntimeError, match="double backward"):
        gradient.sum().backward()


def test_transforms_of_torch_func():
    query, key, value = make(grad=False)
    leaf = query.clone().requires_grad_()
    doutput = torch.randn(BATCH, SEQLEN_Q, HEADS, DIM_V, dtype=torch.float64)
    expected, = torch.autograd.grad(longspan.torch.attention(leaf, key, value), leaf, doutput)

    def call(x):
        return longspan.torch.attention(x, key, value)

    assert torch.equal(torch.func.grad(lambda x: (call(x) * doutput).sum())(query), expected)
    _, pullback = torch.func.vjp(call, query)
    with torch.no_grad():
        assert torch.equal(pullback(doutput)[0], expected)
    with pytest.raises(RuntimeError, match="no rule for vmap.*batch"):
        torch.func.vmap(call)(query[None])
    with pytest.raises(RuntimeError, match="no rule for vmap"):
        torch.func.jacrev(call)(query)
    with pytest.raises(NotImplementedError, match="jvp"):
        torch.func.jvp(call, (query,), (query,))
    with torch.autograd.forward_ad.dual_level():
        dual = torch.autograd.forward_ad.make_dual(query, query)
        for mode in (torch.enable_grad, torch.no_grad):
            with mode(), pytest.raises(NotImplementedError, match="jvp"):
                call(dual)
    with pytest.raises(TypeError, match="doutput has no memory of its own"):
        torch.autograd.grad(call(leaf), leaf, doutput.expand(2, *doutput.shape), is_grads_batched=True)
    hashed = {"num_buckets": 4, "chunk_len": 8}
    own, = torch.autograd.grad(longspan.torch.lsh_attention(leaf, None, query, **hashed).square().sum(), leaf)
    assert torch.equal(own, torch.func.grad(
        lambda x: longspan.torch.lsh_attention(x, None, query, **hashed).square().sum())(query))


@pytest.mark.parametrize("record", ["make_fx", "trace"])
def test_what_records_operators_sees_one(record):
    from torch.fx.experimental.proxy_tensor import make_fx

    query, key, value = make(torch.float32, grad=False)

    def call(x):
        return longspan.torch.attention(x, key, value).relu()

    recorded = make_fx(call)(query) if record == "make_fx" else torch.jit.trace(call, query)
    assert torch.equal(recorded(2 * query), call(2 * query))
    assert "longspan" in str(recorded.graph) and "attention" in str(recorded.graph)


def test_a_bias_alone_learns_and_nothing_else_does():
    query, key, value = make(grad=False)
    assert not longspan.torch.attention(query, key, value).requires_grad
    bias = torch.zeros((SEQLEN_Q, SEQLEN_K), dtype=torch.float64, requires_grad=True)
    output = longspan.torch.attention(query, key, value, bias=bias)
    gradient, = torch.autograd.grad(output.sum(), bias, create_graph=True)
    with pytest.raises(RuntimeError, match="double backward"):
        gradient.sum().backward()


def test_a_pytorch_without_the_exchange_of_dlpack():
    code = ("import torch; vars(torch.Tensor).get('__dlpack_c_exchange_api__') and "
            "delattr(torch.Tensor, '__dlpack_c_exchange_api__'); import longspan, longspan.torch; "
            "x = torch.randn(3, 9, 2, 8).bfloat16().transpose(0, 1)[::2].transpose(0, 1); y = x.clone(); "
            "assert torch.equal(longspan.torch.attention(x, y, y), longspan.torch.attention(y, y, y)); "
            "torch.testing.assert_close(longspan.torch.attention(y, y, y).float(), "
            "longspan.torch.attention(*[y.float()] * 3), rtol=2e-2, atol=2e-2)")
    subprocess.run([sys.executable, "-c", code], check=True, env={**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)})


def test_threads_of_python_and_of_torch():
    query, key, value = make(torch.float32, seqlen_q=300, seqlen_k=300)
    expected = longspan.torch.attention(query, key, value, mask=longspan.causal())
    outputs = [None] * 4

    def work(n):
        outputs[n] = longspan.torch.attention(query, key, value, mask=longspan.causal())

    threads = [threading.Thread(target=work, args=(n,)) for n in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert all(torch.equal(output, expected) for output in outputs)
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        assert torch.equal(longspan.torch.attention(query, key, value, mask=longspan.causal()), expected)
    finally:
        torch.set_num_threads(before)


def test_every_call_uses_the_threads_of_torch():
    code = ("import torch, longspan.torch; torch.set_num_threads(1); x = torch.randn(1, 2000, 4, 8); "
            "[longspan.torch.attention(x, x, x, **given) for given in ({}, {'key_chunk': 64}, {'out': torch.empty_like(x)})]")
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path), "LONGSPAN_LOG": "1"}
    log = subprocess.run([sys.executable, "-c", code], check=True, env=environment, capture_output=True, text=True).stderr
    assert log.count("longspan: attention") == log.count(", 1 threads,") == 3


ERRORS = {
    "types": (lambda q, k, v: longspan.torch.attention(q, k.float(), v), (TypeError, RuntimeError), "float64.*float32"),
    "shapes": (lambda q, k, v: longspan.torch.attention(q, k, v[:, :5]), ValueError, "27.*5"),
    "a float mask": (lambda q, k, v: longspan.torch.attention(q, k, v, mask=torch.zeros(19, 27)), TypeError, "bias="),
    "slopes that learn": (lambda q, k, v: longspan.torch.attention(
        q, k, v, query_offset=0, alibi_slopes=torch.ones(HEADS, requires_grad=True)), TypeError, "alibi_slopes"),
    "another device": (lambda q, k, v: longspan.torch.attention(*(x.to("meta") for x in (q, k, v)), mask=HOLES.numpy(),
                                                                key_chunk=5), TypeError, "meta.*CPU"),
    "out and gradients": (lambda q, k, v: longspan.torch.attention(q, k, v, out=torch.empty(BATCH, 19, HEADS, DIM_V)),
                          TypeError, "requires grad.*longspan.torch"),
    "arrays that learn": (lambda q, k, v: longspan.attention(q, k, v), TypeError, "query requires grad"),
    "a word for a scale": (lambda q, k, v: longspan.torch.attention(q, k, v, scale="1"), TypeError, "scale must be a number"),
    "a float chunk": (lambda q, k, v: longspan.torch.attention(q, k, v, key_chunk=8.0), TypeError, "key_chunk must be.*float"),
    "a float seed": (lambda q, k, v: longspan.torch.attention(q, k, v, seed=0.5), TypeError, "seed must be.*found float"),
    "hashes": (lambda q, k, v: longspan.torch.lsh_attention(q, k, v, num_hashes=1.5), TypeError, "num_hashes must be.*float"),
    "layout": (lambda q, k, v: longspan.torch.attention(q, k, v, layout="sbhd"), ValueError, "sbhd"),
    "a keyword": (lambda q, k, v: longspan.torch.attention(q, k, v, window=3), TypeError, "window"),
    "no offset": (lambda q, k, v: longspan.torch.attention(q, k, v, mask=longspan.causal()), ValueError, "19.*27"),
}


@pytest.mark.parametrize("name", ERRORS)
def test_errors(name):
    call, kind, words = ERRORS[name]
    with pytest.raises(kind, match=words):
        call(*make())


def test_tensors_are_read_where_they_lie():
    query, key, value = make(torch.float32, grad=False)
    expected = longspan.attention(*(x.numpy() for x in (query, key, value)))
    for change in (lambda x: x.permute(3, 0, 2, 1).contiguous().permute(1, 3, 2, 0),
                   lambda x: torch.stack([x, x], -1)[..., 0]):
        output = longspan.attention(*(change(x) for x in (query, key, value)))
        assert isinstance(output, torch.Tensor) and np.array_equal(output.numpy(), expected)
    with pytest.raises(TypeError, match="resolve_neg"):
        longspan.attention(torch.complex(query, query).conj().imag, key, value)
    with pytest.raises(TypeError, match="sparse"):
        longspan.attention(query.to_sparse(), key, value)
    with pytest.raises(TypeError, match="complex64"):
        longspan.attention(torch.complex(query, query), key, value)
