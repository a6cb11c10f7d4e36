// SPDX-License-Identifier: Apache-2.0
// Part of longspan. See LICENSE.
//
// parallel_for on oneTBB.
#include <tbb/info.h>
#include <tbb/parallel_for.h>
#include <tbb/partitioner.h>
#include <tbb/task_arena.h>

#include <algorithm>
#include <map>
#include <memory>
#include <mutex>
#include <utility>
#include <vector>

#include "base/parallel_for.h"
#include "base/worker_loop.h"

namespace longspan::base {
namespace {

using Arena = std::unique_ptr<tbb::task_arena>;

// Arenas are used again. One made for each call would be freed only when some worker of TBB comes
// by later: memory, and the time of a call, would grow with the number of calls.
class IdleArenas {
 public:
  static IdleArenas& instance() {
    static auto* const all = new IdleArenas;  // never destroyed: calls may come after main()
    return *all;
  }
  Arena take(int threads) {
    const std::lock_guard lock(mutex_);
    std::vector<Arena>& idle = idle_[threads];
    if (idle.empty()) return std::make_unique<tbb::task_arena>(threads);
    Arena arena = std::move(idle.back());
    idle.pop_back();
    return arena;
  }
  void give_back(int threads, Arena arena) {
    const std::lock_guard lock(mutex_);
    idle_[threads].push_back(std::move(arena));
  }

 private:
  std::mutex mutex_;
  std::map<int, std::vector<Arena>> idle_;  // by how many threads they take
};

// One TBB task per worker; each drains the shared counter, so late ones find it exhausted.
void run_on_pool(int threads, WorkerLoop& loop) {
  // No more threads than TBB has: it prints a warning otherwise.
  const int arena_threads = std::min(threads, tbb::info::default_concurrency());
  Arena arena = IdleArenas::instance().take(arena_threads);
  arena->execute([&] {
    tbb::parallel_for(
        0, threads, [&](int worker) { loop.run(worker); }, tbb::simple_partitioner{});
  });
  IdleArenas::instance().give_back(arena_threads, std::move(arena));
}

}  // namespace

void parallel_for(std::int64_t tasks, int threads,
                  const std::function<void(std::int64_t task, int worker)>& body) {
  WorkerLoop loop(tasks, body);
  if (threads <= 1 || tasks <= 1 || in_forked_child()) {
    loop.run(0);
  } else {
    try {
      run_on_pool(threads, loop);
    } catch (...) {  // of TBB: no threads or no memory to be had; what is left is done here
      loop.run(0);
    }
  }
  loop.rethrow();
}

}  // namespace longspan::base
