// SPDX-License-Identifier: Apache-2.0
// Part of longspan. See LICENSE.
//
// Parsing the JSON header event by event: no document is built, nothing recurses, every limit holds
// while reading.
#include "io/safetensors_header.h"

#include <algorithm>
#include <array>
#include <limits>
#include <nlohmann/json.hpp>
#include <numeric>
#include <optional>
#include <tuple>
#include <utility>

#include "io/file_error.h"

namespace longspan::io {
namespace {

// Together they keep the peak of a header below four times its size plus 64 MiB: an entry or a pair
// of metadata may take ten times its text, but then there are few; the JSON library holds a token
// up to five times.
constexpr std::size_t kMaxTensors = 100'000;
constexpr std::size_t kMaxMetadata = 100'000;
constexpr std::size_t kMaxToken = 4 << 20;
constexpr int kMaxIgnoredDepth = 32;  // nesting inside an unknown field

// Where the parser stands: which container is open.
enum class Place : std::uint8_t { kOutside, kHeader, kMetadata, kEntry, kShape, kOffsets };
enum class Field : std::uint8_t { kDtype, kShape, kOffsets, kUnknown };

// The event interface that nlohmann::json::sax_parse calls. Every function returns true or throws.
class HeaderEvents {
 public:
  explicit HeaderEvents(const std::string& path) : path_(path) {}
  SafetensorsHeader take() { return std::move(header_); }

  bool null() { return other_value("null"); }
  bool boolean(bool value) { return other_value(value ? "true" : "false"); }
  bool number_integer(std::int64_t value) {  // called for numbers with a minus, -0 too
    return other_value(value == 0 ? "-0" : std::to_string(value));
  }
  bool number_float(double, const std::string& text) {
    return other_value("the number " + in_quotes(text));
  }
  bool binary(nlohmann::json::binary_t&) { return other_value("bytes"); }

  bool number_unsigned(std::uint64_t value) {
    if (place_ != Place::kShape && place_ != Place::kOffsets) {
      return other_value(std::to_string(value));
    }
    if (value > static_cast<std::uint64_t>(std::numeric_limits<std::int64_t>::max())) {
      refuse(std::to_string(value));
    }
    if (place_ == Place::kOffsets) {
      if (offsets_ == 2) fail("expected two numbers, found more");
      (offsets_++ == 0 ? entry_.begin : entry_.end) = value;
    } else {
      if (entry_.shape.size() == kMaxStoredRank) {
        fail("expected at most " + std::to_string(kMaxStoredRank) + " dimensions, found more");
      }
      entry_.shape.push_back(static_cast<std::int64_t>(value));
    }
    return true;
  }

  bool string(std::string& text) {
    if (place_ == Place::kMetadata) {
      if (header_.metadata.size() == kMaxMetadata) {
        fail("expected at most " + std::to_string(kMaxMetadata) + " keys, found more");
      }
      if (!header_.metadata.emplace(std::move(metadata_key_), std::move(text)).second) {
        fail("expected every key once, found one twice");
      }
    } else if (place_ == Place::kEntry && field_ == Field::kDtype) {
      const std::optional<StoredType> type = stored_type_named(text);
      if (!type) {
        fail("expected F64 .. F16, BF16, F8_E4M3, F8_E5M2, I64 .. I8, U64 .. U8 or BOOL, found " +
             in_quotes(text));
      }
      entry_.type = *type;
    } else {
      return other_value("a string");
    }
    return true;
  }

  bool key(std::string& text) {
    if (ignored_depth_ > 0) return true;
    switch (place_) {
      case Place::kHeader:
        entry_ = TensorEntry{};
        entry_.name = std::move(text);
        break;
      case Place::kMetadata:
        metadata_key_ = std::move(text);
        break;
      default:
        begin_field(text);
    }
    return true;
  }

  bool start_object(std::size_t) {
    if (place_ == Place::kOutside) {
      place_ = Place::kHeader;
    } else if (place_ == Place::kHeader && entry_.name == kMetadataKey) {
      if (std::exchange(has_metadata_, true)) fail("expected once, found twice");
      place_ = Place::kMetadata;
    } else if (place_ == Place::kHeader) {
      if (header_.entries.size() == kMaxTensors) {
        fail("expected at most " + std::to_string(kMaxTensors) + " tensors, found more");
      }
      place_ = Place::kEntry;
      field_ = Field::kUnknown;
      seen_ = {};
      offsets_ = 0;
    } else {
      return ignore_container("an object");
    }
    return true;
  }

