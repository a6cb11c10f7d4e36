// SPDX-License-Identifier: Apache-2.0
// Part of longspan. See LICENSE.
//
// Handlers of XLA's foreign function interface. Buffers are row-major and are read and written
// where they lie; nothing of Python is touched, and no exception leaves.
#include "handlers.h"

#include <xla/ffi/api/ffi.h>

#include <array>
#include <new>
#include <utility>

#include "../run.h"

namespace longspan::python {
namespace {

namespace ffi = xla::ffi;

DType dtype_of(ffi::DataType type, const std::string& name) {
  switch (type) {
    case ffi::DataType::F32:
      return DType::kFloat32;
    case ffi::DataType::F64:
      return DType::kFloat64;
    case ffi::DataType::F16:
      return DType::kFloat16;
    case ffi::DataType::BF16:
      return DType::kBFloat16;
    case ffi::DataType::S32:
      return DType::kInt32;
    case ffi::DataType::S64:
      return DType::kInt64;
    case ffi::DataType::PRED:
      return DType::kBool;
    default:
      throw WrongType(name + " has a dtype that longspan does not know");
  }
}

TensorView view_of(const ffi::AnyBuffer& buffer, const std::string& name) {
  static char nothing = 0;  // where a tensor without elements lies
  const auto extents = buffer.dimensions();
  if (extents.size() > static_cast<std::size_t>(kMaxRank)) {
    throw Error(ErrorCode::kInvalidArgument, name + " has more than 4 axes");
  }
  TensorView view;
  view.data = buffer.untyped_data() != nullptr ? buffer.untyped_data() : &nothing;
  view.dtype = dtype_of(buffer.element_type(), name);
  view.rank = static_cast<int>(extents.size());
  std::int64_t stride = 1;
  for (int axis = view.rank - 1; axis >= 0; --axis) {
    view.shape[axis] = extents[static_cast<std::size_t>(axis)];
    view.strides[axis] = stride;
    stride *= view.shape[axis];
  }
  return view;
}

class XlaAttributes : public Attributes {
 public:
  explicit XlaAttributes(ffi::Dictionary dictionary) : dictionary_(dictionary) {}
  std::optional<std::int64_t> integer(const char* name) const override {
    return get<std::int64_t>(name);
  }
  std::optional<double> real(const char* name) const override { return get<double>(name); }
  std::optional<std::string> text(const char* name) const override {
    return get<std::string_view, std::string>(name);
  }
  std::vector<std::int64_t> integers(const char* name) const override {
    const auto found = get<ffi::Span<const std::int64_t>>(name);
    return found ? std::vector<std::int64_t>(found->begin(), found->end())
                 : std::vector<std::int64_t>();
  }

 private:
  template <class Given, class Value = Given>
  std::optional<Value> get(const char* name) const {
    if (!dictionary_.contains(name)) return std::nullopt;
    const ffi::ErrorOr<Given> found = dictionary_.get<Given>(name);
    if (!found.has_value()) throw Error(ErrorCode::kInternal, found.error().message());
    return Value(*found);
  }

  ffi::Dictionary dictionary_;
};

template <class Value>
Value take(ffi::ErrorOr<Value> found) {
  if (!found.has_value()) throw Error(ErrorCode::kInternal, found.error().message());
  return *found;
}

void handle(std::size_t n, ffi::RemainingArgs operands, ffi::RemainingRets results,
            ffi::Dictionary dictionary) {
  const XlaAttributes attributes(dictionary);
  Call call;
  call.attributes = &attributes;
  call.threads = num_threads();
  std::size_t at = 0;
  for (const std::string& name : words_of(attributes.text("operands").value_or(""))) {
    call.operands.push_back({name, view_of(take(operands.get<ffi::AnyBuffer>(at++)), name)});
  }
  at = 0;
  for (const std::string& name : words_of(attributes.text("results").value_or(""))) {
    call.results.push_back({name, view_of(*take(results.get<ffi::AnyBuffer>(at++)), name)});
  }
  callables()[n].run(call);
}

ffi::ErrorCode code_of(ErrorCode code) {
  switch (code) {
    case ErrorCode::kInvalidArgument:
      return ffi::ErrorCode::kInvalidArgument;
    case ErrorCode::kOutOfMemory:
      return ffi::ErrorCode::kResourceExhausted;
    case ErrorCode::kUnsupported:
      return ffi::ErrorCode::kUnimplemented;
    case ErrorCode::kCancelled:
      return ffi::ErrorCode::kCancelled;
    case ErrorCode::kFile:
    case ErrorCode::kInternal:
      break;
  }
  return ffi::ErrorCode::kInternal;
}

template <std::size_t n>
ffi::Error handle_safely(ffi::RemainingArgs operands, ffi::RemainingRets results,
                         ffi::Dictionary attributes) {
  try {
    handle(n, operands, results, attributes);
    return ffi::Error::Success();
  } catch (const Error& error) {
    const std::string hint = error.hint().empty() ? "" : " (" + error.hint() + ")";
    return {code_of(error.code()), error.what() + hint};
  } catch (const std::bad_alloc&) {
    return {ffi::ErrorCode::kResourceExhausted, "longspan: out of memory"};
  } catch (const std::exception& error) {
    return ffi::Error::InvalidArgument(error.what());
  }
}

template <std::size_t n>
XLA_FFI_Error* handler(XLA_FFI_CallFrame* frame) {
  static const auto* bound =
      ffi::Ffi::Bind().RemainingArgs().RemainingRets().Attrs().To(handle_safely<n>).release();
  return bound->Call(frame);
}

}  // namespace

void* handler_of(std::size_t n) {
  static constexpr std::array<XLA_FFI_Handler*, 4> kHandlers = {handler<0>, handler<1>, handler<2>,
                                                                handler<3>};
  return reinterpret_cast<void*>(kHandlers.at(n));
}

}  // namespace longspan::python
