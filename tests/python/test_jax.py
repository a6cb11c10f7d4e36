# SPDX-License-Identifier: Apache-2.0
# Part of longspan. See LICENSE.
#
# Exact and hashed attention on arrays of JAX: values, gradients, jit, vmap, errors.
import functools

import numpy as np
import pytest
from frameworks import package
from reference import Attention, check, check_lse

import longspan

jax = package("jax")

import jax.numpy as jnp  # noqa: E402
from jax.test_util import check_grads  # noqa: E402

import longspan.jax  # noqa: E402

BATCH, SEQLEN_Q, SEQLEN_K, HEADS, HEADS_KV, DIM, DIM_V = 2, 19, 27, 4, 2, 8, 6


@pytest.fixture(autouse=True)
def float64():
    with jax.enable_x64(True):
        yield


def make(dtype=np.float64, seqlen_q=SEQLEN_Q, seqlen_k=SEQLEN_K, seed=3, leading=(BATCH,)):
    random = np.random.default_rng(seed)
    shapes = ((seqlen_q, HEADS, DIM), (seqlen_k, HEADS_KV, DIM), (seqlen_k, HEADS_KV, DIM_V))
    return [jnp.asarray(random.standard_normal((*leading, *shape)), dtype) for shape in shapes]


def normal(*shape, seed=7):
    return np.random.default_rng(seed).standard_normal(shape)


def arrays(x):
    return jax.tree.map(np.asarray, x)


ROWS, COLUMNS = np.arange(SEQLEN_Q)[:, None], np.arange(SEQLEN_K)
HOLES = np.random.default_rng(5).random((BATCH, 1, SEQLEN_Q, SEQLEN_K)) < 0.7
LENGTHS, OFFSETS = np.array([20, 11]), np.array([4, 8])
CASES = {
    "plain": ({}, {}),
    "causal": ({"mask": longspan.causal("end")}, {"visible": ROWS + SEQLEN_K - SEQLEN_Q >= COLUMNS}),
    "window": ({"mask": longspan.window(5, 2, 3)}, {"visible": (COLUMNS <= ROWS + 5) & (COLUMNS >= ROWS - 2)}),
    "prefix": ({"mask": longspan.prefix(6, 0)}, {"visible": (COLUMNS < 6) | (COLUMNS <= ROWS)}),
    "lengths": ({"mask": longspan.key_lengths(LENGTHS)}, {"visible": COLUMNS < LENGTHS[:, None, None, None]}),
    "list": ({"mask": longspan.key_lengths([20, 11])}, {"visible": COLUMNS < LENGTHS[:, None, None, None]}),
    "dense": ({"mask": HOLES}, {"visible": HOLES}),
    "dense of rank 2": ({"mask": jnp.asarray(HOLES[0, 0])}, {"visible": HOLES[0, 0]}),
    "offset by batch": ({"mask": longspan.causal(OFFSETS)}, {"visible": COLUMNS <= ROWS + OFFSETS[:, None, None, None]}),
    "two masks": ({"mask": longspan.causal() & longspan.key_lengths(LENGTHS), "query_offset": OFFSETS},
                  {"visible": (COLUMNS <= ROWS + OFFSETS[:, None, None, None]) & (COLUMNS < LENGTHS[:, None, None, None])}),
    "softcap": ({"softcap": 1.5}, {"softcap": 1.5}),
    "alibi": ({"alibi_slopes": np.array([0.1, 0.2, 0.3, 0.4]), "query_offset": 2},
              {"alibi_slopes": np.array([0.1, 0.2, 0.3, 0.4]), "query_offset": 2}),
    "scale and chunks": ({"scale": 0.3, "query_chunk": 5, "key_chunk": 8}, {"scale": 0.3}),
}


