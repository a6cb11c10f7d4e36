// SPDX-License-Identifier: Apache-2.0
// Part of longspan. See LICENSE.
//
// The literal answer, in float64, of sampled rows: what has to agree before anything is timed.
#pragma once

#include "answer_error.h"
#include "problem.h"

namespace longspan::bench {

// 32 rows over heads and queries: output and lse.
AnswerError check_forward(const Problem& problem);

// Rows of the query's gradient, rows of the key's and value's (each a sum over all queries of the
// group), and what there is of the gradients of bias and sinks.
AnswerError check_backward(const Problem& problem, int threads);

}  // namespace longspan::bench
