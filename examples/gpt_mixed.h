/* gpt_mixed.h - the trainer's arithmetic on devices of two vendors: see gpt_compute.h.
 *
 * Placement rules alone say where. Weights and all that is computed with them are used
 * in a device's memory that they allow for weights, and on its processor; the moments
 * in one that they allow for optimizer state, and Adam is computed on that; where they
 * allow no device, in the host's memory. So a gradient goes to where the moments are,
 * becomes what is to be taken off the weight there, and comes back as that. */
#ifndef GPT_MIXED_H
#define GPT_MIXED_H

#define PROGRAM "gpt_mixed"
#define PROGRAM_WHERE "on devices of two vendors "
#define COMPUTE_CLASS "host"
enum { ON_DEVICE = 0, APART = 1, NO_COMPUTE = 3 };

/* In force unless TERRACE_RULES has others. */
#define DEFAULT_RULES                                                                            \
    "role=weight|activation: opencl|host|disk, role=gradient: opencl|ascend|host|disk, "         \
    "role=optimizer: ascend|host|disk"

typedef float loss_value;

struct terrace;
struct engine;

/* Where tensors of a role are used: a tier, what computes there, and its stream. */
typedef struct side {
    const struct engine *engine;
    int tier;
    void *stream;
    char name[300]; /* for people */
} side;

typedef struct compute {
    size_t batch, context, heads, width; /* width = heads * size of a head */
    int threads, own_products;
    struct terrace *manager; /* before compute_open() */
    side weights, moments;
    float *scores[2]; /* of one sequence: heads x context x context */
    char text[700];
} compute;

#include "gpt_calls.h"

/* Adam in two parts. Where the moments are: the gradient becomes the weight's change. */
void adam_moments(const compute *c, float *m, float *v, float *gradient, size_t n, float rate, float unbias);
/* Where the weight is: w -= change. */
void subtract(float *w, const float *change, size_t n);

#endif /* GPT_MIXED_H */
