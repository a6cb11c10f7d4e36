# SPDX-License-Identifier: Apache-2.0
# Part of longspan. See LICENSE.
#
# Where the bytes of a long input go: counted from a config and a model without weights.
import inspect
import math
import sys
import textwrap

import torch
import transformers

from ._patch import is_known
from ._patch_shared import replaced_class

_ROPE_TYPES = ("yarn", "dynamic", "longrope", "llama3", "linear")


class Plan(dict):
    """Bytes by part and what there is to do about each; prints as a table of at most 80 columns."""

    _ROWS = (("weights", "weights"), ("gradients", "gradients"), ("optimizer", "optimizer (AdamW)"),
             ("attention_eager", "attention, eager"), ("attention_sdpa", "attention, sdpa"),
             ("attention_longspan", "attention, longspan"), ("feed_forward", "feed forward"),
             ("hidden_states", "hidden states"), ("logits", "logits"), ("kv_cache", "KV cache"),
             ("total_eager", "total, eager"), ("total_sdpa", "total, sdpa"), ("total_longspan", "total, longspan"))

    def __str__(self):
        purpose = "training" if self["training"] else "inference"
        dtype = str(self["dtype"]).removeprefix("torch.")
        lines = [f"{self['model']}: {self['seqlen']} tokens, batch {self['batch']}, {dtype}, {purpose}"]
        for name, title in self._ROWS:
            if self.get(name):
                lines += _row(title, _readable(self[name]), self["knobs"].get(name, ""))
        limit = self["position_limit"]
        words = ("" if self["fits"] else "TOO LONG: ") + f"{self['position_type']}; {self['knobs']['positions']}"
        lines += _row("position limit", "none" if limit is None else str(limit), words)
        return "\n".join(lines)

    __repr__ = __str__


def _row(title, figure, words):
    first, *rest = textwrap.wrap(words, 46) or [""]
    return [f"{title:20}{figure:>11}  {first}".rstrip(), *(" " * 33 + line for line in rest)]


def _readable(size):
    unit = next((n for n in range(4) if size < 1000 * 1024**n), 4)
    figure = size / 1024**unit
    return f"{size} B" if unit == 0 else f"{figure:.{1 if figure >= 100 else 2}f} {'KMGT'[unit - 1]}iB"


def _skeleton(config):
    """The model of a config, without weights: on the device meta."""
    dtype = config.dtype or torch.float32
    with torch.device("meta"):
        for name in config.architectures or ():
            if hasattr(transformers, name):
                return getattr(transformers, name)(config).to(dtype)
        masked, causal = transformers.AutoModelForMaskedLM, transformers.AutoModelForCausalLM
        heads = (causal, masked) if getattr(config, "is_decoder", False) else (masked, causal)
        for kind in (*heads, transformers.AutoModel):
            if type(config) in kind._model_mapping:
                return kind.from_config(config, dtype=dtype)
    raise ValueError(f"{type(config).__name__}: transformers has no model for this config")


def _bytes(tensors):
    return sum(x.numel() * x.element_size() for x in {id(x): x for x in tensors}.values())


