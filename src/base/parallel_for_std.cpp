// SPDX-License-Identifier: Apache-2.0
// Part of longspan. See LICENSE.
//
// parallel_for on std::thread: threads live for one call.
#include <system_error>
#include <thread>
#include <vector>

#include "base/parallel_for.h"
#include "base/worker_loop.h"

namespace longspan::base {

void parallel_for(std::int64_t tasks, int threads,
                  const std::function<void(std::int64_t task, int worker)>& body) {
  WorkerLoop loop(tasks, body);
  std::vector<std::jthread> others;
  if (tasks > 1 && !in_forked_child()) {
    others.reserve(static_cast<std::size_t>(threads > 1 ? threads - 1 : 0));
    for (int worker = 1; worker < threads; ++worker) {
      try {
        others.emplace_back([&loop, worker] { loop.run(worker); });
      } catch (const std::system_error&) {
        break;  // no more threads to be had: those that run share the work
      }
    }
  }
  loop.run(0);
  others.clear();  // joins
  loop.rethrow();
}

}  // namespace longspan::base
