// SPDX-License-Identifier: Apache-2.0
// Part of longspan. See LICENSE.
//
// Every call with its first, second, third, ... allocation failing: std::bad_alloc or
// Error(kOutOfMemory) arrives, and the next call is the same as before.
#include <gtest/gtest.h>

#include <atomic>
#include <cstdlib>
#include <functional>
#include <new>

#include "support/backward.h"
#include "support/lsh_call.h"

namespace {
constexpr long kNever = -1;
std::atomic<long> left{kNever};  // allocations until one fails

void* checked(void* p) { return p != nullptr ? p : throw std::bad_alloc(); }
bool fails() { return left.load() != kNever && left.fetch_sub(1) == 0; }
}  // namespace

// Not inlined: a compiler that sees free() beside the `new` of a caller takes it for a mistake.
[[gnu::noinline]] void* operator new(std::size_t bytes) {
  if (fails()) throw std::bad_alloc();
  return checked(std::malloc(bytes));
}
[[gnu::noinline]] void* operator new(std::size_t bytes, const std::nothrow_t&) noexcept {
  return fails() ? nullptr : std::malloc(bytes);
}
[[gnu::noinline]] void* operator new(std::size_t bytes, std::align_val_t alignment) {
  const auto align = static_cast<std::size_t>(alignment);
  return checked(std::aligned_alloc(align, (bytes + align - 1) / align * align));
}
[[gnu::noinline]] void operator delete(void* p) noexcept { std::free(p); }
[[gnu::noinline]] void operator delete(void* p, std::size_t) noexcept { std::free(p); }
[[gnu::noinline]] void operator delete(void* p, std::align_val_t) noexcept { std::free(p); }
[[gnu::noinline]] void operator delete(void* p, std::size_t, std::align_val_t) noexcept {
  std::free(p);
}

namespace longspan::test {
namespace {

void fail_each(const char* name, const std::function<void()>& call) {
  call();  // what is allocated once, and kept
  long failures = 0;
  for (bool failed = true; failed; ++failures) {
    ASSERT_LT(failures, 10'000) << name;
    failed = false;
    left = failures;
    try {
      call();
    } catch (const std::bad_alloc&) {
      failed = true;
    } catch (const Error& error) {
      EXPECT_EQ(error.code(), ErrorCode::kOutOfMemory) << name << ": " << error.what();
      failed = true;
    }
    failed = failed || left.load() < 0;  // or the call did without
    left = kNever;
  }
  EXPECT_GT(failures, 2) << name;
}

TEST(Allocation, EachMayFail) {
  Inputs in = normal_inputs(
      {.seqlen_q = 40, .seqlen_k = 50, .heads = 4, .heads_kv = 2, .head_dim = 8, .head_dim_v = 8},
      DType::kFloat32, 1);
  in.options.query_offset = QueryOffset::end();
  in.options.mask = causal();
  in.options.bias = in.keep(Tensor(DType::kFloat32, {4, 1, 50}).fill(0.5)).view();
  const Derivatives derivatives = normal_derivatives(in, DType::kFloat32, 2);
  Output output = make_output(in, DType::kFloat32);
  GradientTensors gradients = make_gradients(in, DType::kFloat32);
  const LshInputs lsh = separate_lsh(DType::kFloat32, 60, 60, 3);
  Output lsh_output = run_lsh(lsh);
  const Derivatives lsh_derivatives = normal_derivatives(lsh, DType::kFloat32, 4);
  Inputs lsh_shapes;
  lsh_shapes.query = lsh.query, lsh_shapes.key = lsh.key, lsh_shapes.value = lsh.value;
  GradientTensors lsh_gradients = make_gradients(lsh_shapes, DType::kFloat32);
  for (const int threads : {1, 2}) {
    const Execution execution = on("", threads);
    const Partial into{output.output, output.lse};
    fail_each("attention",
              [&] { attention(in.query, in.key, in.value, into, in.options, execution); });
    fail_each("attention_backward", [&] {
      attention_backward(in.query, in.key, in.value, {output.output, output.lse},
                         {derivatives.output, derivatives.lse}, gradients.views(), in.options,
                         execution);
    });
    fail_each("lsh_attention", [&] {
      lsh_attention(lsh.query, lsh.key, lsh.value, {lsh_output.output, lsh_output.lse}, lsh.lsh,
                    lsh.options, execution);
    });
    fail_each("lsh_attention_backward", [&] {
      lsh_attention_backward(lsh.query, lsh.key, lsh.value, {lsh_output.output, lsh_output.lse},
                             {lsh_derivatives.output, lsh_derivatives.lse}, lsh_gradients.views(),
                             lsh.lsh, lsh.options, execution);
    });
    EXPECT_TRUE(same_bits(run(in, execution), output));
    EXPECT_TRUE(same_bits(run_lsh(lsh, execution), lsh_output));
    EXPECT_TRUE(same_bits(run_backward(in, output, derivatives, execution), gradients));
  }
}

}  // namespace
}  // namespace longspan::test
