#pragma once

#include <cuda_runtime.h>

#include <cstdint>

#include "common/rotation.h"
#include "cuda/switchable_batch_norm.cuh"

namespace slimkern::cuda {

// In one launch: kernel arguments hold 32 KB from CUDA 12.1 on, 4 KB before.
#if defined(CUDART_VERSION) && CUDART_VERSION < 12010
constexpr int kMostParts = 40, kMostWeights = 24;
#else
constexpr int kMostParts = 256, kMostWeights = 128;
#endif
constexpr int kPackThreads = 256;
constexpr int kVectorsAThread = 4;

// A packed part [rows, taps, columns] and the stored weight that it is read of.
struct PackRow {
  const float* stored;
  void* packed;
  Layout layout;
  int32_t rows;
  int32_t columns;
  int32_t stored_rows;
  int32_t stored_columns;
  int32_t out_offset;
  int32_t in_offset;
  int32_t taps;
  int32_t first_block;
  bool wide;         // written 16 bytes at a time,
  bool wide_stored;  // and read so
};

struct PackTable {
  PackRow rows[kMostParts];
  int32_t count;
  int32_t blocks;
};

// A stored weight whose gradient is wanted; its parts are neighbours in the table, in the order of their sum.
struct SumRow {
  float* stored;
  Layout layout;
  int32_t rows;
  int32_t columns;
  int32_t taps;
  int32_t first_part;
  int32_t parts;
  int32_t first_block;
  bool wide;
  bool wide_stored;
};

struct SumPart {
  const void* packed;
  int32_t rows;
  int32_t columns;
  int32_t out_offset;
  int32_t in_offset;
};

struct SumTable {
  SumRow rows[kMostWeights];
  SumPart parts[kMostParts];
  int32_t count;
  int32_t blocks;
};

// Each is one launch for all rows of a table.
void launch_pack(Element element, const PackTable& table, cudaStream_t stream);
void launch_sum(Element element, const SumTable& table, cudaStream_t stream);

}  // namespace slimkern::cuda
