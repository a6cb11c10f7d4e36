# SPDX-License-Identifier: Apache-2.0
# Part of longspan. See LICENSE.
#
# longspan under the signature of torch.nn.functional.scaled_dot_product_attention, and in its place.
import pytest
from frameworks import package
from reference import check

torch = package("torch")

import torch.nn.functional as F  # noqa: E402, N812

import longspan.torch  # noqa: E402

ours = longspan.torch.scaled_dot_product_attention
theirs = F.scaled_dot_product_attention


def make(q, k, v=None, dtype=torch.float64):
    torch.manual_seed(2)
    return [torch.randn(shape, dtype=dtype, requires_grad=True) for shape in (q, k, v or k)]


def boolean(*shape):
    mask = torch.rand(shape, generator=torch.Generator().manual_seed(4)) < 0.7
    mask[..., 0] = True
    return mask


def floating(*shape):
    return torch.randn(shape, dtype=torch.float64, requires_grad=True)


Q4, K4 = (2, 4, 9, 8), (2, 4, 13, 8)
CASES = {
    "rank 4": (Q4, K4, None, {}),
    "rank 3": (Q4[1:], K4[1:], None, {}),
    "rank 2": (Q4[2:], K4[2:], None, {}),
    "rank 5": ((3, *Q4), (3, *K4), None, {"is_causal": True}),
    "head_dim_v": (Q4, K4, (2, 4, 13, 6), {}),
    "causal, top left": (Q4, K4, None, {"is_causal": True}),
    "causal, more queries": (K4, Q4, None, {"is_causal": True}),
    "groups": (Q4, (2, 2, 13, 8), None, {"enable_gqa": True}),
    "a batch that broadcasts": (Q4, (1, 4, 13, 8), None, {}),
    "scale": (Q4, K4, None, {"scale": 0.3}),
    "boolean": (Q4, K4, None, {"attn_mask": boolean(9, 13)}),
    "boolean by batch": (Q4, K4, None, {"attn_mask": boolean(2, 1, 9, 13)}),
    "padding": (Q4, K4, None, {"attn_mask": boolean(2, 1, 1, 13)}),
    "boolean of rank 3": (Q4, K4, None, {"attn_mask": boolean(4, 9, 13)}),
    "boolean of rank 5": ((3, *Q4), (3, *K4), None, {"attn_mask": boolean(3, 2, 1, 9, 13)}),
    "boolean by the second axis": ((3, *Q4), (3, *K4), None, {"attn_mask": boolean(2, 1, 9, 13)}),
    "floating by the second axis": ((3, *Q4), (3, *K4), None, {"attn_mask": floating(2, 4, 9, 13)}),
    "boolean of all batches": ((3, *Q4), (3, *K4), None, {"attn_mask": boolean(1, 4, 9, 13)}),
    "boolean of rank 5 that broadcasts": ((3, *Q4), (3, *K4), None, {"attn_mask": boolean(3, 1, 1, 9, 13)}),
    "rank 3 with a mask": (Q4[1:], K4[1:], None, {"attn_mask": boolean(4, 9, 13)}),
    "floating": (Q4, K4, None, {"attn_mask": floating(2, 4, 9, 13)}),
    "floating that broadcasts": (Q4, K4, None, {"attn_mask": floating(9, 13)}),
}


@pytest.mark.parametrize("name", CASES)
def test_values_and_gradients_are_theirs(name):
    q, k, v, options = CASES[name]
    inputs = make(q, k, v)
    if name == "a batch that broadcasts":
        expected = theirs(inputs[0], *(x.expand(2, *x.shape[1:]) for x in inputs[1:]), **options)
    else:
        expected = theirs(*inputs, **options)
    output = ours(*inputs, **options)
    check(output.detach().numpy(), expected.detach().numpy(), 1e-12)
    leaves = [x for x in (*inputs, options.get("attn_mask")) if x is not None and x.requires_grad]
    doutput = torch.randn_like(output)
    for a, b in zip(*(torch.autograd.grad(x, leaves, doutput) for x in (output, expected))):
        check(a.numpy(), b.numpy(), 1e-11)


def test_dropout_follows_torchs_generator():
    query, key, value = make((1, 2, 200, 8), (1, 2, 200, 8))
    torch.manual_seed(1)
    first = ours(query, key, torch.ones_like(value), dropout_p=0.25)
    second = ours(query, key, torch.ones_like(value), dropout_p=0.25)
    torch.manual_seed(1)
    assert torch.equal(first, ours(query, key, torch.ones_like(value), dropout_p=0.25))
    assert not torch.equal(first, second) and abs(first.mean() - 1) < 0.02 and (first - 1).abs().mean() > 1e-3


def test_errors():
    query, key, value = make(Q4, K4)
    with pytest.raises(ValueError, match="exclude each other"):
        ours(query, key, value, attn_mask=boolean(9, 13), is_causal=True)
    with pytest.raises(ValueError, match="4 heads, key has 2.*enable_gqa"):
        ours(query, key[:, :2], value[:, :2])


