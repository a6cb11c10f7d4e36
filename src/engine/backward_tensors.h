// SPDX-License-Identifier: Apache-2.0
// Part of longspan. See LICENSE.
//
// The tensors of a backward call beside query, key and value, checked.
#pragma once

#include "engine/checked_call.h"
#include "engine/checked_result.h"
#include "longspan/attention.h"
#include "longspan/partial.h"

namespace longspan::engine {

struct BackwardTensors {  // absent ones have data == nullptr
  TensorAxes output;
  TensorAxes lse;
  TensorAxes doutput;
  TensorAxes dlse;
  TensorAxes dquery;
  TensorAxes dkey;
  TensorAxes dvalue;
  TensorView dbias;
  TensorView dsinks;
};

// Throws as check_call() does.
BackwardTensors check_backward(const CheckedCall& checked, const ConstPartial& result,
                               const ConstPartial& dresult, const Gradients& into,
                               const AttentionOptions& options);

// For plans, which ask which there are, of what type and how they lie, no more: those of query, key
// (where wanted) and value, in the query's dtype, rows of all heads together.
BackwardTensors planned_gradients(const CheckedCall& checked, bool with_key);

}  // namespace longspan::engine
