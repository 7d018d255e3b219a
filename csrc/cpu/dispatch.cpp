#include "cpu/passes.h"
#include "cpu/stretches.h"
#include "cpu/winograd_tiles.h"

#if defined(SLIMKERN_X86)
#include <cpuid.h>
#endif

namespace slimkern::cpu {

extern const Passes passes_baseline[3];
extern const Stretches stretches_baseline[3];
extern const WinogradTiles winograd_tiles_baseline;
#if defined(SLIMKERN_X86)
extern const Passes passes_avx2[3];
extern const Passes passes_avx512[3];
extern const Stretches stretches_avx2[3];
extern const Stretches stretches_avx512[3];
extern const WinogradTiles winograd_tiles_avx2;
extern const WinogradTiles winograd_tiles_avx512;
#endif

namespace {

struct Choice {
  const Passes* passes;
  const Stretches* stretches;
  const WinogradTiles* winograd_tiles;
  const char* name;
};

#if defined(SLIMKERN_X86)
// Older compilers' __builtin_cpu_supports knows all names but this.
bool has_f16c() {
  unsigned a = 0, b = 0, c = 0, d = 0;
  return __get_cpuid(1, &a, &b, &c, &d) && (c & bit_F16C);
}
#endif

Choice best() {
#if defined(SLIMKERN_X86)
  __builtin_cpu_init();
  const bool avx2 = __builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma") && has_f16c();
  if (avx2 && __builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512bw") &&
      __builtin_cpu_supports("avx512dq") && __builtin_cpu_supports("avx512vl"))
    return {passes_avx512, stretches_avx512, &winograd_tiles_avx512, "avx512"};
  if (avx2) return {passes_avx2, stretches_avx2, &winograd_tiles_avx2, "avx2"};
#endif
  return {passes_baseline, stretches_baseline, &winograd_tiles_baseline, "baseline"};
}

const Choice& choice() {
  static const Choice chosen = best();
  return chosen;
}

}  // namespace

const Passes& passes(Element element) { return choice().passes[static_cast<int>(element)]; }

const Stretches& stretches(Element element) { return choice().stretches[static_cast<int>(element)]; }

const WinogradTiles& winograd_tiles() { return *choice().winograd_tiles; }

const char* instruction_set() { return choice().name; }

}  // namespace slimkern::cpu
