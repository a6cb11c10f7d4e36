// SPDX-License-Identifier: Apache-2.0
// Part of longspan. See LICENSE.
//
// Between the structs of C and the types of the library. What does not fit is an Error; guarded()
// makes a status of it.
#pragma once

#include <cstdint>
#include <exception>
#include <new>
#include <stop_token>
#include <string>

#include "longspan/attention.h"
#include "longspan/c_api.h"
#include "longspan/lsh_attention.h"

namespace longspan::c_api {

// Of the last failure on this thread.
const std::string& last_error() noexcept;
const std::string& last_hint() noexcept;
longspan_status fail(longspan_status status, const char* message, const char* hint) noexcept;
longspan_status status_of(ErrorCode code) noexcept;

template <class Body>
longspan_status guarded(const Body& body) noexcept {
  try {
    body();
    return LONGSPAN_OK;
  } catch (const Error& error) {
    return fail(status_of(error.code()), error.what(), error.hint().c_str());
  } catch (const std::bad_alloc&) {
    return fail(LONGSPAN_OUT_OF_MEMORY, "longspan: an allocation failed", "");
  } catch (const std::exception& error) {
    return fail(LONGSPAN_INTERNAL, error.what(), "");
  } catch (...) {
    return fail(LONGSPAN_INTERNAL, "longspan: an exception of an unknown type", "");
  }
}

[[noreturn]] void refuse(const std::string& message);

// One of `count` numbered choices.
template <class Choice>
Choice choice(std::int32_t value, std::int32_t count, const char* name) {
  if (value < 0 || value >= count) {
    refuse(std::string(name) + ": expected 0 to " + std::to_string(count - 1) + "; found " +
           std::to_string(value));
  }
  return static_cast<Choice>(value);
}

TensorView view(const longspan_tensor& tensor);
TensorView view(const longspan_tensor* tensor);  // null: absent
longspan_tensor tensor_of(const ConstTensorView& from) noexcept;
Partial partial(const longspan_partial* given, const char* name);

// Null pointers are all defaults.
longspan_mask_term default_mask_term() noexcept;
longspan_attention_options default_attention_options() noexcept;
longspan_lsh_options default_lsh_options(longspan_lsh_preset preset);
longspan_execution default_execution() noexcept;
longspan_gradients default_gradients() noexcept;
AttentionOptions options(const longspan_attention_options* pointer);
LshOptions lsh_options(const longspan_lsh_options* pointer);
Execution execution(const longspan_execution* pointer);
Gradients gradients(const longspan_gradients* pointer);

void write_plan(const AttentionPlan& from, longspan_plan* into);
void write_plan(const LshPlan& from, longspan_plan* into);

}  // namespace longspan::c_api

struct longspan_stop {
  std::stop_source source;
};
