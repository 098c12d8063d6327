/* gpt_cuda.cu - the trainer's arithmetic as kernels for an NVIDIA device.
 *
 * Plain kernels, to be read: a thread an element, a block a row, and one tiled
 * matrix product, which cuBLAS replaces where it is installed. No sum depends on
 * timing: there are no atomics, and all work is in one stream. So results are the
 * same bits whatever is moved meanwhile. Memory comes from outside, from terrace
 * but for the scratch; nothing here knows about that.
 */
#include <dlfcn.h>
#include <math.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>

#define GPT_CUDA
#include "gpt_compute.h"

enum { THREADS = 256 }; /* in a block, unless a kernel says otherwise */

static cudaStream_t stream; /* all work, in order */

static void must(cudaError_t e, const char *what)
{
    if (e == cudaSuccess)
        return;
    fprintf(stderr, PROGRAM ": %s: %s\n", what, cudaGetErrorString(e));
    exit(1);
}

/* Puts a kernel into the stream. (Tests, which have no device, define another.) */
#ifndef LAUNCH
#define LAUNCH(kernel, blocks, threads, ...)                      \
    do {                                                          \
        kernel<<<blocks, threads, 0, stream>>>(__VA_ARGS__);      \
        must(cudaGetLastError(), #kernel);                        \
    } while (0)
#endif

/* Blocks for n elements, of which a thread takes several. */
static unsigned blocks_for(size_t n)
{
    return (unsigned)smaller((n + THREADS - 1) / THREADS, 4096);
}

#define EACH(i, n) \
    size_t i = blockIdx.x * (size_t)blockDim.x + threadIdx.x; i < (n); i += (size_t)gridDim.x * blockDim.x

/* The sum, and the largest, of one value of each thread of a block, for all of
 * them, always in the same order. */
__device__ static float block_sum(float value, float *part)
{
    part[threadIdx.x] = value;
    for (unsigned half = THREADS / 2; half; half /= 2) {
        __syncthreads();
        if (threadIdx.x < half)
            part[threadIdx.x] += part[threadIdx.x + half];
    }
    __syncthreads();
    float sum = part[0];
    __syncthreads(); /* before the next use of part */
    return sum;
}

__device__ static float block_max(float value, float *part)
{
    part[threadIdx.x] = value;
    for (unsigned half = THREADS / 2; half; half /= 2) {
        __syncthreads();
        if (threadIdx.x < half)
            part[threadIdx.x] = fmaxf(part[threadIdx.x], part[threadIdx.x + half]);
    }
    __syncthreads();
    float most = part[0];
    __syncthreads();
    return most;
}

/* ---- elementwise ------------------------------------------------------- */

/* tanh of the GELU's argument u = sqrt(2/pi) (x + 0.044715 x^3). */
__device__ static float gelu_tanh(float x)
{
    return tanhf(0.7978845608f * (x + 0.044715f * x * x * x));
}

__global__ static void gelu_kernel(float *out, const float *x, size_t n)
{
    for (EACH(i, n))
        out[i] = 0.5f * x[i] * (1.0f + gelu_tanh(x[i]));
}

__global__ static void gelu_backward_kernel(float *dx, const float *x, size_t n)
{
    for (EACH(i, n)) {
        float t = gelu_tanh(x[i]);
        float du = 0.7978845608f * (1.0f + 3.0f * 0.044715f * x[i] * x[i]);
        dx[i] *= 0.5f * (1.0f + t) + 0.5f * x[i] * (1.0f - t * t) * du;
    }
}

__global__ static void adam_kernel(float *w, float *m, float *v, const float *g, size_t n, float rate,
                                   float unbias)
{
    const float b1 = 0.9f, b2 = 0.95f, epsilon = 1e-8f;
    for (EACH(i, n)) {
        m[i] = b1 * m[i] + (1.0f - b1) * g[i];
        v[i] = b2 * v[i] + (1.0f - b2) * g[i] * g[i];
        w[i] -= rate * m[i] / (sqrtf(v[i] * unbias) + epsilon);
    }
}

/* ---- embedding: a block a row, a thread some columns ------------------- */

__global__ static void embed_kernel(float *x, const int *inputs, const float *token,
                                    const float *position, size_t width, size_t context)
{
    size_t i = blockIdx.x, in = (size_t)inputs[i];
    for (size_t j = threadIdx.x; j < width; j += blockDim.x)
        x[i * width + j] = token[in * width + j] + position[i % context * width + j];
}

/* A row of the table sums up the tokens that took it, from first to last. */
__global__ static void table_kernel(float *gradient, size_t rows, const float *dx, const int *inputs,
                                    size_t tokens, size_t width)
{
    size_t row = blockIdx.x, first = inputs ? 0 : row, step = inputs ? 1 : rows;
    for (size_t j = threadIdx.x; j < width; j += blockDim.x) {
        float sum = 0.0f;
        for (size_t i = first; i < tokens; i += step)
            if (!inputs || (size_t)inputs[i] == row)
                sum += dx[i * width + j];
        gradient[row * width + j] = sum;
    }
}

/* ---- layer norm: a block a row ----------------------------------------- */

__device__ static void norm_statistics(const float *x, size_t width, float *part, float *mean, float *scale)
{
    float sum = 0.0f, squares = 0.0f;
    for (size_t j = threadIdx.x; j < width; j += blockDim.x)
        sum += x[j];
    *mean = block_sum(sum, part) / (float)width;
    for (size_t j = threadIdx.x; j < width; j += blockDim.x)
        squares += (x[j] - *mean) * (x[j] - *mean);
    *scale = 1.0f / sqrtf(block_sum(squares, part) / (float)width + 1e-5f);
}

__global__ static void norm_kernel(float *out, const float *x, const float *gain, size_t width)
{
    __shared__ float part[THREADS];
    float mean, scale;
    const float *in = x + blockIdx.x * width;
    norm_statistics(in, width, part, &mean, &scale);
    for (size_t j = threadIdx.x; j < width; j += blockDim.x)
        out[blockIdx.x * width + j] = (in[j] - mean) * scale * gain[j];
}

/* dx += the input's gradient; statistics: the rows' means, then their scales. */
__global__ static void norm_backward_kernel(float *dx, const float *dy, const float *x, const float *gain,
                                            float *statistics, size_t rows, size_t width)
{
    __shared__ float part[THREADS];
    size_t row = blockIdx.x;
    const float *in = x + row * width, *d = dy + row * width;
    float mean, scale, sum = 0.0f, dot = 0.0f;
    norm_statistics(in, width, part, &mean, &scale);
    for (size_t j = threadIdx.x; j < width; j += blockDim.x) {
        sum += d[j] * gain[j];
        dot += d[j] * gain[j] * (in[j] - mean) * scale;
    }
    sum = block_sum(sum, part) / (float)width;
    dot = block_sum(dot, part) / (float)width;
    for (size_t j = threadIdx.x; j < width; j += blockDim.x)
        dx[row * width + j] += scale * (d[j] * gain[j] - sum - (in[j] - mean) * scale * dot);
    if (threadIdx.x == 0) {
        statistics[row] = mean;
        statistics[rows + row] = scale;
    }
}

/* The gain's gradient: a block GAIN_COLUMNS columns, of whose rows a thread sums
 * up every GAIN_PARTSth; then the parts are added in order. */
enum { GAIN_COLUMNS = 32, GAIN_PARTS = 8 };
__global__ static void norm_gain_kernel(float *dgain, const float *dy, const float *x, const float *statistics,
                                        size_t rows, size_t width)
{
    __shared__ float part[GAIN_PARTS][GAIN_COLUMNS];
    unsigned column = threadIdx.x % GAIN_COLUMNS, share = threadIdx.x / GAIN_COLUMNS;
    size_t j = blockIdx.x * (size_t)GAIN_COLUMNS + column;
    float sum = 0.0f;
    if (j < width)
        for (size_t i = share; i < rows; i += GAIN_PARTS)
            sum += dy[i * width + j] * (x[i * width + j] - statistics[i]) * statistics[rows + i];
    part[share][column] = sum;
    __syncthreads();
    if (share == 0 && j < width) {
        for (unsigned s = 1; s < GAIN_PARTS; s++)
            sum += part[s][column];
        dgain[j] = sum;
    }
}

/* ---- softmax and cross entropy: a block a row -------------------------- */

__global__ static void cross_entropy_kernel(float *logits, const int *targets, double *losses, size_t rows,
                                            size_t classes)
{
    __shared__ float part[THREADS];
    float *row = logits + blockIdx.x * classes, top = -INFINITY, sum = 0.0f;
    size_t target = (size_t)targets[blockIdx.x];
    float hit = row[target];
    for (size_t j = threadIdx.x; j < classes; j += blockDim.x)
        top = fmaxf(top, row[j]);
    top = block_max(top, part);
    for (size_t j = threadIdx.x; j < classes; j += blockDim.x)
        sum += expf(row[j] - top);
    sum = block_sum(sum, part);
    for (size_t j = threadIdx.x; j < classes; j += blockDim.x)
        row[j] = (expf(row[j] - top) / sum - (j == target ? 1.0f : 0.0f)) / (float)rows;
    if (threadIdx.x == 0)
        losses[blockIdx.x] = (double)(top + logf(sum)) - (double)hit;
}

/* Causal attention, of one sequence: a block a query of one head. Scores of all
 * keys become probabilities, 0 for what comes later; logs: for the way back. */
__global__ static void softmax_kernel(float *scores, float *logs, size_t context, float scale)
{
    __shared__ float part[THREADS];
    size_t row = blockIdx.x, seen = row % context + 1;
    float *p = scores + row * context, top = -INFINITY, sum = 0.0f;
    for (size_t j = threadIdx.x; j < seen; j += blockDim.x)
        top = fmaxf(top, p[j] * scale);
    top = block_max(top, part);
    for (size_t j = threadIdx.x; j < seen; j += blockDim.x)
        sum += expf(p[j] * scale - top);
    sum = block_sum(sum, part);
    for (size_t j = threadIdx.x; j < context; j += blockDim.x)
        p[j] = j < seen ? expf(p[j] * scale - top) / sum : 0.0f;
    if (threadIdx.x == 0)
        logs[row] = top + logf(sum);
}

/* From scores to probabilities p again, and from their gradient dp to that of the
 * scores: ds = p * (dp - sum(dout * out)) * scale. */
__global__ static void softmax_backward_kernel(float *p, float *dp, const float *logs, const float *out,
                                               const float *dout, size_t context, size_t head, size_t width,
                                               float scale)
{
    __shared__ float part[THREADS];
    size_t row = blockIdx.x, query = row % context, at = query * width + row / context * head;
    float *pi = p + row * context, *di = dp + row * context, dot = 0.0f;
    for (size_t j = threadIdx.x; j < head; j += blockDim.x)
        dot += out[at + j] * dout[at + j];
    dot = block_sum(dot, part);
    for (size_t j = threadIdx.x; j < context; j += blockDim.x) {
        pi[j] = j <= query ? expf(pi[j] * scale - logs[row]) : 0.0f;
        di[j] = j <= query ? pi[j] * (di[j] - dot) * scale : 0.0f;
    }
}

/* ---- matrix product ---------------------------------------------------- */

/* Several products of one shape; the next one's operands are `..._next` further. */
typedef struct products {
    size_t m, n, k, count;
    view a, b;
    float *c;
    size_t ld, a_next, b_next, c_next;
    int add;
} products;

/* A block makes a TILE x TILE part of c, going along k by DEPTH; a thread has
 * every EDGEth row and column of that. */
enum { TILE = 128, DEPTH = 16, EDGE = 16, SIDE = TILE / EDGE };

/* Loads one operand's part: line i, place p along k, 0 outside. Neighbouring
 * threads take what is neighbouring in memory. */
__device__ static void tile_load(float part[DEPTH][TILE + 4], const float *data, size_t line, size_t along,
                                 size_t i0, size_t lines, size_t p0, size_t k)
{
    for (unsigned e = threadIdx.x; e < TILE * DEPTH; e += EDGE * EDGE) {
        unsigned i = line == 1 ? e % TILE : e / DEPTH, p = line == 1 ? e / TILE : e % DEPTH;
        part[p][i] = i0 + i < lines && p0 + p < k ? data[(i0 + i) * line + (p0 + p) * along] : 0.0f;
    }
}

__global__ static void __launch_bounds__(EDGE * EDGE, 2) product_kernel(products x)
{
    __shared__ float a[DEPTH][TILE + 4], b[DEPTH][TILE + 4];
    size_t i0 = blockIdx.y * (size_t)TILE, j0 = blockIdx.x * (size_t)TILE;
    const float *a_data = x.a.data + blockIdx.z * x.a_next, *b_data = x.b.data + blockIdx.z * x.b_next;
    float *c = x.c + blockIdx.z * x.c_next, sum[SIDE][SIDE] = {{0.0f}};
    unsigned tx = threadIdx.x % EDGE, ty = threadIdx.x / EDGE;
    for (size_t p0 = 0; p0 < x.k; p0 += DEPTH) {
        tile_load(a, a_data, x.a.row, x.a.col, i0, x.m, p0, x.k);
        tile_load(b, b_data, x.b.col, x.b.row, j0, x.n, p0, x.k);
        __syncthreads();
        for (int p = 0; p < DEPTH; p++) {
            float ai[SIDE], bj[SIDE];
            for (int s = 0; s < SIDE; s++) {
                ai[s] = a[p][ty + s * EDGE];
                bj[s] = b[p][tx + s * EDGE];
            }
            for (int i = 0; i < SIDE; i++)
                for (int j = 0; j < SIDE; j++)
                    sum[i][j] += ai[i] * bj[j];
        }
        __syncthreads();
    }
    for (int i = 0; i < SIDE; i++)
        for (int j = 0; j < SIDE; j++) {
            size_t row = i0 + ty + i * EDGE, column = j0 + tx + j * EDGE;
            if (row < x.m && column < x.n)
                c[row * x.ld + column] = sum[i][j] + (x.add ? c[row * x.ld + column] : 0.0f);
        }
}

static void products_own(const products *x)
{
    dim3 blocks((unsigned)((x->n + TILE - 1) / TILE), (unsigned)((x->m + TILE - 1) / TILE),
                (unsigned)x->count);
    LAUNCH(product_kernel, blocks, EDGE * EDGE, *x);
}

/* ---- cuBLAS, where it is ----------------------------------------------- */

/* Its functions that are used, with their types by its manual. */
static struct {
    int (*create)(void **handle);
    int (*destroy)(void *handle);
    int (*set_stream)(void *handle, cudaStream_t stream);
    int (*multiply)(void *handle, int a_op, int b_op, int m, int n, int k, const float *alpha, const float *a,
                    int a_ld, long long a_next, const float *b, int b_ld, long long b_next, const float *beta,
                    float *c, int c_ld, long long c_next, int count);
    void *handle; /* NULL: not used */
    char state[200];
} blas;

static void *blas_library(void)
{
    static const char *const names[] = {"libcublas.so.13", "libcublas.so.12",
                                        "/usr/local/cuda/lib64/libcublas.so.13",
                                        "/usr/local/cuda/lib64/libcublas.so.12"};
    void *library = NULL;
    for (size_t i = 0; i < sizeof names / sizeof *names && !library; i++)
        library = dlopen(names[i], RTLD_NOW | RTLD_LOCAL);
    return library;
}

static void blas_open(int own)
{
    void *library = own ? NULL : blas_library();
    if (!library) {
        snprintf(blas.state, sizeof blas.state, "own kernel, %s", own ? "as asked for" : "there is no libcublas.so.13 or .12");
        return;
    }
    *(void **)&blas.create = dlsym(library, "cublasCreate_v2");
    *(void **)&blas.destroy = dlsym(library, "cublasDestroy_v2");
    *(void **)&blas.set_stream = dlsym(library, "cublasSetStream_v2");
    *(void **)&blas.multiply = dlsym(library, "cublasSgemmStridedBatched");
    int error = blas.create && blas.destroy && blas.set_stream && blas.multiply ? blas.create(&blas.handle) : -1;
    if (error == 0 && blas.set_stream(blas.handle, stream)) {
        blas.destroy(blas.handle);
        error = -2;
    }
    if (error)
        blas.handle = NULL;
    snprintf(blas.state, sizeof blas.state, error ? "own kernel, as cuBLAS cannot be used (%d)" : "cuBLAS", error);
}

/* To cuBLAS, whose matrices are stored by columns, ours look transposed: so it is
 * asked for c' = b' a'. An operand of ours that is a transposed view is a plain
 * one to it, transposed. */
static void products_blas(const products *x)
{
    const float one = 1.0f, zero = 0.0f;
    bool a_turned = x->a.col != 1, b_turned = x->b.col != 1;
    int error = blas.multiply(blas.handle, b_turned, a_turned, (int)x->n, (int)x->m, (int)x->k, &one, x->b.data,
                              (int)(b_turned ? x->b.col : x->b.row), (long long)x->b_next, x->a.data,
                              (int)(a_turned ? x->a.col : x->a.row), (long long)x->a_next, x->add ? &one : &zero,
                              x->c, (int)x->ld, (long long)x->c_next, (int)x->count);
    if (error) {
        fprintf(stderr, PROGRAM ": cuBLAS failed with status %d; --own-products does without it\n", error);
        exit(1);
    }
}

static void multiply(const products *x)
{
    if (blas.handle)
        products_blas(x);
    else
        products_own(x);
}

/* ---- what the trainer calls (see gpt_compute.h) ------------------------ */

const char *compute_open(compute *c)
{
    static char why[300];
    int devices = 0;
    if (!dlopen("libcuda.so.1", RTLD_NOW | RTLD_LOCAL)) { /* which the runtime would say less plainly */
        snprintf(why, sizeof why, "there is no NVIDIA driver (%s); gpt trains on the CPU", dlerror());
        return why;
    }
    cudaError_t e = cudaGetDeviceCount(&devices);
    if (e == cudaSuccess && devices == 0)
        e = cudaErrorNoDevice;
    if (e == cudaSuccess)
        e = cudaSetDevice(0);
    if (e == cudaSuccess)
        e = cudaStreamCreateWithFlags(&stream, cudaStreamNonBlocking);
    if (e != cudaSuccess) {
        snprintf(why, sizeof why, "there is no NVIDIA device to compute on (%s); gpt trains on the CPU",
                 cudaGetErrorString(e));
        return why;
    }
    c->stream = stream;
    blas_open(c->own_products);
    for (int i = 0; i < 2; i++)
        c->scores[i] = (float *)compute_memory(c->heads * c->context * c->context * sizeof(float));
    return c->scores[0] && c->scores[1] ? NULL : "the device has no memory for the attention's scores";
}

void compute_close(compute *c)
{
    for (int i = 0; i < 2; i++)
        compute_forget(c->scores[i]);
    if (blas.handle)
        blas.destroy(blas.handle);
    must(cudaStreamDestroy(stream), "the stream's end");
}

size_t compute_bytes(const compute *c)
{
    return 2 * c->heads * c->context * c->context * sizeof(float);
}

const char *compute_products(const compute *c)
{
    (void)c;
    return blas.state;
}

void *compute_memory(size_t bytes)
{
    void *memory = NULL;
    return cudaMalloc(&memory, bytes) == cudaSuccess ? memory : NULL;
}

void compute_forget(void *memory)
{
    must(cudaFree(memory), "freeing memory");
}

void put(void *to, const void *from, size_t bytes)
{
    must(cudaMemcpyAsync(to, from, bytes, cudaMemcpyHostToDevice, stream), "copying to the device");
}

void get(void *to, const void *from, size_t bytes)
{
    must(cudaMemcpyAsync(to, from, bytes, cudaMemcpyDeviceToHost, stream), "copying from the device");
    must(cudaStreamSynchronize(stream), "computing");
}

void copy(float *to, const float *from, size_t n)
{
    must(cudaMemcpyAsync(to, from, n * sizeof *to, cudaMemcpyDeviceToDevice, stream), "copying");
}

void zero(float *to, size_t n)
{
    must(cudaMemsetAsync(to, 0, n * sizeof *to, stream), "clearing");
}

void product(const compute *c, size_t m, size_t n, size_t k, view a, view b, float *out, size_t ld, int add)
{
    const products x = {m, n, k, 1, a, b, out, ld, 0, 0, 0, add};
    (void)c;
    multiply(&x);
}

void embed(float *x, const int *inputs, const float *token, const float *position, size_t tokens, size_t width,
           size_t context)
{
    LAUNCH(embed_kernel, (unsigned)tokens, THREADS, x, inputs, token, position, width, context);
}

void table_gradient(float *gradient, size_t rows, const float *dx, const int *inputs, size_t tokens, size_t width)
{
    LAUNCH(table_kernel, (unsigned)rows, THREADS, gradient, rows, dx, inputs, tokens, width);
}

void norm_forward(float *out, const float *x, const float *gain, size_t rows, size_t width)
{
    LAUNCH(norm_kernel, (unsigned)rows, THREADS, out, x, gain, width);
}

void norm_backward(float *dx, float *dgain, const float *dy, const float *x, const float *gain, float *statistics,
                   size_t rows, size_t width)
{
    LAUNCH(norm_backward_kernel, (unsigned)rows, THREADS, dx, dy, x, gain, statistics, rows, width);
    LAUNCH(norm_gain_kernel, (unsigned)((width + GAIN_COLUMNS - 1) / GAIN_COLUMNS), GAIN_COLUMNS * GAIN_PARTS,
           dgain, dy, x, (const float *)statistics, rows, width);
}

void gelu_forward(float *out, const float *x, size_t n)
{
    LAUNCH(gelu_kernel, blocks_for(n), THREADS, out, x, n);
}

void gelu_backward(float *dx, const float *x, size_t n)
{
    LAUNCH(gelu_backward_kernel, blocks_for(n), THREADS, dx, x, n);
}

void cross_entropy(float *logits, const int *targets, double *losses, size_t rows, size_t classes)
{
    LAUNCH(cross_entropy_kernel, (unsigned)rows, THREADS, logits, targets, losses, rows, classes);
}

void adam(float *w, float *m, float *v, const float *g, size_t n, float rate, float unbias)
{
    LAUNCH(adam_kernel, blocks_for(n), THREADS, w, m, v, g, n, rate, unbias);
}

/* The products of all heads of a sequence: c[rows x columns] = a b. */
static void heads(const compute *c, size_t m, size_t n, size_t k, view a, size_t a_next, view b, size_t b_next,
                  float *out, size_t ld, size_t next)
{
    const products x = {m, n, k, c->heads, a, b, out, ld, a_next, b_next, next, 0};
    multiply(&x);
}

/* qkv: a row has q, k and v of all heads side by side. */
void attend(const compute *c, float *out, float *logs, const float *qkv)
{
    size_t n = c->context, w = c->width, head = w / c->heads, ld = 3 * w;
    float scale = 1.0f / sqrtf((float)head), *p = c->scores[0];
    for (size_t b = 0; b < c->batch; b++, qkv += n * ld, out += n * w, logs += c->heads * n) {
        heads(c, n, n, head, plain(qkv, ld), head, transposed(qkv + w, ld), head, p, n, n * n);
        LAUNCH(softmax_kernel, (unsigned)(c->heads * n), THREADS, p, logs, n, scale);
        heads(c, n, head, n, plain(p, n), n * n, plain(qkv + 2 * w, ld), head, out, w, head);
    }
}

void attend_backward(const compute *c, float *dqkv, const float *dout, const float *qkv, const float *out,
                     const float *logs)
{
    size_t n = c->context, w = c->width, head = w / c->heads, ld = 3 * w;
    float scale = 1.0f / sqrtf((float)head), *p = c->scores[0], *dp = c->scores[1];
    for (size_t b = 0; b < c->batch; b++) {
        heads(c, n, n, head, plain(qkv, ld), head, transposed(qkv + w, ld), head, p, n, n * n);
        heads(c, n, n, head, plain(dout, w), head, transposed(qkv + 2 * w, ld), head, dp, n, n * n);
        LAUNCH(softmax_backward_kernel, (unsigned)(c->heads * n), THREADS, p, dp, logs, out, dout, n, head, w, scale);
        heads(c, n, head, n, plain(dp, n), n * n, plain(qkv + w, ld), head, dqkv, ld, head);
        heads(c, n, head, n, transposed(dp, n), n * n, plain(qkv, ld), head, dqkv + w, ld, head);
        heads(c, n, head, n, transposed(p, n), n * n, plain(dout, w), head, dqkv + 2 * w, ld, head);
        qkv += n * ld;
        dqkv += n * ld;
        out += n * w;
        dout += n * w;
        logs += c->heads * n;
    }
}
