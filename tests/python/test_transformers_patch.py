# SPDX-License-Identifier: Apache-2.0
# Part of longspan. See LICENSE.
#
# patch(): models of transformers with random weights, before and after: outputs, gradients, generate(), refusals, undo.
import copy
import pickle

import pytest
from frameworks import package

import longspan

torch = package("torch")
transformers = package("transformers")

import longspan.transformers  # noqa: E402

VOCABULARY = 50


@pytest.fixture(autouse=True)
def one_thread():
    """Operations this small are slower with more."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


def reformer(model="ReformerModel", **options):
    options = {"attn_layers": ["lsh", "local", "lsh"], "hidden_size": 16, "attention_head_size": 8,
               "num_attention_heads": 2, "feed_forward_size": 24, "lsh_attn_chunk_length": 4,
               "local_attn_chunk_length": 4, "num_hashes": 2,
               "num_buckets": 4, "hash_seed": 5, "axial_pos_embds": False, "max_position_embeddings": 64,
               "vocab_size": VOCABULARY, "is_decoder": True, "hidden_dropout_prob": 0.0,
               "lsh_attention_probs_dropout_prob": 0.0, "local_attention_probs_dropout_prob": 0.0,
               "pad_token_id": 0, "eos_token_id": 2, **options}
    return transformers.ReformerConfig(**options), getattr(transformers, model)


def gptj(model="GPTJForCausalLM", **options):
    return transformers.GPTJConfig(**{
        "vocab_size": VOCABULARY, "n_positions": 64, "n_embd": 32, "n_layer": 2, "n_head": 4, "rotary_dim": 4,
        "resid_pdrop": 0.0, "embd_pdrop": 0.0, "attn_pdrop": 0.0, "bos_token_id": 1, "eos_token_id": 2,
        "pad_token_id": 0, **options}), getattr(transformers, model)


def gpt_neo(model="GPTNeoForCausalLM", **options):
    return transformers.GPTNeoConfig(**{
        "vocab_size": VOCABULARY, "max_position_embeddings": 64, "hidden_size": 32, "num_layers": 2, "num_heads": 4,
        "attention_types": [[["global", "local"], 1]], "window_size": 3, "resid_dropout": 0.0, "embed_dropout": 0.0,
        "attention_dropout": 0.0, "bos_token_id": 1, "eos_token_id": 2, "pad_token_id": 0,
        **options}), getattr(transformers, model)


def bloom(model="BloomForCausalLM", **options):
    return transformers.BloomConfig(**{
        "vocab_size": VOCABULARY, "hidden_size": 32, "n_layer": 2, "n_head": 4, "hidden_dropout": 0.0,
        "attention_dropout": 0.0, "bos_token_id": 1, "eos_token_id": 2, "pad_token_id": 0,
        **options}), getattr(transformers, model)


def perceiver(model="PerceiverForMaskedLM", **options):
    return transformers.PerceiverConfig(**{
        "num_latents": 7, "d_latents": 24, "d_model": 16, "num_blocks": 1, "num_self_attends_per_block": 2,
        "num_self_attention_heads": 4, "num_cross_attention_heads": 2, "qk_channels": 8, "v_channels": 24,
        "vocab_size": VOCABULARY, "max_position_embeddings": 23, "attention_probs_dropout_prob": 0.0,
        **options}), getattr(transformers, model)


def make(kind, dtype=torch.float32, train=False):
    config, cls = kind
    torch.manual_seed(3)
    model = cls(config)
    for parameter in model.parameters():  # far enough from uniform attention to tell one mask from another
        parameter.data.add_(torch.randn_like(parameter), alpha=0.2)
    return model.to(dtype).train(train)


def tokens(seqlen, batch=2):
    return torch.randint(3, VOCABULARY, (batch, seqlen), generator=torch.Generator().manual_seed(seqlen))


def padding(seqlen, right=(0, 3), left=(0, 0)):
    mask = torch.ones((2, seqlen), dtype=torch.long)
    for row, count in enumerate(right):
        mask[row, seqlen - count:] = 0
    for row, count in enumerate(left):
        mask[row, :count] = 0
    return mask


def run(model, inputs, visible=None, grad=True):
    """The visible rows of the first output; and the gradient of every parameter."""
    torch.manual_seed(11)
    model.zero_grad()
    with torch.set_grad_enabled(grad):
        output = model(**inputs)[0]
        if visible is not None:
            output = output[visible.bool()]
    if not grad:
        return output, {}
    weights = torch.linspace(-1, 1, output.numel(), dtype=output.dtype).sin().view(output.shape)
    (output * weights).sum().backward()
    return output.detach(), {name: x.grad.clone() for name, x in model.named_parameters() if x.grad is not None}


def near(got, expected, bound):
    """Relative L2; a NaN fails, and so do zeros in place of an answer."""
    difference, size = (got - expected).norm(), expected.norm()
    assert got.shape == expected.shape and size > 0 and difference <= bound * size, f"{difference / size:.3g} > {bound}"


def same(model, inputs, visible=None, grad=True):
    bound = 1e-9 if next(model.parameters()).dtype == torch.float64 else 3e-5
    expected, expected_gradients = run(model, inputs, visible, grad)
    replaced = longspan.transformers.patch(model)
    got, gradients = run(model, inputs, visible, grad)
    assert not torch.equal(got, expected), "the patched model computes with the very same code"
    near(got, expected, bound)
    compare_gradients(gradients, expected_gradients, 10 * bound)
    replaced.undo()
    assert torch.equal(run(model, inputs, visible, grad)[0], expected)


def compare_gradients(gradients, expected, bound):
    """One that is zero but for rounding (the bias of a key) is compared with the largest."""
    assert gradients.keys() == expected.keys()
    largest = max((x.norm() for x in expected.values()), default=0)
    for name, gradient in gradients.items():
        difference = (gradient - expected[name]).norm()
        assert difference <= bound * max(expected[name].norm(), 1e-3 * largest), name


DTYPES = pytest.mark.parametrize("dtype", [torch.float32, torch.float64], ids=["float32", "float64"])


# -- Reformer ----------------------------------------------------------------------------------------------------------

REFORMERS = {
    "decoder": {}, "encoder": {"is_decoder": False},
    "one round": {"num_hashes": 1}, "factors": {"num_buckets": [2, 4]}, "automatic": {"num_buckets": None},
    "chunks after": {"is_decoder": False, "lsh_num_chunks_after": 1, "local_num_chunks_after": 1},
    "no neighbours": {"lsh_num_chunks_before": 0, "local_num_chunks_before": 0},
    "farther": {"lsh_num_chunks_before": 2, "local_num_chunks_before": 3},
    "two chunks": {"is_decoder": False, "lsh_attn_chunk_length": 12, "local_attn_chunk_length": 12, "num_hashes": 1,
                   "lsh_num_chunks_after": 1, "local_num_chunks_after": 1},  # the other one is there twice
    "lsh only": {"attn_layers": ["lsh", "lsh"]}, "local only": {"attn_layers": ["local", "local"]},
    "unequal chunks": {"local_attn_chunk_length": 8},
}


@pytest.mark.parametrize("name", REFORMERS)
@pytest.mark.parametrize("train", [False, True], ids=["eval", "train"])
def test_reformer(name, train):
    model = make(reformer(**REFORMERS[name]), torch.float64, train)
    # the gradients come from the reversible layers, which go backward in training only
    same(model, {"input_ids": tokens(24)}, grad=train)
    same(model, {"input_ids": tokens(24), "attention_mask": padding(24)}, padding(24), grad=train)


def test_reformer_with_rotations_drawn_anew():
    same(make(reformer(hash_seed=None), torch.float64), {"input_ids": tokens(24)}, grad=False)


@pytest.mark.parametrize("name", ["decoder", "encoder", "one round"])
def test_reformer_in_float32_is_nearer_to_float64_than_its_own_code(name, monkeypatch):
    """A row that sees only itself has lse -1e5 a round, where float32 has steps of 1/128: theirs is off by 3e-4."""
    draw = torch.randn
    monkeypatch.setattr(torch, "randn", lambda shape, dtype, **options: draw(shape, dtype=torch.float32).to(dtype))
    inputs = {"input_ids": tokens(24)}
    exact, exact_gradients = run(make(reformer(**REFORMERS[name]), torch.float64, train=True), inputs)
    model = make(reformer(**REFORMERS[name]), train=True)
    theirs, _ = run(model, inputs)
    longspan.transformers.patch(model)
    ours, gradients = run(model, inputs)
    near(ours.double(), exact, 2e-6)
    near(theirs.double(), exact, 1e-3)
    compare_gradients(gradients, exact_gradients, 2e-5)


@pytest.mark.parametrize("name", ["decoder", "encoder", "chunks after", "lsh only"])
@pytest.mark.parametrize("seqlen", [2, 3, 4, 8])
def test_reformer_short(name, seqlen):
    same(make(reformer(**REFORMERS[name]), torch.float64), {"input_ids": tokens(seqlen)}, grad=False)


@pytest.mark.parametrize("name", ["decoder", "encoder", "automatic", "chunks after", "lsh only", "local only",
                                  "factors"])
@pytest.mark.parametrize("seqlen", [5, 22, 23])
def test_reformer_of_any_length(name, seqlen):
    """In training theirs wants a multiple of the chunks, so it gets padding there."""
    padded = -(-seqlen // 4) * 4
    mask = padding(padded, right=(padded - seqlen, padded - seqlen))
    ids = tokens(padded)
    for train in (False, True):
        model = make(reformer(**REFORMERS[name]), torch.float64, train)
        if train:
            expected, expected_gradients = run(model, {"input_ids": ids, "attention_mask": mask}, mask)
            with pytest.raises(ValueError, match="multiple"):
                model(ids[:, :seqlen])
        else:
            expected, expected_gradients = run(model, {"input_ids": ids[:, :seqlen]}, grad=False)
        longspan.transformers.patch(model)
        shapes = []
        hook = model.encoder.layers[0].register_forward_hook(lambda m, args, kwargs, out: shapes.append(
            kwargs["hidden_states"].shape), with_kwargs=True)
        got, gradients = run(model, {"input_ids": ids[:, :seqlen]}, grad=train)
        hook.remove()
        assert shapes[0][1] == seqlen, "it was padded"
        near(got.view(expected.shape), expected, 1e-9)
        if train:
            weights = torch.ones_like(ids)[:, :seqlen].bool()  # the same loss as with padding
            got, gradients = run(model, {"input_ids": ids[:, :seqlen]}, weights)
            compare_gradients(gradients, expected_gradients, 1e-8)


@pytest.mark.parametrize("seqlen", [12, 3, 10])
@pytest.mark.parametrize("num_hashes", [1, 3])
def test_reformer_generates(seqlen, num_hashes):
    model = make(reformer("ReformerModelWithLMHead", num_hashes=num_hashes), torch.float64)
    options = {"max_new_tokens": 14, "do_sample": False, "use_cache": True, "return_dict_in_generate": True,
               "output_logits": True, "eos_token_id": None}
    expected = model.generate(tokens(seqlen, batch=1), **options)
    longspan.transformers.patch(model)
    got = model.generate(tokens(seqlen, batch=1), **options)
    assert torch.equal(got.sequences, expected.sequences)
    near(torch.stack(got.logits), torch.stack(expected.logits), 1e-6)  # generate() gives them in float32


def test_reformer_drops_the_same_weights_when_it_recomputes():
    model = make(reformer(attn_layers=["local", "local"], local_attention_probs_dropout_prob=0.4), torch.float64,
                 train=True)
    longspan.transformers.patch(model)
    outputs = []
    model.encoder.layers[1].attention.self_attention.register_forward_hook(
        lambda module, args, output: outputs.append(output.hidden_states.detach()))
    run(model, {"input_ids": tokens(24)})
    near(outputs[1], outputs[0], 1e-9)
    run(model, {"input_ids": tokens(24)})
    assert len(outputs) == 4 and not torch.allclose(outputs[2], outputs[0])


def test_reformer_has_no_dropout_of_hashed_attention():
    model = make(reformer(lsh_attention_probs_dropout_prob=0.1), train=True)
    longspan.transformers.patch(model)
    with pytest.raises(ValueError, match="LSHSelfAttention.*lsh_attention_probs_dropout_prob"):
        model(tokens(24))
    assert model.eval()(tokens(24))[0].isfinite().all()


GLOBAL = {"attention_types": [[["global", "global"], 1]]}


@pytest.mark.parametrize("kind, attention, dtype", [
    (gptj, "eager", torch.float32),  # which is float32 inside
    (gptj, "sdpa", torch.float32), (gptj, "sdpa", torch.float64),
    (gpt_neo, "eager", torch.float32), (bloom, "eager", torch.float32)], ids=str)
def test_causal_decoders(kind, attention, dtype):
    model = make(kind(attn_implementation=attention), dtype, train=True)
    for mask in (padding(13), padding(13, left=(4, 0), right=(0, 0))):
        same(model, {"input_ids": tokens(13), "attention_mask": mask}, mask)
    same(model, {"input_ids": tokens(13)})
    embeddings = model.get_input_embeddings()(tokens(9)).detach()
    same(model, {"inputs_embeds": embeddings})


DYNAMIC, STATIC = ({}, {"use_cache": False}, {"num_beams": 3}), {"cache_implementation": "static"}


@pytest.mark.parametrize("kind, options", [
    *((kind, options) for kind in (gptj, gpt_neo, bloom) for options in DYNAMIC),
    (gptj, STATIC), (lambda: gpt_neo(**GLOBAL), STATIC)], ids=str)
def test_causal_decoders_generate(kind, options):
    model = make(kind())
    ids, mask = tokens(9), padding(9, right=(0, 0), left=(3, 0))
    options = {"max_new_tokens": 8, "do_sample": False, "return_dict_in_generate": True, "output_logits": True,
               "attention_mask": mask, "eos_token_id": None, "disable_compile": True, **options}
    expected = model.generate(ids, **options)
    longspan.transformers.patch(model)
    got = model.generate(ids, **options)
    assert torch.equal(got.sequences, expected.sequences)
    near(torch.stack(got.logits), torch.stack(expected.logits), 3e-5)


def test_a_static_cache_says_nothing_of_positions():
    model = make(bloom())
    longspan.transformers.patch(model)
    with pytest.raises(ValueError, match="BloomAttention.*static cache"):
        model.generate(tokens(9), max_new_tokens=2, disable_compile=True, **STATIC)


def test_a_window_in_a_static_cache_is_refused():
    """GPT-Neo's own answer there is not that of a dynamic cache."""
    model = make(gpt_neo())
    options = {"max_new_tokens": 8, "do_sample": False, "eos_token_id": None, "disable_compile": True}
    assert not torch.equal(model.generate(tokens(9), **options), model.generate(tokens(9), **options, **STATIC))
    longspan.transformers.patch(model)
    with pytest.raises(ValueError, match="GPTNeoSelfAttention.*static cache"):
        model.generate(tokens(9), **options, **STATIC)


