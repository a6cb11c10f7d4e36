// SPDX-License-Identifier: Apache-2.0
// Part of longspan. See LICENSE.
//
// safetensors files: 8 bytes header length, the header (safetensors_header.h), the data.
#include "io/safetensors.h"

#include <algorithm>
#include <limits>
#include <nlohmann/json.hpp>
#include <numeric>
#include <set>
#include <string_view>

#include "base/check.h"
#include "io/atomic_file.h"
#include "io/file_error.h"
#include "io/row_major.h"
#include "io/safetensors_header.h"

namespace longspan::io {
namespace {

constexpr std::uint64_t kLengthBytes = 8;

std::string read_header(const InputFile& file) {
  if (file.size() < kLengthBytes) {
    fail_file(file.path(), "expected at least 8 bytes, found " + std::to_string(file.size()));
  }
  std::uint64_t length = 0;
  file.read(0, &length, kLengthBytes);
  const std::uint64_t most = std::min(kMaxHeaderBytes, file.size() - kLengthBytes);
  if (length > most) {
    fail_file(file.path(),
              "header length: expected at most " + std::to_string(most) + ", found " +
                  std::to_string(length),
              "is this a safetensors file, and is it whole?");
  }
  std::string text(static_cast<std::size_t>(length), '\0');
  file.read(kLengthBytes, text.data(), text.size());
  return text;
}

std::string json_string(const std::string& path, const std::string& text) {
  try {
    return nlohmann::json(text).dump();
  } catch (const nlohmann::json::type_error&) {  // its only cause here
    base::fail(ErrorCode::kInvalidArgument,
               path + ": expected names and metadata in UTF-8, found " + in_quotes(text));
  }
}

void check_names(const std::string& path, std::span<const NamedTensor> tensors) {
  std::set<std::string_view> names = {kMetadataKey};
  for (const NamedTensor& each : tensors) {
    base::require(names.insert(each.name).second, [&] {
      return path + ": expected every tensor name once and none " + std::string(kMetadataKey) +
             ", found " + in_quotes(each.name);
    });
  }
}

std::uint64_t bytes_of(const std::string& path, const NamedTensor& each) {
  element_count(each.tensor);
  const std::span shape(each.tensor.shape.data(), static_cast<std::size_t>(each.tensor.rank));
  const auto bytes = byte_count(stored_type_of(each.tensor.dtype), shape);
  constexpr std::uint64_t kMost = std::uint64_t{1}
                                  << 48;  // any file system; the sum cannot overflow
  base::require(bytes && *bytes <= kMost, [&] {
    return path + ": tensor " + in_quotes(each.name) +
           ": expected at most 2^48 bytes, found shape " + shape_string(each.tensor);
  });
  return *bytes;
}

std::string header_text(const std::string& path, std::span<const NamedTensor* const> tensors,
                        const std::map<std::string, std::string>& metadata) {
  std::string text = "{";
  if (!metadata.empty()) {
    text += json_string(path, std::string(kMetadataKey)) + ":";
    char before = '{';
    for (const auto& [key, value] : metadata) {
      text += before;
      text += json_string(path, key) + ":" + json_string(path, value);
      before = ',';
    }
    text += '}';
  }
  std::uint64_t begin = 0;
  for (const NamedTensor* each : tensors) {
    const std::uint64_t end = begin + bytes_of(path, *each);
    if (text.size() > 1) text += ',';
    text += json_string(path, each->name) + ":{\"dtype\":\"" +
            name_of(stored_type_of(each->tensor.dtype)) +
            "\",\"shape\":" + shape_string(each->tensor) + ",\"data_offsets\":[" +
            std::to_string(begin) + "," + std::to_string(end) + "]}";
    begin = end;
  }
  text += '}';
  text.resize((text.size() + 7) / 8 * 8, ' ');  // data start at a multiple of 8
  base::require(text.size() <= kMaxHeaderBytes, [&] {
    return path + ": expected a header of at most " + std::to_string(kMaxHeaderBytes) +
           " bytes, found " + std::to_string(text.size());
  });
  return text;
}

}  // namespace

SafetensorsReader::SafetensorsReader(const std::string& path) : file_(path) {
  const std::string text = read_header(file_);
  SafetensorsHeader header =
      parse_safetensors_header(path, text, kLengthBytes + text.size(), file_.size());
  entries_ = std::move(header.entries);
  by_name_ = std::move(header.by_name);
  metadata_ = std::move(header.metadata);
}

const TensorEntry* SafetensorsReader::find(const std::string& name) const noexcept {
  const auto at = std::lower_bound(
      by_name_.begin(), by_name_.end(), name,
      [&](std::size_t index, const std::string& wanted) { return entries_[index].name < wanted; });
  return at != by_name_.end() && entries_[*at].name == name ? &entries_[*at] : nullptr;
}

StoredTensor SafetensorsReader::read(const TensorEntry& entry) const { return file_.read(entry); }

void write_safetensors(const std::string& path, std::span<const NamedTensor> tensors,
                       const std::map<std::string, std::string>& metadata) {
  check_names(path, tensors);
  std::vector<const NamedTensor*> order(tensors.size());
  std::iota(order.begin(), order.end(), tensors.data());
  std::stable_sort(order.begin(), order.end(), [](const NamedTensor* a, const NamedTensor* b) {
    return size_of(a->tensor.dtype) > size_of(b->tensor.dtype);
  });
  const std::string text = header_text(path, order, metadata);

  AtomicFile file(path);
  const std::uint64_t length = text.size();
  file.write(&length, kLengthBytes);
  file.write(text.data(), text.size());
  for (const NamedTensor* each : order) write_row_major(file, each->tensor);
  file.commit();
}

}  // namespace longspan::io
