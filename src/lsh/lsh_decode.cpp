// SPDX-License-Identifier: Apache-2.0
// Part of longspan. See LICENSE.
//
// A task is one row: one query of one head.
#include "lsh/lsh_decode.h"

#include <algorithm>
#include <cmath>
#include <cstring>
#include <functional>
#include <optional>
#include <string>
#include <vector>

#include "base/buffer.h"
#include "base/call_log.h"
#include "base/check.h"
#include "base/parallel_for.h"
#include "base/row_sums.h"
#include "engine/call_setup.h"
#include "engine/checked_call.h"
#include "engine/checked_result.h"
#include "engine/gathered_worker.h"
#include "engine/list_rows.h"
#include "engine/running_rows.h"
#include "lsh/key_factor.h"
#include "lsh/lsh_call.h"
#include "lsh/padding.h"
#include "lsh/window_keys.h"

namespace longspan::lsh {
namespace {

using base::require;
using engine::CheckedCall;

constexpr const char* kFunction = "lsh_cache: attend";

struct Results {
  engine::TensorAxes output;
  engine::TensorAxes lse;
};

// Padding would be hashed behind the last bucket, but it is said after keys have been hashed.
void check_mask(const Mask& mask) {
  require(without_padding(mask).terms().size() == mask.terms().size(), [&] {
    return std::string(kFunction) +
           ": key lengths, and a dense mask with one row for all queries, are padding, which a "
           "cache has hashed already; expected other terms (causal, window, documents, prefix, a "
           "key range, a predicate)";
  });
}

bool same_row(const base::RowSource& a, std::int64_t i, const base::RowSource& b, std::int64_t j,
              std::int64_t dim) {
  const auto size = static_cast<std::int64_t>(size_of(a.dtype));
  const auto at = [&](const base::RowSource& rows, std::int64_t n, std::int64_t d) {
    return static_cast<const std::byte*>(rows.data) +
           (n * rows.row_stride + d * rows.dim_stride) * size;
  };
  for (std::int64_t d = 0; d < dim; ++d) {
    if (std::memcmp(at(a, i, d), at(b, j, d), static_cast<std::size_t>(size)) != 0) return false;
  }
  return true;
}

// Shared queries are the newest rows, whose places in the rounds are known.
void check_newest(const CheckedCall& call) {
  require(call.num_heads == call.num_heads_kv && call.seqlen_q <= call.seqlen_k, [&] {
    return std::string(kFunction) + ": queries of shared query and key are the newest of " +
           std::to_string(call.seqlen_k) + " rows of " + std::to_string(call.num_heads_kv) +
           " heads; found " + std::to_string(call.seqlen_q) + " of " +
           std::to_string(call.num_heads);
  });
  const std::int64_t first = call.seqlen_k - call.seqlen_q;
  for (std::int64_t row = 0; row < call.batch * call.num_heads * call.seqlen_q; ++row) {
    const std::int64_t i = row % call.seqlen_q, list = row / call.seqlen_q;
    const std::int64_t b = list / call.num_heads, h = list % call.num_heads;
    require(same_row(call.query.source(b, h), i, call.key.source(b, h), first + i, call.head_dim),
            [&] {
              return std::string(kFunction) +
                     ": queries of shared query and key are the newest rows; query [" +
                     std::to_string(b) + ", " + std::to_string(i) + ", " + std::to_string(h) +
                     "] is not row " + std::to_string(first + i) + " of the cache";
            });
  }
}

template <class T>
class LshDecode {
 public:
  LshDecode(const CheckedCall& checked, const CachedKeys& cache, const HashedKeys<T>& hashed,
            const Results& results, const LshOptions& options, const AttentionOptions& attention,
            const Execution& execution)
      : checked_(checked),
        hashed_(hashed),
        results_(results),
        options_(options),
        execution_(execution),
        shared_(cache.vectors == Vectors::kShared),
        kernel_(kernel::choose_kernel(execution.kernel)),
        mask_(attention.mask, attention.query_offset, engine::shape_of(checked),
              /*positions_needed=*/true),
        query_copy_(checked.query.source(0, 0), checked.seqlen_q, checked.head_dim),
        numerator_(results.output.target(0, 0), checked.seqlen_q, checked.head_dim_v) {
    if (options.local_window) {
      local_.emplace(local_terms(attention.mask, *options.local_window), attention.query_offset,
                     engine::shape_of(checked));
    }
    engine::describe_call(checked, attention, execution,
                          kernel_.template table<T>(checked.query.dtype), mask_, call_);
    if (shared_) call_.scale = score_scale(options.key_norm, checked.head_dim);
    call_.run_keys = call_.kernel->key_block;
    worker_bytes_ =
        base::round_up(engine::GatheredWorker<T>::workspace_bytes(call_), base::kAlignment);
    threads_ = choose_threads(
        kFunction, execution, rows(), [&](int threads) { return total_bytes(threads); },
        [&] {
          query_copy_.spare_memory();
          numerator_.spare_memory();
        });
  }

