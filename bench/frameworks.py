#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
# Part of longspan. See LICENSE.
"""Times longspan.torch.attention against the NumPy functions of the same library and against PyTorch's sdpa, in turn.

usage: PYTHONPATH=build/release/python build/frameworks/bin/python bench/frameworks.py [--rounds 5] [--long] [--only overhead]

Forward, and forward with backward; answers are compared first; short calls take 16 times the rounds. The second column says
what the operator costs beside the call; the third what PyTorch takes. The last table is of calls that compute next to
nothing, in turn, microseconds.
"""
import argparse
import statistics
import time

import ml_dtypes
import numpy as np
import torch
import torch.nn.functional as F

import longspan
import longspan.torch

PAUSE_SECONDS = 0.05  # longer than thread pools spin


def seconds(call, repeats=1):
    time.sleep(PAUSE_SECONDS)
    start = time.perf_counter()
    for _ in range(repeats):
        call()
    return (time.perf_counter() - start) / repeats


def in_turn(calls, rounds, repeats=1):
    """[call][round], after a warm-up."""
    for call in calls:
        call()
    times = [[seconds(call, repeats) for call in calls] for _ in range(rounds)]
    return list(zip(*times))


def as_array(tensor):
    tensor = tensor.detach()
    return tensor.view(torch.uint16).numpy().view(ml_dtypes.bfloat16) if tensor.dtype == torch.bfloat16 else tensor.numpy()


def row(dtype, heads, seqlen, dim, causal, backward, rounds):
    torch.manual_seed(0)
    bshd = [torch.randn(1, seqlen, heads, dim).to(dtype).requires_grad_(backward) for _ in range(3)]
    bhsd = [x.detach().transpose(1, 2).contiguous().requires_grad_(backward) for x in bshd]
    arrays = [as_array(x) for x in bshd]
    mask = longspan.causal() if causal else None
    doutput = torch.randn(1, seqlen, heads, dim).to(dtype)
    doutput_array, doutput_bhsd = as_array(doutput), doutput.transpose(1, 2).contiguous()

    def ours():
        output = longspan.torch.attention(*bshd, mask=mask)
        return (output, *torch.autograd.grad(output, bshd, doutput)) if backward else (output,)

    def numpy():
        if not backward:
            return longspan.attention(*arrays, mask=mask)
        output, lse = longspan.attention(*arrays, mask=mask, return_lse=True)
        return longspan.attention_backward(doutput_array, *arrays, output, lse, mask=mask)

    def theirs():
        output = F.scaled_dot_product_attention(*bhsd, is_causal=causal)
        return (output, *torch.autograd.grad(output, bhsd, doutput_bhsd)) if backward else (output,)

    bound = 2e-2 if dtype == torch.bfloat16 else 1e-5
    for a, b in zip(ours(), theirs()):
        error = (a.double() - b.transpose(1, 2).double()).norm() / b.double().norm()
        if not error <= bound:
            raise SystemExit(f"answers differ: {error:.1e}")
    a, b, c = in_turn([ours, numpy, theirs], rounds if seqlen > 1024 else 16 * rounds)
    over = statistics.median(x / y for x, y in zip(a, b))
    ratio = statistics.median(x / y for x, y in zip(c, a))
    print(f"| {'forward + backward' if backward else 'forward'} {heads} x {seqlen} d {dim}{' causal' if causal else ''} "
          f"| {str(dtype).removeprefix('torch.')} | {1e3 * statistics.median(a):.1f} | {over:.3f} | {ratio:.2f} |", flush=True)


def overhead(rounds):
    query = torch.randn(1, 16, 8, 64)
    nothing = torch.randn(1, 0, 8, 64)
    library = torch.library.Library("longspan_bench", "DEF")
    library.define("empty(Tensor a, Tensor b, Tensor c) -> (Tensor, Tensor)")
    library.impl("empty", lambda a, b, c: (torch.empty_like(a), torch.empty_like(b)), "CPU")
    torch.library.register_autograd("longspan_bench::empty", lambda ctx, a, b: (a, a, a), lib=library)
    empty = torch.ops.longspan_bench.empty.default
    learning = nothing.clone().requires_grad_()
    array, no_array = query.numpy(), nothing.numpy()
    mask = longspan.causal("end")
    calls = {
        "empty operator": lambda: empty(nothing, nothing, nothing),
        "empty operator, requires grad": lambda: empty(learning, learning, learning),
        "longspan.torch.attention, no queries": lambda: longspan.torch.attention(nothing, query, query),
        "the same, causal": lambda: longspan.torch.attention(nothing, query, query, mask=mask),
        "the same, requires grad": lambda: longspan.torch.attention(learning, query, query),
        "longspan.attention of NumPy, no queries": lambda: longspan.attention(no_array, array, array),
        "longspan.attention of NumPy, 1 x 8 x 16 x 64": lambda: longspan.attention(array, array, array),
        "longspan.torch.attention, 1 x 8 x 16 x 64": lambda: longspan.torch.attention(query, query, query),
    }
    times = in_turn(calls.values(), 10 * rounds, 50)  # so short that other programs miss some
    print("| call | microseconds |\n|---|---|")
    for name, of_call in zip(calls, times):
        print(f"| {name} | {1e6 * min(of_call):.1f} |")


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--long", action="store_true", help="8 x 16384, too")
    parser.add_argument("--only", choices=["overhead"], help="the last table alone")
    options = parser.parse_args()
    longspan.set_num_threads(torch.get_num_threads())
    print(f"longspan {longspan.__version__}, PyTorch {torch.__version__}, {torch.get_num_threads()} threads, "
          f"{next(k['name'] for k in longspan.doctor()['kernels'] if k['chosen'])}\n")
    if options.only == "overhead":
        return overhead(options.rounds)
    print("| work | type | longspan.torch ms | / NumPy functions | sdpa / longspan.torch |\n|---|---|---|---|---|")
    shapes = [(8, 4096, False), (1, 16384, False), (8, 4096, True), (8, 512, True)]
    shapes += [(8, 16384, False)] if options.long else []
    for backward in (False, True):
        for dtype in (torch.float32, torch.bfloat16):
            for dim in (64, 128):
                for heads, seqlen, causal in shapes:
                    row(dtype, heads, seqlen, dim, causal, backward, options.rounds)
    print()
    overhead(options.rounds)


if __name__ == "__main__":
    main()