@pytest.mark.parametrize("kind", [gptj, gpt_neo, bloom])
def test_no_mask_of_all_pairs_is_made(kind):
    model = make(kind(attn_implementation="eager"))
    longspan.transformers.patch(model)
    shapes = []
    model.transformer.h[0].register_forward_pre_hook(
        lambda module, args, kwargs: shapes.append(getattr(kwargs["attention_mask"], "shape", None)), with_kwargs=True)
    model(tokens(13), attention_mask=padding(13))
    model(tokens(13))
    assert shapes == ([(2, 13), None] if kind is bloom else [(2, 1, 1, 13), (1, 1, 1, 13)])


def test_a_mask_of_all_pairs_is_followed():
    model = make(gptj(attn_implementation="eager"))
    visible = (torch.rand((2, 1, 13, 13)) < 0.5) | torch.eye(13, dtype=torch.bool)
    hidden = torch.zeros(visible.shape).masked_fill(~visible, torch.finfo(torch.float32).min)
    same(model, {"input_ids": tokens(13), "attention_mask": hidden})


@pytest.mark.parametrize("options", [{}, {"qk_channels": None, "v_channels": None},
                                     {"cross_attention_shape_for_attention": "q"}], ids=str)
@DTYPES
def test_perceiver(options, dtype):
    model = make(perceiver(**options), dtype, train=True)
    mask = padding(23, right=(5, 9))
    same(model, {"inputs": tokens(23), "attention_mask": mask}, mask)
    same(model, {"inputs": tokens(23)})


