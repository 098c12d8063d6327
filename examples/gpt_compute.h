/* gpt_compute.h - the arithmetic that the trainer asks for, and who does it:
 * gpt_kernels.h on the CPU; with GPT_CUDA, gpt_cuda.cu on an NVIDIA device; with
 * GPT_MIXED, gpt_mixed.c where placement rules put weights and optimizer state.
 *
 * All have the same functions. Arrays that they are given lie in memory of
 * compute_memory() or in tensors acquired where it is computed, on the stream that
 * compute_open() has made, in which all work is done in order. put() and get()
 * copy from and to memory of the program; get() waits until all is done.
 */
#ifndef GPT_COMPUTE_H
#define GPT_COMPUTE_H

#include <stddef.h>

#ifdef _OPENMP
#include <omp.h>
#elif !defined(__cplusplus)
#pragma GCC diagnostic ignored "-Wunknown-pragmas"
static inline int omp_get_max_threads(void) { return 1; }
static inline int omp_get_thread_num(void) { return 0; }
static inline void omp_set_num_threads(int n) { (void)n; }
#endif

/* A matrix as the product sees it: element (i, j) is data[i * row + j * col]. */
typedef struct view {
    const float *data;
    size_t row, col;
} view;

static inline view plain(const float *data, size_t ld)
{
    view v = {data, ld, 1};
    return v;
}

static inline view transposed(const float *data, size_t ld)
{
    view v = {data, 1, ld};
    return v;
}

static inline size_t round_up(size_t n, size_t to) { return (n + to - 1) / to * to; }
static inline size_t smaller(size_t a, size_t b) { return a < b ? a : b; }

#if defined(GPT_CUDA)
#include "gpt_cuda.h"
#elif defined(GPT_MIXED)
#include "gpt_mixed.h"
#else
#include "gpt_kernels.h"
#endif

#endif /* GPT_COMPUTE_H */
