/* gpt_calls.h - what the trainer calls to compute, where that is not in gpt_kernels.h: see
 * gpt_compute.h. Included where `compute` and `loss_value` have been declared. */
#ifndef GPT_CALLS_H
#define GPT_CALLS_H

/* NULL, or why there is nothing to compute with. */
const char *compute_open(compute *c);
void compute_close(compute *c);
size_t compute_bytes(const compute *c);      /* that it takes itself */
const char *compute_products(const compute *c); /* who does the products, and why */

/* Memory where it computes; NULL: there is no more. */
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

#endif /* GPT_CALLS_H */
