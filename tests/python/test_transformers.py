# SPDX-License-Identifier: Apache-2.0
# Part of longspan. See LICENSE.
#
# attn_implementation="longspan" against eager, on small models of random weights: outputs, gradients, generate().
import os
from pathlib import Path

import pytest
from frameworks import package
from reference import check

torch = package("torch")
transformers = package("transformers")

import longspan.torch  # noqa: E402
import longspan.transformers  # noqa: E402

longspan.transformers.register()
longspan.transformers.register_lsh(num_hashes=2, num_buckets=8, chunk_len=8, whole_buckets=False)

SMALL = {"hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 2, "num_attention_heads": 4, "vocab_size": 61,
         "max_position_embeddings": 128, "pad_token_id": 0, "bos_token_id": 1, "eos_token_id": 2}
GROUPS = {"num_key_value_heads": 2, "head_dim": 8}
T5 = {"d_model": 32, "d_kv": 8, "d_ff": 48, "num_layers": 2, "num_decoder_layers": 2, "num_heads": 4, "vocab_size": 61,
      "dropout_rate": 0.0, "pad_token_id": 0, "decoder_start_token_id": 0}

DECODERS = {
    "Llama": ("LlamaForCausalLM", "LlamaConfig", {**SMALL, **GROUPS}),
    "Mistral, a sliding window": ("MistralForCausalLM", "MistralConfig", {**SMALL, **GROUPS, "sliding_window": 5}),
    "Gemma 2, softcap": ("Gemma2ForCausalLM", "Gemma2Config",
                         {**SMALL, **GROUPS, "sliding_window": 5, "attn_logit_softcapping": 2.0, "query_pre_attn_scalar": 8}),
    "Gemma 3": ("Gemma3ForCausalLM", "Gemma3TextConfig", {**SMALL, **GROUPS, "sliding_window": 5,
                                                         "layer_types": ["sliding_attention", "full_attention"]}),
    "GPT-OSS, sinks": ("GptOssForCausalLM", "GptOssConfig",
                       {**SMALL, **GROUPS, "sliding_window": 5, "num_local_experts": 2, "num_experts_per_tok": 1,
                        "layer_types": ["sliding_attention", "full_attention"]}),
    "Qwen 3": ("Qwen3ForCausalLM", "Qwen3Config", {**SMALL, **GROUPS}),
    "GPT-2": ("GPT2LMHeadModel", "GPT2Config", {"n_embd": 32, "n_layer": 2, "n_head": 4, "vocab_size": 61, "n_positions": 128,
                                              "resid_pdrop": 0.0, "embd_pdrop": 0.0, "attn_pdrop": 0.0}),
    "OPT": ("OPTForCausalLM", "OPTConfig", {**SMALL, "ffn_dim": 48, "word_embed_proj_dim": 32, "dropout": 0.0}),
    "Llama 4, chunks": ("Llama4ForCausalLM", "Llama4TextConfig",
                        {**SMALL, **GROUPS, "attention_chunk_size": 6, "num_local_experts": 2, "intermediate_size_mlp": 48,
                         "layer_types": ["chunked_attention", "full_attention"]}),
}
ENCODERS = {
    "BERT": ("BertModel", "BertConfig", {**SMALL, "hidden_dropout_prob": 0.0, "attention_probs_dropout_prob": 0.0}),
    "RoBERTa": ("RobertaModel", "RobertaConfig", {**SMALL, "hidden_dropout_prob": 0.0, "attention_probs_dropout_prob": 0.0}),
    "ModernBERT, windows": ("ModernBertModel", "ModernBertConfig",
                            {**SMALL, "local_attention": 8, "global_attn_every_n_layers": 2, "sep_token_id": 2,
                             "cls_token_id": 1}),
}


