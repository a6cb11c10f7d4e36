// SPDX-License-Identifier: Apache-2.0
// Part of longspan. See LICENSE.
//
// LSH attention, step by step: the chunks, the rounds, and how rounds are combined.
#include <algorithm>
#include <cmath>
#include <map>
#include <string>
#include <utility>
#include <vector>

#include "base/check.h"
#include "explain/lsh_hash_steps.h"
#include "explain/lsh_view.h"
#include "explain/plain_softmax.h"
#include "explain/products.h"
#include "explain/recording.h"
#include "explain/steps.h"
#include "longspan/explain.h"
#include "lsh/recorded_lsh_attention.h"
#include "partial/scalar_rule.h"

namespace longspan {
namespace explain {
namespace {

using At = std::array<std::int64_t, 4>;
using Rule = partial::ScalarRule;

// A partial result of one row.
struct RowPartial {
  std::vector<double> output;  // [head_dim_v]
  double lse = kNothing;
};

// What a row knows: its answer from each part, and all of them merged.
struct RowRounds {
  std::vector<RowPartial> parts;
  Summary all;
};

class LshSteps {
 public:
  LshSteps(const ConstTensorView& query, const ConstTensorView& key, const ConstTensorView& value,
           const LshOptions& options, const AttentionOptions& attention, const Execution& execution,
           const ExplainChoice& choice)
      : query_(query),
        key_(key),
        value_(value),
        view_(query, key, value, options, attention, execution, choice),
        call_(view_.call()),
        options_(options),
        attention_(attention),
        execution_(execution),
        passthrough_(choice.passthrough),
        local_(options.local_window.has_value()),
        parts_(view_.rounds().count() + (local_ ? 1 : 0)),
        steps_(record_, choice),
        queries_{view_.shared() ? "position" : "query", view_.queries()},
        heads_(axis("head", view_.heads())),
        values_(axis("value_feature", call_.head_dim_v)),
        part_axis_(axis(local_ ? "part" : "round", parts_)) {
    base::require(!passthrough_ || !local_, [] {
      return std::string("explain: passthrough does not go with a local window");
    });
  }

  // What shows too much is refused before there is memory for it.
  Explanation run() {
    describe();
    const KeyNumbers keys(view_, options_);
    add_input_steps(steps_, view_, options_, keys);
    add_hash_steps(steps_, view_, options_);
    add_order_steps(steps_, view_);
    add_window_steps(steps_, view_);
    OwnedResult result(call_);
    Recording recording({view_.batch(), view_.heads(), parts_, call_.head_dim_v}, queries_.index,
                        call_.seqlen_q);
    lsh::record_lsh_attention(query_, key_, value_, result.partial(), options_, attention_,
                              execution_, recording);
    recording_ = &recording;
    take_parts();
    for (const Meeting& meeting : view_.meetings()) meet(meeting, keys);
    add_rounds();
    merge_parts();
    combine();
    finish(result);
    return std::move(record_);
  }

 private:
  const RowPart& recorded(std::int64_t part, std::int64_t h, std::int64_t q) const {
    return recording_->at(part, h, q);
  }
  RowPartial& round_of(std::int64_t part, std::int64_t h, std::int64_t q) {
    return rows_.at({h, q}).parts[static_cast<std::size_t>(part)];
  }
  const Summary& folded(std::int64_t h, std::int64_t q) const { return rows_.at({h, q}).all; }
  std::int64_t part_of(const Meeting& meeting) const noexcept {
    return meeting.round + (local_ ? 1 : 0);
  }

  void take_parts() {
    for (std::int64_t h : heads_.index) {
      for (std::int64_t q : queries_.index) {
        RowRounds& row = rows_[{h, q}];
        for (std::int64_t part = 0; part < parts_; ++part) {
          const Summary& summary = recorded(part, h, q).part;
          row.parts.push_back({summary.output(), summary.lse()});
        }
      }
    }
  }

  // A partial result is a summary with its lse as reference and sum 1.
  void merge_parts() {
    for (auto& [place, row] : rows_) {
      row.all = Summary(call_.head_dim_v);
      for (const RowPartial& part : row.parts) {
        if (part.lse == kNothing) continue;
        Summary summary;
        summary.reference = part.lse;
        summary.sum = 1;
        summary.numerator = part.output;
        row.all.merge(summary);
      }
    }
  }

