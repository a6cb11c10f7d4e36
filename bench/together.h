// SPDX-License-Identifier: Apache-2.0
// Part of longspan. See LICENSE.
//
// Loops on several threads at once, and how long they take.
#pragma once

#include <algorithm>
#include <atomic>
#include <chrono>
#include <cstddef>
#include <ctime>
#include <thread>
#include <vector>

namespace longspan::bench {

template <class Work>
double seconds_of(const Work& work) {
  const auto start = std::chrono::steady_clock::now();
  work();
  return std::chrono::duration<double>(std::chrono::steady_clock::now() - start).count();
}

// Processor time of the calling thread: what others take of the machine does not count.
template <class Work>
double thread_seconds_of(const Work& work) {
  const auto now = [] {
    timespec time{};
    clock_gettime(CLOCK_THREAD_CPUTIME_ID, &time);
    return static_cast<double>(time.tv_sec) + 1e-9 * static_cast<double>(time.tv_nsec);
  };
  const double start = now();
  work();
  return now() - start;
}

// Calls work(t) for t = 0 ... threads - 1, each on a thread of its own, started together.
template <class Work>
void run_together(int threads, const Work& work) {
  std::atomic<int> ready{0};
  const auto run = [&](int t) {
    ++ready;
    while (ready < threads) std::this_thread::yield();
    work(t);
  };
  std::vector<std::jthread> others;
  for (int t = 1; t < threads; ++t) others.emplace_back(run, t);
  run(0);
}

// The largest of the seconds that work(t) returns.
template <class Work>
double slowest_of(int threads, const Work& work) {
  std::vector<double> seconds(static_cast<std::size_t>(threads));
  run_together(threads, [&](int t) { seconds[static_cast<std::size_t>(t)] = work(t); });
  return *std::max_element(seconds.begin(), seconds.end());
}

}  // namespace longspan::bench
