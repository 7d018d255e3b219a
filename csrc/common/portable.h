#pragma once

// Functions so marked run on the host and, compiled by nvcc, on the device: what both share is tested on the host.
#if defined(__CUDACC__)
#define SLIMKERN_HOST_DEVICE __host__ __device__
#else
#define SLIMKERN_HOST_DEVICE
#endif
