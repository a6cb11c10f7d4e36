// SPDX-License-Identifier: Apache-2.0
// Part of longspan. See LICENSE.
//
// Shapes and types of results and gradients.
#include "attend_outputs.h"

#include <fmt/format.h>

#include <algorithm>

#include "failure.h"
#include "record.h"

namespace longspan::cli {
namespace {

std::vector<std::int64_t> shape_of(const ConstTensorView& view) {
  return {view.shape.begin(), view.shape.begin() + view.rank};
}

DType accumulator_of(const AttendCall& call) {
  return call.query.dtype == DType::kFloat64 ? DType::kFloat64 : DType::kFloat32;
}

// What has heads before positions: lower ranks lack the batch, then the heads.
std::vector<std::int64_t> heads_first(const AttendCall& call, std::int64_t heads,
                                      const std::vector<std::int64_t>& further) {
  std::vector<std::int64_t> shape;
  if (call.rank == 4) shape.push_back(call.batch);
  if (call.rank >= 3) shape.push_back(heads);
  shape.insert(shape.end(), further.begin(), further.end());
  return shape;
}

// An empty value can have any head_dim_v: what is too large to count in bytes stays too large for
// any machine.
std::uint64_t bytes_of(const std::vector<std::int64_t>& shape, DType dtype) {
  ConstTensorView view{nullptr, dtype, static_cast<int>(shape.size()), {}, {}};
  std::copy(shape.begin(), shape.end(), view.shape.begin());
  const std::int64_t count = std::min(element_count(view), std::int64_t{1} << 57);
  return static_cast<std::uint64_t>(count) * size_of(dtype);
}

}  // namespace

AttendOutputs::AttendOutputs(const AttendOptions& options, const AttendCall& call)
    : bhsd_(options.bhsd), dtype_(options.output_f32 ? DType::kFloat32 : call.query.dtype) {
  std::vector<std::int64_t> output = shape_of(in_layout(call.query, bhsd_));
  output.back() = call.head_dim_v;
  slots_.push_back({"output", dtype_, output, true, {}});
  slots_.push_back(
      {"lse", accumulator_of(call), heads_first(call, call.num_heads, {call.seqlen_q}), false, {}});
  if (options.backward) add_gradients(call);
  if (options.save_buckets) add_buckets(call);
}

void AttendOutputs::add_gradients(const AttendCall& call) {
  const char* query = call.shared ? "dquery_key" : "dquery";
  slots_.push_back({query, dtype_, shape_of(in_layout(call.query, bhsd_)), true, {}});
  if (!call.shared) {
    slots_.push_back({"dkey", dtype_, shape_of(in_layout(call.key, bhsd_)), true, {}});
  }
  slots_.push_back({"dvalue", dtype_, shape_of(in_layout(call.value, bhsd_)), true, {}});
  const auto add = [&](const char* name, const ConstTensorView& input) {
    if (!is_given(input)) return;
    slots_.push_back({name, accumulator_of(call), shape_of(input), false, {}});
  };
  add("dbias", call.options.bias);
  add("dsinks", call.options.sinks);
}

void AttendOutputs::add_buckets(const AttendCall& call) {
  const auto add = [&](const char* name, std::int64_t heads, std::int64_t seqlen) {
    slots_.push_back(
        {name, DType::kInt32, heads_first(call, heads, {call.lsh.num_hashes, seqlen}), false, {}});
  };
  if (call.shared) return add("buckets", call.num_heads, call.seqlen_q);
  add("query_buckets", call.num_heads, call.seqlen_q);
  add("key_buckets", call.num_heads_kv, call.seqlen_k);
}

std::uint64_t AttendOutputs::bytes() const {
  std::uint64_t sum = 0;
  for (const Slot& slot : slots_) sum += bytes_of(slot.shape, slot.dtype);
  return sum;
}

void AttendOutputs::check_derivatives(const AttendInputs& inputs) const {
  const auto check = [&](Role role, const char* like) {
    const ConstTensorView found = inputs.view(role);
    const Slot& slot = *find(like);
    if (!is_given(found)) return;
    if (shape_of(found) != slot.shape) {
      throw Failure(kBadInput,
                    fmt::format("attend: {}: expected shape {} as {}, found {}", name_of(role),
                                format_shape(slot.shape), like, shape_string(found)));
    }
    if (found.dtype != slot.dtype) {
      throw Failure(kBadInput, fmt::format("attend: {}: expected {} as {}, found {}", name_of(role),
                                           name_of(slot.dtype), like, name_of(found.dtype)));
    }
  };
  check(Role::kDoutput, "output");
  check(Role::kDlse, "lse");
}

void AttendOutputs::allocate() {
  for (Slot& slot : slots_) slot.tensor = make_tensor(slot.dtype, slot.shape);
}

const AttendOutputs::Slot* AttendOutputs::find(const std::string& name) const {
  const auto found = std::find_if(slots_.begin(), slots_.end(),
                                  [&](const Slot& slot) { return slot.name == name; });
  return found == slots_.end() ? nullptr : &*found;
}

TensorView AttendOutputs::view(const std::string& name) const {
  const Slot* slot = find(name);
  if (slot == nullptr) return {};
  return slot->has_layout ? in_layout(slot->tensor->view, bhsd_) : slot->tensor->view;
}

Partial AttendOutputs::result() const { return {view("output"), view("lse")}; }

Gradients AttendOutputs::gradients() const {
  const bool shared = find("dquery_key") != nullptr;
  return {view(shared ? "dquery_key" : "dquery"), view("dkey"), view("dvalue"), view("dbias"),
          view("dsinks")};
}

std::vector<io::NamedTensor> AttendOutputs::named() const {
  std::vector<io::NamedTensor> tensors;
  tensors.reserve(slots_.size());
  for (const Slot& slot : slots_) tensors.push_back({slot.name, slot.tensor->view});
  return tensors;
}

}  // namespace longspan::cli