@pytest.mark.parametrize("name", CASES)
@pytest.mark.parametrize("jit", [False, True])
def test_values_and_gradients_are_those_of_the_formula(name, jit):
    ours, theirs = CASES[name]
    bias, sinks = normal(BATCH, HEADS, SEQLEN_Q, SEQLEN_K), normal(HEADS)
    doutput, dlse = normal(BATCH, SEQLEN_Q, HEADS, DIM_V), normal(BATCH, HEADS, SEQLEN_Q)

    def call(query, key, value, bias, sinks):
        return longspan.jax.attention(query, key, value, bias=bias, sinks=sinks, return_lse=True, **ours)

    inputs = (*make(), jnp.asarray(bias), jnp.asarray(sinks))
    (output, lse), pull = jax.vjp(jax.jit(call) if jit else call, *inputs)
    expected = Attention(*(np.asarray(x) for x in inputs[:3]), bias=bias, sinks=sinks, **theirs)
    check(output, expected.output, 1e-12)
    check_lse(lse, expected.lse, 1e-12, 1e-12)
    for got, formula in zip(pull((jnp.asarray(doutput), jnp.asarray(dlse))), expected.gradients(doutput, dlse)):
        check(got, formula, 1e-11)


@pytest.mark.parametrize("name", ["plain", "two masks", "dense", "alibi", "scale and chunks"])
def test_bits_are_those_of_numpy(name):
    ours, _ = CASES[name]
    inputs = make(np.float32)
    got = longspan.jax.attention(*inputs, return_lse=True, **ours)
    for a, b in zip(got, longspan.attention(*arrays(inputs), return_lse=True, **ours)):
        assert np.array_equal(a, b)


def test_documents():
    query, key, value = make(leading=(1,), seqlen_k=SEQLEN_Q)
    starts = np.array([0, 5, 19])
    got, pull = jax.vjp(lambda *x: longspan.jax.attention(*x, mask=longspan.documents(starts)), query, key, value)
    visible = (ROWS < 5) == (ROWS.T < 5)
    expected = Attention(*arrays((query, key, value)), visible=visible)
    check(got, expected.output, 1e-12)
    for gradient, formula in zip(pull(jnp.ones_like(got)), expected.gradients(np.ones_like(expected.output))):
        check(gradient, formula, 1e-11)


@pytest.mark.parametrize("causal", [False, True])
def test_gradients_are_those_of_jax(causal):
    query, key, value = make(np.float32, SEQLEN_K, SEQLEN_K)
    value = jnp.concatenate([value, value[..., :2]], -1)  # jax.nn takes values as wide as keys
    bias = jnp.asarray(normal(1, HEADS, SEQLEN_K, SEQLEN_K), np.float32)

    def loss(attend):
        return jax.value_and_grad(lambda *x: jnp.sum(jnp.sin(attend(*x))), (0, 1, 2, 3))(query, key, value, bias)

    mask = longspan.causal() if causal else None
    ours = loss(lambda q, k, v, b: longspan.jax.attention(q, k, v, bias=b, mask=mask))
    theirs = loss(lambda q, k, v, b: jax.nn.dot_product_attention(q, k, v, bias=b, is_causal=causal))
    for got, formula in zip(jax.tree.leaves(ours), jax.tree.leaves(theirs)):
        check(got, formula, 5e-6)


@pytest.mark.parametrize("dtype, bound", [(jnp.float32, 2e-6), (jnp.bfloat16, 1e-2), (jnp.float16, 2e-3)])
def test_types(dtype, bound):
    inputs = make(dtype)
    (output, lse), pull = jax.vjp(functools.partial(longspan.jax.attention, return_lse=True), *inputs)
    assert output.dtype == dtype and lse.dtype == jnp.float32
    expected = Attention(*(np.asarray(x, np.float64) for x in inputs))
    check(output, expected.output, bound)
    gradients = pull((jnp.ones_like(output), jnp.zeros_like(lse)))
    for got, formula in zip(gradients, expected.gradients(np.ones_like(expected.output))):
        assert got.dtype == dtype
        check(got, formula, 3 * bound)