  std::string log_line() const {
    return std::string("lsh_cache ") + name_of(checked_.query.dtype) + ", " +
           std::to_string(checked_.seqlen_q) + " queries of " + std::to_string(checked_.num_heads) +
           " heads, " + std::to_string(checked_.seqlen_k) + " keys, kernel " + kernel_.name + ", " +
           std::to_string(threads_) + " threads";
  }

  void run() {
    const base::Buffer workspace(total_bytes(threads_));
    base::Carver carver(workspace.data());
    carve(carver);
    std::vector<Worker> workers;
    workers.reserve(static_cast<std::size_t>(threads_));
    for (int w = 0; w < threads_; ++w) {
      workers.emplace_back(call_, options_, shared_,
                           carver.take<std::byte>(static_cast<std::int64_t>(worker_bytes_)));
    }
    load_queries();
    if (!shared_) hash_queries();
    base::parallel_for(rows(), threads_, [&](std::int64_t row, int w) {
      attend(row, workers[static_cast<std::size_t>(w)]);
    });
  }

 private:
  struct Worker {
    Worker(const engine::GatheredCall<T>& call, const LshOptions& options, bool shared,
           std::byte* memory)
        : engine(call, memory), window(options, shared) {}
    engine::GatheredWorker<T> engine;
    WindowKeys window;
  };

  std::int64_t rows() const noexcept {
    return checked_.batch * checked_.num_heads * checked_.seqlen_q;
  }
  // The key that query i is, of shared ones.
  std::int64_t own_key(std::int64_t i) const noexcept {
    return checked_.seqlen_k - checked_.seqlen_q + i;
  }

  void carve(base::Carver& carver) {
    reference_ = carver.take<T>(rows());
    sum_ = carver.take<T>(rows());
    if (shared_) own_scores_ = carver.take<T>(rows());
    if (!shared_) buckets_ = carver.take<std::int32_t>(rows() * options_.num_hashes);
    query_copy_.carve(carver, checked_.batch * checked_.num_heads);
    numerator_.carve(carver, checked_.batch * checked_.num_heads);
  }
  std::size_t total_bytes(int threads) {
    base::Carver counted;
    carve(counted);
    return counted.used() + static_cast<std::size_t>(threads) * worker_bytes_;
  }

  void load_queries() const {
    for (std::int64_t list = 0; list < checked_.batch * checked_.num_heads; ++list) {
      query_copy_.load(list,
                       checked_.query.source(list / checked_.num_heads, list % checked_.num_heads),
                       {0, checked_.seqlen_q});
    }
  }

  // [batch][head][query][round]
  void hash_queries() const {
    const std::int64_t rounds = options_.num_hashes, seqlen = checked_.seqlen_q;
    IndexGrid grid;
    grid.data = buckets_;
    grid.shape = {checked_.batch, checked_.num_heads, rounds, seqlen};
    grid.strides = {checked_.num_heads * seqlen * rounds, seqlen * rounds, 1, rounds};
    Execution hashing = execution_;
    hashing.threads = threads_;
    hashed_.hasher().hash(checked_.query, checked_.num_heads / checked_.num_heads_kv, nullptr, grid,
                          hashing);
  }

  WindowQuery query_of(std::int64_t row, std::int64_t b, std::int64_t i,
                       const GrowingOrder& order) const {
    WindowQuery query;
    const std::int64_t rounds = options_.num_hashes;
    if (shared_) {
      query.position = own_key(i);
      query.buckets = order.buckets_of(query.position);
    } else {
      query.position = mask_.query_place(b, i);
      query.buckets = {buckets_ + row * rounds, static_cast<std::size_t>(rounds)};
    }
    if (local_) {
      const auto index = static_cast<std::int32_t>(i);
      local_->keys_of_queries(b, {0, 1, &index}, {&query.local, 1});
      query.local = mask::intersect(query.local, {0, checked_.seqlen_k});
    }
    return query;
  }