  void describe() {
    record_.method = "lsh";
    record_.title = "LSH attention: " + count_text(call_.seqlen_q, "position") + ", " +
                    count_text(view_.rounds().count(), "round") + ", chunks of " +
                    std::to_string(options_.chunk_len) + ", " + count_text(call_.num_heads, "head");
    record_.text =
        "Every number below was taken from the engine while it computed this input. A position "
        "meets only keys that hash like it: vectors are hashed into buckets, sorted by bucket, and "
        "each chunk of the sorted order attends to itself and its neighbours. That is done in "
        "several independent rounds, and the rounds are partial results over sets of keys.";
    if (passthrough_) {
      record_.text +=
          "\n\nPassed through: as in the lab's variant without the softmax, the weights are the "
          "scores themselves and every round has logit 0. This is for following indices; it is no "
          "attention.";
    }
    if (call_.batch > 1) {
      record_.text += "\n\nOf " + std::to_string(call_.batch) + " batch entries number " +
                      std::to_string(view_.batch()) + " is shown.";
    }
  }

  // 0 seen, 1 hidden by the mask, 2 the pair of a position with itself, 3 counted elsewhere.
  double hidden_by(std::int64_t h, std::int64_t q, std::int64_t k, double score) const {
    if (score != kNothing) return 0;
    if (view_.shared() && q == k) return 2;
    return view_.sees(h, q, k) ? 3 : 1;
  }

  void meet(const Meeting& meeting, const KeyNumbers& key_numbers) {
    const std::int64_t part = part_of(meeting), h = meeting.head;
    const std::int64_t flat = meeting.round * view_.numbers() + meeting.number;
    const std::string what = view_.number_name();
    const std::string name =
        "head_" + std::to_string(h) + "/" + what + "_" + std::to_string(flat) + "/";
    std::string members;
    for (const ChunkPlace& place : view_.window(meeting.round, meeting.number)) {
      members += (members.empty() ? "" : ", ") +
                 std::to_string(place.round * view_.numbers() + place.chunk);
    }
    steps_.section("Head " + std::to_string(h) + ", round " + std::to_string(meeting.round) + ", " +
                       what + " " + std::to_string(flat),
                   "Its queries meet the keys of " + what + " " + members +
                       ". Rows and columns are named by position, in sorted order.");
    const Axis queries{"query", meeting.queries}, keys{"key", meeting.keys};
    operands(meeting, name, queries, keys, key_numbers);
    const auto pair = [&](const At& at) { return recorded(part, h, at[0]).pair(at[1]); };
    steps_.add(name + "scores", {queries, keys},
               {.also = "dots, from rsq and rsqt, in the lab",
                .code = "scores = query_rows @ key_rows.T",
                .einsum = "qd,kd->qk",
                .why = "Every query of the chunk with every key of the window. -inf is a pair that "
                       "does not count here.",
                .picture = Picture::kHeat},
               [&](const At& at) { return pair(at).score; });
    steps_.add(name + "hidden_by", {queries, keys},
               {.why = "0: the pair counts here. 1: the mask hides it. 2: a position with itself, "
                       "which is added once at the end, with -1e5 (or what self_score says), so "
                       "that it matters only to a row that sees nothing else. 3: it counts in an "
                       "earlier round, or in the local window.",
                .whole_numbers = true},
               [&](const At& at) { return hidden_by(h, at[0], at[1], pair(at).score); });
    if (passthrough_) {
      pass_through(meeting, name, queries, keys);
    } else {
      attend(meeting, name, queries, keys);
    }
  }

  void operands(const Meeting& meeting, const std::string& name, const Axis& queries,
                const Axis& keys, const KeyNumbers& key_numbers) {
    const std::int64_t h = meeting.head;
    const Axis features = axis("feature", call_.head_dim);
    steps_.add(name + "query_rows", {queries, features},
               {.also = "rsq in the lab", .why = "The queries, side by side."}, [&](const At& at) {
                 return number_at(call_.query, view_.batch(), h, at[0], at[1]);
               });
    steps_.add(name + "key_rows", {keys, features},
               {.also = "rsqt in the lab, transposed", .why = "The keys that they meet."},
               [&](const At& at) { return key_numbers.at(h, at[0], at[1]); });
    steps_.add(name + "value_rows", {keys, values_},
               {.also = "vr in the lab", .why = "The values of the same positions."},
               [&](const At& at) { return value_number(h, at[0], at[1]); });
  }

