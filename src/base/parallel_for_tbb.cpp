// SPDX-License-Identifier: Apache-2.0
// Part of longspan. See LICENSE.
//
// parallel_for on oneTBB.
#include <tbb/info.h>
#include <tbb/parallel_for.h>
#include <tbb/partitioner.h>
#include <tbb/task_arena.h>

#include <algorithm>

#include "base/parallel_for.h"
#include "base/worker_loop.h"

namespace longspan::base {

void parallel_for(std::int64_t tasks, int threads,
                  const std::function<void(std::int64_t task, int worker)>& body) {
  WorkerLoop loop(tasks, body);
  if (threads <= 1 || tasks <= 1 || in_forked_child()) {
    loop.run(0);
  } else {
    // One TBB task per worker; each drains the shared counter, so late ones find it exhausted. The
    // arena asks for no more threads than TBB has: it prints a warning otherwise.
    tbb::task_arena arena(std::min(threads, tbb::info::default_concurrency()));
    arena.execute([&] {
      tbb::parallel_for(
          0, threads, [&](int worker) { loop.run(worker); }, tbb::simple_partitioner{});
    });
  }
  loop.rethrow();
}

}  // namespace longspan::base
