// SPDX-License-Identifier: Apache-2.0
// Part of longspan. See LICENSE.
//
// Threads, signals and errors.
#include "run.h"

#include <atomic>
#include <chrono>
#include <exception>
#include <future>
#include <optional>
#include <stop_token>
#include <string>

#include "longspan/error.h"

namespace longspan::python {

namespace nb = nanobind;

namespace {

std::atomic<int> chosen_threads{0};

PyObject* exception_type(ErrorCode code) {
  switch (code) {
    case ErrorCode::kInvalidArgument:
      return PyExc_ValueError;
    case ErrorCode::kOutOfMemory:
      return PyExc_MemoryError;
    case ErrorCode::kFile:
      return PyExc_OSError;
    case ErrorCode::kUnsupported:
    case ErrorCode::kCancelled:
    case ErrorCode::kInternal:
      break;
  }
  return PyExc_RuntimeError;
}

void translate(const std::exception_ptr& thrown, void* /*payload*/) {
  try {
    std::rethrow_exception(thrown);
  } catch (const Error& error) {
    const std::string hint = error.hint().empty() ? "" : " (" + error.hint() + ")";
    PyErr_SetString(exception_type(error.code()), (error.what() + hint).c_str());
  }
}

}  // namespace

void set_num_threads(int threads) {
  if (threads < 0) {
    throw nb::value_error(("set_num_threads: must not be negative (0: all that the process may "
                           "use); found " +
                           std::to_string(threads))
                              .c_str());
  }
  chosen_threads = threads;
}

int num_threads() {
  const int threads = chosen_threads;
  return threads > 0 ? threads : available_threads();
}

void run(double products, const Execution& execution,
         const std::function<void(const Execution&)>& work) {
  // 1 to 3 ms of work; a thread costs 30 us.
  constexpr double kShort = 1e8;
  constexpr std::chrono::milliseconds kPoll{20};
  Execution here = execution;
  if (here.threads == 0) here.threads = chosen_threads;
  if (products < kShort) {
    const nb::gil_scoped_release release;
    work(here);
    return;
  }
  std::stop_source stop;
  here.stop = stop.get_token();
  std::optional<nb::python_error> interruption;
  {
    const nb::gil_scoped_release release;
    std::future<void> done = std::async(std::launch::async, [&] { work(here); });
    while (done.wait_for(kPoll) != std::future_status::ready) {
      if (stop.stop_requested()) continue;
      const nb::gil_scoped_acquire acquire;
      if (PyErr_CheckSignals() != 0) {  // runs handlers on the main thread of Python only
        interruption.emplace();
        stop.request_stop();
      }
    }
    try {
      done.get();
    } catch (...) {
      if (!interruption) throw;
    }
  }
  if (interruption) throw nb::python_error(*interruption);
}

double products(const ConstTensorView& query, const ConstTensorView& key) noexcept {
  double count = 1;
  for (int axis = 0; axis < query.rank; ++axis) count *= static_cast<double>(query.shape[axis]);
  // The longest axis of the keys that may be their length, whatever the layout.
  std::int64_t length = 1;
  for (int axis = 0; axis + 1 < key.rank; ++axis) length = std::max(length, key.shape[axis]);
  return count * static_cast<double>(length);
}

void register_errors() { nb::register_exception_translator(translate); }

}  // namespace longspan::python
