// SPDX-License-Identifier: Apache-2.0
// Part of longspan. See LICENSE.
//
// The literal answer of LSH attention, in float64, of sampled rows: their buckets by the definition
// of the hash; and, with the buckets of hash_vectors(), the pairs that stand in the windows of the
// rounds, their softmax, and the gradients.
#pragma once

#include "answer_error.h"
#include "lsh_problem.h"

namespace longspan::bench {

// Buckets of sampled rows; after hash().
bool right_buckets(const LshProblem& problem);

// What an answer follows from.
struct LshRows {
  const LshOptions& options;
  ConstTensorView query_key, value, doutput;  // doutput: of gradients
  ConstTensorView buckets;                    // by hash_vectors()
};

// Of a result of one row, the last: output and lse of 4 heads.
AnswerError check_last_row(const LshRows& rows, const Partial& result);

// 32 rows over heads and queries: output and lse.
AnswerError check_forward(const LshProblem& problem);

// Rows of the gradients of query_key (as query and as key) and of value.
AnswerError check_backward(const LshProblem& problem);

}  // namespace longspan::bench
