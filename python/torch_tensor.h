// SPDX-License-Identifier: Apache-2.0
// Part of longspan. See LICENSE.
//
// Tensors of PyTorch, read without a DLPack capsule each. Nothing is compiled against PyTorch.
#pragma once

#include <nanobind/nanobind.h>

#include <optional>

#include "longspan/tensor.h"

namespace longspan::python {

namespace nb = nanobind;

// The view of a tensor of PyTorch, valid as long as the tensor lives; nothing for other objects. A
// TypeError for tensors that are not strided memory of the CPU, and for those whose gradient would
// be lost: outside of torch.no_grad() and of operators.
std::optional<ConstTensorView> view_of_torch_tensor(nb::handle object, const char* name);

}  // namespace longspan::python
