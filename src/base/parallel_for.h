// SPDX-License-Identifier: Apache-2.0
// Part of longspan. See LICENSE.
//
// Runs independent tasks on several threads. Two back ends behind this header: oneTBB, and
// std::thread (for the thread sanitizer, which Debian's oneTBB is not built for).
#pragma once

#include <cstdint>
#include <functional>

namespace longspan::base {

// Calls body(task, worker) once for every task in [0, tasks), taken in ascending order; worker is
// in [0, threads) and no two calls with one worker overlap. The first exception of a body is
// rethrown here once all workers stopped (no further task is started). With one thread, or in a
// forked child, everything runs on the calling thread.
void parallel_for(std::int64_t tasks, int threads,
                  const std::function<void(std::int64_t task, int worker)>& body);

// 0 means available_threads(); never more than tasks, at least 1.
int resolve_threads(int requested, std::int64_t tasks);

}  // namespace longspan::base
