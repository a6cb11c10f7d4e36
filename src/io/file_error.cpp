// SPDX-License-Identifier: Apache-2.0
// Part of longspan. See LICENSE.
//
// Error(kFile) messages.
#include "io/file_error.h"

#include <system_error>

#include "base/check.h"

namespace longspan::io {

void fail_file(const std::string& path, const std::string& message, const std::string& hint) {
  base::fail(ErrorCode::kFile, path + ": " + message, hint);
}

void fail_errno(const std::string& path, const std::string& action, int error_number) {
  fail_file(path, action + ": " + std::generic_category().message(error_number));
}

std::string in_quotes(std::string_view text) {
  constexpr std::size_t kShown = 64;
  constexpr char kDigits[] = "0123456789abcdef";
  std::string result = "'";
  for (const char c : text.substr(0, kShown)) {
    const auto byte = static_cast<unsigned char>(c);
    if (byte >= 0x20 && byte < 0x7F) {
      result += c;
    } else {
      result += "\\x";
      result += kDigits[byte >> 4];
      result += kDigits[byte & 15];
    }
  }
  return result + (text.size() > kShown ? "...'" : "'");
}

}  // namespace longspan::io
