/* gpt_cuda.h - the trainer's arithmetic on an NVIDIA device: see gpt_compute.h. */
#ifndef GPT_CUDA_H
#define GPT_CUDA_H

#define PROGRAM "gpt_cuda"
#define PROGRAM_WHERE "on an NVIDIA device "
#define COMPUTE_TIER "cuda:0"
#define COMPUTE_CLASS "device"
enum { ON_DEVICE = 1, APART = 0, NO_COMPUTE = 3 /* exit status where there is no device */ };

typedef double loss_value;

#ifdef __cplusplus
extern "C" {
#endif

typedef struct compute {
    size_t batch, context, heads, width; /* width = heads * size of a head */
    int threads;
    int own_products;      /* by a kernel of ours even where cuBLAS is */
    void *stream;          /* a CUstream */
    float *scores[2];      /* of one sequence: heads x context x context */
} compute;

#include "gpt_calls.h"

void adam(float *w, float *m, float *v, const float *g, size_t n, float rate, float unbias);

#ifdef __cplusplus
}
#endif

#endif /* GPT_CUDA_H */