def table_of_models():
    """What docs/frameworks.md says of these models."""
    lines = ["| model | class | attention it asks for |", "|---|---|---|"]
    for kind, cases in (("causal", DECODERS), ("both ways", ENCODERS)):
        for name, (model, _, options) in cases.items():
            model_name, _, feature = name.partition(", ")
            groups = ["grouped heads"] if "num_key_value_heads" in options else []
            lines.append(f"| {model_name} | `{model}` | {', '.join([kind, *groups, *([feature] if feature else [])])} |")
    lines.append("| T5 | `T5ForConditionalGeneration` | both ways, causal and across, position_bias with its gradient |")
    lines.append("| ViT | `ViTModel` | both ways (and under sdpa with `longspan.torch.enable()`) |")
    return "\n".join(lines) + "\n"


def test_the_table_of_the_documents_is_that_of_the_tests():
    page = Path(__file__).parents[2] / "docs" / "frameworks.md"
    before, rest = page.read_text().split("-k table -->\n")
    found, after = rest.split("<!-- end of models -->")
    if os.environ.get("LONGSPAN_WRITE"):
        page.write_text(f"{before}-k table -->\n{table_of_models()}<!-- end of models -->{after}")
        return
    assert found == table_of_models(), "LONGSPAN_WRITE=1 writes it again"


def test_vit_equals_eager():
    pixels = torch.randn(2, 3, 32, 32, generator=torch.Generator().manual_seed(1))
    eager, ours = pair(("ViTModel", "ViTConfig", {"hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 4,
                                                  "intermediate_size": 64, "image_size": 32, "patch_size": 8}))
    compare(eager, ours, pixel_values=pixels)


def make(case, implementation):
    model, config, options = case
    torch.manual_seed(0)
    config = getattr(transformers, config)(**options)
    config._attn_implementation = implementation
    model = getattr(transformers, model)._from_config(config, attn_implementation=implementation)
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.dim() == 1:
                parameter.add_(0.1 * torch.randn_like(parameter))
    return model.eval()


def pair(case):
    """The same weights with eager and with longspan."""
    eager, ours = make(case, "eager"), make(case, "longspan")
    ours.load_state_dict(eager.state_dict())
    return eager, ours


def padded(side, length=23):
    """Numbers of tokens, and which of them count."""
    ids = torch.randint(3, 61, (3, length), generator=torch.Generator().manual_seed(1))
    column = torch.arange(length)
    lengths = torch.tensor([length, 9, 16])[:, None]
    visible = column < lengths if side == "right" else column >= length - lengths
    return ids, visible


def first(outputs):
    return outputs.logits if hasattr(outputs, "logits") else outputs[0]


def compare(eager, ours, visible=None, **inputs):
    """Outputs at visible tokens and gradients of all parameters."""
    results = []
    for model in (eager, ours):
        model.zero_grad()
        output = first(model(**inputs))
        output = output if visible is None else output[visible]
        (output * torch.linspace(-1, 1, output.shape[-1])).square().mean().backward()
        results.append((output.detach(), {name: p.grad for name, p in model.named_parameters() if p.grad is not None}))
    (expected, formula), (output, gradients) = results
    check(output.numpy(), expected.numpy(), 1e-5)
    assert formula.keys() == gradients.keys()
    size = max(g.norm() for g in formula.values())
    for name, gradient in formula.items():
        assert (gradients[name] - gradient).norm() <= 2e-5 * (gradient.norm() + 0.01 * size), name


@pytest.mark.parametrize("side", ["none", "right", "left"])
@pytest.mark.parametrize("name", [*DECODERS, *ENCODERS])
def test_models_equal_eager(name, side):
    eager, ours = pair({**DECODERS, **ENCODERS}[name])
    ids, visible = padded(side)
    if side == "none":
        compare(eager, ours, input_ids=ids)
    else:
        compare(eager, ours, visible, input_ids=ids, attention_mask=visible.long())


@pytest.mark.parametrize("name", ["Llama", "Mistral, a sliding window", "Gemma 3", "ModernBERT, windows"])
def test_packed_sequences(name):
    eager, ours = pair({**DECODERS, **ENCODERS}[name])
    ids, _ = padded("none")
    positions = torch.cat([torch.arange(n) for n in (8, 3, 12)])[None]
    compare(eager, ours, input_ids=ids[:1], position_ids=positions)
    if name in DECODERS:
        compare(eager, ours, input_ids=ids, position_ids=positions)


