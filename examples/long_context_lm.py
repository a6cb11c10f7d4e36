#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
# Part of longspan. See LICENSE.
"""A language model with a long context: forward, backward and generation by longspan and by PyTorch's attention.

The model is made from a configuration (Llama, grouped heads, random weights): what is shown is time and memory, not text.
`make deps-frameworks` installs what is needed.

    python examples/long_context_lm.py                                    # 16384 tokens, bfloat16
    python examples/long_context_lm.py --tokens 4096 --attention sdpa longspan --dtype float32
    python examples/long_context_lm.py --attention longspan none          # none: what all but attention takes
"""
import argparse
import sys
import time

import torch
import transformers

import longspan.transformers


def no_attention(module, query, key, value, mask, **options):
    """Each position sees itself, at no cost: what remains is the time of everything else."""
    own = (key + value)[:, :, -query.shape[2]:].repeat_interleave(query.shape[1] // key.shape[1], 1)
    return (query + own).transpose(1, 2), None


def make(options, attention):
    torch.manual_seed(0)
    config = transformers.LlamaConfig(hidden_size=options.heads * 64, num_attention_heads=options.heads,
                                      num_key_value_heads=options.heads // 4, num_hidden_layers=options.layers,
                                      intermediate_size=options.heads * 128, vocab_size=1024,
                                      max_position_embeddings=options.tokens + options.new_tokens, head_dim=64)
    dtype = getattr(torch, options.dtype)
    return transformers.LlamaForCausalLM._from_config(config, attn_implementation=attention, dtype=dtype)


def timed(work):
    start = time.perf_counter()
    result = work()
    return result, time.perf_counter() - start


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--tokens", type=int, default=16384)
    parser.add_argument("--new-tokens", type=int, default=16)
    parser.add_argument("--layers", type=int, default=1)
    parser.add_argument("--heads", type=int, default=16, help="query heads of 64; a quarter as many key heads")
    parser.add_argument("--dtype", default="bfloat16", choices=["float32", "bfloat16"])
    parser.add_argument("--attention", nargs="+", default=["sdpa", "longspan"], help="also none")
    options = parser.parse_args()
    longspan.transformers.register()
    transformers.AttentionInterface.register("none", no_attention)
    ids = torch.randint(0, 1024, (1, options.tokens), generator=torch.Generator().manual_seed(1))
    print("| attention | forward s | backward s | prompt and generation s | loss | new tokens |\n|---|---|---|---|---|---|")
    losses = []
    for attention in options.attention:
        model = make(options, attention)
        model(input_ids=ids[:, :64], labels=ids[:, :64]).loss.backward()  # warm
        loss, forward = timed(lambda: model(input_ids=ids, labels=ids).loss)
        _, backward = timed(loss.backward)
        if not all(torch.isfinite(p.grad).all() for p in model.parameters()):
            raise SystemExit(f"{attention}: a gradient is not finite")
        model.eval()
        generated, generation = timed(lambda: model.generate(
            ids, max_new_tokens=options.new_tokens, do_sample=False, eos_token_id=None, pad_token_id=0))
        if attention != "none":
            losses.append(loss.item())
        print(f"| {attention} | {forward:.2f} | {backward:.2f} | {generation:.2f} | {loss.item():.5f} | "
              f"{generated[0, options.tokens:].tolist()[:4]} ... |", flush=True)
    bound = 1e-3 if options.dtype == "bfloat16" else 1e-5
    if not all(abs(loss - losses[0]) <= bound * abs(losses[0]) for loss in losses):
        print(f"the losses differ: {losses}", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
