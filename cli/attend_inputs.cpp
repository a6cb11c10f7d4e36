// SPDX-License-Identifier: Apache-2.0
// Part of longspan. See LICENSE.
//
// Finds the tensors of `attend`, and turns options and tensors into the library's call.
#include "attend_inputs.h"

#include <fmt/format.h>

#include <algorithm>
#include <cstring>
#include <set>

#include "failure.h"
#include "io/file_error.h"
#include "lsh_options.h"
#include "record.h"
#include "signals.h"

namespace longspan::cli {
namespace {

constexpr std::array kReadByPlanning = {Role::kMask,        Role::kKeyLengths,  Role::kCuSeqlensQ,
                                        Role::kCuSeqlensK,  Role::kAlibiSlopes, Role::kSinks,
                                        Role::kQueryOffsets};

bool is_for_backward(Role role) { return role == Role::kDoutput || role == Role::kDlse; }

bool is_for_lsh(Role role) { return role >= Role::kQueryKey; }

bool is_query_or_key(Role role) { return role == Role::kQuery || role == Role::kKey; }

bool is_needed(Role role) {
  return is_query_or_key(role) || role == Role::kValue || role == Role::kDoutput;
}

std::string file_name_of(const AttendOptions& options, Role role) {
  const std::string& renamed = options.renamed.at(name_of(role));
  return renamed.empty() ? name_of(role) : renamed;
}

std::vector<std::int64_t> integers(const ConstTensorView& view) {
  std::vector<std::int64_t> values;
  for (std::int64_t n = 0; view.rank == 1 && n < view.shape[0]; ++n) {
    if (view.dtype == DType::kInt32)
      values.push_back(static_cast<const std::int32_t*>(view.data)[n]);
    if (view.dtype == DType::kInt64)
      values.push_back(static_cast<const std::int64_t*>(view.data)[n]);
  }
  return values;
}

// Whether an unset offset is ambiguous. With documents it holds inside each, so their lengths
// count; boundaries that do not fit together are left to the library and its words.
bool lengths_differ(const AttendInputs& inputs, const AttendCall& call) {
  const bool queries = inputs.has(Role::kCuSeqlensQ), keys = inputs.has(Role::kCuSeqlensK);
  if (!queries && !keys) return call.seqlen_q != call.seqlen_k;
  if (queries != keys) return false;
  const auto query_starts = integers(inputs.view(Role::kCuSeqlensQ));
  const auto key_starts = integers(inputs.view(Role::kCuSeqlensK));
  return query_starts.size() == key_starts.size() && query_starts != key_starts;
}

void check_ranks(const AttendOptions& options, const AttendCall& call) {
  const bool same = call.query.rank == call.key.rank && call.query.rank == call.value.rank;
  if (same && call.query.rank >= 2) return;
  throw Failure(
      kBadInput,
      fmt::format("{}: query, key, value: expected one rank of 2, 3 or 4, found shapes {}, {}, {}",
                  options.command, shape_string(call.query), shape_string(call.key),
                  shape_string(call.value)));
}

void read_sizes(AttendCall& call) {
  const int rank = call.rank = call.query.rank;
  if (rank == 4) call.batch = call.query.shape[0];
  const int seqlen_axis = rank == 4 ? 1 : 0;
  call.seqlen_q = call.query.shape[seqlen_axis];
  call.seqlen_k = call.key.shape[seqlen_axis];
  if (rank > 2) {
    call.num_heads = call.query.shape[rank - 2];
    call.num_heads_kv = call.key.shape[rank - 2];
  }
  call.head_dim = call.query.shape[rank - 1];
  call.head_dim_v = call.value.shape[rank - 1];
}

void check_offset(const AttendOptions& options, const AttendInputs& inputs,
                  const AttendCall& call) {
  const bool said = options.offset || options.offset_end;
  if (said && inputs.has(Role::kQueryOffsets)) {
    throw Failure(
        kUsage, options.command +
                    ": --query-offset: expected either it or the tensor query_offsets, found both");
  }
  const char* asker = options.causal                   ? "--causal"
                      : options.window                 ? "--window"
                      : inputs.has(Role::kAlibiSlopes) ? "alibi_slopes"
                      : options.lsh                    ? "--method lsh"
                                                       : nullptr;
  if (said || inputs.has(Role::kQueryOffsets) || asker == nullptr || !lengths_differ(inputs, call))
    return;
  throw Failure(kUsage,
                fmt::format("{}: {}: expected --query-offset, since lengths differ (seqlen_q "
                            "{}, seqlen_k {}), found none",
                            options.command, asker, call.seqlen_q, call.seqlen_k),
                "--query-offset end aligns the last query with the last key, --query-offset 0 the "
                "first with the first");
}

Mask make_mask(const AttendOptions& options, const AttendInputs& inputs) {
  Mask mask;
  if (options.causal) mask = mask & causal();
  if (options.window) mask = mask & window(options.window->first, options.window->second);
  if (options.keys) mask = mask & key_range(options.keys->first, options.keys->second);
  if (inputs.has(Role::kKeyLengths)) mask = mask & key_lengths(inputs.view(Role::kKeyLengths));
  if (inputs.has(Role::kCuSeqlensQ)) {
    mask = mask & documents(inputs.view(Role::kCuSeqlensQ), inputs.view(Role::kCuSeqlensK));
  } else if (inputs.has(Role::kCuSeqlensK)) {
    mask = mask & documents(inputs.view(Role::kCuSeqlensK));
  }
  if (inputs.has(Role::kMask)) mask = mask & dense(inputs.view(Role::kMask));
  return mask;
}

}  // namespace

AttendInputs::AttendInputs(const AttendOptions& options) {
  files_.reserve(options.inputs.size());  // slots point into it
  for (const std::string& path : options.inputs) files_.emplace_back(path);
  if (files_.size() == 1) {
    find_in_safetensors(options);
    warn_about_the_rest(options);
  } else {
    for (std::size_t n = 0; n < files_.size(); ++n)
      slots_[n] = {&files_[n], files_[n].find(""), {}};
  }
}

void AttendInputs::find_in_safetensors(const AttendOptions& options) {
  const TensorFile& file = files_.front();
  const bool shared = shares_query_and_key(options);
  for (std::size_t n = 0; n < slots_.size(); ++n) {
    const Role role{static_cast<int>(n)};
    if (!options.backward && is_for_backward(role)) continue;
    if ((!options.lsh && is_for_lsh(role)) || (shared && is_query_or_key(role))) continue;
    const std::string name = file_name_of(options, role);
    slots_[n] = {&file, file.find(name), {}};
    const bool needed = is_needed(role);
    if (slots_[n].entry != nullptr || (!needed && name == name_of(role))) continue;
    std::string hint =
        "'longspan inspect' lists the tensors; --NAME-name says what they are called";
    if (role == Role::kDoutput) {
      hint = "--backward starts from the gradient with respect to the output, of its shape";
    } else if (role != Role::kValue && file.find("query_key") != nullptr) {
      hint = "query_key is for --method lsh";
    }
    throw Failure(kBadInput,
                  fmt::format("{}: expected a tensor {} for '{}', found none",
                              options.inputs.front(), io::in_quotes(name), name_of(role)),
                  hint);
  }
}

bool AttendInputs::shares_query_and_key(const AttendOptions& options) const {
  return options.lsh && (!options.renamed.at(name_of(Role::kQueryKey)).empty() ||
                         files_.front().find(file_name_of(options, Role::kQueryKey)) != nullptr);
}

void AttendInputs::warn_about_the_rest(const AttendOptions& options) const {
  std::set<std::string> known;
  const bool shared = shares_query_and_key(options);
  for (std::size_t n = 0; n < slots_.size(); ++n) {
    const Role role{static_cast<int>(n)};
    if ((!options.lsh && is_for_lsh(role)) || (shared && is_query_or_key(role))) continue;
    known.insert(file_name_of(options, role));
  }
  std::string names;
  for (const io::TensorEntry& entry : files_.front().entries()) {
    if (!known.contains(entry.name))
      names += (names.empty() ? "" : ", ") + io::in_quotes(entry.name);
  }
  if (!names.empty())
    warn(fmt::format("{}: {} does not use {}", options.inputs.front(), options.command, names));
}

ConstTensorView AttendInputs::view(Role role) const {
  const Slot& found = slot(role);
  if (found.entry == nullptr) return {};
  io::TensorEntry named = *found.entry;
  if (named.name.empty()) named.name = name_of(role);
  return view_of(named, found.data ? found.data->bytes() : not_loaded());
}

std::uint64_t AttendInputs::bytes() const {
  std::uint64_t sum = 0;
  for (const Slot& each : slots_) sum += each.entry != nullptr ? byte_count(*each.entry) : 0;
  return sum;
}

std::string AttendInputs::what() const {
  if (files_.size() != 1) return {};
  const auto metadata = files_.front().metadata();
  const auto found = metadata.find("what");
  return found == metadata.end() ? std::string() : found->second;
}

void AttendInputs::give(Role role, io::StoredTensor tensor) {
  Slot& slot = slots_[static_cast<std::size_t>(role)];
  slot.data = std::move(tensor);
  slot.entry = &slot.data->entry();
}

void AttendInputs::load(Slot& slot) {
  if (slot.entry != nullptr && !slot.data) slot.data = slot.file->read(*slot.entry);
}

void AttendInputs::load_what_planning_reads() {
  for (const Role role : kReadByPlanning) load(slots_[static_cast<std::size_t>(role)]);
}

void AttendInputs::load_all() {
  for (Slot& each : slots_) load(each);
}

AttendCall make_call(const AttendOptions& options, const AttendInputs& inputs) {
  AttendCall call;
  call.shared = inputs.has(Role::kQueryKey);
  call.query = in_layout(inputs.view(call.shared ? Role::kQueryKey : Role::kQuery), options.bhsd);
  call.key = call.shared ? call.query : in_layout(inputs.view(Role::kKey), options.bhsd);
  call.value = in_layout(inputs.view(Role::kValue), options.bhsd);
  check_ranks(options, call);
  read_sizes(call);
  check_offset(options, inputs, call);
  if (options.keys && options.keys->second > call.seqlen_k) {
    throw Failure(
        kUsage,
        fmt::format("{}: --keys: expected A:B with B <= seqlen_k = {}, found {}:{}",
                    options.command, call.seqlen_k, options.keys->first, options.keys->second));
  }
  if (is_npy(options.output) && call.query.dtype == DType::kBFloat16 && !options.output_f32) {
    throw Failure(kUsage,
                  "attend: OUTPUT: npy has no bfloat16; expected another type or a .safetensors "
                  "name, found " +
                      options.output,
                  "--output-dtype f32");
  }
  if (options.lsh) {
    call.lsh = make_lsh_options(options, inputs);
    if (call.shared && options.scale) {
      throw Failure(kUsage, options.command +
                                ": --scale: expected none with query_key, whose scale the key "
                                "norm fixes");
    }
  }
  call.options.scale = options.scale;
  call.options.softcap = options.softcap.value_or(0);
  if (options.offset_end) call.options.query_offset = QueryOffset::end();
  if (options.offset) call.options.query_offset = *options.offset;
  if (inputs.has(Role::kQueryOffsets)) {
    call.options.query_offset = QueryOffset::for_batch(inputs.view(Role::kQueryOffsets));
  }
  call.options.mask = make_mask(options, inputs);
  call.options.dropout = {options.dropout, static_cast<std::uint64_t>(options.seed)};
  call.options.bias = inputs.view(Role::kBias);
  call.options.alibi_slopes = inputs.view(Role::kAlibiSlopes);
  call.options.sinks = inputs.view(Role::kSinks);
  call.doutput = in_layout(inputs.view(Role::kDoutput), options.bhsd);
  call.dlse = inputs.view(Role::kDlse);
  return call;
}

Execution make_execution(const AttendOptions& options) {
  Execution execution;
  execution.threads = static_cast<int>(options.threads);
  execution.memory_limit = static_cast<std::size_t>(options.memory_limit);
  execution.query_chunk = options.query_chunk;
  execution.key_chunk = options.key_chunk;
  execution.stop = stop_token();
  return execution;
}

}  // namespace longspan::cli