  void attend(std::int64_t row, Worker& worker) {
    const std::int64_t i = row % checked_.seqlen_q, list = row / checked_.seqlen_q;
    const std::int64_t b = list / checked_.num_heads, h = list % checked_.num_heads;
    const std::int64_t head_kv = h / (checked_.num_heads / checked_.num_heads_kv);
    const auto& known = hashed_.head(b, head_kv);
    engine::GatheredForward<T> head = describe(list, b, h, head_kv);
    if (shared_) {
      const double squares = base::sum_of_squares(head.query, i, checked_.head_dim);
      head.key_factors = known.factors.data();
      own_scores_[row] =
          static_cast<T>(std::fabs(call_.scale) * squares * double{known.factors[own_key(i)]});
    }
    const std::span<const std::int32_t> keys =
        worker.window.find(known.order, query_of(row, b, i, known.order));
    const auto index = static_cast<std::int32_t>(i);
    worker.engine.begin(head);
    // A run a group: while it is met, the rows of the next one are fetched.
    const auto run_at = [&](std::size_t begin) {
      const std::size_t first = std::min(begin, keys.size());
      return keys.subspan(first,
                          std::min(static_cast<std::size_t>(call_.run_keys), keys.size() - first));
    };
    for (std::size_t begin = 0; begin == 0 || begin < keys.size(); ++head.phase) {
      const engine::KeyRun run{static_cast<std::int64_t>(begin), run_at(begin), {}};
      begin += static_cast<std::size_t>(call_.run_keys);
      if (execution_.progress != nullptr) ++execution_.progress->total;
      worker.engine.run({{&index, 1}, {}, {&run, 1}, run_at(begin)});
    }
    const std::function<double(std::int64_t)> own = [&](std::int64_t) {
      return sees(mask_, b, h, i, own_key(i)) ? worker.window.own_count() : 0;
    };
    head.own.count = &own;
    engine::finish_rows(call_, head, {i, i + 1});
  }

  engine::GatheredForward<T> describe(std::int64_t list, std::int64_t b, std::int64_t h,
                                      std::int64_t head_kv) const {
    engine::GatheredForward<T> head;
    head.batch = b;
    head.head = h;
    head.query = query_copy_.rows(list, checked_.query.source(b, h));
    head.key = checked_.key.source(b, head_kv);
    head.value = checked_.value.source(b, head_kv);
    head.mask = &mask_;
    const std::int64_t row = list * checked_.seqlen_q;
    head.rows.reference = reference_ + row;
    head.rows.sum = sum_ + row;
    head.rows.output = results_.output.target(b, h);
    head.rows.lse = results_.lse.target(b, h);
    head.rows.numerator = numerator_.rows(list, head.rows.output);
    head.own.first_key = own_key(0);
    head.own.added = options_.self_rule == SelfRule::kAdded;
    head.own.score = options_.self_score;
    if (shared_) head.own.scores = own_scores_ + row;
    return head;
  }

  const CheckedCall& checked_;
  const HashedKeys<T>& hashed_;
  const Results& results_;
  const LshOptions& options_;
  const Execution& execution_;
  bool shared_;
  const kernel::Kernel& kernel_;
  mask::BoundMask mask_;
  std::optional<mask::BoundMask> local_;  // the local window alone
  engine::GatheredCall<T> call_;
  engine::ListRows query_copy_;
  engine::ListSums<T> numerator_;
  std::size_t worker_bytes_ = 0;
  int threads_ = 1;
  T* reference_ = nullptr;           // [batch][num_heads][seqlen_q]
  T* sum_ = nullptr;                 // likewise
  T* own_scores_ = nullptr;          // likewise, of shared query and key
  std::int32_t* buckets_ = nullptr;  // [batch][num_heads][seqlen_q][rounds], of separate queries
};

}  // namespace

template <class T>
void attend_cached(const ConstTensorView& query, const CachedKeys& cache,
                   const HashedKeys<T>& hashed, const Partial& result, const LshOptions& options,
                   const AttentionOptions& attention, const Execution& execution) {
  check_scores(kFunction, attention, cache.vectors);
  check_mask(attention.mask);
  const CheckedCall checked =
      engine::check_call(kFunction, query, cache.key, cache.value, attention, execution);
  if (cache.vectors == Vectors::kShared) check_newest(checked);
  engine::ResultChecker checker(checked);
  const Results results{checker.output(result.output), checker.lse(result.lse)};
  LshDecode<T> decode(checked, cache, hashed, results, options, attention, execution);
  const base::CallLog log;
  decode.run();
  log.write([&] { return decode.log_line(); });
}

template void attend_cached(const ConstTensorView&, const CachedKeys&, const HashedKeys<float>&,
                            const Partial&, const LshOptions&, const AttentionOptions&,
                            const Execution&);
template void attend_cached(const ConstTensorView&, const CachedKeys&, const HashedKeys<double>&,
                            const Partial&, const LshOptions&, const AttentionOptions&,
                            const Execution&);

}  // namespace longspan::lsh
