# SPDX-License-Identifier: Apache-2.0
# Part of longspan. See LICENSE.
#
# plan(): its figures against tensors of models with random weights.
import pytest
from frameworks import package

import longspan

torch = package("torch")
transformers = package("transformers")

import longspan.torch  # noqa: E402
import longspan.transformers  # noqa: E402

VOCABULARY, SEQLEN, BATCH = 50, 24, 2
COMMON = {"vocab_size": VOCABULARY, "bos_token_id": 1, "eos_token_id": 2, "pad_token_id": 0,
          "attn_implementation": "eager"}
LLAMA = {"hidden_size": 32, "num_hidden_layers": 3, "num_attention_heads": 4, "num_key_value_heads": 2,
         "intermediate_size": 40, "max_position_embeddings": 64, **COMMON}
REFORMER = {"attn_layers": ["lsh", "local", "lsh"], "hidden_size": 16, "attention_head_size": 8,
            "num_attention_heads": 2, "feed_forward_size": 24, "lsh_attn_chunk_length": 4,
            "local_attn_chunk_length": 4, "num_hashes": 2,
            "num_buckets": 4, "axial_pos_shape": (8, 4), "axial_pos_embds_dim": (4, 12), "is_decoder": True, **COMMON}
REFORMER.pop("attn_implementation")

MODELS = {
    "Llama, grouped heads": ("LlamaConfig", LLAMA),
    "Llama, tied weights and wide heads": ("LlamaConfig", {**LLAMA, "tie_word_embeddings": True, "head_dim": 24}),
    "Mistral, all layers sliding": ("MistralConfig", {**LLAMA, "sliding_window": 7}),
    "Gemma 2, some layers sliding": ("Gemma2Config", {**LLAMA, "sliding_window": 7, "head_dim": 8}),
    "GPT-2": ("GPT2Config", {"n_embd": 32, "n_layer": 2, "n_head": 4, "n_positions": 64, **COMMON}),
    "GPT-J": ("GPTJConfig", {"n_embd": 32, "n_layer": 2, "n_head": 4, "rotary_dim": 4, "n_positions": 64, **COMMON}),
    "GPT-Neo": ("GPTNeoConfig", {"hidden_size": 32, "num_layers": 2, "num_heads": 4, "max_position_embeddings": 64,
                                 "attention_types": [[["global", "local"], 1]], **COMMON}),
    "Falcon, one key head": ("FalconConfig", {"hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 4,
                                              **COMMON}),
    "Bloom": ("BloomConfig", {"hidden_size": 32, "n_layer": 2, "n_head": 4, **COMMON}),
    "BERT": ("BertConfig", {**LLAMA, "num_key_value_heads": None}),
    "Reformer": ("ReformerConfig", REFORMER),
}
MODELS["BERT"][1].pop("num_key_value_heads")


def make(name):
    kind, options = MODELS[name]
    return getattr(transformers, kind)(**options)


def build(name):
    config = make(name)
    model = transformers.AutoModelForMaskedLM if name == "BERT" else transformers.AutoModelForCausalLM
    return model.from_config(config).eval()


def size_of(*tensors):
    return sum(x.numel() * x.element_size() for x in tensors)


@pytest.mark.parametrize("name", MODELS)
def test_figures_are_those_of_the_model(name):
    model = build(name)
    plan = longspan.transformers.plan(model, SEQLEN, BATCH)
    ids = torch.randint(3, VOCABULARY, (BATCH, SEQLEN))
    with torch.no_grad():
        output = model(ids, output_attentions=True)
    assert plan["logits"] == size_of(output.logits)
    assert plan["attention_matrix"] == max(size_of(x) for x in output.attentions)
    assert plan["weights"] == size_of(*model.parameters(), *model.buffers())
    assert plan["kv_cache"] == cached(output)
    if name != "Reformer" and name != "BERT":
        with torch.no_grad():
            assert plan["logits_kept_1"] == size_of(model(ids, logits_to_keep=1).logits)


