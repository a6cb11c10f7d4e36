// SPDX-License-Identifier: Apache-2.0
// Part of longspan. See LICENSE.
//
// The input tensors of `attend`. Headers are read at once, so that shapes, options and memory can
// be checked before the data: first come the small tensors that say what is seen (and the mask),
// then query, key, value and bias.
#pragma once

#include <array>
#include <cstdint>
#include <optional>
#include <vector>

#include "attend_options.h"
#include "longspan/attention.h"
#include "tensor_file.h"

namespace longspan::cli {

class AttendInputs {
 public:
  AttendInputs() = default;  // of tensors that are given
  explicit AttendInputs(const AttendOptions& options);
  AttendInputs(const AttendInputs&) = delete;  // slots point into it
  AttendInputs& operator=(const AttendInputs&) = delete;

  void give(Role role, io::StoredTensor tensor);

  bool has(Role role) const { return slot(role).entry != nullptr; }
  // In the file's own axes; absent when the file has no such tensor. Before it is loaded its data
  // must not be read.
  ConstTensorView view(Role role) const;
  std::uint64_t bytes() const;  // of all tensors that will be loaded
  // What the file says of itself under `what`; empty where there is none.
  std::string what() const;

  void load_what_planning_reads();
  void load_all();

 private:
  struct Slot {
    const TensorFile* file = nullptr;
    const io::TensorEntry* entry = nullptr;
    std::optional<io::StoredTensor> data;
  };
  const Slot& slot(Role role) const { return slots_[static_cast<std::size_t>(role)]; }
  void find_in_safetensors(const AttendOptions& options);
  bool shares_query_and_key(const AttendOptions& options) const;
  void warn_about_the_rest(const AttendOptions& options) const;
  void load(Slot& slot);

  std::vector<TensorFile> files_;
  std::array<Slot, kRoleNames.size()> slots_;
};

// query, key and value for the library ([batch, seqlen, num_heads, dim] or a lower rank), and the
// sizes of the call.
struct AttendCall {
  ConstTensorView query, key, value;
  ConstTensorView doutput, dlse;  // with --backward; dlse may be absent
  int rank = 0;
  std::int64_t batch = 1, seqlen_q = 0, seqlen_k = 0, num_heads = 1, num_heads_kv = 1, head_dim = 0,
               head_dim_v = 0;
  AttentionOptions options;
  LshOptions lsh;  // with --method lsh
  // `key` is `query` where they are one tensor.
  bool shared = false;
};
// For the functions of LSH attention, where a shared key is absent.
inline ConstTensorView key_of(const AttendCall& call) {
  return call.shared ? ConstTensorView{} : call.key;
}
// Checks what options and tensors say of each other: exit 2 where an option is at fault, 3 where
// tensors are.
AttendCall make_call(const AttendOptions& options, const AttendInputs& inputs);
// Threads, memory, chunks, and the program's stop token.
Execution make_execution(const AttendOptions& options);

// Swaps the axes of a view in the file's layout to the library's, or back.
template <class View>
View in_layout(View view, bool bhsd) {
  if (!bhsd || view.rank < 3) return view;
  return transpose(view, view.rank - 3, view.rank - 2);
}

}  // namespace longspan::cli
