// SPDX-License-Identifier: Apache-2.0
// Part of longspan. See LICENSE.
//
// What longspan/jax gets of _core: the handlers, and a check of calls while they are traced.
#include <nanobind/nanobind.h>
#include <nanobind/stl/string.h>
#include <nanobind/stl/tuple.h>
#include <nanobind/stl/vector.h>

#include <algorithm>
#include <tuple>

#include "../calls.h"
#include "handlers.h"

namespace longspan::python {
namespace {

class DictAttributes : public Attributes {
 public:
  explicit DictAttributes(nb::dict dict) : dict_(std::move(dict)) {}
  std::optional<std::int64_t> integer(const char* name) const override {
    return get<std::int64_t>(name);
  }
  std::optional<double> real(const char* name) const override { return get<double>(name); }
  std::optional<std::string> text(const char* name) const override {
    return get<std::string>(name);
  }
  std::vector<std::int64_t> integers(const char* name) const override {
    return get<std::vector<std::int64_t>>(name).value_or(std::vector<std::int64_t>());
  }

 private:
  template <class Value>
  std::optional<Value> get(const char* name) const {
    if (!dict_.contains(name)) return std::nullopt;
    return nb::cast<Value>(dict_[name]);
  }

  nb::dict dict_;
};

// name, dtype, shape
using Traced = std::tuple<std::string, std::string, std::vector<std::int64_t>>;

// Zeros, however many are looked at: valid lengths, offsets and documents, so that what is checked
// are types, shapes and numbers.
ConstTensorView view_of(const Traced& traced) {
  static constexpr std::array<std::uint64_t, 2> kZeros{};
  const auto& [name, dtype, shape] = traced;
  ConstTensorView view;
  view.data = kZeros.data();
  bool known = false;
  for (const DType candidate : {DType::kFloat32, DType::kFloat64, DType::kFloat16, DType::kBFloat16,
                                DType::kInt32, DType::kInt64, DType::kBool}) {
    if (dtype != name_of(candidate)) continue;
    view.dtype = candidate;
    known = true;
  }
  if (!known) {
    throw nb::type_error((name + " has dtype " + dtype +
                          "; longspan knows float32, float64, float16, bfloat16, and int32, int64, "
                          "bool where they are asked for")
                             .c_str());
  }
  if (shape.size() > static_cast<std::size_t>(kMaxRank)) {
    throw nb::value_error((name + " must have at most " + std::to_string(kMaxRank) +
                           " axes; found " + std::to_string(shape.size()))
                              .c_str());
  }
  view.rank = static_cast<int>(shape.size());
  std::copy(shape.begin(), shape.end(), view.shape.begin());
  return view;
}

// Complains about what the call will complain about, as far as shapes and types show it.
void check(const std::string& name, const std::vector<Traced>& operands, nb::dict dict) {
  const DictAttributes attributes(std::move(dict));
  Call call;
  call.attributes = &attributes;
  for (const Traced& traced : operands) {
    call.operands.push_back({std::get<0>(traced), view_of(traced)});
  }
  const DType dtype = call.operand("query").dtype;
  const bool mixed = call.operand("value").dtype != dtype ||
                     (is_given(call.operand("key")) && call.operand("key").dtype != dtype);
  try {
    for (const Callable& callable : callables()) {
      if (name == callable.name && callable.check != nullptr) callable.check(call);
    }
  } catch (const WrongType& error) {
    throw nb::type_error(error.what());
  } catch (const Error& error) {
    if (error.code() != ErrorCode::kInvalidArgument || !mixed) throw;
    throw nb::type_error(error.what());
  }
}

nb::dict handlers() {
  nb::dict dict;
  for (std::size_t n = 0; n < callables().size(); ++n) {
    dict[callables()[n].name] = nb::capsule(handler_of(n));
  }
  return dict;
}

}  // namespace

void bind_jax(nb::module_& module) {
  module.def("jax_handlers", handlers);
  module.def("jax_check", check);
}

}  // namespace longspan::python
