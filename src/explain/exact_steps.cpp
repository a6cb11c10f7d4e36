// SPDX-License-Identifier: Apache-2.0
// Part of longspan. See LICENSE.
//
// Exact attention in chunks, step by step. "Figure 1" is that of Rabe & Staats 2021 (arXiv
// 2112.05682).
#include <algorithm>
#include <cmath>
#include <map>
#include <string>
#include <utility>
#include <vector>

#include "base/check.h"
#include "engine/call_setup.h"
#include "engine/checked_call.h"
#include "engine/panel_rows.h"
#include "engine/segments.h"
#include "exact/recorded_attention.h"
#include "explain/plain_softmax.h"
#include "explain/recording.h"
#include "explain/steps.h"
#include "longspan/explain.h"
#include "partial/scalar_rule.h"

namespace longspan {
namespace explain {
namespace {

using At = std::array<std::int64_t, 4>;
using Rule = partial::ScalarRule;

// A quarter of the keys, so that a short input has chunks at all, and a tile of the engine at most.
std::int64_t choose_key_chunk(std::int64_t key_chunk, std::int64_t seqlen_k) {
  if (key_chunk > 0) return key_chunk;
  return std::clamp<std::int64_t>(base::ceil_div(seqlen_k, 4), 1, 128);
}

class ExactSteps {
 public:
  ExactSteps(const ConstTensorView& query, const ConstTensorView& key, const ConstTensorView& value,
             const AttentionOptions& options, const Execution& execution,
             const ExplainChoice& choice)
      : call_(engine::check_call("explain", query, key, value, options, execution)),
        options_(options),
        execution_(execution),
        choice_(choice),
        mask_(engine::bind_mask(call_, options)),
        steps_(record_, choice),
        nothing_(call_.head_dim_v) {
    base::require(options.dropout.probability == 0, [&] {
      return "explain: dropout must be off, since it takes from the numerator alone; found " +
             text_of(options.dropout.probability);
    });
    check_not_empty(call_, choice);
    execution_.key_chunk = choose_key_chunk(execution.key_chunk, call_.seqlen_k);
    segments_ = engine::choose_segments(call_.seqlen_k, execution_.key_chunk);
    rows_ = axis("query", chosen("rows", choice.rows, call_.seqlen_q));
    heads_ = axis("head", chosen("heads", choice.heads, call_.num_heads));
    shown_ = chosen("chunks", choice.chunks, segments_.count());
    query_ = query, key_ = key, value_ = value;
  }

  Explanation run() {
    describe();
    inputs();
    OwnedResult result(call_);
    Recording recording({choice_.batch,
                         {heads_.index.front(), heads_.index.back() + 1},
                         segments_.count(),
                         call_.head_dim_v},
                        rows_.index, call_.seqlen_q);
    exact::record_attention(query_, key_, value_, result.partial(), options_, execution_,
                            recording);
    recording_ = &recording;
    for (std::int64_t c = shown_.begin; c < shown_.end; ++c) chunk(c);
    running_form();
    two_passes();
    finish(result);
    compare(result);
    return std::move(record_);
  }

 private:
  std::int64_t head_kv(std::int64_t head) const noexcept {
    return head / (call_.num_heads / call_.num_heads_kv);
  }
  const RowPart& row(std::int64_t c, std::int64_t q, std::int64_t h) const {
    return recording_->at(c, h, q);
  }
  // The running summary before chunk c: that of the last chunk that the row sees.
  const Summary& before(std::int64_t c, std::int64_t q, std::int64_t h) const {
    while (c-- > 0) {
      if (row(c, q, h).total.sum != 0) return row(c, q, h).total;
    }
    return nothing_;
  }
  const Summary& after(std::int64_t c, std::int64_t q, std::int64_t h) const {
    return before(c + 1, q, h);
  }
  void describe() {
    const auto count = [](std::int64_t n, const char* noun) { return count_text(n, noun); };
    record_.method = "exact";
    record_.title = "Exact attention in chunks: " + count(call_.seqlen_q, "query row") + ", " +
                    count(call_.seqlen_k, "key") + " in " + count(segments_.count(), "chunk") +
                    " of " + std::to_string(segments_.length) + ", " +
                    count(call_.num_heads, "head");
    record_.text =
        "Every number below was taken from the engine while it computed this input. It is exact "
        "attention: the softmax runs over all keys, but the keys come in chunks, and of a chunk "
        "only a maximum, a sum and a numerator are kept for each query. score = " +
        text_of(call_.scale) + " * (query . key)" +
        (options_.softcap > 0 ? ", then softcap * tanh(score / softcap)" : "") +
        (call_.bias.data != nullptr ? ", then + bias" : "") +
        (call_.alibi_slopes.data != nullptr ? ", then - slope * distance" : "") + ".";
    if (call_.batch > 1) {
      record_.text += " Of " + std::to_string(call_.batch) + " batch entries number " +
                      std::to_string(choice_.batch) + " is shown.";
    }
  }

