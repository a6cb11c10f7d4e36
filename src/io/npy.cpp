// SPDX-License-Identifier: Apache-2.0
// Part of longspan. See LICENSE.
//
// npy files: magic, version, header length, a Python dictionary of three keys, the data.
#include "io/npy.h"

#include <algorithm>
#include <array>
#include <cstring>
#include <limits>
#include <string_view>
#include <utility>

#include "base/check.h"
#include "io/atomic_file.h"
#include "io/file_error.h"
#include "io/input_file.h"
#include "io/row_major.h"

namespace longspan::io {
namespace {

constexpr std::string_view kMagic = "\x93NUMPY";
constexpr std::size_t kMaxHeaderBytes = 10'000;  // NumPy's limit, too; ours need 1500 at most

constexpr std::pair<std::string_view, StoredType> kDescriptions[] = {
    {"<f8", StoredType::kF64}, {"<f4", StoredType::kF32}, {"<f2", StoredType::kF16},
    {"<i8", StoredType::kI64}, {"<i4", StoredType::kI32}, {"|u1", StoredType::kU8},
    {"|b1", StoredType::kBool}};

// Reads just the dictionaries that NumPy writes, in any spacing and order, and nothing else of
// Python.
class HeaderParser {
 public:
  HeaderParser(const std::string& path, std::string_view text) : path_(path), text_(text) {}

  TensorEntry parse() {
    expect('{', "a dictionary");
    while (!take('}')) {
      read_item();
      if (take('}')) break;
      expect(',', "',' or '}'");
    }
    skip_space();
    if (at_ != text_.size()) refuse("the end");
    for (std::size_t i = 0; i < std::size(kKeys); ++i) {
      if (!seen_[i])
        fail_file(path_, "header: expected a key " + in_quotes(kKeys[i]) + ", found none");
    }
    return std::move(entry_);
  }

 private:
  static constexpr std::string_view kKeys[] = {"descr", "fortran_order", "shape"};

  void read_item() {
    const std::string_view key = read_string("a key in quotes");
    expect(':', "':'");
    std::size_t index = 0;
    while (index < std::size(kKeys) && key != kKeys[index]) ++index;
    if (index == std::size(kKeys)) {
      fail_file(path_,
                "header: expected the keys descr, fortran_order, shape, found " + in_quotes(key));
    }
    if (std::exchange(seen_[index], true)) {
      fail_file(path_, "header: expected the key " + in_quotes(key) + " once, found it twice");
    }
    if (index == 0) {
      read_description();
    } else if (index == 1) {
      read_order();
    } else {
      read_shape();
    }
  }

  void read_description() {
    const std::string_view text = read_string("descr in quotes");
    for (const auto& [name, type] : kDescriptions) {
      if (text != name) continue;
      entry_.type = type;
      return;
    }
    const bool big_endian = !text.empty() && text.front() == '>';
    const bool object = text == "|O" || text == "O";
    fail_file(
        path_, "descr: expected <f8, <f4, <f2, <i8, <i4, |u1 or |b1, found " + in_quotes(text),
        big_endian ? "big-endian data: convert with array.astype(array.dtype.newbyteorder('<'))"
        : object   ? "Python objects are never loaded"
                   : "");
  }

  void read_order() {
    skip_space();
    if (take_word("False")) return;
    if (!take_word("True")) refuse("True or False");
    fail_file(path_, "fortran_order: expected False, found True",
              "save numpy.ascontiguousarray(array)");
  }

  void read_shape() {
    expect('(', "a tuple");
    bool comma = true;  // may a number follow?
    while (!take(')')) {
      if (!comma) refuse("',' or ')'");
      if (entry_.shape.size() == kMaxStoredRank) {
        fail_file(path_, "shape: expected at most " + std::to_string(kMaxStoredRank) +
                             " dimensions, found more");
      }
      entry_.shape.push_back(read_number());
      comma = take(',');
    }
    if (entry_.shape.size() == 1 && !comma) {
      fail_file(path_, "shape: expected a tuple, found a number in brackets");
    }
  }

  std::int64_t read_number() {
    skip_space();
    const std::size_t first = at_;
    std::uint64_t value = 0;
    while (at_ < text_.size() && text_[at_] >= '0' && text_[at_] <= '9') {
      const auto digit = static_cast<std::uint64_t>(text_[at_] - '0');
      constexpr std::uint64_t kMost = std::numeric_limits<std::int64_t>::max();
      if (value > (kMost - digit) / 10) {
        fail_file(path_, "shape: expected numbers up to 2^63 - 1, found a larger one");
      }
      value = value * 10 + digit;
      ++at_;
    }
    const std::size_t digits = at_ - first;
    if (digits == 0 || (digits > 1 && text_[first] == '0')) {
      at_ = first;
      refuse("a whole number");
    }
    return static_cast<std::int64_t>(value);
  }

  std::string_view read_string(const char* expected) {
    skip_space();
    const char quote = at_ < text_.size() ? text_[at_] : '\0';
    if (quote != '\'' && quote != '"') refuse(expected);
    const std::size_t first = at_ + 1;
    const std::size_t last = text_.find_first_of("'\"\\\n", first);  // no escapes
    if (last == std::string_view::npos || text_[last] != quote) refuse(expected);
    at_ = last + 1;
    return text_.substr(first, last - first);
  }