  double value_number(std::int64_t h, std::int64_t k, std::int64_t d) const {
    return number_at(call_.value, view_.batch(), view_.head_kv(h), k, d);
  }

  void attend(const Meeting& meeting, const std::string& name, const Axis& queries,
              const Axis& keys) {
    const std::int64_t part = part_of(meeting), h = meeting.head;
    const auto row = [&](std::int64_t q) -> const RowPart& { return recorded(part, h, q); };
    steps_.add(name + "max", {queries},
               {.code = "max = scores.max(axis=-1)",
                .why = "Subtracted so that no exponential overflows; it cancels."},
               [&](const At& at) { return row(at[0]).part.reference; });
    steps_.add(name + "weights", {queries, keys},
               {.code = "weights = jnp.exp(scores - max[..., None])",
                .why = "Not divided yet.",
                .picture = Picture::kHeat},
               [&](const At& at) { return row(at[0]).pair(at[1]).weight; });
    steps_.add(name + "sum", {queries},
               {.code = "sum = weights.sum(axis=-1)", .why = "Of this chunk's window alone."},
               [&](const At& at) { return row(at[0]).part.sum; });
    steps_.add(
        name + "lse", {queries},
        {.also = "slogits, the logsumexp of dots, in the lab",
         .code = "lse = max + jnp.log(sum)",
         .why = "One number a row: the logarithm of the sum of exp(score). (The log of a sum "
                "is not the sum of logs.)"},
        [&](const At& at) { return row(at[0]).part.lse(); });
    steps_.add(name + "probabilities", {queries, keys},
               {.also = "dotlike in the lab",
                .code = "probabilities = jnp.exp(scores - lse[..., None])",
                .why = "The softmax inside the window: a row adds up to 1.",
                .picture = Picture::kHeat},
               [&](const At& at) {
                 const RowPart& of = row(at[0]);
                 return of.part.sum == 0 ? 0.0 : of.pair(at[1]).weight / of.part.sum;
               });
    add_chunk_output(meeting, name, queries);
  }

  void add_chunk_output(const Meeting& meeting, const std::string& name, const Axis& queries) {
    const std::int64_t part = part_of(meeting), h = meeting.head;
    steps_.add(name + "output", {queries, values_},
               {.also = "so in the lab, still in sorted order",
                .code = "chunk_output = probabilities @ value_rows",
                .einsum = "qk,kf->qf",
                .why = "What this round says of these positions."},
               [&](const At& at) {
                 return round_of(part, h, at[0]).output[static_cast<std::size_t>(at[1])];
               });
  }

  // The lab's variant: dotlike = dots, slogits = 0.
  void pass_through(const Meeting& meeting, const std::string& name, const Axis& queries,
                    const Axis& keys) {
    const std::int64_t part = part_of(meeting), h = meeting.head;
    const auto weight = [&](std::int64_t q, std::int64_t k) {
      const double score = recorded(part, h, q).pair(k).score;
      return score == kNothing ? 0.0 : score;
    };
    std::vector<double> weights, values;
    for (std::int64_t q : queries.index) {
      for (std::int64_t k : keys.index) weights.push_back(weight(q, k));
    }
    for (std::int64_t f : values_.index) {
      for (std::int64_t k : keys.index) values.push_back(value_number(h, k, f));
    }
    const std::vector<double> output =
        products(weights, values, static_cast<std::int64_t>(keys.index.size()));
    for (std::size_t q = 0; q < queries.index.size(); ++q) {
      const auto first = output.begin() + static_cast<std::ptrdiff_t>(q) * call_.head_dim_v;
      round_of(part, h, queries.index[q]) = {{first, first + call_.head_dim_v}, 0.0};
    }
    steps_.add(name + "lse", {queries},
               {.also = "slogits in the lab", .why = "Every chunk counts the same: logit 0."},
               [](const At&) { return 0.0; });
    steps_.add(name + "probabilities", {queries, keys},
               {.also = "dotlike in the lab",
                .code = "dotlike = dots",
                .why = "The scores themselves; a hidden pair is 0."},
               [&](const At& at) { return weight(at[0], at[1]); });
    add_chunk_output(meeting, name, queries);
  }