  void inputs() {
    steps_.section("The input",
                   "Axes have names: query and key are positions, head is a head, feature a "
                   "component of a query or key row, value_feature one of a value row.");
    steps_.add("query", {rows_, heads_, axis("feature", call_.head_dim)},
               {.also = "query", .why = "The rows that ask."}, [&](const At& at) {
                 return number_at(call_.query, choice_.batch, at[1], at[0], at[2]);
               });
    coverage();
  }

  // Which chunk meets which: the mask decides it before any score is taken.
  void coverage() {
    constexpr std::int64_t kMost = 48;
    const std::int64_t chunks = segments_.count();
    const std::int64_t chosen = engine::clamp_query_chunk(execution_.query_chunk, call_.seqlen_q);
    const std::int64_t length = chosen > 0 ? chosen : segments_.length;
    const std::int64_t groups = base::ceil_div(call_.seqlen_q, length);
    if (groups > kMost || chunks > kMost || groups == 0) return;
    const std::int64_t head = heads_.index.front();
    steps_.add(
        "coverage", {axis("query_chunk", groups), axis("key_chunk", chunks)},
        {.why = "What the mask leaves of each pair of chunks: 0 none (never visited), 1 some "
                "pairs, 2 all. Chunks have " +
                std::to_string(length) + " queries and " + std::to_string(segments_.length) +
                " keys; head " + std::to_string(head) + ".",
         .picture = Picture::kCoverage,
         .whole_numbers = true},
        [&](const At& at) {
          const mask::Range queries{at[0] * length, std::min((at[0] + 1) * length, call_.seqlen_q)};
          const mask::Coverage found =
              mask_.coverage(choice_.batch, head, queries, segments_.at(at[1]));
          return found == mask::Coverage::kNone ? 0.0 : found == mask::Coverage::kFull ? 2.0 : 1.0;
        });
  }

  void chunk(std::int64_t c) {
    const mask::Range range = segments_.at(c);
    const std::string name = "chunk_" + std::to_string(c) + "/";
    const Axis keys = axis("key", range);
    steps_.section("Chunk " + std::to_string(c) + ": keys " + span_text(range),
                   "summarize_chunk in the paper's Figure 1, lines 12 to 19. Its maximum, sum and "
                   "numerator are all that is left of these keys.");
    summarize(c, name, keys);
    merge(c, name);
  }