class _Shape:
    """What the figures are made of."""

    def __init__(self, config, seqlen, batch, item):
        self.config, self.seqlen, self.batch, self.item = config, seqlen, batch, item
        self.rows = batch * seqlen
        self.hidden = config.hidden_size
        self.heads = getattr(config, "num_attention_heads", None)
        if not self.heads:
            raise ValueError(f"{type(config).__name__}: num_attention_heads is missing; plan() counts attention")
        self.layers = config.num_hidden_layers
        self.dim = (getattr(config, "attention_head_size", None) or getattr(config, "head_dim", None)
                    or self.hidden // self.heads)
        self.dim_v = self.dim
        if getattr(config, "qk_nope_head_dim", None):  # latent attention, whose cache in transformers is not latent
            self.dim, self.dim_v = config.qk_nope_head_dim + config.qk_rope_head_dim, config.v_head_dim
        self.heads_kv = self._heads_kv()

    def _heads_kv(self):
        config = self.config
        if getattr(config, "new_decoder_architecture", False):  # of Falcon
            return config.num_kv_heads
        if getattr(config, "multi_query", False):
            return 1
        return getattr(config, "num_key_value_heads", None) or self.heads

    def matrix(self):
        """One matrix of attention weights of one layer."""
        if self.config.model_type == "reformer":
            return max(map(self._reformer_matrix, self.config.attn_layers))
        return self.batch * self.heads * self.seqlen**2 * self.item

    def _reformer_matrix(self, kind):
        config = self.config
        chunk, before, after = (getattr(config, f"{kind}_{name}") for name in (
            "attn_chunk_length", "num_chunks_before", "num_chunks_after"))
        if self.seqlen <= chunk:
            return self.batch * self.heads * self.seqlen**2 * self.item
        rounds = config.num_hashes if kind == "lsh" else 1
        padded = -(-self.seqlen // chunk) * chunk
        return self.batch * self.heads * rounds * padded * chunk * (1 + before + after) * self.item

    def output_and_lse(self):
        return self.rows * self.heads * (self.dim_v * self.item + (8 if self.item == 8 else 4))

    def hashing(self):
        """Buckets, sorted positions and their places: 12 bytes a round, and 8 for the buckets that the module keeps."""
        lsh = self.config.model_type == "reformer" and "lsh" in self.config.attn_layers
        return 20 * self.rows * self.heads * self.config.num_hashes if lsh else 0

    def kv_cache(self):
        if self.config.model_type == "reformer":  # hidden states of every layer, and buckets, int64
            lsh = list(self.config.attn_layers).count("lsh")
            if self.seqlen <= self.config.lsh_attn_chunk_length:
                lsh = 0
            return self.rows * (self.layers * self.hidden * self.item + lsh * self.heads * self.config.num_hashes * 8)
        a_position = self.batch * self.heads_kv * (self.dim + self.dim_v) * self.item
        return sum(map(self._cached, self._cache_layers())) * a_position

    def _cache_layers(self):
        return transformers.DynamicCache(config=self.config).layers or [None] * self.layers

    def _cached(self, layer):
        """How many positions a layer of the cache keeps."""
        kind = type(layer).__name__
        if layer is not None and kind not in ("DynamicLayer", "DynamicSlidingWindowLayer"):
            raise ValueError(f"{type(self.config).__name__}: a cache layer {kind}; plan() counts layers of attention "
                             "only")
        return min(self.seqlen, layer.sliding_window - 1) if getattr(layer, "is_sliding", False) else self.seqlen


def _feed_forward(model, config, layers):
    """(width, linear layers into it) of one feed forward block."""
    hidden = config.hidden_size
    width = getattr(config, "intermediate_size", None) or getattr(config, "feed_forward_size", None) or 4 * hidden
    linear = (module for module in model.modules() if isinstance(module, torch.nn.Linear))
    into = sum((module.in_features, module.out_features) == (hidden, width) for module in linear) // layers
    return width, min(max(into, 1), 2)


def _positions(config):
    """(limit, type, what there is to do)."""
    limit = getattr(config, "max_position_embeddings", None)
    if getattr(config, "axial_pos_embds", False):
        shape = tuple(config.axial_pos_shape)
        return math.prod(shape), "axial", f"axial_pos_shape {shape}, learned: a longer one must be trained"
    if config.model_type in ("bloom", "mpt") or getattr(config, "alibi", False):
        return None, "ALiBi", "runs at any length; quality beyond the trained one is the model's"
    if hasattr(config, "relative_attention_num_buckets"):
        return None, "relative buckets", "runs at any length; quality beyond the trained one is the model's"
    rope = getattr(config, "rope_parameters", None)
    if rope:
        kind = rope.get("rope_type") or next((x["rope_type"] for x in rope.values() if isinstance(x, dict)), "default")
        return limit, f"rotary ({kind})", f"past it config.rope_parameters, rope_type {', '.join(_ROPE_TYPES)}"
    if getattr(config, "rotary_dim", None):
        return limit, "rotary (a table)", "no rope scaling in this model; a longer table is untrained"
    return limit, "learned", "a longer table must be trained"


def _knobs(model, config, training, in_pieces):
    kind = replaced_class(type(model))
    parameters = inspect.signature(kind.forward).parameters
    source = vars(sys.modules[kind.__module__])
    if is_known(model):
        ours = "longspan.transformers.patch(model)"
    elif "ALL_ATTENTION_FUNCTIONS" in source:
        ours = 'longspan.transformers.register(), attn_implementation="longspan"'
    else:
        ours = "no switch for this model yet"
    checkpointing = "activation_checkpointing_enable()" if model.supports_gradient_checkpointing else "a smaller batch"
    if in_pieces:
        checkpointing = "one layer at a time already"
    chunks = "config.chunk_size_feed_forward" if "apply_chunking_to_forward" in source else ""
    logits = "logits_to_keep=1" if "logits_to_keep" in parameters else "the model without its head"
    return {
        "weights": "a narrower dtype; quantization",
        "gradients": "frozen parameters; adapters",
        "optimizer": "frozen parameters; an optimizer with fewer moments",
        "attention_eager": "attn_implementation, or longspan",
        "attention_longspan": ours,
        "feed_forward": "; ".join(filter(None, [chunks, checkpointing if training else ""])) or "a smaller batch",
        "hidden_states": checkpointing if training else "a smaller batch",
        "logits": "labels on fewer positions" if training else logits,
        "kv_cache": "use_cache=False, cache_implementation=\"offloaded\" or \"quantized\"",
        "positions": _positions(config)[2],
    }


def plan(model, seqlen: int, batch: int = 1, training: bool = False) -> Plan:
    """Where the bytes of an input of seqlen tokens go: replacing attention alone does not make a long input fit.

    model
        A PreTrainedModel, or a config: then its model is built without weights, and counted.
    seqlen, batch
        Tokens of an entry, and entries.
    training
        Count gradients, the optimizer and what the backward pass keeps, too.

    Returns a dict of bytes that prints as a table. With b = batch, n = seqlen, L layers, H heads of dim D (D_v for
    values, H_kv heads of keys and values), hidden size d, feed forward size f, vocabulary V and item size s of weights:

    weights             parameters and buffers, shared ones once
    gradients           (training) of parameters that require grad; optimizer: AdamW, twice that
    attention_matrix    b H n n s, one matrix of one layer; a Reformer: b H rounds n chunk_length (1 + before + after) s
    attention_eager     inference: 2 matrices (scores, softmax); training: 1 for each of the layers kept, and 1; and the
                        mask, b n n s (a Reformer: none)
    attention_output    b n H (D_v s + 4), output and lse of one layer (8 in place of 4 in float64)
    attention_sdpa      the boolean mask b n n that padding makes, and attention_output for each of the layers kept;
                        None where the model has no sdpa
    attention_longspan  attention_output for each of the layers kept; a Reformer: and 20 b n H rounds for its buckets
    feed_forward        b n f s, 2 times alive (3 with a gate); training: 2 (4) for each of the layers kept
    hidden_states       inference: 2 b n d s; training: b n s (4 d + H D + H_kv (D + D_v)) for each of the layers kept,
                        and b n d s for each layer with gradient checkpointing
    logits              b n V s; training: and twice 4 b n V for the loss and its gradient; 0 without an output embedding
    logits_kept_1       b V s, with logits_to_keep=1
    kv_cache            (inference) b H_kv m (D + D_v) s for each layer, m = n, or window - 1 in a sliding layer if less;
                        a Reformer: b n (L d s + 8 H rounds for each LSH layer)
    total_*             inference: weights + cache + hidden states + the largest of attention, feed forward and logits;
                        training: the sum of all

    "Layers kept" are 1 in inference, L in training, 1 in training with gradient checkpointing or reversible layers.
    Activations in training are a lower bound, within a factor of two for Llama: there are dropout's masks, copies of
    rotary positions and grouped heads, steps of norms, and the allocator's slack. Also there: position_limit,
    position_type, fits (seqlen within it), and knobs, what to turn for each part.
    """
    if isinstance(model, transformers.PreTrainedConfig):
        model = _skeleton(model)
    if not isinstance(model, transformers.PreTrainedModel):
        raise TypeError(f"plan: expected a model or a config of transformers; found {type(model).__name__}")
    if seqlen < 1 or batch < 1:
        raise ValueError(f"plan: seqlen and batch must be at least 1; found {seqlen} and {batch}")
    config = model.config.get_text_config()
    children = dict(model.base_model.named_children())
    if "encoder" in children and "decoder" in children or config.model_type == "perceiver":
        raise ValueError(f"{type(model).__name__}: it works on more than one sequence; plan() counts one stack of layers, "
                         "such as an encoder")
    item = torch.empty((), dtype=model.dtype, device="meta").element_size()
    shape = _Shape(config, seqlen, batch, item)
    reversible = config.model_type == "reformer"
    checkpointing = any(getattr(module, "gradient_checkpointing", False) for module in model.modules())
    in_pieces = reversible or checkpointing
    kept = shape.layers if training and not in_pieces else 1
    matrix, output = shape.matrix(), shape.output_and_lse()
    mask = 0 if reversible else batch * seqlen**2
    width, into = _feed_forward(model, config, shape.layers)
    alive = kept * 2 * into if training else into + 1
    head = model.get_output_embeddings()
    vocabulary = 0 if head is None else head.weight.shape[0]
    states = 2 * shape.rows * shape.hidden * item
    if training:
        states = kept * shape.rows * item * (4 * shape.hidden + shape.heads * shape.dim
                                             + shape.heads_kv * (shape.dim + shape.dim_v))
        states += shape.rows * shape.hidden * item * shape.layers if checkpointing and not reversible else 0
    trained = _bytes(x for x in model.parameters() if x.requires_grad) if training else 0
    limit, position_type, _ = _positions(config)
    caches = not training and (getattr(config, "is_decoder", False) or _generates(model))
    made = Plan(
        model=type(model).__name__, dtype=model.dtype, seqlen=seqlen, batch=batch, training=training,
        weights=_bytes([*model.parameters(), *model.buffers()]), gradients=trained, optimizer=2 * trained,
        attention_matrix=matrix, attention_eager=matrix * (kept + 1) + mask * item,
        attention_sdpa=mask + output * kept if model._supports_sdpa else None, attention_output=output,
        attention_longspan=output * kept + shape.hashing(), feed_forward=shape.rows * width * item * alive,
        hidden_states=states, logits=shape.rows * vocabulary * (item + (8 if training else 0)),
        logits_kept_1=batch * vocabulary * item, kv_cache=shape.kv_cache() if caches else 0,
        position_limit=limit, position_type=position_type, fits=limit is None or seqlen <= limit,
        knobs=_knobs(model, config, training, in_pieces))
    for name in ("eager", "sdpa", "longspan"):
        attention = made[f"attention_{name}"]
        made[f"total_{name}"] = None if attention is None else _total(made, attention, training)
    return made


def _generates(model):
    return isinstance(model, transformers.GenerationMixin) and model.config.use_cache


def _total(made, attention, training):
    parts = [attention, made["feed_forward"], made["logits"]]
    always = sum(made[name] for name in ("weights", "gradients", "optimizer", "hidden_states", "kv_cache"))
    return always + (sum(parts) if training else max(parts))
