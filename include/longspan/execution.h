// SPDX-License-Identifier: Apache-2.0
// Part of longspan. See LICENSE.
//
// How a call is carried out: threads, memory, kernel, chunk sizes. Nothing here changes what is
// computed beyond rounding, and threads and memory_limit change no bit of it.
#pragma once

#include <atomic>
#include <cstddef>
#include <cstdint>
#include <stop_token>
#include <string>
#include <vector>

namespace longspan {

// Counts work as it is done; may be read from any thread while a call runs. A call adds to both, in
// units of one size (tiles, or queries of a hash round), and has done its total when it returns.
struct Progress {
  std::atomic<std::int64_t> done{0};
  std::atomic<std::int64_t> total{0};
};

struct Execution {
  int threads = 0;               // 0: all that the process may use (affinity and cgroup respected)
  std::stop_token stop;          // polled once a key block; a stopped call throws Error(kCancelled)
  std::size_t memory_limit = 0;  // bytes of workspace the call may allocate; 0: no limit
  std::int64_t query_chunk = 0;  // queries handled together; 0: chosen
  std::int64_t key_chunk = 0;    // keys summarised before a merge; 0: chosen from seqlen_k alone
  std::string
      kernel;  // a name from kernels(); empty: LONGSPAN_KERNEL, else the best that runs here
  Progress* progress = nullptr;  // updated while the call runs, when given
};

// Threads that `threads = 0` stands for: min(affinity mask, cgroup CPU quota rounded up), at
// least 1.
int available_threads();

struct KernelInfo {
  std::string name;     // "avx3", "avx2", "sse4", "sse2", ...
  bool usable = false;  // this processor can run it
  bool chosen = false;  // what an empty Execution::kernel means now
  std::string reason;   // why it is not usable or not chosen; empty when chosen
};

// Every kernel in this build, best first.
std::vector<KernelInfo> kernels();

// "0.1.0"
const char* version() noexcept;

}  // namespace longspan