  void summarize(std::int64_t c, const std::string& name, const Axis& keys) {
    const Axis features = axis("value_feature", call_.head_dim_v);
    const Axis kv_heads = axis(
        "head_kv", mask::Range{head_kv(heads_.index.front()), head_kv(heads_.index.back()) + 1});
    const std::string rows = "[" + std::to_string(keys.index.front()) + ":" +
                             std::to_string(keys.index.back() + 1) + "]";
    steps_.add(
        name + "key", {keys, kv_heads, axis("feature", call_.head_dim)},
        {.also = "key_chunk: Figure 1, lines 22 to 24",
         .code = "key_chunk = key" + rows,
         .why = "The keys of this chunk; others are not touched now."},
        [&](const At& at) { return number_at(call_.key, choice_.batch, at[1], at[0], at[2]); });
    steps_.add(name + "scores", {rows_, heads_, keys},
               {.also = "attn_weights: Figure 1, lines 9 and 13",
                .code = "scores = jnp.einsum('qhd,khd->qhk', query * scale, key_chunk)",
                .einsum = "qhd,khd->qhk",
                .why = "One number for each query, head and key. -inf is a pair that the mask "
                       "hides.",
                .picture = Picture::kHeat},
               [&](const At& at) { return row(c, at[0], at[1]).pair(at[2]).score; });
    steps_.add(name + "max", {rows_, heads_},
               {.also = "max_score: Figure 1, lines 14, 15 and 19",
                .code = "max = scores.max(axis=-1)",
                .why = "The largest score of this chunk, for each query and head. It is subtracted "
                       "so that no exponential overflows; any number near it would do, and it "
                       "cancels in the end."},
               [&](const At& at) { return row(c, at[0], at[1]).part.reference; });
    steps_.add(name + "weights", {rows_, heads_, keys},
               {.also = "exp_weights: Figure 1, line 16",
                .code = "weights = jnp.exp(scores - max[..., None])",
                .why = "Still [query, head, key]: it is the maximum and the sum that have no key "
                       "axis. The largest weight of a row is 1.",
                .picture = Picture::kHeat},
               [&](const At& at) { return row(c, at[0], at[1]).pair(at[2]).weight; });
    steps_.add(name + "sum", {rows_, heads_},
               {.also = "exp_weights.sum(axis=-1): Figure 1, line 18",
                .code = "sum = weights.sum(axis=-1)",
                .why = "The softmax's denominator, as far as this chunk goes."},
               [&](const At& at) { return row(c, at[0], at[1]).part.sum; });
    steps_.add(
        name + "value", {keys, kv_heads, features},
        {.also = "value_chunk: Figure 1, lines 25 to 27",
         .code = "value_chunk = value" + rows,
         .why = "The values of the same positions."},
        [&](const At& at) { return number_at(call_.value, choice_.batch, at[1], at[0], at[2]); });
    steps_.add(name + "numerator", {rows_, heads_, features},
               {.also = "exp_values: Figure 1, line 17",
                .code = "numerator = jnp.einsum('khf,qhk->qhf', value_chunk, weights)",
                .einsum = "khf,qhk->qhf",
                .why = "The values weighted and added up; nothing is divided yet, since the "
                       "denominator is not complete."},
               [&](const At& at) {
                 return row(c, at[0], at[1]).part.numerator[static_cast<std::size_t>(at[2])];
               });
  }

  // The running (max, sum, numerator) before and after.
  void merge(std::int64_t c, const std::string& name) {
    const Axis features = axis("value_feature", call_.head_dim_v);
    const auto add = [&](const char* what, const char* code, const char* why, auto number) {
      steps_.add(name + what, {rows_, heads_}, {.code = code, .why = why},
                 [&](const At& at) { return number(at[0], at[1]); });
    };
    add("max_before", "", "What was known before this chunk: -inf, the empty set, at first.",
        [&](auto q, auto h) { return before(c, q, h).reference; });
    add("sum_before", "", "Its sum.", [&](auto q, auto h) { return before(c, q, h).sum; });
    add("max_after", "max_after = jnp.maximum(max_before, max)",
        "The merge takes the larger maximum as the common one.",
        [&](auto q, auto h) { return after(c, q, h).reference; });
    add("factor_before", "factor_before = jnp.exp(max_before - max_after)",
        "What was known is brought to the new maximum: 1 where it stays, less where it rises, 0 "
        "where nothing was known.",
        [&](auto q, auto h) {
          return Rule::weight(before(c, q, h).reference, after(c, q, h).reference);
        });
    add("factor", "factor = jnp.exp(max - max_after)", "And so is the chunk.", [&](auto q, auto h) {
      return Rule::weight(row(c, q, h).part.reference, after(c, q, h).reference);
    });
    add("sum_after", "sum_after = factor_before * sum_before + factor * sum",
        "One of the two factors is 1.", [&](auto q, auto h) { return after(c, q, h).sum; });
    const auto numerators = [&](const char* what, const char* code, const char* why, auto number) {
      steps_.add(name + what, {rows_, heads_, features}, {.code = code, .why = why},
                 [&](const At& at) {
                   return number(at[0], at[1]).numerator[static_cast<std::size_t>(at[2])];
                 });
    };
    numerators("numerator_before", "", "The numerator of the keys before.",
               [&](auto q, auto h) { return before(c, q, h); });
    numerators("numerator_after",
               "numerator_after = factor_before[..., None] * numerator_before + factor[..., None] "
               "* numerator",
               "The numerator of all keys so far, by the same two factors.",
               [&](auto q, auto h) { return after(c, q, h); });
  }