@pytest.mark.parametrize("kind", [gptj, gpt_neo, bloom, perceiver, lambda: reformer(attn_layers=["local"])])
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16], ids=str)
def test_narrow_types(kind, dtype):
    model = make(kind(), dtype)
    longspan.transformers.patch(model)
    inputs = {"inputs" if kind is perceiver else "input_ids": tokens(23)}
    output, _ = run(model, inputs, grad=False)
    assert output.dtype == dtype
    near(output.float(), run(model.float(), inputs, grad=False)[0], 0.02)


def test_dropout_is_right_on_average_and_follows_the_seed():
    model = make(perceiver(attention_probs_dropout_prob=0.3), torch.float64)
    decoder = make(gptj(attn_pdrop=0.3), torch.float64)
    layers = make(reformer(local_attention_probs_dropout_prob=0.3), torch.float64)
    angles = torch.rand((1, 9, 2), dtype=torch.float64)
    states = torch.randn((2, 9, 24), dtype=torch.float64)
    for module, call in (
            (model.perceiver.encoder.self_attends[0].attention.self, lambda m: m(states)[0]),
            (decoder.transformer.h[0].attn, lambda m: m(torch.cat([states, states[..., :8]], -1), (angles, angles))[0]),
            (layers.encoder.layers[1].attention.self_attention, lambda m: m(states[..., :16]).hidden_states)):
        longspan.transformers.patch(module)
        expected = call(module)
        module.train()
        torch.manual_seed(1)
        first = call(module)
        assert not torch.equal(call(module), first)
        torch.manual_seed(1)
        assert torch.equal(call(module), first)
        mean = sum(call(module) for _ in range(400)) / 400
        assert 0.2 < (first - expected).norm() / expected.norm(), "nothing was dropped"
        near(mean, expected, 0.08)