@pytest.mark.parametrize("cache", ["dynamic", "static"])
@pytest.mark.parametrize("side", ["none", "left"])
@pytest.mark.parametrize("name", DECODERS)
def test_generate_equals_eager(name, side, cache):
    eager, ours = pair(DECODERS[name])
    ids, visible = padded("left", 11)
    options = {"max_new_tokens": 9, "do_sample": False, "return_dict_in_generate": True, "output_logits": True,
               "cache_implementation": cache, "disable_compile": True, "eos_token_id": None, "pad_token_id": 0}
    if side == "left":
        options["attention_mask"] = (visible[:, -11:]).long()
    expected, got = (model.generate(ids, **options) for model in (eager, ours))
    assert torch.equal(expected.sequences, got.sequences)
    check(torch.stack(got.logits).numpy(), torch.stack(expected.logits).numpy(), 1e-5)


def test_t5_position_bias_learns():
    eager, ours = pair(("T5ForConditionalGeneration", "T5Config", T5))
    ids, visible = padded("right")
    compare(eager, ours, input_ids=ids, attention_mask=visible.long(), decoder_input_ids=ids[:, :7])
    assert ours.encoder.block[0].layer[0].SelfAttention.relative_attention_bias.weight.grad.abs().sum() > 0


def test_a_mask_of_the_user():
    eager, ours = pair(DECODERS["Llama"])
    ids, _ = padded("none")
    boolean = torch.rand(3, 1, 23, 23) < 0.6
    boolean |= torch.eye(23, dtype=torch.bool)
    added = torch.zeros(3, 1, 23, 23).masked_fill(~boolean, torch.finfo(torch.float32).min)
    compare(eager, ours, input_ids=ids, attention_mask=added)
    output = ours(input_ids=ids, attention_mask=boolean).logits
    check(output.detach().numpy(), ours(input_ids=ids, attention_mask=added).logits.detach().numpy(), 1e-6)


def test_masks_are_never_written_out(monkeypatch):
    from longspan.transformers import _register

    seen = []
    attention = _register.attention

    def look(*arguments, mask, **options):
        seen.append(mask)
        return attention(*arguments, mask=mask, **options)

    monkeypatch.setattr(_register, "attention", look)
    for name, side in (("Llama", "none"), ("Llama", "right"), ("Llama", "left"), ("Mistral, a sliding window", "right"),
                       ("BERT", "left"), ("Llama 4, chunks", "none")):
        model = make({**DECODERS, **ENCODERS}[name], "longspan")
        ids, visible = padded(side)
        model(input_ids=ids[:1], attention_mask=visible[1:2].long())
    model(input_ids=ids[:1], position_ids=torch.arange(23)[None] % 9)
    assert len(seen) == 14 and not any(mask.predicates for mask in seen)
    assert max(array.numel() for mask in seen for array in mask.arrays) <= 23


def test_other_mask_functions_are_asked_tile_by_tile():
    from longspan.transformers._masks import make_mask
    from transformers import masking_utils

    def every_third(batch, head, query, key):
        return (query + key + batch) % 3 == 0

    function = masking_utils.or_masks(masking_utils.causal_mask_function, every_third)
    for use_vmap in (False, True):
        mask = make_mask(2, 150, 170, 20, 0, function, use_vmap=use_vmap).longspan_mask
        assert len(mask.predicates) == 1
        query, key = torch.randn(2, 150, 4, 8), torch.randn(2, 170, 4, 8)
        dense = masking_utils.sdpa_mask(2, 150, 170, 20, 0, function, allow_is_causal_skip=False)
        check(longspan.torch.attention(query, key, key, mask=mask).numpy(),
              longspan.torch.attention(query, key, key, mask=dense).numpy(), 1e-6)