  void add_rounds() {
    steps_.section(local_ ? "The parts, back in the order of positions"
                          : "The rounds, back in the order of positions",
                   local_
                       ? "Part 0 is the local window, then come the rounds. Each is attention of "
                         "every position over one set of keys."
                       : "Undoing the sort puts every row back. Each round is now attention of "
                         "every position over one set of keys: its chunk's window.");
    steps_.add("rounds/output", {part_axis_, queries_, heads_, values_},
               {.also = "o in the lab",
                .code = "round_output = chunk_output[places]",
                .why = "A position has one answer from each round."},
               [&](const At& at) {
                 return round_of(at[0], at[2], at[1]).output[static_cast<std::size_t>(at[3])];
               });
    steps_.add("rounds/lse", {part_axis_, queries_, heads_},
               {.also = "logits in the lab",
                .code = "round_lse = lse[places]",
                .why = "And one logit: the logits are one number a row, not a softmax. -inf is a "
                       "round in which a row saw nothing that counts there."},
               [&](const At& at) { return round_of(at[0], at[2], at[1]).lse; });
  }

  // In float32, exp(lse of the round - lse of all), as most implementations write it.
  float subtracted(std::int64_t part, std::int64_t h, std::int64_t q) {
    const Summary& all = folded(h, q);
    if (all.sum == 0) return 0;
    const auto lse = static_cast<float>(all.lse());
    return std::exp(static_cast<float>(round_of(part, h, q).lse) - lse);
  }
  // In float32, the weights of the merge: exponentials divided by their own sum.
  float own_sum(std::int64_t part, std::int64_t h, std::int64_t q) {
    const Summary& all = folded(h, q);
    if (all.sum == 0) return 0;
    float sum = 0;
    for (std::int64_t p = 0; p < parts_; ++p) {
      sum += static_cast<float>(Rule::weight(round_of(p, h, q).lse, all.reference));
    }
    return static_cast<float>(Rule::weight(round_of(part, h, q).lse, all.reference)) / sum;
  }

  void combine() {
    steps_.section(
        "Combining the rounds",
        "Rounds are partial results over different keys, so they are merged like any others. The "
        "weight of a round is exp(lse of the round) over the sum of these: a softmax over the "
        "logits. That is no second attention. Each round divided by its own sum of exponentials, "
        "and exp(lse) is that sum: multiplying by it gives the round its un-normalised numerator "
        "back, and dividing by the sum over the rounds is the one division over all keys.");
    steps_.add("combine/lse", {queries_, heads_},
               {.also = "logsumexp(logits, axis=0) in the lab",
                .code = "lse = jax.nn.logsumexp(round_lse, axis=0)",
                .why = "The log-sum over the keys of all rounds."},
               [&](const At& at) { return folded(at[1], at[0]).lse(); });
    weights();
    numbers_of_one_row();
    steps_.add("combine/output", {queries_, heads_, values_},
               {.also = "out in the lab",
                .code = "output = (round_weights[..., None] * round_output).sum(axis=0)",
                .einsum = "rqh,rqhf->qhf",
                .why = passthrough_ ? "The mean of the rounds, since their logits are equal."
                                    : "The merge of the rounds."},
               [&](const At& at) {
                 const Summary& all = folded(at[1], at[0]);
                 return all.sum == 0 ? 0.0
                                     : all.numerator[static_cast<std::size_t>(at[2])] / all.sum;
               });
  }

  void weights() {
    steps_.add("combine/weights", {part_axis_, queries_, heads_},
               {.also = "probs in the lab",
                .code = "e = jnp.exp(round_lse - round_lse.max(0)); round_weights = e / e.sum(0)",
                .why = "Our way, in float32: divided by their own sum, so they add up to 1 "
                       "whatever the lse is.",
                .picture = Picture::kBars},
               [&](const At& at) { return double{own_sum(at[0], at[2], at[1])}; });
    steps_.add(
        "combine/weights_subtracted", {part_axis_, queries_, heads_},
        {.also = "probs = exp(logits - logsumexp(logits)) in the lab and elsewhere",
         .code = "round_weights = jnp.exp(round_lse - lse)",
         .why = "The usual way, in float32. The same in exact arithmetic, but lse is rounded "
                "before it is subtracted: by 0.004 where it is near -1e5."},
        [&](const At& at) { return double{subtracted(at[0], at[2], at[1])}; });
    steps_.add(
        "combine/missing", {axis("way", 2), queries_, heads_},
        {.code = "1 - round_weights.sum(axis=0)",
         .why = "What the weights of a row lack to 1, our way (0) and the usual one (1): the "
                "output lacks as much."},
        [&](const At& at) {
          double sum = 0;
          for (std::int64_t part = 0; part < parts_; ++part) {
            sum +=
                double{at[0] == 0 ? own_sum(part, at[2], at[1]) : subtracted(part, at[2], at[1])};
          }
          return sum == 0 ? 0.0 : 1 - sum;
        });
  }