# -- what patch() itself does ------------------------------------------------------------------------------------------

def test_what_was_replaced_prints_as_lines():
    model = make(gptj())
    replaced = longspan.transformers.patch(model)
    lines = str(replaced).splitlines()
    assert lines == [f"{entry.name}: {entry.was} -> {entry.now}" for entry in replaced]
    assert [entry.name for entry in replaced] == ["transformer", "transformer.h.0.attn", "transformer.h.1.attn"]
    assert replaced[1].was == "GPTJAttention" and "longspan" in replaced[1].now


@pytest.mark.parametrize("kind", [reformer, gptj, gpt_neo, bloom, perceiver])
def test_twice_is_once_and_undo_is_complete(kind):
    model = make(kind())
    before = [type(module) for module in model.modules()]
    replaced = longspan.transformers.patch(model)
    after = [type(module) for module in model.modules()]
    assert len(replaced) > 0 and after != before
    again = longspan.transformers.patch(model)
    assert len(again) == 0 and str(again) == "nothing replaced"
    assert [type(module) for module in model.modules()] == after
    again.undo()
    assert [type(module) for module in model.modules()] == after
    replaced.undo()
    replaced.undo()
    assert [type(module) for module in model.modules()] == before
    assert not any(module._forward_pre_hooks for module in model.modules())