def test_numerical_gradients():
    query, key, value = make(seqlen_q=3, seqlen_k=5)
    bias, sinks = jnp.asarray(normal(3, 5)), jnp.asarray(normal(HEADS))

    def call(query, key, value, bias, sinks):
        return longspan.jax.attention(query, key, value, bias=bias, sinks=sinks, softcap=3.0, dropout_p=0.2, seed=4,
                                      mask=longspan.causal("end"), return_lse=True)

    check_grads(call, (query, key, value, bias, sinks), order=1, modes=["rev"])
    check_grads(lambda *x: call(*x)[1], (query, key, value, bias, sinks), order=1, modes=["rev"])
    with pytest.raises(AssertionError):  # it can fail
        check_grads(lambda q, k: call(q, jax.lax.stop_gradient(k), value, bias, sinks)[0], (query, key), order=1,
                    modes=["rev"])


def test_only_what_is_asked_for_is_computed():
    query, key, value = make()
    bias = jnp.zeros((SEQLEN_Q, SEQLEN_K))

    def loss(value):
        return longspan.jax.attention(query, key, value, bias=bias).sum()

    jaxpr = str(jax.make_jaxpr(jax.grad(loss))(value))
    assert "('results', 'value')" in jaxpr and "('results', 'query" not in jaxpr


def test_layout_and_ranks():
    query, key, value = make()
    expected, lse = longspan.jax.attention(query, key, value, return_lse=True)
    turned = [jnp.swapaxes(x, 1, 2) for x in (query, key, value)]
    output, same = longspan.jax.attention(*turned, layout="bhsd", return_lse=True)
    assert np.array_equal(jnp.swapaxes(output, 1, 2), expected) and np.array_equal(same, lse)
    output, same = longspan.jax.attention(query[1], key[1], value[1], return_lse=True)
    assert np.array_equal(output, expected[1]) and np.array_equal(same, lse[1])
    assert np.array_equal(longspan.jax.attention(*(x[1] for x in turned), layout="bhsd"), jnp.swapaxes(expected[1], 0, 1))
    for layout in ("bshd", "bhsd"):
        output, same = longspan.jax.attention(query[1, :, 2], key[1, :, 1], value[1, :, 1], layout=layout, return_lse=True)
        assert np.array_equal(output, expected[1, :, 2]) and np.array_equal(same, lse[1, 2])
    gradient = jax.grad(lambda q: longspan.jax.attention(q, *turned[1:], layout="bhsd").sum())(turned[0])
    check(jnp.swapaxes(gradient, 1, 2), jax.grad(lambda q: longspan.jax.attention(q, key, value).sum())(query), 1e-14)


def test_a_bias_of_a_narrow_type_gets_its_gradient():
    query, key, value = make(jnp.bfloat16)
    bias = jnp.asarray(normal(HEADS, 1, SEQLEN_K), jnp.bfloat16)
    gradient = jax.grad(lambda b: jnp.sum(longspan.jax.attention(query, key, value, bias=b).astype(float) ** 2))(bias)
    assert gradient.dtype == jnp.bfloat16 and gradient.shape == bias.shape and jnp.abs(gradient).sum() > 0


def test_empty_and_seqlen_0():
    query, key, value = make(seqlen_k=0)
    output, lse = longspan.jax.attention(query, key, value, return_lse=True)
    assert np.array_equal(output, np.zeros(output.shape)) and np.all(np.asarray(lse) == -np.inf)
    assert jax.grad(lambda k: longspan.jax.attention(query, k, value).sum())(key).shape == key.shape


def test_dropout_follows_its_seed():
    inputs = make(np.float32)
    call = jax.jit(lambda seed: longspan.jax.attention(*inputs, dropout_p=0.5, seed=seed))

    def expected(seed):
        return longspan.attention(*arrays(inputs), dropout_p=0.5, seed=seed)

    for seed in (jnp.uint32(2**32 - 1), jnp.int32(7), jnp.int64(2**40), jnp.uint64(2**64 - 1)):
        assert np.array_equal(call(seed), expected(int(seed)))
    assert np.array_equal(longspan.jax.attention(*inputs, dropout_p=0.5, seed=2**64 - 1), expected(2**64 - 1))
    assert not np.array_equal(call(jnp.int32(7)), call(jnp.int32(8)))