def cached(output):
    if "past_buckets_states" in output:
        cache = output.past_buckets_states
        return size_of(*cache.states_cache, *(x for x in cache.buckets_cache if x.numel()))
    cache = output.get("cache") or output.get("past_key_values")
    return 0 if cache is None else sum(size_of(layer.keys, layer.values) for layer in cache.layers)


@pytest.mark.parametrize("name", MODELS)
def test_a_config_is_as_good_as_its_model(name):
    expected = longspan.transformers.plan(build(name), SEQLEN, BATCH)
    found = longspan.transformers.plan(make(name), SEQLEN, BATCH)
    assert found == expected


@pytest.mark.parametrize("name", ["Reformer", "GPT-J", "Bloom"])
def test_patching_changes_nothing_of_it(name):
    model = build(name).base_model
    expected = longspan.transformers.plan(model, SEQLEN)
    longspan.transformers.patch(model)
    assert longspan.transformers.plan(model, SEQLEN) == expected


def test_the_figures_of_longspan_are_those_of_its_tensors():
    model = build("Llama, grouped heads")
    for dtype in (torch.float32, torch.bfloat16, torch.float64):
        plan = longspan.transformers.plan(model.to(dtype), SEQLEN, BATCH)
        query, key = (torch.randn((BATCH, SEQLEN, heads, 8), dtype=dtype) for heads in (4, 2))
        output, lse = longspan.torch.attention(query, key, key, return_lse=True)
        assert plan["attention_output"] == plan["attention_longspan"] == size_of(output, lse)


def test_feed_forward_and_hidden_states_are_those_alive():
    """Counted by hooks on the linear layers of one layer."""
    model = build("Llama, grouped heads")
    mlp = model.model.layers[0].mlp
    sizes = []
    for linear in (mlp.gate_proj, mlp.up_proj):
        linear.register_forward_hook(lambda module, args, output: sizes.append(size_of(output)))
    mlp.register_forward_hook(lambda module, args, output: sizes.append(size_of(output)))
    model(torch.randint(3, VOCABULARY, (BATCH, SEQLEN)))
    plan = longspan.transformers.plan(model, SEQLEN, BATCH)
    assert plan["feed_forward"] == sizes[0] + 2 * sizes[1] and plan["hidden_states"] == 2 * sizes[2]


def test_training_counts_what_backward_needs():
    model = build("Llama, grouped heads")
    plan = longspan.transformers.plan(model, SEQLEN, BATCH, training=True)
    optimizer = torch.optim.AdamW(model.parameters())
    ids = torch.randint(3, VOCABULARY, (BATCH, SEQLEN))
    saved = {}

    def pack(x):
        saved[x.untyped_storage().data_ptr()] = x
        return x

    with torch.autograd.graph.saved_tensors_hooks(pack, lambda x: x):
        loss = model(ids, labels=ids).loss
    loss.backward()
    optimizer.step()
    assert plan["gradients"] == size_of(*(x.grad for x in model.parameters()))
    moments = [x for state in optimizer.state.values() for x in (state["exp_avg"], state["exp_avg_sq"])]
    assert plan["optimizer"] == size_of(*moments)
    matrices = [x for x in saved.values() if x.numel() == BATCH * 4 * SEQLEN**2]
    assert len(matrices) == 3 and plan["attention_eager"] > size_of(*matrices)
    wide = [x for x in saved.values() if x.numel() == BATCH * SEQLEN * 40]
    assert size_of(*wide) == plan["feed_forward"]
    parameters = {x.data_ptr() for x in model.parameters()}
    rest = size_of(*(x for address, x in saved.items() if address not in parameters)) - size_of(*matrices, *wide)
    bound = plan["hidden_states"] + 3 * plan["attention_output"]
    assert bound < rest < 2 * bound
    assert plan["kv_cache"] == 0 and plan["total_longspan"] < plan["total_eager"]
    model.activation_checkpointing_enable()
    fewer = longspan.transformers.plan(model, SEQLEN, BATCH, training=True)
    assert 3 * fewer["feed_forward"] == plan["feed_forward"] and fewer["hidden_states"] < plan["hidden_states"]
    frozen = build("Llama, grouped heads").requires_grad_(False)
    assert longspan.transformers.plan(frozen, SEQLEN, training=True)["gradients"] == 0


