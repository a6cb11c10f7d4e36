# SPDX-License-Identifier: Apache-2.0
# Part of longspan. See LICENSE.
#
# Threads, the GIL, signals, forked children; and what a call costs, printed and not judged.
import multiprocessing
import os
import signal
import subprocess
import sys
import textwrap
import threading
import time
import timeit

import numpy as np
import pytest
from reference import Attention, check

import longspan


def make(rng, seqlen, heads=4):
    return [rng.standard_normal((1, seqlen, heads, 32), np.float32) for _ in range(3)]


def attend_in_child(arrays, queue):
    queue.put((longspan.attention(*arrays, mask=longspan.causal()),
               longspan.attention(*arrays, mask=longspan.predicate(lambda b, h, i, j: j <= i)),
               longspan.lsh_attention(arrays[0], None, arrays[2])))


def test_a_forked_child_computes(rng):
    arrays = make(rng, 700)  # long enough for threads, and for the thread that listens to signals
    expected = longspan.attention(*arrays, mask=longspan.causal())
    hashed = longspan.lsh_attention(arrays[0], None, arrays[2])
    context = multiprocessing.get_context("fork")
    queue = context.Queue()
    child = context.Process(target=attend_in_child, args=(arrays, queue))
    child.start()
    causal, predicate, lsh = queue.get(timeout=60)
    child.join(60)
    assert child.exitcode == 0
    assert np.array_equal(causal, expected) and np.array_equal(lsh, hashed)
    check(predicate, expected, 2e-6)


def test_python_runs_while_a_call_computes(rng):
    arrays = make(rng, 4000)
    calls, done = [0], threading.Event()

    def count():
        while not done.is_set():
            calls[0] += 1
            time.sleep(0.0005)

    counter = threading.Thread(target=count)
    counter.start()
    before = calls[0]
    longspan.attention(*arrays)
    during = calls[0] - before
    done.set()
    counter.join()
    assert during >= 3


def test_calls_from_several_threads(rng):
    arrays = make(rng, 300)
    expected = longspan.attention(*arrays)
    good = []

    def call():
        for _ in range(20):
            good.append(np.array_equal(longspan.attention(*arrays), expected))

    threads = [threading.Thread(target=call) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(good) == 80 and all(good)


CALLS = {
    "attention": "longspan.attention(x, x, x)",
    "lsh_attention": "longspan.lsh_attention(x[:, :40000], None, x[:, :40000], num_hashes=64, chunk_len=512)",
    "predicate": "longspan.attention(x, x, x, mask=longspan.predicate(lambda b, h, i, j: j <= i))",
}


@pytest.mark.parametrize("name", CALLS)
def test_ctrl_c(name):
    code = textwrap.dedent(f"""
        import signal, sys, time
        signal.signal(signal.SIGINT, signal.default_int_handler)  # a shell ignores it in what it runs in the background
        import numpy as np, longspan
        x = np.zeros((1, 200000, 2, 64), np.float32)
        longspan.attention(x[:, :64], x[:, :64], x[:, :64])
        print("started", flush=True)
        try:
            {CALLS[name]}
        except KeyboardInterrupt:
            print("interrupted", time.time(), flush=True)
            small = longspan.attention(x[:, :64], x[:, :64], x[:, :64])
            sys.exit(3 if small.shape == (1, 64, 2, 64) else 4)
        """)
    with subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, text=True) as child:
        assert child.stdout.readline() == "started\n"
        time.sleep(0.5)
        sent = time.time()
        os.kill(child.pid, signal.SIGINT)
        words = child.stdout.read().split()
        assert child.wait(timeout=60) == 3
    print(f"{name}: Ctrl-C was answered after {1e3 * (float(words[1]) - sent):.0f} ms")


def test_the_handler_of_another_signal(rng):
    class Alarm(Exception):
        pass

    def ring(number, frame):
        raise Alarm

    x = np.zeros((1, 100000, 1, 64), np.float32)
    before = signal.signal(signal.SIGALRM, ring)
    try:
        signal.setitimer(signal.ITIMER_REAL, 0.2)
        with pytest.raises(Alarm):
            longspan.attention(x, x, x)
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)


def test_doctor():
    diagnosis = longspan.doctor()
    assert diagnosis["healthy"] and diagnosis["version"] == longspan.__version__
    assert diagnosis["threads"]["used"] == longspan.get_num_threads()
    assert [kernel["chosen"] for kernel in diagnosis["kernels"]].count(True) == 1
    text = str(diagnosis)
    assert "all is well" in text and all(kernel["name"] in text for kernel in diagnosis["kernels"])


def test_version():
    assert longspan.__version__.count(".") == 2


def test_public_names_have_words():
    for name in longspan.__all__:
        if name != "__version__":
            assert getattr(longspan, name).__doc__, name


def test_what_a_call_costs(rng, capsys):
    """1 x 16 x 8 x 64, one thread; the call alone is that of no queries, where the library has nothing to compute."""
    query = rng.standard_normal((1, 16, 8, 64), np.float32)
    nothing = query[:, :0]
    longspan.set_num_threads(1)
    try:
        calls = {"all of it": lambda: longspan.attention(query, query, query),
                 "of no queries": lambda: longspan.attention(nothing, query, query)}
        microseconds = {name: min(timeit.repeat(call, number=200, repeat=5)) / 200 * 1e6 for name, call in calls.items()}
    finally:
        longspan.set_num_threads(0)
    with capsys.disabled():
        print(f"\nattention of 1 x 16 x 8 x 64 float32: {microseconds['all of it']:.1f} us, "
              f"{microseconds['of no queries']:.1f} us of no queries")
    check(longspan.attention(query, query, query), Attention(query, query, query).output, 2e-6)