# What is mapped of query, key, value, bias, sinks, and of the mask's lengths.
MAPPED = {
    "all": (0, 0, 0, 0, None, 0), "tensors": (0, 0, 0, None, None, None), "another axis": (1, 2, 3, 4, None, None),
    "queries": (0, None, None, None, None, None), "sinks": (0, 0, 0, None, 0, None), "lengths": (None,) * 5 + (0,),
}


@pytest.mark.parametrize("name", MAPPED)
@pytest.mark.parametrize("bias_batch", [1, BATCH])
def test_vmap_of_grad_and_grad_of_vmap(name, bias_batch):
    axes = MAPPED[name]
    count = 3
    shapes = [x.shape for x in make()] + [(bias_batch, 1, SEQLEN_Q, SEQLEN_K), (HEADS,)]
    lengths = np.array([[20, 11], [3, 27], [0, 9]])
    inputs = [jnp.asarray(normal(*shape[:axis or 0], *([count] if axis is not None else []), *shape[axis or 0:], seed=n))
              for n, (shape, axis) in enumerate(zip(shapes, axes))] + [lengths if axes[5] == 0 else lengths[0]]

    def loss(query, key, value, bias, sinks, lengths):
        mask = longspan.key_lengths(lengths) & longspan.causal("end")
        output, lse = longspan.jax.attention(query, key, value, bias=bias, sinks=sinks, mask=mask, return_lse=True)
        return jnp.sum(jnp.sin(output)) + jnp.sum(jnp.cos(lse))

    gradients = jax.value_and_grad(loss, (0, 1, 2, 3, 4))
    entries = [gradients(*(x if axis is None else jnp.take(x, n, axis) for x, axis in zip(inputs, axes)))
               for n in range(count)]
    values, by_entry = jax.jit(jax.vmap(gradients, axes))(*inputs)
    check(values, np.array([value for value, _ in entries]), 1e-13)
    for place, got in enumerate(by_entry):
        check(got, np.stack([found[place] for _, found in entries]), 1e-12)
    outside = jax.grad(lambda *x: jax.vmap(loss, axes)(*x, inputs[5]).sum(), (0, 1, 2, 3, 4))(*inputs[:5])
    for place, (got, axis) in enumerate(zip(outside, axes)):
        parts = [found[place] for _, found in entries]
        check(got, np.stack(parts, axis) if axis is not None else np.sum(parts, 0), 1e-12)


