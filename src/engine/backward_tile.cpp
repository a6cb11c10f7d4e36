// SPDX-License-Identifier: Apache-2.0
// Part of longspan. See LICENSE.
//
// Loads the operands of a tile and hands it to the kernel.
#include "engine/backward_tile.h"

#include <algorithm>
#include <cmath>
#include <limits>

#include "base/round.h"

namespace longspan::engine {
namespace {

template <class T>
std::int64_t padded(const AttentionCall<T>& call, std::int64_t dim) {
  return base::round_up(call.kernel->format.rows(dim), std::int64_t{call.kernel->lanes});
}

}  // namespace

template <class T>
BackwardTile<T>::BackwardTile(const AttentionCall<T>& call, WantedGradients wanted,
                              std::int64_t keys)
    : call_(call),
      wanted_(wanted),
      rows_(call.kernel->format.rows(call.kernel->format.depth(keys))),
      width_(std::int64_t{call.kernel->lanes} * call.kernel->vectors),
      stride_(padded(call, call.head_dim)),
      stride_v_(padded(call, call.head_dim_v)) {}

template <class T>
void BackwardTile<T>::carve(base::Carver& carver) {
  const kernel::OperandFormat& format = call_.kernel->format;
  weights_ = carver.take<T>(rows_ * width_);
  if (!format.reads_rows) {
    staged_ = carver.take<std::byte>(format.panel_bytes(width_, std::max(stride_, stride_v_)));
    operand_lanes_ = carver.take<std::byte>(format.panel_bytes(rows_, width_));
  }
  if (!format.reads_rows || call_.dropout.threshold > 0) {
    operand_rows_ = carver.take<std::byte>(format.rows_bytes(rows_, width_));
  }
  if (call_.softcap > 0) slopes_ = carver.take<T>(rows_ * width_);
}

template <class T>
void BackwardTile<T>::carve(base::Carver& carver, Queries& queries) const {
  const kernel::OperandFormat& format = call_.kernel->format;
  queries.query_lanes = carver.take<std::byte>(format.panel_bytes(call_.head_dim, width_));
  queries.doutput_lanes = carver.take<std::byte>(format.panel_bytes(call_.head_dim_v, width_));
  queries.query_rows = carver.take<std::byte>(format.panel_bytes(width_, stride_));
  queries.doutput_rows = carver.take<std::byte>(format.panel_bytes(width_, stride_v_));
  queries.lse = carver.take<T>(width_);
  queries.delta = carver.take<T>(width_);
  if (wanted_.query) queries.dquery_lanes = carver.take<T>(format.rows(call_.head_dim) * width_);
}

template <class T>
void BackwardTile<T>::carve(base::Carver& carver, Keys& keys) const {
  const kernel::OperandFormat& format = call_.kernel->format;
  keys.key_rows = carver.take<std::byte>(format.rows_bytes(rows_, stride_));
  keys.value_rows = carver.take<std::byte>(format.rows_bytes(rows_, stride_v_));
  if (!format.reads_rows && wanted_.query) {
    keys.key_columns = carver.take<std::byte>(format.rows_bytes(call_.head_dim, rows_));
  }
  if (wanted_.key) keys.dkey = carver.take<T>(rows_ * stride_);
  if (wanted_.value) keys.dvalue = carver.take<T>(rows_ * stride_v_);
}

// Lanes past the queries weigh nothing.
template <class T>
void BackwardTile<T>::clear(Queries& into, std::int64_t count) const {
  into.count = count;
  into.width = base::round_up(count, std::int64_t{call_.kernel->lanes});
  into.finite = true;
  into.unseeing = 0;
  for (std::int64_t lane = count; lane < into.width; ++lane) {
    set(into, lane, {-std::numeric_limits<double>::infinity(), T{0}});
  }
}

template <class T>
void BackwardTile<T>::set(Queries& into, std::int64_t lane, const RowNumbers& row) const {
  if (std::isinf(row.lse) && row.lse < 0) {
    into.lse[lane] = std::numeric_limits<T>::infinity();
    into.delta[lane] = 0;
    into.unseeing |= std::uint64_t{1} << lane;
  } else {
    into.lse[lane] = static_cast<T>(row.lse / call_.reference_unit());
    into.delta[lane] = row.delta;
  }
}

template <class T>
void BackwardTile<T>::load_query(Queries& into, const RowSource& source, std::int64_t first) {
  into.finite &=
      load_lanes(into, source, first, call_.head_dim, stride_, into.query_lanes, into.query_rows);
  if (wanted_.query) {
    std::fill_n(into.dquery_lanes, call_.kernel->format.rows(call_.head_dim) * into.width, T{0});
  }
}

template <class T>
void BackwardTile<T>::load_doutput(Queries& into, const RowSource& source, std::int64_t first) {
  into.finite &= load_lanes(into, source, first, call_.head_dim_v, stride_v_, into.doutput_lanes,
                            into.doutput_rows);
}

// Rows of queries or of doutput in both arrangements. True when all their numbers are finite.
template <class T>
bool BackwardTile<T>::load_lanes(const Queries& into, const RowSource& source, std::int64_t first,
                                 std::int64_t dim, std::int64_t stride, std::byte* lanes,
                                 std::byte* rows) {
  const kernel::KernelTable<T>& kernel = *call_.kernel;
  std::byte* padded = staged_ == nullptr ? rows : staged_;
  kernel.pack_padded(source, first, into.count, dim, into.width, stride, padded);
  const std::int64_t row_bytes = stride * kernel.format.value_bytes();
  for (std::int64_t lane = 0; lane < into.count; ++lane) {
    if ((into.unseeing >> lane & 1) != 0) {
      std::fill_n(padded + lane * row_bytes, row_bytes, std::byte{0});
    }
  }
  const RowSource own{padded, kernel.format.dtype, stride, 1};
  kernel.pack_query(own, 0, into.width, dim, into.width, lanes);
  if (staged_ != nullptr) kernel.pack_right_rows(own, 0, into.width, stride, stride, rows);
  return kernel.all_operands_finite(padded, into.width * stride);
}

template <class T>
void BackwardTile<T>::load_keys(Keys& into, const RowSource& source, std::int64_t first,
                                std::int64_t count) const {
  const kernel::KernelTable<T>& kernel = *call_.kernel;
  const kernel::OperandFormat& format = kernel.format;
  into.count = count;
  std::int64_t numbers = 0;  // a row
  if (format.reads_rows) {
    const std::int64_t loaded = source.data == into.key_rows ? count : 0;
    kernel.pack_padded(source, first + loaded, count - loaded, call_.head_dim, rows_ - loaded,
                       stride_, into.key_rows + loaded * stride_ * format.value_bytes());
    into.key = {into.key_rows, stride_, format.row_multiple};
    into.key_components = into.key;
    numbers = stride_;
  } else {
    into.key = kernel.pack_keys(source, first, count, call_.head_dim, into.key_rows);
    if (wanted_.query) {
      into.key_components =
          kernel.pack_values(source, first, count, call_.head_dim, into.key_columns);
    }
    numbers = format.depth(call_.head_dim);
  }
  into.finite = kernel.all_operands_finite(into.key_rows, format.rows(count) * numbers);
  if (wanted_.key) std::fill_n(into.dkey, rows_ * stride_, T{0});
}

template <class T>
void BackwardTile<T>::load_values(Keys& into, const RowSource& source, std::int64_t first,
                                  std::int64_t count) const {
  const kernel::KernelTable<T>& kernel = *call_.kernel;
  if (kernel.format.reads_rows) {
    kernel.pack_padded(source, first, count, call_.head_dim_v, rows_, stride_v_, into.value_rows);
    into.value = {into.value_rows, stride_v_, kernel.format.row_multiple};
  } else {
    into.value = kernel.pack_keys(source, first, count, call_.head_dim_v, into.value_rows);
  }
  if (wanted_.value) std::fill_n(into.dvalue, rows_ * stride_v_, T{0});
}

template <class T>
bool BackwardTile<T>::run(const Queries& queries, const Keys& keys,
                          kernel::BackwardBlock<T>& b) const {
  b.query_lanes = queries.query_lanes;
  b.doutput_lanes = queries.doutput_lanes;
  b.query_rows = queries.query_rows;
  b.doutput_rows = queries.doutput_rows;
  b.lse = queries.lse;
  b.delta = queries.delta;
  b.key = keys.key;
  b.value = keys.value;
  b.key_components = keys.key_components;
  b.keys = keys.count;
  b.head_dim = call_.head_dim;
  b.head_dim_v = call_.head_dim_v;
  b.stride = stride_;
  b.stride_v = stride_v_;
  b.scale = static_cast<T>(call_.scale);
  b.exponent_scale = call_.exponent_scale();
  b.skip_hidden = b.visible != nullptr && !(queries.finite && keys.finite);
  b.keep_scale = static_cast<T>(call_.dropout.factor);
  b.weights = weights_;
  b.operand_rows = operand_rows_ == nullptr ? static_cast<void*>(weights_) : operand_rows_;
  b.operand_lanes = operand_lanes_ == nullptr ? b.operand_rows : operand_lanes_;
  b.slopes = slopes_;
  b.dquery_lanes = wanted_.query ? queries.dquery_lanes : nullptr;
  b.dkey = wanted_.key ? keys.dkey : nullptr;
  b.dvalue = wanted_.value ? keys.dvalue : nullptr;
  return call_.kernel->backward_block[queries.width / call_.kernel->lanes - 1](b);
}

template class BackwardTile<float>;
template class BackwardTile<double>;

}  // namespace longspan::engine
