// SPDX-License-Identifier: Apache-2.0
// Part of longspan. See LICENSE.
//
// One panel of queries meets one block of keys, backward: what the kernel reads and adds to.
//
// Lanes are queries where scores are made (as in the forward pass) and components where gradients
// of keys and values are: queries and doutput are there twice, as lanes and as rows. Rows are
// padded with zeros to the strides; key rows past `keys` up to a multiple of the kernel's row group
// are zero, too, and so is every lane past the panel's queries. Operands are packed by the kernel
// that reads them; sums and gradients are numbers of T.
#pragma once

#include <cstdint>

#include "kernels/kernel_table.h"
#include "kernels/rows_ahead.h"

namespace longspan::kernel {

template <class T>
struct BackwardBlock {
  const void* query_lanes = nullptr;    // packed panels (pack_query)
  const void* doutput_lanes = nullptr;  //
  const void* query_rows = nullptr;     // [width][stride], as the format says (pack_right_rows)
  const void* doutput_rows = nullptr;   // [width][stride_v]
  // Logarithm to base 2 in units of exponent_scale; +inf in lanes whose weights are all 0.
  const T* lse = nullptr;      // [width]
  const T* delta = nullptr;    // [width], doutput . output - dlse
  OperandRows key;             // pack_keys
  OperandRows value;           // pack_keys, of rows of head_dim_v
  OperandRows key_components;  // pack_values, of keys
  std::int64_t keys = 0;
  std::int64_t head_dim = 0;
  std::int64_t head_dim_v = 0;
  std::int64_t stride = 0;
  std::int64_t stride_v = 0;
  T scale = 1;
  T exponent_scale = 1;
  const std::uint64_t* visible = nullptr;  // [keys], as in ForwardBlock; null: all
  const std::uint64_t* kept = nullptr;     // [keys], pairs that dropout kept; null: all
  T keep_scale = 1;                        // 1 / (1 - probability of dropping)
  const ScoreTerms<T>* terms = nullptr;
  // Hidden pairs are not multiplied at all (0 * NaN is NaN); all others get the same bits.
  bool skip_hidden = false;
  T* weights = nullptr;  // scratch [keys][width]
  // Scratch: P without what dropout drops, then dS, as rows that sum over the panel's queries and
  // as a panel that sums over the keys: [rows(depth(keys))][depth(width)] and [depth(keys)][width].
  // The same memory when reads_rows, and then that of weights, too, unless `kept`.
  void* operand_rows = nullptr;
  void* operand_lanes = nullptr;
  T* slopes = nullptr;   // scratch [keys][width], with softcap
  T* dscores = nullptr;  // out [keys][width]: gradient of the scores, where the bias wants it
  RowsAhead ahead[kRowsAhead];
  // Sums to add to; null: not wanted. Rows of the padding are written, and hold nothing.
  T* dquery_lanes = nullptr;  // [head_dim][width], without the factor `scale`
  T* dkey = nullptr;          // [keys][stride], without the factor `scale`
  T* dvalue = nullptr;        // [keys][stride_v], without the factor `keep_scale`
};

}  // namespace longspan::kernel
