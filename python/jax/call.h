// SPDX-License-Identifier: Apache-2.0
// Part of longspan. See LICENSE.
//
// A call as longspan/jax makes it: tensors and attributes by their names. XLA hands it on when it
// runs (handlers.cpp); Python when it is traced, to have it checked (bind_jax.cpp).
#pragma once

#include <optional>
#include <stdexcept>
#include <string>
#include <string_view>
#include <vector>

#include "../numbers.h"
#include "longspan/lsh_attention.h"

namespace longspan::python {

// The type of a tensor's elements is none that its place takes.
struct WrongType : std::runtime_error {
  using std::runtime_error::runtime_error;
};

// Numbers and words; absent where a call has none of that name.
class Attributes {
 public:
  virtual ~Attributes() = default;
  virtual std::optional<std::int64_t> integer(const char* name) const = 0;
  virtual std::optional<double> real(const char* name) const = 0;
  virtual std::optional<std::string> text(const char* name) const = 0;
  virtual std::vector<std::int64_t> integers(const char* name) const = 0;
};

template <class View>
struct Named {
  std::string name;
  View view;
};

struct Call {
  // Absent when there is none. Those of vectors come arranged: [batch, seqlen, num_heads, dim].
  ConstTensorView operand(std::string_view name) const;
  ConstTensorView vectors(std::string_view name) const;
  TensorView result(std::string_view name) const;
  TensorView result_vectors(std::string_view name) const;

  AttentionOptions options() const;
  LshOptions hashing() const;
  Execution execution() const;
  Gradients gradients() const;

  std::vector<Named<ConstTensorView>> operands;  // "arrays": those of masks, in their order
  std::vector<Named<TensorView>> results;
  const Attributes* attributes = nullptr;
  int threads = 0;

 private:
  std::uint64_t seed() const;
  bool is_heads_first() const { return attributes->integer("heads_first") == 1; }
};

// The words between spaces.
std::vector<std::string> words_of(std::string_view text);

// What can be called, under these names.
struct Callable {
  const char* name;
  void (*run)(const Call& call);
  void (*check)(
      const Call& call);  // with shapes and types only; null: its forward call was checked
};
const std::vector<Callable>& callables();

}  // namespace longspan::python
