// SPDX-License-Identifier: Apache-2.0
// Part of longspan. See LICENSE.
//
// Plans a backward call.
#include "engine/backward_plan.h"

#include <algorithm>

#include "base/fit_memory.h"
#include "base/parallel_for.h"
#include "engine/backward_worker.h"
#include "engine/cache_size.h"
#include "engine/panel_rows.h"

namespace longspan::engine {
namespace {

using base::ceil_div;

template <class T>
void choose_panels(BackwardCall<T>& call, const Execution& execution) {
  constexpr std::int64_t kLeastPanels = 4;
  constexpr std::int64_t kMostPanels = 16;
  const kernel::OperandFormat& format = call.kernel->format;
  const std::int64_t query_chunk = clamp_query_chunk(execution.query_chunk, call.seqlen_q);
  call.rows_per_panel =
      choose_panel_rows(*call.kernel, call.seqlen_q, query_chunk, format.depth_multiple);
  // Queries and doutput twice each and dquery, beside keys, values and their gradients.
  const auto size = static_cast<std::int64_t>(sizeof(T));
  const std::int64_t dims = call.head_dim + call.head_dim_v;
  const std::int64_t panel =
      call.rows_per_panel * (2 * dims * format.value_bytes() + call.head_dim * size);
  const std::int64_t twice = format.reads_rows ? 0 : call.head_dim;  // keys as components, too
  const std::int64_t keys =
      call.ranges.length * ((dims + twice) * format.value_bytes() + dims * size);
  const std::int64_t budget = second_level_cache() * 2 / 3 - keys;
  const std::int64_t wanted = query_chunk > 0
                                  ? ceil_div(query_chunk, call.rows_per_panel)
                                  : std::clamp(budget / panel, kLeastPanels, kMostPanels);
  call.panels_per_block =
      std::min(wanted, std::max<std::int64_t>(ceil_div(call.seqlen_q, call.rows_per_panel), 1));
}

template <class T>
std::vector<std::vector<BackwardPlan::Pair>> bundle(const BackwardCall<T>& call,
                                                    const BackwardShape& shape) {
  // However many batch entries there may be, or heads without keys.
  if (call.ranges.count() == 0 || shape.num_heads_kv == 0) return {};
  const bool shares_batch = call.bias_gradient != nullptr && call.bias_gradient->shares_batch();
  const bool shares_heads = call.bias_gradient != nullptr && call.bias_gradient->shares_heads();
  const std::int64_t by_batch = shares_batch ? 1 : shape.batch;
  const std::int64_t by_head = shares_heads ? 1 : shape.num_heads_kv;
  std::vector<std::vector<BackwardPlan::Pair>> bundles(
      static_cast<std::size_t>(by_batch * by_head));
  for (std::int64_t b = 0; b < shape.batch; ++b) {
    for (std::int64_t h = 0; h < shape.num_heads_kv; ++h) {
      bundles[static_cast<std::size_t>((shares_batch ? 0 : b) * by_head + (shares_heads ? 0 : h))]
          .push_back({b, h});
    }
  }
  return bundles;
}

}  // namespace

template <class T>
BackwardPlan plan_backward(BackwardCall<T>& call, const BackwardShape& shape, bool copies_dquery,
                           const Execution& execution) {
  BackwardPlan plan;
  choose_panels(call, execution);
  plan.bundles = bundle(call, shape);
  plan.ranges = call.ranges.count();
  plan.threads = base::resolve_threads(execution.threads, plan.tasks());
  plan.worker_bytes = BackwardWorker<T>::workspace_bytes(call);
  plan.shared_bytes =
      sizeof(T) * static_cast<std::size_t>(shape.batch * shape.num_heads * call.seqlen_q *
                                           (1 + (copies_dquery ? call.head_dim : 0)));
  if (call.bias_gradient != nullptr) plan.shared_bytes += call.bias_gradient->bytes();
  const auto give_up = [&] {
    if (call.panels_per_block > 4) {
      call.panels_per_block /= 2;
    } else if (!base::give_up_thread(plan.threads)) {
      if (call.panels_per_block == 1) return false;
      call.panels_per_block = 1;
    }
    plan.worker_bytes = BackwardWorker<T>::workspace_bytes(call);
    return true;
  };
  base::fit_memory(
      call.function, execution.memory_limit, [&] { return plan.workspace_bytes(); }, give_up);
  return plan;
}

template BackwardPlan plan_backward(BackwardCall<float>&, const BackwardShape&, bool,
                                    const Execution&);
template BackwardPlan plan_backward(BackwardCall<double>&, const BackwardShape&, bool,
                                    const Execution&);

}  // namespace longspan::engine
