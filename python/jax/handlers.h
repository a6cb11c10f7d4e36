// SPDX-License-Identifier: Apache-2.0
// Part of longspan. See LICENSE.
//
// The calls as XLA's runtime finds them.
#pragma once

#include "call.h"

namespace longspan::python {

// The address of XLA's handler (XLA_FFI_Handler) of the n-th of callables().
void* handler_of(std::size_t n);

}  // namespace longspan::python