def test_totals():
    plan = longspan.transformers.plan(make("GPT-J"), SEQLEN)
    always = plan["weights"] + plan["kv_cache"] + plan["hidden_states"]
    assert plan["total_eager"] == always + max(plan["attention_eager"], plan["feed_forward"], plan["logits"])
    plan = longspan.transformers.plan(make("GPT-J"), SEQLEN, training=True)
    assert plan["total_longspan"] == sum(plan[name] for name in (
        "weights", "gradients", "optimizer", "attention_longspan", "feed_forward", "hidden_states", "logits"))


def test_a_model_without_a_head_has_no_logits():
    plan = longspan.transformers.plan(transformers.AutoModel.from_config(make("GPT-2")), SEQLEN)
    assert plan["logits"] == 0 and plan["kv_cache"] == 0 and "logits" not in str(plan)


POSITIONS = {
    "GPT-2": (64, "learned"), "BERT": (64, "learned"), "GPT-J": (64, "rotary (a table)"), "Bloom": (None, "ALiBi"),
    "Llama, grouped heads": (64, "rotary (default)"), "Reformer": (32, "axial"),
}


@pytest.mark.parametrize("name", POSITIONS)
def test_positions(name):
    limit, kind = POSITIONS[name]
    plan = longspan.transformers.plan(make(name), limit or 1000)
    assert (plan["position_limit"], plan["position_type"], plan["fits"]) == (limit, kind, True)
    if limit:
        longer = longspan.transformers.plan(make(name), limit + 1)
        assert not longer["fits"] and "TOO LONG" in str(longer)


def test_rope_scaling_is_named():
    config = transformers.LlamaConfig(**LLAMA, rope_parameters={"rope_type": "linear", "rope_theta": 1e4, "factor": 2.0})
    assert longspan.transformers.plan(config, SEQLEN)["position_type"] == "rotary (linear)"


KNOBS = {
    "Llama, grouped heads": ("attention_longspan", "register()"), "GPT-J": ("attention_longspan", "patch(model)"),
    "Falcon, one key head": ("attention_longspan", "no switch"), "BERT": ("feed_forward", "chunk_size_feed_forward"),
    "Reformer": ("feed_forward", "chunk_size_feed_forward"), "GPT-2": ("logits", "logits_to_keep=1"),
}


@pytest.mark.parametrize("name", KNOBS)
def test_knobs(name):
    part, words = KNOBS[name]
    assert words in longspan.transformers.plan(make(name), SEQLEN)["knobs"][part]


@pytest.mark.parametrize("name", MODELS)
@pytest.mark.parametrize("training", [False, True])
@pytest.mark.parametrize("seqlen", [1, 10**9])
def test_the_table_is_at_most_80_columns(name, training, seqlen):
    lines = str(longspan.transformers.plan(make(name), seqlen, training=training)).splitlines()
    assert max(map(len, lines)) <= 80 and lines[0].startswith(type(build(name)).__name__)
    assert any(line.startswith("weights") and "B " in line for line in lines)


REFUSED = {
    "two stacks": (lambda: transformers.T5Config(d_model=8, d_kv=4, d_ff=8, num_layers=1, num_heads=2, vocab_size=9), 10,
                   1, ValueError, "T5.*more than one sequence"),
    "no config": (lambda: 5, 10, 1, TypeError, "int"),
    "no attention": (lambda: transformers.MambaConfig(hidden_size=8, num_hidden_layers=1, vocab_size=9), 10, 1,
                     ValueError, "MambaConfig.*num_attention_heads"),
    "no tokens": (lambda: make("GPT-2"), 0, 1, ValueError, "seqlen.*0"),
}


@pytest.mark.parametrize("name", REFUSED)
def test_refusals(name):
    build_it, seqlen, batch, error, words = REFUSED[name]
    with pytest.raises(error, match=words):
        longspan.transformers.plan(build_it(), seqlen, batch)
