// Compiled once for each instruction set, with SLIMKERN_ISA naming it.

#include "cpu/winograd_tiles.h"

#include "cpu/vector.h"

namespace slimkern::cpu {
namespace {

// Calls body(load, store, place) for each vector of values, the last one of which may be shorter.
template <typename Body>
inline void for_vectors(int64_t count, const Body& body) {
  int64_t place = 0;
  const auto store_all = [](float* to, Floats value) { store<Float32>(to, value); };
  for (; place + kLanes <= count; place += kLanes) body(floats, store_all, place);
  if (const int64_t rest = count - place)
    body([rest](const float* from) { return load_some<Float32>(from, rest); },
         [rest](float* to, Floats value) { store_some<Float32>(to, value, rest); }, place);
}

// One axis of the transform of four pixels.
inline void spread(const Floats (&from)[4], Floats (&to)[4]) {
  to[0] = from[0] - from[2];
  to[1] = from[1] + from[2];
  to[2] = from[2] - from[1];
  to[3] = from[1] - from[3];
}

void scatter(const float* const* from, int64_t channels, float* to, int64_t step) {
  for_vectors(channels, [&](const auto& load, const auto& store, int64_t place) {
    Floats columns[4][4];
    for (int x = 0; x < 4; ++x)
      spread({load(from[x] + place), load(from[4 + x] + place), load(from[8 + x] + place), load(from[12 + x] + place)},
             columns[x]);
    for (int y = 0; y < 4; ++y) {
      Floats row[4];
      spread({columns[0][y], columns[1][y], columns[2][y], columns[3][y]}, row);
      for (int x = 0; x < 4; ++x) store(to + (4 * y + x) * step + place, row[x]);
    }
  });
}

void gather(const float* from, int64_t step, const float* bias, const float* const* added, float* const* to,
            int64_t channels) {
  for_vectors(channels, [&](const auto& load, const auto& store, int64_t place) {
    Floats upper[4], lower[4];
    for (int x = 0; x < 4; ++x) {
      const float* const column = from + x * step + place;
      const Floats second = load(column + 4 * step), third = load(column + 8 * step);
      upper[x] = load(column) + second + third;
      lower[x] = second - third - load(column + 12 * step);
    }
    const Floats shift = load(bias + place);
    const Floats results[4] = {upper[0] + upper[1] + upper[2], upper[1] - upper[2] - upper[3],
                               lower[0] + lower[1] + lower[2], lower[1] - lower[2] - lower[3]};
    for (int pixel = 0; pixel < 4; ++pixel) {
      if (!to[pixel]) continue;
      Floats sum = results[pixel] + shift;
      if (added[pixel]) sum += load(added[pixel] + place);
      store(to[pixel] + place, unless_negative(sum, sum));
    }
  });
}

}  // namespace

extern const WinogradTiles SLIMKERN_JOIN(winograd_tiles_, SLIMKERN_ISA);
const WinogradTiles SLIMKERN_JOIN(winograd_tiles_, SLIMKERN_ISA) = {scatter, gather};

}  // namespace slimkern::cpu