  bool start_array(std::size_t) {
    if (place_ == Place::kEntry && field_ == Field::kShape) {
      place_ = Place::kShape;
    } else if (place_ == Place::kEntry && field_ == Field::kOffsets) {
      place_ = Place::kOffsets;
    } else {
      return ignore_container("an array");
    }
    return true;
  }

  bool end_object() {
    if (ignored_depth_ > 0) {
      --ignored_depth_;
    } else if (place_ == Place::kEntry) {
      end_entry();
      place_ = Place::kHeader;
    } else {
      place_ = place_ == Place::kMetadata ? Place::kHeader : Place::kOutside;
    }
    return true;
  }

  bool end_array() {
    if (ignored_depth_ > 0) {
      --ignored_depth_;
      return true;
    }
    if (place_ == Place::kOffsets && offsets_ != 2) {
      fail("expected two numbers, found " + std::to_string(offsets_));
    }
    place_ = Place::kEntry;
    return true;
  }

  bool parse_error(std::size_t position, const std::string&, const nlohmann::json::exception&) {
    fail_file(path_, "header: expected valid JSON in UTF-8, found a mistake at its byte " +
                         std::to_string(position));
  }

 private:
  static constexpr const char* kFieldNames[] = {"dtype", "shape", "data_offsets"};

  void begin_field(const std::string& name) {
    field_ = Field::kUnknown;
    for (std::size_t i = 0; i < std::size(kFieldNames); ++i) {
      if (name != kFieldNames[i]) continue;
      field_ = static_cast<Field>(i);
      if (std::exchange(seen_[i], true)) fail("expected once, found twice");
    }
  }

  void end_entry() {
    field_ = Field::kUnknown;
    for (std::size_t i = 0; i < std::size(kFieldNames); ++i) {
      if (!seen_[i]) fail(std::string("expected a field ") + kFieldNames[i] + ", found none");
    }
    if (entry_.begin > entry_.end) {
      fail("data_offsets: expected begin <= end, found " + std::to_string(entry_.begin) + " and " +
           std::to_string(entry_.end));
    }
    const std::optional<std::uint64_t> bytes = byte_count(entry_.type, entry_.shape);
    if (bytes != entry_.end - entry_.begin) {
      fail(std::string("data_offsets: expected ") +
           (bytes ? std::to_string(*bytes) : "2^64 or more") + " bytes for " +
           name_of(entry_.type) + " " + shape_string(entry_.shape) + ", found " +
           std::to_string(entry_.end - entry_.begin));
    }
    entry_.shape.shrink_to_fit();
    header_.entries.push_back(std::move(entry_));
  }

  bool ignoring() const { return place_ == Place::kEntry && field_ == Field::kUnknown; }

  bool ignore_container(const char* found) {
    if (!ignoring()) refuse(found);
    if (++ignored_depth_ > kMaxIgnoredDepth) {
      fail("expected at most " + std::to_string(kMaxIgnoredDepth) + " levels, found more");
    }
    return true;
  }

  bool other_value(const std::string& found) {
    if (!ignoring()) refuse(found);
    return true;
  }

  // The value just met is not what this place asks for.
  [[noreturn]] void refuse(const std::string& found) const {
    fail("expected " + wanted() + ", found " + found);
  }

  std::string wanted() const {
    switch (place_) {
      case Place::kMetadata:
        return "strings only";
      case Place::kShape:
      case Place::kOffsets:
        return "whole numbers from 0 to 2^63 - 1";
      case Place::kEntry:
        return field_ == Field::kDtype ? "a string" : "an array";
      default:
        return "an object";
    }
  }

