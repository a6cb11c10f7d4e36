// SPDX-License-Identifier: Apache-2.0
// Part of longspan. See LICENSE.
//
// Every step of a method with its name, shape and numbers: what the engine itself computed,
// recorded while it ran. The record can be shown as text, JSON or a page of HTML.
#pragma once

#include <array>
#include <cstdint>
#include <optional>
#include <string>
#include <vector>

#include "longspan/attention.h"
#include "longspan/lsh_attention.h"
#include "longspan/tensor.h"

namespace longspan {

// How a step is drawn on a page; its numbers are always there, too.
enum class Picture : std::uint8_t {
  kNone,
  // A map of squares for each index of the other axes. Columns are the last axis; rows are the one
  // whose name begins with "query", else the last but one.
  kHeat,
  // The same over [chunk of queries, chunk of keys]: 0 hidden, 1 some pairs are hidden, 2 none is.
  kCoverage,
  kLines,    // the first axis is x, every index of the others a line
  kColours,  // whole numbers along the last axis as coloured squares, one row for each index before
  kBars,     // shares of 1 along the first axis, stacked; one bar for each index of the others
};

// A tensor with a name. All strings are plain text (UTF-8) and may hold anything a file's name
// holds: whoever shows them escapes them.
struct ExplainStep {
  std::string name;  // unique in the record, parts parted by '/': "chunk_1/weights"
  std::string also;  // its name elsewhere: "exp_weights: paper, Figure 1, line 16"; may be empty
  std::string code;  // the step as a line of NumPy or JAX code; may be empty
  // Letters of the axes of two operands and of the result, where it is a product:
  // "qhd,khd->qhk"; else empty.
  std::string einsum;
  std::vector<std::string> axes;    // "query", "head", "key", "feature", "round", ...
  std::vector<std::int64_t> shape;  // as many; may be 0
  // Per axis, the indices in the tensors of the call that its entries stand for; empty: 0, 1, 2,
  // ...
  std::vector<std::vector<std::int64_t>> index;
  // Row-major. -inf is a hidden pair where an axis begins with "key", else the log or max of none.
  std::vector<double> values;
  bool whole_numbers = false;  // positions, buckets: not to be shown with a point
  Picture picture = Picture::kNone;
  std::string why;  // one or two sentences
};

struct ExplainSection {
  std::string title;  // "chunk 1: keys 4 to 7"
  std::string text;   // some sentences; may be empty
  std::vector<ExplainStep> steps;
};

struct Explanation {
  std::string method;  // "exact", "lsh"
  std::string title;   // one line: the method and the input
  std::string text;    // what is shown of what; paragraphs parted by an empty line
  std::vector<ExplainSection> sections;

  // The step of this name, or null.
  const ExplainStep* find(const std::string& name) const noexcept;
};

// What is shown. Ranges are [begin, end), clamped to what there is.
struct ExplainChoice {
  using Range = std::array<std::int64_t, 2>;
  std::int64_t batch = 0;      // the entry that is shown
  std::optional<Range> rows;   // of queries; default all
  std::optional<Range> heads;  // of queries; default all
  // Exact: chunks of keys; default all. LSH: chunks of all rounds, one round after the other;
  // default those that hold a chosen row.
  std::optional<Range> chunks;
  // LSH: the weights are the scores themselves and every round counts the same, as in the lab's
  // variant without the softmax.
  bool passthrough = false;
  std::int64_t most_numbers = 40000;  // of all steps together
};

// Exact attention in chunks of execution.key_chunk keys (0: a quarter of seqlen_k, at most 128),
// step by step, as the engine did it: scores, maximum, weights, sum and numerator of each chunk;
// the running form and the paper's two passes, both by the merge rule; the output; and the same by
// the plain softmax, in float64, with the difference. Arguments as in attention(); dropout must be
// off. Runs the call on one thread, and what is shown is kept beside it. Names of steps:
// docs/exact-step-by-step.md. Throws Error: as attention(), and kInvalidArgument where the choice
// is empty or holds more than most_numbers numbers, which says what to choose.
Explanation explain_attention(ConstTensorView query, ConstTensorView key, ConstTensorView value,
                              const AttentionOptions& options = {}, const Execution& execution = {},
                              const ExplainChoice& choice = {});

// LSH attention: rotations, buckets, the order, chunks and whom they meet, scores and weights of
// the chunks, the rounds, and how they are combined. Arguments as in lsh_attention(). Names of
// steps: docs/lsh-step-by-step.md. Threads and errors: as explain_attention(); chunks are those of
// options.chunk_len.
Explanation explain_lsh_attention(ConstTensorView query, ConstTensorView key, ConstTensorView value,
                                  const LshOptions& options = {},
                                  const AttentionOptions& attention = {},
                                  const Execution& execution = {},
                                  const ExplainChoice& choice = {});

struct TextStyle {
  int columns = 80;      // at least 40
  bool colours = false;  // ANSI escape sequences
};
// All three throw Error(kInvalidArgument) where sizes of a step do not fit together.
// Long axes are cut in the middle, with three dots. Control characters are replaced.
std::string to_text(const Explanation& explanation, const TextStyle& style = {});
// {"schema": 1, "method", "title", "text", "sections": [{"title", "text", "steps": [names]}],
// "steps": [{"name", "also", "code", "einsum", "letters": {"kept", "batched", "summed"}, "axes",
// "shape", "index" (a list an axis), "values" (nested lists), "why"}]}. Numbers that JSON does not
// know are "inf", "-inf", "nan".
std::string to_json(const Explanation& explanation);
// One page that needs nothing else: no script, no network; pictures are SVG inside it. `whole_page`
// false: what stands between <body> and </body>, for a notebook.
std::string to_html(const Explanation& explanation, bool whole_page = true);

}  // namespace longspan
