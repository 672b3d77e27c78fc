// Marks functions that both sides of a CUDA program call; nothing for a C++ compiler.
#pragma once

#if defined(__CUDACC__)
#define MFFPA_HOST_DEVICE __host__ __device__
#else
#define MFFPA_HOST_DEVICE
#endif
