// SPDX-License-Identifier: Apache-2.0
// Part of longspan. See LICENSE.
//
// Steps, and the words that they share.
#include "explain/steps.h"

#include <algorithm>
#include <cmath>
#include <cstdio>
#include <utility>

#include "base/check.h"
#include "base/visit_dtype.h"
#include "engine/recorder.h"

namespace longspan::explain {
namespace {

bool counts_from_zero(const std::vector<std::int64_t>& index) {
  for (std::size_t n = 0; n < index.size(); ++n) {
    if (index[n] != static_cast<std::int64_t>(n)) return false;
  }
  return true;
}

}  // namespace

Axis axis(std::string name, mask::Range range) {
  return {std::move(name), engine::consecutive(range)};
}
Axis axis(std::string name, std::int64_t extent) {
  return axis(std::move(name), mask::Range{0, extent});
}

void Steps::section(std::string title, std::string text) {
  into_.sections.push_back({std::move(title), std::move(text), {}});
}

void Steps::add(std::string name, const std::vector<Axis>& axes, Words words, const Fill& fill) {
  std::int64_t count = 1;
  for (const Axis& each : axes) count *= static_cast<std::int64_t>(each.index.size());
  numbers_ += count;
  base::require(numbers_ <= choice_.most_numbers, [&] {
    return "explain: this choice shows more than " + std::to_string(choice_.most_numbers) +
           " numbers (reached at step " + name +
           "); choose fewer rows, heads or chunks, as rows 0 to 4, heads 0 to 1, chunks 0 to 2";
  });
  ExplainStep step;
  step.name = std::move(name);
  step.also = std::move(words.also);
  step.code = std::move(words.code);
  step.einsum = std::move(words.einsum);
  step.why = std::move(words.why);
  step.picture = words.picture;
  step.whole_numbers = words.whole_numbers;
  for (const Axis& each : axes) {
    step.axes.push_back(each.name);
    step.shape.push_back(static_cast<std::int64_t>(each.index.size()));
    step.index.push_back(counts_from_zero(each.index) ? std::vector<std::int64_t>{} : each.index);
  }
  step.values.reserve(static_cast<std::size_t>(count));
  for (std::int64_t n = 0; n < count; ++n) {
    std::array<std::int64_t, 4> at{};
    std::int64_t rest = n;
    for (std::size_t a = axes.size(); a-- > 0;) {
      const auto extent = static_cast<std::int64_t>(axes[a].index.size());
      at[a] = axes[a].index[static_cast<std::size_t>(rest % extent)];
      rest /= extent;
    }
    step.values.push_back(fill(at));
  }
  into_.sections.back().steps.push_back(std::move(step));
}

mask::Range chosen(const char* option, const std::optional<ExplainChoice::Range>& range,
                   std::int64_t extent) {
  if (!range) return {0, extent};
  const mask::Range kept{std::max<std::int64_t>((*range)[0], 0), std::min((*range)[1], extent)};
  base::require(kept.begin < kept.end, [&] {
    return std::string("explain: ") + option + " must choose some of 0 to " +
           std::to_string(extent - 1) + "; found " + std::to_string((*range)[0]) + ":" +
           std::to_string((*range)[1]);
  });
  return kept;
}

void check_not_empty(const engine::CheckedCall& call, const ExplainChoice& choice) {
  base::require(call.seqlen_q > 0 && call.seqlen_k > 0 && call.num_heads > 0, [&] {
    return "explain: expected some queries, keys and heads; found seqlen_q " +
           std::to_string(call.seqlen_q) + ", seqlen_k " + std::to_string(call.seqlen_k) +
           ", num_heads " + std::to_string(call.num_heads);
  });
  base::require(choice.batch >= 0 && choice.batch < call.batch, [&] {
    return "explain: batch must be one of the " + std::to_string(call.batch) + " entries; found " +
           std::to_string(choice.batch);
  });
}

double number_at(const base::Rows4& rows, std::int64_t batch, std::int64_t head, std::int64_t row,
                 std::int64_t component) {
  return base::load_double(rows.data, rows.dtype,
                           batch * rows.strides[0] + row * rows.strides[1] +
                               head * rows.strides[2] + component * rows.strides[3]);
}

std::string text_of(double number) {
  char text[32];
  std::snprintf(text, sizeof text, "%.6g", number);
  return text;
}

std::string span_text(mask::Range range) {
  if (range.size() == 1) return std::to_string(range.begin);
  return std::to_string(range.begin) + " to " + std::to_string(range.end - 1);
}

std::string count_text(std::int64_t count, const char* noun) {
  return std::to_string(count) + " " + noun + (count == 1 ? "" : "s");
}

}  // namespace longspan::explain
