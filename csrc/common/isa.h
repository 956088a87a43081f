// Run-time choice between the objects compiled for each instruction set.
//
// Every kernel source is compiled once per ISA with -DDDFAST_ISA=v3|v4 (x86-64) or generic (elsewhere); it puts its
// entry points into namespace ddfast::DDFAST_ISA.  The binding calls DDFAST_DISPATCH(entry(args...)).
#pragma once

#include <string>

namespace ddfast {

enum class Isa { generic = 0, v3 = 3, v4 = 4 };

#ifdef DDFAST_X86
inline bool cpu_has_v3() {
  return __builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma") && __builtin_cpu_supports("bmi2");
}
inline bool cpu_has_v4() {
  return cpu_has_v3() && __builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512bw") &&
         __builtin_cpu_supports("avx512dq") && __builtin_cpu_supports("avx512vl") && __builtin_cpu_supports("avx512cd");
}
inline Isa best_isa() { return cpu_has_v4() ? Isa::v4 : Isa::v3; }
#else
inline Isa best_isa() { return Isa::generic; }
#endif

inline Isa& current_isa() {
  static Isa isa = best_isa();
  return isa;
}

inline const char* isa_name(Isa isa) { return isa == Isa::v4 ? "v4" : isa == Isa::v3 ? "v3" : "generic"; }

}  // namespace ddfast

#ifdef DDFAST_X86
#define DDFAST_DECLARE(signature)   \
  namespace v3 { signature; }       \
  namespace v4 { signature; }
#define DDFAST_DISPATCH(call) (::ddfast::current_isa() == ::ddfast::Isa::v4 ? ::ddfast::v4::call : ::ddfast::v3::call)
#else
#define DDFAST_DECLARE(signature) \
  namespace generic { signature; }
#define DDFAST_DISPATCH(call) (::ddfast::generic::call)
#endif