  void running_form() {
    const Axis chunks = axis("chunk", segments_.count());
    steps_.section("The running form: one chunk after the other",
                   "First use of the merge: fold the chunks from left to right. Only one running "
                   "(max, sum, numerator) a query exists at any time, however many keys there are. "
                   "This is what the engine does.");
    steps_.add("running/max", {chunks, rows_, heads_},
               {.code = "max_after of every chunk",
                .why = "It only rises, in a few steps, and then stays.",
                .picture = Picture::kLines},
               [&](const At& at) { return after(at[0], at[1], at[2]).reference; });
    steps_.add("running/sum", {chunks, rows_, heads_},
               {.code = "sum_after of every chunk",
                .why = "It falls where the maximum rises, because it is counted in units of the "
                       "largest weight.",
                .picture = Picture::kLines},
               [&](const At& at) { return after(at[0], at[1], at[2]).sum; });
  }

  // All chunks of each row.
  void fold() {
    for (std::int64_t q : rows_.index) {
      for (std::int64_t h : heads_.index) {
        Summary& all = folded_.emplace(std::pair(q, h), nothing_).first->second;
        for (std::int64_t c = 0; c < segments_.count(); ++c) all.merge(row(c, q, h).part);
      }
    }
  }
  const Summary& folded(std::int64_t q, std::int64_t h) const { return folded_.at({q, h}); }

  void two_passes() {
    fold();
    const Axis chunks = axis("chunk", segments_.count());
    const Axis features = axis("value_feature", call_.head_dim_v);
    steps_.section("The paper's form: all chunks, then one common maximum",
                   "Second use of the merge: keep the summary of every chunk, find the largest "
                   "maximum of all, and bring all of them to it at once. It gives the same, but "
                   "holds one summary for each chunk.");
    steps_.add("two_pass/chunk_max", {chunks, rows_, heads_},
               {.also = "chunk_max: Figure 1, lines 30 and 31",
                .code = "chunk_max = jnp.stack([max of every chunk])",
                .why = "The first pass leaves the maxima of the chunks."},
               [&](const At& at) { return row(at[0], at[1], at[2]).part.reference; });
    steps_.add("two_pass/chunk_sum", {chunks, rows_, heads_},
               {.also = "chunk_weights: Figure 1, lines 30 and 31",
                .code = "chunk_sum = jnp.stack([sum of every chunk])",
                .why = "And their sums."},
               [&](const At& at) { return row(at[0], at[1], at[2]).part.sum; });
    steps_.add("two_pass/global_max", {rows_, heads_},
               {.also = "global_max: Figure 1, line 33",
                .code = "global_max = chunk_max.max(axis=0)",
                .why = "The same number as the last running maximum."},
               [&](const At& at) { return folded(at[0], at[1]).reference; });
    steps_.add("two_pass/factors", {chunks, rows_, heads_},
               {.also = "max_diffs: Figure 1, line 34",
                .code = "factors = jnp.exp(chunk_max - global_max)",
                .why = "One factor for each chunk and query. The running form multiplies the same "
                       "factors together step by step: exp(a - b) exp(b - c) = exp(a - c).",
                .picture = Picture::kLines},
               [&](const At& at) {
                 return Rule::weight(row(at[0], at[1], at[2]).part.reference,
                                     folded(at[1], at[2]).reference);
               });
    steps_.add("two_pass/sum", {rows_, heads_},
               {.also = "all_weights: Figure 1, lines 36 and 39",
                .code = "sum = (factors * chunk_sum).sum(axis=0)",
                .why = "The whole denominator."},
               [&](const At& at) { return folded(at[0], at[1]).sum; });
    steps_.add("two_pass/numerator", {rows_, heads_, features},
               {.also = "all_values: Figure 1, lines 35 and 38",
                .code = "numerator = (factors[..., None] * chunk_numerator).sum(axis=0)",
                .why = "The whole numerator."},
               [&](const At& at) {
                 return folded(at[0], at[1]).numerator[static_cast<std::size_t>(at[2])];
               });
  }