  // The two numbers that show why exp(lse) is the right weight.
  void numbers_of_one_row() {
    if (passthrough_) return;
    std::int64_t h = heads_.index.front(), q = queries_.index.front(), most = -1;
    for (std::int64_t each : queries_.index) {  // the one that most rounds know something of
      std::int64_t known = 0;
      for (std::int64_t part = 0; part < parts_; ++part) {
        known += round_of(part, h, each).lse != kNothing;
      }
      if (known > most) most = known, q = each;
    }
    const double reference = folded(h, q).reference;
    steps_.add(
        "combine/one_row", {part_axis_, axis("form", 2)},
        {.code = "jnp.exp(round_lse - m) * round_output == jnp.exp(max - m) * numerator",
         .why = "For " + queries_.name + " " + std::to_string(q) + ", head " + std::to_string(h) +
                ", component 0: exp(lse) times the round's output (0), and the round's own sum of "
                "exp(score) * value before it was divided (1), both in units of exp(m), m the "
                "largest lse. They agree: the weight undoes the division."},
        [&](const At& at) {
          const Summary& part = recorded(at[0], h, q).part;
          const RowPartial& round = round_of(at[0], h, q);
          return at[1] == 0 ? Rule::weight(round.lse, reference) * round.output[0]
                            : Rule::weight(part.reference, reference) * part.numerator[0];
        });
  }

  void finish(const OwnedResult& result) {
    if (passthrough_) return;
    steps_.section("The end",
                   view_.shared()
                       ? "After the last round the pair of each position with itself is added: it "
                         "has weight exp(-1e5), nothing, unless the row saw nothing else."
                       : "What lsh_attention() writes.");
    steps_.add("output", {queries_, heads_, values_},
               {.code = "output = longspan.lsh_attention(...)", .why = "Written by the engine."},
               [&](const At& at) { return result.output(view_.batch(), at[0], at[1], at[2]); });
    steps_.add("lse", {heads_, queries_}, {.why = "And its lse."},
               [&](const At& at) { return result.lse(view_.batch(), at[1], at[0]); });
    if (call_.sinks.data != nullptr) return;
    steps_.add("difference", {queries_, heads_, values_},
               {.code = "output - combine.output",
                .why = "To the rounds combined above: rounding, and nothing else. 0 in rows that "
                       "only their own pair decides."},
               [&](const At& at) {
                 const Summary& all = folded(at[1], at[0]);
                 if (all.sum == 0) return 0.0;
                 return result.output(view_.batch(), at[0], at[1], at[2]) -
                        all.numerator[static_cast<std::size_t>(at[2])] / all.sum;
               });
  }

  ConstTensorView query_, key_, value_;
  LshView view_;
  const engine::CheckedCall& call_;
  const LshOptions& options_;
  const AttentionOptions& attention_;
  const Execution& execution_;
  bool passthrough_;
  bool local_;
  std::int64_t parts_;
  Explanation record_;
  Steps steps_;
  Axis queries_, heads_, values_, part_axis_;
  const Recording* recording_ = nullptr;
  std::map<std::pair<std::int64_t, std::int64_t>, RowRounds> rows_;  // by (head, query)
};

}  // namespace
}  // namespace explain

Explanation explain_lsh_attention(ConstTensorView query, ConstTensorView key, ConstTensorView value,
                                  const LshOptions& options, const AttentionOptions& attention,
                                  const Execution& execution, const ExplainChoice& choice) {
  return explain::LshSteps(query, key, value, options, attention, execution, choice).run();
}

}  // namespace longspan
