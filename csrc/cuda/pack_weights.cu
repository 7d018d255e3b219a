#include "cuda/pack_weights.cuh"

#include "common/part_table.h"
#include "cuda/elements.cuh"
#include "cuda/launch.cuh"

namespace slimkern::cuda {
namespace {

// Calls body(vector) for the vectors of `lanes` values that are this thread's, of `values` in all.
template <int kLanes, typename Body>
__device__ inline void for_vectors(int32_t own_block, uint32_t values, const Body& body) {
  const uint32_t vectors = values / kLanes;
#pragma unroll
  for (int turn = 0; turn < kVectorsAThread; ++turn) {
    const uint32_t vector = (own_block * kVectorsAThread + turn) * kPackThreads + threadIdx.x;
    if (vector < vectors) body(vector);
  }
}

template <typename Stored, int kLanes>
__device__ inline void pack(const PackRow& row) {
  constexpr int kGroup = kLanes < 4 ? kLanes : 4;  // floats of 16 bytes
  for_vectors<kLanes>(blockIdx.x - row.first_block, uint32_t(row.rows) * row.taps * row.columns, [&](uint32_t vector) {
    const ValuePlace place = value_place(vector * kLanes, row.taps, row.columns);
    const float* from =
        row.stored + row.layout.at(channel_of(place.row, row.out_offset, row.stored_rows), 0, place.tap);
    float values[kLanes];
#pragma unroll
    for (int first = 0; first < kLanes; first += kGroup) {
      if (kGroup == 4 && row.wide_stored) {
        const auto read = *reinterpret_cast<const Vector<float, kGroup>*>(
            from + channel_of(place.column + first, row.in_offset, row.stored_columns));
#pragma unroll
        for (int lane = 0; lane < kGroup; ++lane) values[first + lane] = read.lanes[lane];
      } else {
#pragma unroll
        for (int lane = 0; lane < kGroup; ++lane)
          values[first + lane] =
              from[channel_of(place.column + first + lane, row.in_offset, row.stored_columns) * row.layout.column];
      }
    }
    store<Stored>(row.packed, vector, values);
  });
}

template <typename Stored>
__global__ void __launch_bounds__(kPackThreads) pack_kernel(const __grid_constant__ PackTable table) {
  const PackRow& row = table.rows[row_holding(table.rows, table.count, blockIdx.x)];
  if (row.wide)
    pack<Stored, 16 / sizeof(Stored)>(row);
  else
    pack<Stored, 1>(row);
}

// Every thread gathers its values of the stored weight from the parts that hold them, in the order of the parts.
template <typename Stored, int kLanes>
__device__ inline void sum(const SumRow& row, const SumPart* parts) {
  for_vectors<kLanes>(blockIdx.x - row.first_block, uint32_t(row.rows) * row.taps * row.columns, [&](uint32_t vector) {
    const ValuePlace place = value_place(vector * kLanes, row.taps, row.columns);
    float sums[kLanes] = {};
    for (int32_t own = row.first_part; own < row.first_part + row.parts; ++own) {
      const SumPart& part = parts[own];
      const int64_t part_row = position_of(place.row, part.out_offset, row.rows);
      const int64_t column = position_of(place.column, part.in_offset, row.columns);
      if (part_row >= part.rows || column >= part.columns) continue;
      float values[kLanes];
      load<Stored>(values, part.packed, ((part_row * row.taps + place.tap) * part.columns + column) / kLanes);
#pragma unroll
      for (int lane = 0; lane < kLanes; ++lane) sums[lane] += values[lane];
    }
    float* to = row.stored + row.layout.at(place.row, place.column, place.tap);
    if constexpr (kLanes > 1) {
      if (row.wide_stored) {
#pragma unroll
        for (int first = 0; first < kLanes; first += 4)
          *reinterpret_cast<Vector<float, 4>*>(to + first) = {
              {sums[first], sums[first + 1], sums[first + 2], sums[first + 3]}};
        return;
      }
    }
#pragma unroll
    for (int lane = 0; lane < kLanes; ++lane) to[lane * row.layout.column] = sums[lane];
  });
}

template <typename Stored>
__global__ void __launch_bounds__(kPackThreads) sum_kernel(const __grid_constant__ SumTable table) {
  const SumRow& row = table.rows[row_holding(table.rows, table.count, blockIdx.x)];
  if (row.wide)
    sum<Stored, 16 / sizeof(Stored)>(row, table.parts);
  else
    sum<Stored, 1>(row, table.parts);
}

}  // namespace

void launch_pack(Element element, const PackTable& table, cudaStream_t stream) {
  const auto kernel = element == Element::float32    ? pack_kernel<float>
                      : element == Element::bfloat16 ? pack_kernel<__nv_bfloat16>
                                                     : pack_kernel<__half>;
  launch(kernel, table.blocks, kPackThreads, stream, table);
}

void launch_sum(Element element, const SumTable& table, cudaStream_t stream) {
  const auto kernel = element == Element::float32    ? sum_kernel<float>
                      : element == Element::bfloat16 ? sum_kernel<__nv_bfloat16>
                                                     : sum_kernel<__half>;
  launch(kernel, table.blocks, kPackThreads, stream, table);
}

}  // namespace slimkern::cuda