  void skip_space() {
    while (at_ < text_.size() && (text_[at_] == ' ' || text_[at_] == '\t' || text_[at_] == '\n')) {
      ++at_;
    }
  }

  bool take(char c) {
    skip_space();
    if (at_ == text_.size() || text_[at_] != c) return false;
    ++at_;
    return true;
  }

  bool take_word(std::string_view word) {
    if (text_.substr(at_, word.size()) != word) return false;
    at_ += word.size();
    return true;
  }

  void expect(char c, const char* expected) {
    if (!take(c)) refuse(expected);
  }

  [[noreturn]] void refuse(const std::string& expected) const {
    const std::string_view rest = text_.substr(at_, 16);
    fail_file(path_, "header, byte " + std::to_string(at_) + ": expected " + expected + ", found " +
                         (rest.empty() ? "the end" : in_quotes(rest)));
  }

  const std::string& path_;
  std::string_view text_;
  std::size_t at_ = 0;
  std::array<bool, std::size(kKeys)> seen_{};
  TensorEntry entry_;
};

TensorEntry read_header(const InputFile& file) {
  const std::string& path = file.path();
  constexpr std::size_t kShortest = 10;  // magic, version, 16-bit length
  if (file.size() < kShortest) {
    fail_file(path, "expected at least 10 bytes, found " + std::to_string(file.size()));
  }
  std::array<unsigned char, kShortest + 2> start{};
  file.read(0, start.data(), kShortest);
  if (std::memcmp(start.data(), kMagic.data(), kMagic.size()) != 0) {
    const std::string_view found(reinterpret_cast<const char*>(start.data()), kMagic.size());
    fail_file(path, "expected to start with " + in_quotes(kMagic) + ", found " + in_quotes(found),
              "is this an npy file?");
  }
  const int major = start[6], minor = start[7];
  if ((major != 1 && major != 2) || minor != 0) {
    fail_file(path, "expected npy version 1.0 or 2.0, found " + std::to_string(major) + "." +
                        std::to_string(minor));
  }
  const std::size_t text_begin = kShortest + (major == 2 ? 2 : 0);
  if (major == 2 && file.size() < text_begin) {
    fail_file(path, "expected at least 12 bytes, found " + std::to_string(file.size()));
  }
  file.read(0, start.data(), text_begin);
  std::uint32_t length = 0;  // little-endian, 2 bytes in version 1, 4 in version 2
  std::memcpy(&length, start.data() + 8, text_begin - 8);
  const std::uint64_t most = std::min<std::uint64_t>(kMaxHeaderBytes, file.size() - text_begin);
  if (length > most) {
    fail_file(path, "header length: expected at most " + std::to_string(most) + ", found " +
                        std::to_string(length));
  }
  std::string text(length, '\0');
  file.read(text_begin, text.data(), text.size());

  TensorEntry entry = HeaderParser(path, text).parse();
  entry.begin = text_begin + length;
  entry.end = file.size();
  const auto bytes = byte_count(entry.type, entry.shape);
  if (bytes != entry.end - entry.begin) {
    fail_file(path, "data: expected " + (bytes ? std::to_string(*bytes) : "2^64 or more") +
                        " bytes for " + name_of(entry.type) + " " + shape_string(entry.shape) +
                        ", found " + std::to_string(entry.end - entry.begin));
  }
  return entry;
}

}  // namespace

TensorEntry read_npy_header(const std::string& path) { return read_header(InputFile(path)); }

StoredTensor read_npy(const std::string& path) {
  const InputFile file(path);
  return file.read(read_header(file));
}

void write_npy(const std::string& path, const ConstTensorView& tensor) {
  element_count(tensor);
  const StoredType type = stored_type_of(tensor.dtype);
  std::string_view description;
  for (const auto& [name, each] : kDescriptions) {
    if (each == type) description = name;
  }
  if (description.empty()) {
    base::fail(ErrorCode::kUnsupported, path + ": npy has no type for " + name_of(tensor.dtype),
               "write safetensors, or convert to float32");
  }
  std::string shape;
  for (int axis = 0; axis < tensor.rank; ++axis) {
    shape += (axis > 0 ? ", " : "") + std::to_string(tensor.shape[axis]);
  }
  std::string text = "{'descr': '" + std::string(description) +
                     "', 'fortran_order': False, 'shape': (" + shape +
                     (tensor.rank == 1 ? ",), }" : "), }");
  constexpr std::size_t kBefore = 10, kAlignment = 64;  // data start at a multiple of 64
  const std::size_t total = (kBefore + text.size() + 1 + kAlignment - 1) / kAlignment * kAlignment;
  text.resize(total - kBefore - 1, ' ');
  text += '\n';

  AtomicFile file(path);
  const auto length = static_cast<std::uint16_t>(text.size());
  file.write(kMagic.data(), kMagic.size());
  file.write("\x01", 2);  // version 1.0: the literal's own zero is the second byte
  file.write(&length, 2);
  file.write(text.data(), text.size());
  write_row_major(file, tensor);
  file.commit();
}

}  // namespace longspan::io
