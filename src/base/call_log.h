// SPDX-License-Identifier: Apache-2.0
// Part of longspan. See LICENSE.
//
// LONGSPAN_LOG=1: one line a call on stderr. The only thing that the library ever prints.
#pragma once

#include <chrono>
#include <cstdio>
#include <cstdlib>
#include <string>

namespace longspan::base {

class CallLog {
 public:
  CallLog() {
    const char* wanted = std::getenv("LONGSPAN_LOG");
    enabled_ = wanted != nullptr && wanted[0] == '1' && wanted[1] == '\0';
    if (enabled_) start_ = std::chrono::steady_clock::now();
  }
  // line() is only built when it is printed.
  template <class Line>
  void write(const Line& line) const {
    if (!enabled_) return;
    const std::chrono::duration<double> seconds = std::chrono::steady_clock::now() - start_;
    std::fprintf(stderr, "longspan: %s, %.6f s\n", line().c_str(), seconds.count());
  }

 private:
  bool enabled_ = false;
  std::chrono::steady_clock::time_point start_;
};

}  // namespace longspan::base