def test_a_module_of_a_model():
    model = make(reformer(attn_layers=["lsh", "lsh"]), torch.float64)
    expected, _ = run(model, {"input_ids": tokens(24)}, grad=False)
    replaced = longspan.transformers.patch(model.encoder.layers[1])
    assert [entry.name for entry in replaced] == ["attention.self_attention"]
    near(run(model, {"input_ids": tokens(24)}, grad=False)[0], expected, 1e-9)
    rest = longspan.transformers.patch(model)
    assert [entry.name for entry in rest] == ["", "encoder.layers.0.attention.self_attention"]
    assert str(rest).startswith("(the module itself): ReformerModel")


def test_a_patched_model_is_copied_pickled_and_saved(tmp_path):
    model = make(reformer(attn_layers=["lsh"]))
    config = model.config.to_dict()
    longspan.transformers.patch(model)
    expected, _ = run(model, {"input_ids": tokens(23)}, grad=False)
    for other in (copy.deepcopy(model), pickle.loads(pickle.dumps(model))):
        assert torch.equal(run(other, {"input_ids": tokens(23)}, grad=False)[0], expected)
    assert model.config.to_dict() == config
    model.save_pretrained(tmp_path)
    loaded = transformers.AutoModel.from_pretrained(tmp_path)
    assert type(loaded) is transformers.ReformerModel and loaded.config.architectures == ["ReformerModel"]
    near(run(loaded, {"input_ids": tokens(23)}, grad=False)[0], expected, 1e-3)


