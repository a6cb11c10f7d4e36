// SPDX-License-Identifier: Apache-2.0
// Part of longspan. See LICENSE.
//
// parallel_for, whichever back end is built: every task once, workers apart, exceptions, nesting,
// forked children.
#include "base/parallel_for.h"

#include <gtest/gtest.h>
#include <signal.h>
#include <sys/wait.h>
#include <unistd.h>

#include <algorithm>
#include <atomic>
#include <chrono>
#include <fstream>
#include <stdexcept>
#include <thread>
#include <vector>

#include "longspan/execution.h"

namespace longspan::base {
namespace {

struct TaskFailed : std::runtime_error {
  explicit TaskFailed(std::int64_t which) : std::runtime_error("task failed"), task(which) {}
  std::int64_t task;
};

TEST(ParallelFor, EveryTaskOnceAndWorkersApart) {
  for (const std::int64_t tasks : {0, 1, 2, 3, 7, 100, 5000}) {
    for (const int threads : {1, 2, 3, 7, 64}) {
      std::vector<std::atomic<int>> runs(static_cast<std::size_t>(tasks));
      std::vector<std::atomic<int>> inside(static_cast<std::size_t>(threads));
      std::atomic<int> faults{0};
      parallel_for(tasks, threads, [&](std::int64_t task, int worker) {
        if (task < 0 || task >= tasks || worker < 0 || worker >= threads) {
          ++faults;
          return;
        }
        auto& here = inside[static_cast<std::size_t>(worker)];
        if (here.fetch_add(1) != 0) ++faults;
        ++runs[static_cast<std::size_t>(task)];
        if (task % 16 == 0) std::this_thread::yield();
        --here;
      });
      EXPECT_EQ(faults, 0) << tasks << " tasks, " << threads << " threads";
      for (const auto& count : runs) ASSERT_EQ(count, 1) << tasks << " tasks, " << threads;
    }
  }
}

TEST(ParallelFor, OneThreadRunsInOrderOnTheCaller) {
  std::vector<std::int64_t> order;
  const std::thread::id caller = std::this_thread::get_id();
  parallel_for(100, 1, [&](std::int64_t task, int worker) {
    EXPECT_EQ(worker, 0);
    EXPECT_EQ(std::this_thread::get_id(), caller);
    order.push_back(task);
  });
  ASSERT_EQ(order.size(), 100u);
  EXPECT_TRUE(std::is_sorted(order.begin(), order.end()));
}

TEST(ParallelFor, WritesOfTheTasksAreSeenByTheCaller) {
  std::vector<std::int64_t> squares(10'000);  // plain memory: the thread sanitizer looks on
  parallel_for(10'000, 4, [&](std::int64_t task, int) {
    squares[static_cast<std::size_t>(task)] = task * task;
  });
  for (std::int64_t n = 0; n < 10'000; ++n) {
    ASSERT_EQ(squares[static_cast<std::size_t>(n)], n * n);
  }
}

TEST(ParallelFor, TheFirstExceptionEndsTheCall) {
  std::vector<std::int64_t> ran;
  try {
    parallel_for(100, 1, [&](std::int64_t task, int) {
      ran.push_back(task);
      if (task >= 5) throw TaskFailed(task);
    });
    ADD_FAILURE() << "nothing thrown";
  } catch (const TaskFailed& failed) {
    EXPECT_EQ(failed.task, 5);
  }
  EXPECT_EQ(ran, (std::vector<std::int64_t>{0, 1, 2, 3, 4, 5}));
}

TEST(ParallelFor, AnExceptionStartsNoFurtherTask) {
  constexpr std::int64_t kTasks = 20'000;
  for (const int threads : {2, 3, 7}) {
    std::atomic<std::int64_t> started{0};
    std::atomic<int> running{0};
    try {
      parallel_for(kTasks, threads, [&](std::int64_t task, int) {
        ++started;
        if (task == 3) throw TaskFailed(task);
        ++running;
        // Long enough that the others cannot drain the tasks before the exception is seen.
        std::this_thread::sleep_for(std::chrono::milliseconds(1));
        --running;
      });
      ADD_FAILURE() << "nothing thrown";
    } catch (const TaskFailed& failed) {
      EXPECT_EQ(failed.task, 3);
    }
    EXPECT_EQ(running, 0) << "a body still ran when the call returned";
    EXPECT_GE(started, 4);
    EXPECT_LT(started, kTasks / 2);
  }
}

TEST(ParallelFor, OneOfSeveralExceptionsComesOut) {
  for (int round = 0; round < 50; ++round) {
    std::vector<std::atomic<bool>> thrown(64);
    try {
      parallel_for(64, 4, [&](std::int64_t task, int) {
        thrown[static_cast<std::size_t>(task)] = true;
        throw TaskFailed(task);
      });
      ADD_FAILURE() << "nothing thrown";
    } catch (const TaskFailed& failed) {
      EXPECT_TRUE(thrown[static_cast<std::size_t>(failed.task)]);
    }
  }
  // Nothing of it is left for the next call.
  std::atomic<int> runs{0};
  parallel_for(64, 4, [&](std::int64_t, int) { ++runs; });
  EXPECT_EQ(runs, 64);
}

TEST(ParallelFor, Nested) {
  constexpr std::int64_t kOuter = 12, kInner = 50;
  std::vector<std::atomic<int>> runs(kOuter * kInner);
  std::vector<std::atomic<int>> inside(3);
  std::atomic<int> faults{0};
  parallel_for(kOuter, 3, [&](std::int64_t outer, int worker) {
    // While the inner call waits, the outer worker must not be given a second task.
    if (inside[static_cast<std::size_t>(worker)].fetch_add(1) != 0) ++faults;
    parallel_for(kInner, 4, [&](std::int64_t inner, int inner_worker) {
      if (inner_worker < 0 || inner_worker >= 4) ++faults;
      ++runs[static_cast<std::size_t>(outer * kInner + inner)];
    });
    --inside[static_cast<std::size_t>(worker)];
  });
  EXPECT_EQ(faults, 0);
  for (const auto& count : runs) ASSERT_EQ(count, 1);

  EXPECT_THROW(parallel_for(4, 2,
                            [&](std::int64_t, int) {
                              parallel_for(8, 2,
                                           [](std::int64_t task, int) { throw TaskFailed(task); });
                            }),
               TaskFailed);
}

// 0 when all is as it should be; runs in the child, where no assertion may print.
int run_in_child() {
  const std::thread::id caller = std::this_thread::get_id();
  std::vector<int> runs(1000);
  bool elsewhere = false;
  parallel_for(1000, 4, [&](std::int64_t task, int worker) {
    elsewhere = elsewhere || worker != 0 || std::this_thread::get_id() != caller;
    ++runs[static_cast<std::size_t>(task)];
  });
  if (elsewhere) return 2;
  if (!std::all_of(runs.begin(), runs.end(), [](int count) { return count == 1; })) return 3;
  try {
    parallel_for(10, 4, [](std::int64_t task, int) { throw TaskFailed(task); });
  } catch (const TaskFailed&) {
    return 0;
  }
  return 4;
}

TEST(ParallelFor, AForkedChildRunsOnItsOnlyThread) {
  std::atomic<int> runs{0};
  const auto in_parent = [&] { parallel_for(100, 4, [&](std::int64_t, int) { ++runs; }); };
  in_parent();  // the pool, if there is one, is up
  const pid_t child = fork();
  ASSERT_GE(child, 0);
  if (child == 0) _exit(run_in_child());

  int status = 0;
  bool ended = false;
  for (int waited = 0; waited < 6000 && !ended; ++waited) {  // a minute: it would hang for ever
    ended = waitpid(child, &status, WNOHANG) == child;
    if (!ended) std::this_thread::sleep_for(std::chrono::milliseconds(10));
  }
  if (!ended) {
    kill(child, SIGKILL);
    waitpid(child, &status, 0);
  }
  ASSERT_TRUE(ended) << "the child hangs";
  ASSERT_TRUE(WIFEXITED(status));
  EXPECT_EQ(WEXITSTATUS(status), 0);
  in_parent();  // the parent's pool is as it was
  EXPECT_EQ(runs, 200);
}

TEST(ResolveThreads, NeverMoreThanTasksAndAtLeastOne) {
  EXPECT_GE(available_threads(), 1);
  EXPECT_EQ(resolve_threads(0, 1'000'000), available_threads());
  EXPECT_EQ(resolve_threads(0, 1), 1);
  EXPECT_EQ(resolve_threads(5, 0), 1);
  EXPECT_EQ(resolve_threads(5, 3), 3);
  EXPECT_EQ(resolve_threads(2, std::int64_t{1} << 40), 2);
  EXPECT_EQ(resolve_threads(1000, 1000), 1000);  // more than the machine has is the caller's choice
}

#ifndef __SANITIZE_ADDRESS__  // which keeps what is freed
// Pages of the process that are in memory.
std::int64_t resident_pages() {
  std::ifstream file("/proc/self/statm");
  std::int64_t size = 0, resident = 0;
  file >> size >> resident;
  return resident;
}

TEST(ParallelFor, KeepsNothingOfACall) {
  const auto calls = [](int count) {
    for (int n = 0; n < count; ++n) parallel_for(8, 2, [](std::int64_t, int) {});
  };
  calls(1000);
  const std::int64_t before = resident_pages();
  calls(5000);
  EXPECT_LT(resident_pages() - before, 512) << "2 MiB; an arena a call would be 10 and more";
}
#endif

}  // namespace
}  // namespace longspan::base
