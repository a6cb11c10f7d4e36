// SPDX-License-Identifier: Apache-2.0
// Part of longspan. See LICENSE.
//
// A program in which no thread can be created: calls do their work on the thread they have.
#include <gtest/gtest.h>
#include <pthread.h>

#include <atomic>
#include <cerrno>

#include "base/parallel_for.h"
#include "support/call.h"

// Takes the place of the system's for the whole program.
extern "C" int pthread_create(pthread_t* /*thread*/, const pthread_attr_t* /*attributes*/,
                              void* (*)(void*), void* /*argument*/) noexcept {
  return EAGAIN;
}

namespace longspan::test {
namespace {

TEST(ThreadCreation, FailsAndEveryTaskIsDone) {
  for (int call = 0; call < 3; ++call) {
    std::vector<std::atomic<int>> runs(1000);
    base::parallel_for(1000, 4,
                       [&](std::int64_t task, int) { ++runs[static_cast<std::size_t>(task)]; });
    for (const auto& count : runs) ASSERT_EQ(count, 1);
  }
}

TEST(ThreadCreation, FailsAndAttentionIsTheSame) {
  const Inputs in = normal_inputs(
      {.seqlen_q = 300, .seqlen_k = 300, .heads = 4, .heads_kv = 4, .head_dim = 8, .head_dim_v = 8},
      DType::kFloat32, 1);
  EXPECT_TRUE(same_bits(run(in, on("", 4)), run(in, on("", 1))));
}

}  // namespace
}  // namespace longspan::test