def test_vmap_over_batch_and_heads_is_one_call():
    query, key, value = make(np.float32)
    expected = longspan.jax.attention(query, key, value)
    grouped = query.reshape(BATCH, SEQLEN_Q, HEADS_KV, HEADS // HEADS_KV, DIM)

    def of_group(query, key, value):  # [seqlen, 2, dim], [seqlen, dim]
        return longspan.jax.attention(query, key[:, None], value[:, None])

    twice = jax.vmap(jax.vmap(of_group, (1, 1, 1), 1))
    assert np.array_equal(twice(grouped, key, value).reshape(expected.shape), expected)
    jaxpr = str(jax.make_jaxpr(twice)(grouped, key, value))
    assert jaxpr.count("ffi_call[") == 1 and "scan" not in jaxpr


def test_what_is_drawn_by_place_is_drawn_for_each_entry():
    query, key, value = make(np.float32, leading=(3, BATCH))
    call = functools.partial(longspan.jax.attention, dropout_p=0.5, seed=1)
    assert np.array_equal(jax.vmap(call)(query, key, value), jnp.stack([call(*x) for x in zip(query, key, value)]))
    seeds = jnp.arange(3)
    got = jax.vmap(lambda seed: longspan.jax.attention(query[0], key[0], value[0], dropout_p=0.5, seed=seed))(seeds)
    assert np.array_equal(got[2], longspan.jax.attention(query[0], key[0], value[0], dropout_p=0.5, seed=2))


def test_inside_scan_and_checkpoint():
    query, key, value = make(seqlen_q=SEQLEN_K)

    def layers(attend):
        def loss(x):
            step = lambda x, _: (x + attend(x), None)  # noqa: E731
            return jnp.sum(jax.lax.scan(step, x, None, length=3)[0] ** 2)
        return jax.jit(jax.value_and_grad(loss))(query)

    def attend(x):
        return longspan.jax.attention(x, key, jnp.tile(value, 2)[..., :DIM], mask=longspan.causal())

    plain, kept = layers(attend), layers(jax.checkpoint(attend))
    for a, b in zip(plain, kept):
        check(a, b, 1e-14)
    check(plain[1], layers(lambda x: jax.nn.dot_product_attention(x, key, jnp.tile(value, 2)[..., :DIM], is_causal=True))[1],
          1e-5)


LSH = {
    "separate": {"query_offset": "end", "num_hashes": 3, "num_buckets": 4, "chunk_len": 6},
    "shared": {"num_hashes": 2, "num_buckets": (2, 4), "chunk_len": 5, "mask": longspan.causal()},
    "preset": {"num_hashes": 2, "num_buckets": 4, "chunk_len": 5, "preset": "hf-reformer", "seed": 2**63 + 5},
    "window": {"query_offset": "end", "num_buckets": 4, "chunk_len": 6, "local_window": (3, 2), "whole_buckets": True},
    "padding": {"query_offset": "end", "num_buckets": 4, "chunk_len": 6, "mask": longspan.key_lengths([20, 11]),
                "softcap": 2.0, "alibi_slopes": np.array([0.1, 0.2, 0.3, 0.4]), "sinks": normal(HEADS)},
    "rotations": {"query_offset": "end", "num_hashes": 3, "chunk_len": 6, "rotations": normal(HEADS_KV, DIM, 3, 2)},
}


def lsh_inputs(name, dtype=np.float64):
    query, key, value = make(dtype)
    if name in ("shared", "preset"):
        return jnp.concatenate([query, query[:, :8]], 1), None, jnp.tile(value, (1, 1, 2, 1))
    return query, key, value


@pytest.mark.parametrize("name", LSH)
@pytest.mark.parametrize("jit", [False, True])
def test_hashed_attention_is_that_of_numpy(name, jit):
    options = LSH[name]
    inputs = lsh_inputs(name)
    query, key, value = (None if x is None else np.asarray(x) for x in inputs)
    output, lse, buckets = longspan.lsh_attention(query, key, value, return_lse=True, return_buckets=True, **options)
    doutput, dlse = normal(*output.shape), normal(*lse.shape)
    expected = longspan.lsh_attention_backward(doutput, query, key, value, output, lse, dlse=dlse, **options)

    sinks = options.get("sinks", normal(HEADS))
    rest = {name: value for name, value in options.items() if name != "sinks"}
    with_sinks = "sinks" in options

    def call(query, key, value, sinks):
        return longspan.jax.lsh_attention(query, key, value, sinks=sinks if with_sinks else None, return_lse=True,
                                          return_buckets=True, **rest)

    got, pull, found = jax.vjp(lambda *x: (lambda y: (y[:2], y[2]))((jax.jit(call) if jit else call)(*x)), *inputs,
                               jnp.asarray(sinks), has_aux=True)
    assert np.array_equal(got[0], output) and np.array_equal(got[1], lse)
    assert all(np.array_equal(a, b) for a, b in zip(jax.tree.leaves(found), jax.tree.leaves(buckets)))
    gradients = pull((jnp.asarray(doutput), jnp.asarray(dlse)))
    for a, b in zip(gradients[:3], (expected.query, expected.key, expected.value)):
        assert (a is None and b is None) or np.array_equal(a, b)
    if with_sinks:
        assert np.array_equal(gradients[3], expected.sinks)
    again = longspan.jax.lsh_attention(*inputs, buckets=found, **{n: v for n, v in options.items() if n != "rotations"},
                                       **({"num_buckets": 4} if name == "rotations" else {}))
    assert np.array_equal(again, output)


def test_hashed_attention_numerically_and_mapped():
    query, key, value = make(seqlen_q=9, seqlen_k=12)
    call = functools.partial(longspan.jax.lsh_attention, num_hashes=2, num_buckets=2, chunk_len=4, query_offset="end",
                             return_lse=True)
    buckets = longspan.jax.lsh_attention(query, key, value, num_hashes=2, num_buckets=2, chunk_len=4, query_offset="end",
                                         return_buckets=True)[1]
    check_grads(functools.partial(call, buckets=buckets), (query, key, value), order=1, modes=["rev"])

    def loss(query, key, value):
        output, lse = call(query, key, value)
        return jnp.sum(jnp.sin(output)) + jnp.sum(lse)

    gradients = jax.grad(loss, (0, 1, 2))
    expected = gradients(query, key, value)
    mapped = jax.jit(jax.vmap(gradients))
    for got, entry in zip(mapped(query, key, value), expected):
        assert np.array_equal(got, entry)
    assert "scan" not in str(jax.make_jaxpr(jax.vmap(gradients))(query, key, value))


def test_ranks_of_hashed_attention():
    query, key, value = make()
    call = functools.partial(longspan.jax.lsh_attention, num_buckets=4, chunk_len=6, query_offset="end", return_lse=True,
                             return_buckets=True)
    for inputs in ((query[1], key[1], value[1]), (query[0, :, 0], key[0, :, 0], value[0, :, 0])):
        expected = longspan.lsh_attention(*arrays(inputs), num_buckets=4, chunk_len=6, query_offset="end", return_lse=True,
                                          return_buckets=True)
        for got, array in zip(jax.tree.leaves(call(*inputs)), jax.tree.leaves(expected)):
            assert np.array_equal(got, array)


def test_no_gradient_of_gradients():
    query, key, value = make()
    gradient = jax.grad(lambda q: jnp.sum(longspan.jax.attention(q, key, value) ** 2))
    with pytest.raises(TypeError, match="gradient of gradients"):
        jax.grad(lambda q: jnp.sum(gradient(q) ** 2))(query)
    with pytest.raises(TypeError, match="gradient of gradients|forward-mode"):  # or JAX's own words
        jax.jit(jax.hessian(lambda q: jnp.sum(longspan.jax.attention(q, key, value) ** 2)))(query)


def test_threads_change_no_bit():
    inputs = make(np.float32, 300, 300)
    call = jax.jit(functools.partial(longspan.jax.attention, mask=longspan.causal()))
    expected = call(*inputs)
    before = longspan.get_num_threads()
    longspan.set_num_threads(1)
    try:
        assert np.array_equal(call(*inputs), expected)
    finally:
        longspan.set_num_threads(before)


attention = longspan.jax.attention
ERRORS = {
    "types": (lambda q, k, v: attention(q, k.astype(np.float32), v), TypeError, "float64.*float32"),
    "an odd type": (lambda q, k, v: attention(q, k, v.astype(np.complex64)), TypeError, "complex64"),
    "whole numbers": (lambda q, k, v: attention(*(x.astype(np.int32) for x in (q, k, v))), TypeError, "int32.*float32"),
    "shapes": (lambda q, k, v: attention(q, k, v[:, :5]), ValueError, "27.*5"),
    "ranks": (lambda q, k, v: attention(q, k[0], v), ValueError, "rank.*2, 19, 4, 8.*27, 2, 8"),
    "bias": (lambda q, k, v: attention(q, k, v, bias=jnp.zeros((5, 27))), ValueError, "bias.*5, 27"),
    "sinks": (lambda q, k, v: attention(q, k, v, sinks=jnp.zeros(3)), ValueError, "sinks.*3"),
    "a float mask": (lambda q, k, v: attention(q, k, v, mask=jnp.zeros((19, 27))), TypeError, "bias="),
    "a predicate": (lambda q, k, v: attention(q, k, v, mask=longspan.predicate(lambda b, h, i, j: i > j)), TypeError,
                    "predicate.*boolean array"),
    "out": (lambda q, k, v: attention(q, k, v, out=np.zeros((BATCH, 19, HEADS, DIM_V))), TypeError, "out="),
    "slopes that learn": (lambda q, k, v: jax.grad(lambda s: attention(q, k, v, query_offset=0, alibi_slopes=s).sum())(
        jnp.ones(HEADS)), TypeError, "alibi_slopes"),
    "layout": (lambda q, k, v: attention(q, k, v, layout="sbhd"), ValueError, "sbhd"),
    "a keyword": (lambda q, k, v: attention(q, k, v, window=3), TypeError, "window"),
    "no offset": (lambda q, k, v: attention(q, k, v, mask=longspan.causal()), ValueError, "19.*27"),
    "seed": (lambda q, k, v: attention(q, k, v, dropout_p=0.5, seed=-1), ValueError, "seed.*-1"),
    "a float seed": (lambda q, k, v: attention(q, k, v, dropout_p=0.5, seed=jnp.ones(2)), TypeError, "seed.*float"),
    "a float chunk": (lambda q, k, v: attention(q, k, v, key_chunk=8.5), TypeError, "key_chunk must be a whole number.*float"),
    "a word for a scale": (lambda q, k, v: attention(q, k, v, scale="1"), TypeError, "scale must be a number; found str"),
    "no layout": (lambda q, k, v: attention(q, k, v, layout=None), TypeError, "layout must be a word; found NoneType"),
    "hashes": (lambda q, k, v: longspan.jax.lsh_attention(q, k, v, num_hashes=1.5), TypeError, "num_hashes.*found float"),
    "dropout": (lambda q, k, v: attention(q, k, v, dropout_p=1.5), ValueError, "1.5"),
    "a value": (lambda q, k, v: attention(q, k, v, mask=longspan.key_lengths([3, 99])),
                jax.errors.JaxRuntimeError, "INVALID_ARGUMENT.*99"),
    "dedup": (lambda q, k, v: longspan.jax.lsh_attention(q, k, v, dedup="twice", query_offset=0), ValueError, "dedup.*twice"),
    "buckets": (lambda q, k, v: longspan.jax.lsh_attention(q, k, v, buckets=(jnp.zeros((2, 4, 4, 9), int),) * 2,
                                                           num_buckets=4, query_offset=0), ValueError,
                "buckets.*2, 4, 4, 19.*2, 4, 4, 9"),
    "rotations": (lambda q, k, v: longspan.jax.lsh_attention(q, k, v, rotations=jnp.zeros((2, 8, 4, 3)), num_buckets=4,
                                                             query_offset=0), ValueError, "rotations.*2, 8, 4, 2.*2, 8, 4, 3"),
    "a scale for both": (lambda q, k, v: longspan.jax.lsh_attention(q, None, q, scale=2.0), ValueError, "scale"),
}


@pytest.mark.parametrize("name", ERRORS)
@pytest.mark.parametrize("jit", [False, True])
def test_errors(name, jit):
    call, kind, words = ERRORS[name]
    with pytest.raises(kind, match=words):
        jax.block_until_ready((jax.jit(call) if jit else call)(*make()))


def test_float32_when_x64_is_off():
    with jax.enable_x64(False):
        inputs = [np.asarray(x, np.float32) for x in make(np.float32)]
        got = longspan.jax.attention(*inputs, mask=longspan.key_lengths([20, 11]) & longspan.causal(3), dropout_p=0.1,
                                     seed=2**40, scale=0.1 + 1e-9)
        expected = longspan.attention(*inputs, mask=longspan.key_lengths([20, 11]) & longspan.causal(3), dropout_p=0.1,
                                      seed=2**40, scale=0.1 + 1e-9)
        assert np.array_equal(got, expected)