@pytest.mark.parametrize("name", ["Llama", "Mistral, a sliding window", "BERT"])
def test_compile(name):
    eager, ours = pair({**DECODERS, **ENCODERS}[name])
    ids, visible = padded("right")
    torch._dynamo.reset()
    compiled = torch.compile(ours, backend="aot_eager", fullgraph=True)
    with torch.no_grad():
        for inputs in ({"input_ids": ids}, {"input_ids": ids, "attention_mask": visible.long()}):
            kept = slice(None) if len(inputs) == 1 else visible
            check(first(compiled(**inputs, use_cache=False))[kept].numpy(), first(eager(**inputs))[kept].numpy(), 1e-5)


def test_dropout_is_drawn_and_follows_the_generator():
    model = make(("BertModel", "BertConfig", {**SMALL, "hidden_dropout_prob": 0.0, "attention_probs_dropout_prob": 0.5}),
                 "longspan").train()
    ids, _ = padded("none")
    outputs = []
    for seed in (1, 1, 2):
        torch.manual_seed(seed)
        outputs.append(model(input_ids=ids).last_hidden_state)
    assert torch.equal(outputs[0], outputs[1]) and not torch.equal(outputs[0], outputs[2])


def test_unknown_keywords_and_weights_are_refused():
    model = make(DECODERS["Llama"], "longspan")
    ids, _ = padded("none")
    with pytest.raises(ValueError, match="does not know block_indices"):
        model(input_ids=ids, block_indices=torch.zeros(1))
    layer = model.model.layers[0].self_attn
    forward = transformers.AttentionInterface()["longspan"]
    query = torch.randn(1, 4, 3, 8)
    with pytest.raises(ValueError, match=r"probe\(top_k"):
        forward(layer, query, query, query, None, output_attentions=True)
    packed = {"cu_seq_lens_q": torch.tensor([0, 2, 3]), "cu_seq_lens_k": torch.tensor([0, 2, 3])}
    assert forward(layer, query, query, query, None, **packed)[0].shape == (1, 3, 4, 8)
    two = torch.randn(2, 4, 3, 8)
    for name in ("longspan", "longspan-lsh"):
        with pytest.raises(ValueError, match="cu_seq_lens_q with a batch of 1; found 2"):
            transformers.AttentionInterface()[name](layer, two, two, two, None, **packed)


def test_probe():
    model = make(DECODERS["Llama"], "longspan")
    ids, _ = padded("none")
    with torch.no_grad(), longspan.transformers.probe(top_k=3) as seen, longspan.transformers.probe(rows=[5, 2]) as rows:
        model(input_ids=ids)
    assert [layer for layer, _ in seen] == [0, 1]
    keys, weights = seen[0][1]
    assert keys.shape == weights.shape == (3, 4, 23, 3)
    eager = make(DECODERS["Llama"], "eager")
    expected = eager(input_ids=ids, output_attentions=True).attentions[1].detach()
    check(rows[1][1].numpy(), expected[:, :, [5, 2]].numpy(), 1e-5)
    check(seen[1][1][1].numpy(), expected.topk(3).values.numpy(), 1e-5)


def test_lsh_of_one_bucket_is_exact_and_generates():
    longspan.transformers.register_lsh("one-bucket", num_hashes=1, num_buckets=2, whole_buckets=True,
                                       local_window=(1000, 0))
    eager, ours = make(DECODERS["Llama"], "eager"), make(DECODERS["Llama"], "one-bucket")
    ids, visible = padded("right")
    compare(eager, ours, visible, input_ids=ids, attention_mask=visible.long())
    hashed = make(DECODERS["Llama"], "longspan-lsh")
    output = hashed(input_ids=ids).logits
    output.square().mean().backward()
    assert torch.isfinite(output).all() and hashed.model.layers[0].self_attn.k_proj.weight.grad.abs().sum() > 0
    assert hashed.generate(ids, max_new_tokens=3, do_sample=False, eos_token_id=None).shape == (3, 26)
    with pytest.raises(ValueError, match="hashed attention has no dropout"):
        forward = transformers.AttentionInterface()["longspan-lsh"]
        query = torch.randn(1, 4, 3, 8)
        forward(hashed.model.layers[0].self_attn, query, query, query, None, dropout=0.5)
