// SPDX-License-Identifier: Apache-2.0
// Part of longspan. See LICENSE.
//
// What an x86-64 processor says of itself.
#pragma once

#include <cpuid.h>

namespace longspan::kernel {

struct CpuidRegisters {
  unsigned eax = 0, ebx = 0, ecx = 0, edx = 0;
};

inline CpuidRegisters cpuid(unsigned leaf, unsigned part) {
  CpuidRegisters r;
  __get_cpuid_count(leaf, part, &r.eax, &r.ebx, &r.ecx, &r.edx);
  return r;
}

}  // namespace longspan::kernel