  void finish(const OwnedResult& result) {
    const Axis features = axis("value_feature", call_.head_dim_v);
    steps_.section("The end: one division",
                   call_.sinks.data == nullptr
                       ? "Numerator and sum are in the same unit, which cancels."
                       : "The sink of each head is one more part: a logit without a value. It is "
                         "merged into the sum and takes its share of the softmax.");
    steps_.add("output", {rows_, heads_, features},
               {.also = "all_values / all_weights: Figure 1, line 40",
                .code = "output = numerator / sum[..., None]",
                .why = "What attention() writes. A row that sees no key is 0."},
               [&](const At& at) { return result.output(choice_.batch, at[0], at[1], at[2]); });
    steps_.add(
        "lse", {heads_, rows_},
        {.code = "lse = max + jnp.log(sum)",
         .why = "The logarithm of the sum of exp(score) over all keys: with the output it is "
                "all that another machine, chunk or cache needs to merge with this result, "
                "and all that the backward pass keeps."},
        [&](const At& at) { return result.lse(choice_.batch, at[1], at[0]); });
  }

  void compare(const OwnedResult& result) {
    const Axis features = axis("value_feature", call_.head_dim_v);
    constexpr std::int64_t kMostKeys = 256;
    const bool weights = call_.seqlen_k <= kMostKeys;
    const PlainSoftmax plain(call_, options_, choice_.batch, rows_.index, weights);
    double largest = 0;
    for (std::int64_t q : rows_.index) {
      for (std::int64_t h : heads_.index) {
        for (std::int64_t d = 0; d < call_.head_dim_v; ++d) {
          const double delta =
              std::fabs(result.output(choice_.batch, q, h, d) - plain.output(q, h, d));
          if (!(delta <= largest)) largest = delta;
        }
      }
    }
    steps_.section("The same by the plain softmax",
                   "All keys at once, in float64: softmax(scores) times value. The largest "
                   "difference to the chunks is " +
                       text_of(largest) + ".");
    if (weights) {
      steps_.add(
          "plain/weights", {rows_, heads_, axis("key", call_.seqlen_k)},
          {.also = "softmax(scores)",
           .code = "plain_weights = jax.nn.softmax(scores, axis=-1)",
           .why = "A row adds up to 1 (less what a sink takes).",
           .picture = Picture::kHeat},
          [&](const At& at) { return plain.weight(at[0] - rows_.index.front(), at[1], at[2]); });
    }
    steps_.add("plain/output", {rows_, heads_, features},
               {.code = "plain_output = jnp.einsum('qhk,khf->qhf', plain_weights, value)",
                .einsum = "qhk,khf->qhf",
                .why = "Plain attention."},
               [&](const At& at) { return plain.output(at[0], at[1], at[2]); });
    steps_.add("plain/difference", {rows_, heads_, features},
               {.code = "output - plain_output", .why = "Rounding, and nothing else."},
               [&](const At& at) {
                 return result.output(choice_.batch, at[0], at[1], at[2]) -
                        plain.output(at[0], at[1], at[2]);
               });
  }

  engine::CheckedCall call_;
  ConstTensorView query_, key_, value_;
  const AttentionOptions& options_;
  Execution execution_;
  const ExplainChoice& choice_;
  mask::BoundMask mask_;
  engine::KeySegments segments_;
  Explanation record_;
  Steps steps_;
  Axis rows_, heads_;
  mask::Range shown_;
  const Recording* recording_ = nullptr;
  const Summary nothing_;
  std::map<std::pair<std::int64_t, std::int64_t>, Summary> folded_;  // by (query, head)
};

}  // namespace
}  // namespace explain

Explanation explain_attention(ConstTensorView query, ConstTensorView key, ConstTensorView value,
                              const AttentionOptions& options, const Execution& execution,
                              const ExplainChoice& choice) {
  return explain::ExactSteps(query, key, value, options, execution, choice).run();
}

}  // namespace longspan
