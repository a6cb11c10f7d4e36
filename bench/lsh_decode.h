// SPDX-License-Identifier: Apache-2.0
// Part of longspan. See LICENSE.
//
// Steps of decoding with hashed keys, and the same step with all keys: shared query and key, one
// new token at a time after so many. N(0, 1), always the same numbers.
#pragma once

#include <string>

#include "answer_error.h"
#include "longspan/lsh_cache.h"
#include "problem.h"

namespace longspan::bench {

class LshDecodeProblem {
 public:
  // Reads heads, seqlen_k, head_dim and dtype of the shape; fills the cache.
  LshDecodeProblem(const Shape& shape, const Execution& execution);

  // A token joins, then its row is attended.
  void append(std::int64_t step, const Execution& execution);
  void attend(std::int64_t step, const Execution& execution) const;
  // The call that KVCache::attend() makes, over the rows of this cache, which lie as those of that.
  void attend_to_all(std::int64_t step, const Execution& execution) const;
  void forget_steps();
  std::string kernel(const Execution& execution) const;

  // Of the row that was attended last, the newest of the cache.
  AnswerError check(const Execution& execution) const;
  // Of a step, if no key stood in two windows: 2 (64 + 64) for each.
  double flop() const;

 private:
  ConstTensorView token(const Array& of, std::int64_t step) const;

  Shape shape_;
  LshCache cache_;
  Array query_key_, value_;  // the tokens of the steps
  Array output_, lse_;
};

}  // namespace longspan::bench
