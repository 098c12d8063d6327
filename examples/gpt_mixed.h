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

const char *compute_open(compute *c);
void compute_close(compute *c);
size_t compute_bytes(const compute *c);
const char *compute_products(const compute *c);

void *compute_memory(size_t bytes);
void compute_forget(void *memory);
void put(void *to, const void *from, size_t bytes);
void get(void *to, const void *from, size_t bytes);

void copy(float *to, const float *from, size_t n);
void zero(float *to, size_t n);
void product(const compute *c, size_t m, size_t n, size_t k, view a, view b, float *out, size_t ld,
             int add);
void embed(float *x, const int *inputs, const float *token, const float *position, size_t tokens,
           size_t width, size_t context);
void table_gradient(float *gradient, size_t rows, const float *dx, const int *inputs,
                    size_t tokens, size_t width);
void norm_forward(float *out, const float *x, const float *gain, size_t rows, size_t width);
void norm_backward(float *dx, float *dgain, const float *dy, const float *x, const float *gain,
                   float *statistics, size_t rows, size_t width);
void gelu_forward(float *out, const float *x, size_t n);
void gelu_backward(float *dx, const float *x, size_t n);
void cross_entropy(float *logits, const int *targets, loss_value *losses, size_t rows, size_t classes);
void attend(const compute *c, float *out, float *logs, const float *qkv);
void attend_backward(const compute *c, float *dqkv, const float *dout, const float *qkv,
                     const float *out, const float *logs);

/* Adam in two parts. Where the moments are: the gradient becomes the weight's change. */
void adam_moments(const compute *c, float *m, float *v, float *gradient, size_t n, float rate, float unbias);
/* Where the weight is: w -= change. */
void subtract(float *w, const float *change, size_t n);

#endif /* GPT_MIXED_H */