def deberta():
    return transformers.DebertaV2Model(transformers.DebertaV2Config(
        vocab_size=VOCABULARY, hidden_size=16, num_hidden_layers=1, num_attention_heads=2, intermediate_size=16))


def bert():
    return transformers.BertModel(transformers.BertConfig(vocab_size=VOCABULARY, hidden_size=16, num_hidden_layers=1,
                                                          num_attention_heads=2, intermediate_size=16))


def falcon():
    return transformers.FalconModel(transformers.FalconConfig(vocab_size=VOCABULARY, hidden_size=16, num_hidden_layers=1,
                                                              num_attention_heads=2))


class MyAttention(torch.nn.Module):
    pass


REFUSED = {
    "DeBERTa": (deberta, ValueError, "DisentangledSelfAttention.*relative position"),
    "Falcon": (falcon, ValueError, "FalconAttention.*seqlen x seqlen"),
    "sums in slices": (lambda: make(bloom(slow_but_exact=True, pretraining_tp=2)), ValueError,
                       "BloomAttention.*slow_but_exact"),
    "on the interface": (bert, ValueError, r"BertModel.*longspan.transformers.register\(\)"),
    "of somebody": (MyAttention, ValueError, "MyAttention.*does not know"),
    "no attention": (lambda: torch.nn.Linear(2, 3), ValueError, "Linear: no attention"),
    "no module": (lambda: [], TypeError, "list"),
    "looks ahead": (lambda: make(reformer(local_num_chunks_after=1)), ValueError,
                    "LocalSelfAttention.*local_num_chunks_after = 1"),
}


@pytest.mark.parametrize("name", REFUSED)
def test_refusals_leave_everything_as_it_was(name):
    build, error, words = REFUSED[name]
    other = build()
    if error is TypeError:
        with pytest.raises(error, match=words):
            longspan.transformers.patch(other)
        return
    for model in (other, torch.nn.ModuleList([make(gptj()), other])):
        if name in ("on the interface", "no attention") and model is not other:
            continue
        before = [type(module) for module in model.modules()]
        with pytest.raises(error, match=words):
            longspan.transformers.patch(model)
        assert [type(module) for module in model.modules()] == before
        assert not any(module._forward_pre_hooks for module in model.modules())


@pytest.mark.parametrize("kind", [reformer, gptj, gpt_neo, bloom, perceiver])
def test_weights_are_not_given(kind):
    model = make(kind(attn_implementation="eager") if kind in (gptj, gpt_neo) else kind())
    longspan.transformers.patch(model)
    with pytest.raises(ValueError, match="output_attentions.*longspan.attention_weights"):
        model(tokens(8 if kind is not perceiver else 23), output_attentions=True)
