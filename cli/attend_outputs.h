// SPDX-License-Identifier: Apache-2.0
// Part of longspan. See LICENSE.
//
// The tensors that `attend` writes: their names, types and shapes are known before anything is
// computed, their memory is taken when it is.
#pragma once

#include <cstdint>
#include <optional>
#include <string>
#include <vector>

#include "attend_inputs.h"
#include "attend_options.h"
#include "tensor_file.h"

namespace longspan::cli {

class AttendOutputs {
 public:
  AttendOutputs(const AttendOptions& options, const AttendCall& call);

  DType dtype() const noexcept { return dtype_; }  // of the output
  std::uint64_t bytes() const;

  // What --backward starts from has the shapes and types of what is written. Throws Failure (3).
  void check_derivatives(const AttendInputs& inputs) const;

  void allocate();
  // For the library; gradients are absent without --backward, that of the key where it is the
  // query.
  Partial result() const;
  Gradients gradients() const;
  // By its name in the file; absent when it is not written.
  TensorView view(const std::string& name) const;
  // In the file's axes, in the order of the file; the output comes first.
  std::vector<io::NamedTensor> named() const;

 private:
  struct Slot {
    std::string name;
    DType dtype;
    std::vector<std::int64_t> shape;  // in the file's axes
    bool has_layout = false;          // its axes are swapped by --layout bhsd
    std::optional<OwnedTensor> tensor;
  };
  void add_gradients(const AttendCall& call);
  void add_buckets(const AttendCall& call);
  const Slot* find(const std::string& name) const;

  bool bhsd_;
  DType dtype_;
  std::vector<Slot> slots_;
};

}  // namespace longspan::cli
