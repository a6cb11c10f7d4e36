// SPDX-License-Identifier: Apache-2.0
// Part of longspan. See LICENSE.
//
// Strided views to files.
#include "io/row_major.h"

#include <array>
#include <cstring>
#include <vector>

#include "base/check.h"

namespace longspan::io {
namespace {

// Gathers small pieces; large ones pass straight through.
class Buffered {
 public:
  explicit Buffered(AtomicFile& file) : file_(file), buffer_(std::size_t{64} << 10) {}
  void append(const std::byte* data, std::size_t bytes) {
    if (bytes > buffer_.size() - used_) flush();
    if (bytes > buffer_.size()) return file_.write(data, bytes);
    std::memcpy(buffer_.data() + used_, data, bytes);
    used_ += bytes;
  }
  void flush() {
    file_.write(buffer_.data(), used_);
    used_ = 0;
  }

 private:
  AtomicFile& file_;
  std::vector<std::byte> buffer_;
  std::size_t used_ = 0;
};

}  // namespace

void write_row_major(AtomicFile& file, const ConstTensorView& view) {
  if (element_count(view) == 0) return;
  base::require(view.data != nullptr, [&] {
    return "tensor: expected data for shape " + shape_string(view) + ", found none";
  });
  // The last axes that lie densely are written as one run, the others are walked through.
  int outer_rank = view.rank;
  std::int64_t run = 1;
  while (outer_rank > 0 &&
         (view.shape[outer_rank - 1] == 1 || view.strides[outer_rank - 1] == run)) {
    run *= view.shape[--outer_rank];
  }
  const auto size = static_cast<std::int64_t>(size_of(view.dtype));
  const auto* data = static_cast<const std::byte*>(view.data);
  Buffered buffer(file);
  Extents index{};
  for (int axis = 0; axis >= 0;) {
    std::int64_t offset = 0;
    for (int i = 0; i < outer_rank; ++i) offset += index[i] * view.strides[i];
    buffer.append(data + offset * size, static_cast<std::size_t>(run * size));
    axis = outer_rank - 1;  // count up, the last axis fastest
    while (axis >= 0 && ++index[axis] == view.shape[axis]) index[axis--] = 0;
  }
  buffer.flush();
}

}  // namespace longspan::io
