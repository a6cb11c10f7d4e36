// SPDX-License-Identifier: Apache-2.0
// Part of longspan. See LICENSE.
//
// May this process use tile registers? The processor, the system and a request to it decide.
#include <string>

#include "kernels/amx.h"
#include "kernels/avx512_bf16.h"

#if defined(__x86_64__) && defined(__linux__)
#include <sys/syscall.h>
#include <unistd.h>

#include <cerrno>

#include "kernels/cpuid.h"
#endif

namespace longspan::kernel {

std::string amx_refusal(bool has_instructions, bool keeps_state, int answer) {
  if (!has_instructions) return "this processor lacks AMX (AMX-TILE, AMX-BF16)";
  if (!keeps_state) return "the system, or a hypervisor, does not enable the tile registers of AMX";
  if (answer != 0) {
    return "Linux does not let this process use the tile registers of AMX (errno " +
           std::to_string(answer) + "; before 5.16 it cannot)";
  }
  return {};
}

#if defined(__x86_64__) && defined(__linux__)
namespace {

bool has_instructions() {
  constexpr unsigned kTileAndBFloat16 = 1u << 24 | 1u << 22;
  return (cpuid(7, 0).edx & kTileAndBFloat16) == kTileAndBFloat16;
}

// The system, or the hypervisor below it, saves the tile registers with a thread's state.
bool keeps_state() {
  constexpr unsigned kOsXsave = 1u << 27;
  constexpr unsigned kTileConfigAndData = 3u << 17;
  if ((cpuid(1, 0).ecx & kOsXsave) == 0) return false;
  unsigned low = 0;
  unsigned high = 0;
  asm volatile("xgetbv" : "=a"(low), "=d"(high) : "c"(0));
  return (low & kTileConfigAndData) == kTileConfigAndData;
}

// For the whole process, threads to come included. 0, or errno.
int request_permission() {
  constexpr long kRequestPermission = 0x1023;  // ARCH_REQ_XCOMP_PERM
  constexpr long kTileData = 18;               // XFEATURE_XTILEDATA
  return syscall(SYS_arch_prctl, kRequestPermission, kTileData) == 0 ? 0 : errno;
}

}  // namespace

std::string amx_refusal() {
  static const std::string refusal = [] {
    const bool ready = has_instructions() && keeps_state();
    if (ready && !avx512_bf16_refusal().empty()) return avx512_bf16_refusal();
    return amx_refusal(has_instructions(), keeps_state(), ready ? request_permission() : 0);
  }();
  return refusal;
}
#else
std::string amx_refusal() { return "it is for Linux on x86-64 processors"; }
#endif

}  // namespace longspan::kernel