@pytest.fixture
def calls(monkeypatch):
    """How often longspan's function was called."""
    from longspan.torch import _sdpa

    counted = []

    def count(*arguments, **options):
        counted.append(arguments)
        return ours(*arguments, **options)

    monkeypatch.setattr(_sdpa, "scaled_dot_product_attention", count)
    return counted


def test_enable_is_undone():
    with longspan.torch.enable():
        assert F.scaled_dot_product_attention is not theirs
        with longspan.torch.enable():
            pass
        assert F.scaled_dot_product_attention is not theirs
    assert F.scaled_dot_product_attention is theirs
    fast = torch.backends.mha.get_fastpath_enabled()
    longspan.torch.enable()
    longspan.torch.disable()
    longspan.torch.disable()
    assert F.scaled_dot_product_attention is theirs and torch.backends.mha.get_fastpath_enabled() == fast


@pytest.mark.parametrize("training", [True, False])
def test_a_transformer_layer_gains(calls, training):
    torch.manual_seed(0)
    layer = torch.nn.TransformerEncoderLayer(32, 4, 64, dropout=0.0, batch_first=True).train(training)
    x = torch.randn(2, 11, 32)
    padding = torch.arange(11) >= torch.tensor([11, 7])[:, None]
    expected = layer(x, src_key_padding_mask=padding)
    with longspan.torch.enable():
        output = layer(x, src_key_padding_mask=padding)
    assert len(calls) == 1
    check(output[~padding].detach().numpy(), expected[~padding].detach().numpy(), 2e-6)


def test_multihead_attention_gains_and_learns(calls):
    torch.manual_seed(0)
    layer = torch.nn.MultiheadAttention(32, 4, batch_first=True)
    x = torch.randn(2, 11, 32)
    gradients = []
    for _ in range(2):
        output, _ = layer(x, x, x, need_weights=False, is_causal=True,
                          attn_mask=torch.nn.Transformer.generate_square_subsequent_mask(11))
        gradients.append(torch.autograd.grad(output.square().sum(), list(layer.parameters())))
        longspan.torch.enable()
    longspan.torch.disable(), longspan.torch.disable()
    assert len(calls) == 1
    for a, b in zip(*gradients):
        check(a.numpy(), b.numpy(), 1e-5)


@pytest.mark.parametrize("compiled", [False, True])
def test_a_vision_model_gains(calls, compiled):
    transformers = package("transformers")
    torch.manual_seed(0)
    config = transformers.ViTConfig(hidden_size=32, num_hidden_layers=2, num_attention_heads=4, intermediate_size=64,
                                    image_size=32, patch_size=8, attn_implementation="sdpa")
    model = transformers.ViTModel(config).eval()
    pixels = torch.randn(2, 3, 32, 32)
    with torch.no_grad():
        expected = model(pixels).last_hidden_state
        with longspan.torch.enable():
            call = torch.compile(model, backend="aot_eager") if compiled else model
            output = call(pixels).last_hidden_state
    if not compiled:
        assert len(calls) == 2
    check(output.numpy(), expected.numpy(), 5e-6)


def test_compiled_graphs_hold_the_operator():
    graphs = []

    def keep(graph, inputs):
        graphs.append(str(graph.graph))
        return graph

    def model(x):
        return F.scaled_dot_product_attention(x, x, x, is_causal=True)

    x = torch.randn(1, 2, 9, 8)
    with longspan.torch.enable():
        output = torch.compile(model, backend=keep, fullgraph=True)(x)
    assert len(graphs) == 1 and "longspan.attention" in graphs[0]
    check(output.numpy(), theirs(x, x, x, is_causal=True).numpy(), 2e-6)


def test_what_is_not_ours_stays_theirs(calls):
    x = torch.randn(1, 2, 9, 8, device="meta")
    with longspan.torch.enable():
        assert F.scaled_dot_product_attention(x, x, x).device.type == "meta"
    assert not calls


def test_transforms_stay_theirs(calls):
    query, key, value = (x.detach() for x in make((3, *Q4), (3, *K4)))

    def call(x):
        return F.scaled_dot_product_attention(x, key[0], value[0], is_causal=True)

    def along(x):
        with torch.autograd.forward_ad.dual_level():
            output = call(torch.autograd.forward_ad.make_dual(x, torch.ones_like(x)))
            return torch.autograd.forward_ad.unpack_dual(output).tangent

    def transformed():
        return [torch.func.vmap(call)(query), along(query[0]),
                *torch.func.jvp(call, (query[0],), (torch.ones_like(query[0]),)),
                torch.func.grad(lambda x: call(x).sum())(query[0])]

    math = torch.nn.attention.SDPBackend.MATH  # the one of theirs that has forward mode
    with torch.nn.attention.sdpa_kernel(math):
        expected = transformed()
    with torch.nn.attention.sdpa_kernel(math), longspan.torch.enable():
        for a, b in zip(transformed(), expected, strict=True):
            check(a.numpy(), b.numpy(), 1e-12)
    assert not calls
