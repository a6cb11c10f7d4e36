// SPDX-License-Identifier: Apache-2.0
// Part of longspan. See LICENSE.
//
// Shape and dtype checks of partial results.
#include "partial/partial_shape.h"

#include <algorithm>

#include "base/check.h"
#include "base/extent.h"

namespace longspan::partial {
namespace {

bool same_shape(const ConstTensorView& a, const ConstTensorView& b) {
  return a.rank == b.rank && std::equal(a.shape.begin(), a.shape.begin() + a.rank, b.shape.begin());
}

void require_data(const std::string& name, const ConstTensorView& view) {
  base::require(view.data != nullptr || element_count(view) == 0,
                [&] { return name + shape_string(view) + " has no data (null pointer)"; });
}

void require_distinct(const std::string& name, const ConstTensorView& view) {
  base::require(!base::overlaps_itself(view), [&] {
    return name + "must not overlap itself; found shape " + shape_string(view) +
           " with strides that name an element twice";
  });
}

PartialRows check(const std::string& where, const ConstPartial& p) {
  const ConstTensorView& output = p.output;
  const ConstTensorView& lse = p.lse;
  base::require(output.rank >= 2 && output.rank <= 4, [&] {
    return where + ": output must have rank 2, 3 or 4; found shape " + shape_string(output);
  });
  base::require(is_floating(output.dtype), [&] {
    return where + ": output must be floating; found " + name_of(output.dtype);
  });
  base::require(lse.dtype == DType::kFloat32 || lse.dtype == DType::kFloat64, [&] {
    return where + ": lse must be float32 or float64; found " + name_of(lse.dtype);
  });
  PartialRows rows;
  rows.output = output.data;
  rows.dtype = output.dtype;
  rows.lse = lse.data;
  rows.lse_dtype = lse.dtype;
  // output: [batch, seqlen, heads, dim], [seqlen, heads, dim] or [seqlen, dim]
  const bool batched = output.rank == 4;
  const bool headed = output.rank >= 3;
  const int seqlen_axis = batched ? 1 : 0;
  rows.batch = batched ? output.shape[0] : 1;
  rows.seqlen = output.shape[seqlen_axis];
  rows.heads = headed ? output.shape[seqlen_axis + 1] : 1;
  rows.dim = output.shape[output.rank - 1];
  rows.output_strides = {batched ? output.strides[0] : 0, output.strides[seqlen_axis],
                         headed ? output.strides[seqlen_axis + 1] : 0,
                         output.strides[output.rank - 1]};
  // lse: [batch, heads, seqlen], [heads, seqlen] or [seqlen]
  ConstTensorView expected = lse;
  expected.rank = output.rank - 1;
  int axis = 0;
  if (batched) expected.shape[axis++] = rows.batch;
  if (headed) expected.shape[axis++] = rows.heads;
  expected.shape[axis] = rows.seqlen;
  base::require(same_shape(lse, expected), [&] {
    return where + ": lse must have shape " + shape_string(expected) + " for output " +
           shape_string(output) + "; found " + shape_string(lse);
  });
  require_data(where + ": output ", output);
  require_data(where + ": lse ", lse);
  const int last = lse.rank - 1;
  rows.lse_strides = {batched ? lse.strides[0] : 0, headed ? lse.strides[last - 1] : 0,
                      lse.strides[last]};
  return rows;
}

}  // namespace

PartialRows check_partial(const std::string& where, const Partial& partial) {
  PartialRows rows = check(where, partial);
  require_distinct(where + ": output ", partial.output);
  require_distinct(where + ": lse ", partial.lse);
  base::require(!base::extent_of(partial.output).meets(base::extent_of(partial.lse)),
                [&] { return where + ": output and lse must not overlap"; });
  rows.output_out = partial.output.data;
  rows.lse_out = partial.lse.data;
  return rows;
}

PartialRows check_part(const std::string& where, const ConstPartial& part, const Partial& like) {
  PartialRows rows = check(where, part);
  base::require(same_shape(part.output, like.output), [&] {
    return where + ": output must have the shape of the result " + shape_string(like.output) +
           "; found " + shape_string(part.output);
  });
  return rows;
}

}  // namespace longspan::partial