  [[noreturn]] void fail(const std::string& message) const {
    std::string where = "header: ";
    if (place_ == Place::kMetadata || (place_ == Place::kHeader && entry_.name == kMetadataKey)) {
      where = std::string(kMetadataKey) + ": ";
    } else if (place_ != Place::kOutside) {
      where = "tensor " + in_quotes(entry_.name) + ": ";
    }
    if (place_ >= Place::kEntry && field_ != Field::kUnknown) {
      where += std::string(kFieldNames[static_cast<std::size_t>(field_)]) + ": ";
    }
    fail_file(path_, where + message);
  }

  const std::string& path_;
  SafetensorsHeader header_;
  Place place_ = Place::kOutside;
  Field field_ = Field::kUnknown;
  TensorEntry entry_;  // being read; its name also while its value has not begun
  std::array<bool, std::size(kFieldNames)> seen_{};
  int offsets_ = 0;  // numbers of data_offsets so far
  std::string metadata_key_;
  bool has_metadata_ = false;
  int ignored_depth_ = 0;
};

// What the JSON library would do otherwise: a zero byte ends its input, and a token may grow
// without end.
void check_text(const std::string& path, std::string_view text) {
  if (text.empty() || text.front() != '{') {
    fail_file(path, "header: expected it to start with {, found " + in_quotes(text.substr(0, 1)),
              "is this a safetensors file?");
  }
  std::size_t token = 0;
  bool in_string = false, escaped = false;
  for (const char c : text) {
    if (c == '\0') fail_file(path, "header: expected text, found a zero byte");
    if (in_string) {
      in_string = escaped || c != '"';
      escaped = !escaped && c == '\\';
    } else if (c == '"') {
      in_string = true;
      token = 0;
    } else if (std::string_view(",:[]{} \t\r\n").find(c) != std::string_view::npos) {
      token = 0;
    }
    if (++token > kMaxToken) {
      fail_file(path, "header: expected strings and numbers of at most 4 MiB, found a longer one");
    }
  }
}

// Positions of the entries in the order of their names, which must differ.
std::vector<std::size_t> sorted_by_name(const std::string& path,
                                        const std::vector<TensorEntry>& entries) {
  std::vector<std::size_t> order(entries.size());
  std::iota(order.begin(), order.end(), std::size_t{0});
  const auto name = [&](std::size_t i) -> const std::string& { return entries[i].name; };
  std::sort(order.begin(), order.end(),
            [&](std::size_t a, std::size_t b) { return name(a) < name(b); });
  const auto twice = std::adjacent_find(
      order.begin(), order.end(), [&](std::size_t a, std::size_t b) { return name(a) == name(b); });
  if (twice != order.end()) {
    fail_file(path,
              "tensor " + in_quotes(name(*twice)) + ": expected every name once, found it twice");
  }
  return order;
}

// Data must be covered from the first byte to the last, without holes and overlaps.
void check_layout(const std::string& path, const std::vector<TensorEntry>& entries,
                  std::uint64_t data_bytes) {
  std::uint64_t at = 0;
  for (const TensorEntry& entry : entries) {
    if (entry.begin != at) {
      fail_file(path, "tensor " + in_quotes(entry.name) +
                          ": data_offsets: expected no gap and no overlap, begin " +
                          std::to_string(at) + ", found " + std::to_string(entry.begin));
    }
    at = entry.end;
  }
  if (at != data_bytes) {
    fail_file(path, "data: expected " + std::to_string(at) + " bytes behind the header, found " +
                        std::to_string(data_bytes));
  }
}

}  // namespace

SafetensorsHeader parse_safetensors_header(const std::string& path, std::string_view text,
                                           std::uint64_t data_begin, std::uint64_t data_end) {
  check_text(path, text);
  HeaderEvents events(path);
  nlohmann::json::sax_parse(text.begin(), text.end(), &events);
  SafetensorsHeader header = events.take();
  // An empty tensor sorts before the one that starts at the same byte; the name makes the order
  // unique.
  std::sort(header.entries.begin(), header.entries.end(),
            [](const TensorEntry& a, const TensorEntry& b) {
              return std::tie(a.begin, a.end, a.name) < std::tie(b.begin, b.end, b.name);
            });
  header.by_name = sorted_by_name(path, header.entries);
  check_layout(path, header.entries, data_end - data_begin);
  for (TensorEntry& entry : header.entries) {
    entry.begin += data_begin;
    entry.end += data_begin;
  }
  return header;
}

}  // namespace longspan::io
