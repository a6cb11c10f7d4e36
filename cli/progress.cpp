// SPDX-License-Identifier: Apache-2.0
// Part of longspan. See LICENSE.
//
// The progress bar. It uses no colour and no escape sequence, so NO_COLOR needs no branch.
#include "progress.h"

#include <fmt/format.h>
#include <unistd.h>

#include <algorithm>
#include <chrono>
#include <system_error>

#include "record.h"

namespace longspan::cli {
namespace {

using Clock = std::chrono::steady_clock;
constexpr int kBarWidth = 30;

std::string line(const std::string& what, double share, double seconds, bool bar) {
  const double left = share > 0 ? seconds * (1 - share) / share : 0;
  std::string drawing;
  if (bar) {
    const auto filled = static_cast<std::size_t>(share * kBarWidth);
    drawing = fmt::format("[{:<{}}] ", std::string(filled, '#'), kBarWidth);
  }
  return fmt::format("{} {}{:3.0f} %, {:.0f} s, about {:.0f} s left", what, drawing, 100 * share,
                     seconds, left);
}

}  // namespace

ProgressReporter::ProgressReporter(std::string what, bool quiet) : what_(std::move(what)) {
  if (quiet) return;
  try {
    thread_ = std::thread([this] { run(); });
  } catch (const std::system_error&) {  // NOLINT(bugprone-empty-catch)
    // no thread can be made: the work goes on unseen
  }
}

ProgressReporter::~ProgressReporter() {
  if (!thread_.joinable()) return;
  {
    const std::lock_guard lock(mutex_);
    finished_ = true;
  }
  changed_.notify_all();
  thread_.join();
}

void ProgressReporter::run() {
  const bool terminal = isatty(STDERR_FILENO) != 0;
  const auto first = std::chrono::milliseconds(terminal ? 1000 : 10000);
  const auto every = std::chrono::milliseconds(terminal ? 200 : 10000);
  const auto start = Clock::now();
  std::size_t drawn = 0;
  std::unique_lock lock(mutex_);
  for (auto next = start + first; !changed_.wait_until(lock, next, [this] { return finished_; });
       next += every) {
    const auto total = counter_.total.load(std::memory_order_relaxed);
    if (total <= 0) continue;
    const auto done = counter_.done.load(std::memory_order_relaxed);
    const double share =
        std::clamp(static_cast<double>(done) / static_cast<double>(total), 0.0, 1.0);
    const double seconds = std::chrono::duration<double>(Clock::now() - start).count();
    std::string text = line(what_, share, seconds, terminal);
    if (terminal) {
      const std::size_t length = text.size();
      text = fmt::format("\r{:<{}}", text, drawn);
      drawn = length;
    } else {
      text += '\n';
    }
    print_err(text);
  }
  if (drawn > 0) print_err(fmt::format("\r{}\r", std::string(drawn, ' ')));
}

}  // namespace longspan::cli
