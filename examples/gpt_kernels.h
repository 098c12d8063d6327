/* gpt_kernels.h - the arithmetic of gpt.c on the CPU: matrix product, softmax, attention,
 * layer norm, GELU, Adam, in plain C with OpenMP and GCC's vector types.
 *
 * Every element of every result is computed by one thread, in an order that
 * depends on the shapes alone. So results are the same bits whatever the
 * number of threads and whatever the timing.
 *
 * Matrices are row-major float32. Nothing here allocates but the two
 * workspaces, and nothing here knows about terrace.
 */
#ifndef GPT_KERNELS_H
#define GPT_KERNELS_H

#include <math.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#include <terrace.h>

#define PROGRAM "gpt"
#define PROGRAM_WHERE ""
#define COMPUTE_TIER "host"
#define COMPUTE_CLASS "host"
enum { ON_DEVICE = 0, APART = 0, NO_COMPUTE = 1 /* exit status when out of memory */ };

typedef double loss_value;

/* ---- matrix product ---------------------------------------------------- */

/* A tile of the result, MR x NR, is kept in vector registers. */
#if defined(__AVX512F__)
enum { VEC = 16, MR = 8, NV = 2 };
#elif defined(__AVX__)
enum { VEC = 8, MR = 6, NV = 2 };
#else
enum { VEC = 4, MR = 4, NV = 2 };
#endif
enum { NR = VEC * NV };
enum { DEPTH = 448 };                            /* most of k handled in one pass */
enum { TASK_ROWS = 16 * MR, TASK_COLS = 8 * NR }; /* what a thread takes at a time */

typedef float vec __attribute__((vector_size(VEC * sizeof(float)), aligned(4), may_alias));

/* Where the two operands are repacked: `rows` x DEPTH and DEPTH x `cols`. */
typedef struct gemm_space {
    size_t rows, cols;
    float *a, *b;
    int parallel;
} gemm_space;

static size_t gemm_space_bytes(size_t rows, size_t cols)
{
    return (round_up(rows, TASK_ROWS) + round_up(cols, TASK_COLS)) * DEPTH * sizeof(float);
}

/* NULL if out of memory. */
static void *gemm_space_init(gemm_space *s, size_t rows, size_t cols, int parallel)
{
    s->rows = round_up(rows, TASK_ROWS);
    s->cols = round_up(cols, TASK_COLS);
    s->parallel = parallel;
    s->a = aligned_alloc(64, gemm_space_bytes(rows, cols));
    s->b = s->a ? s->a + s->rows * DEPTH : NULL;
    return s->a;
}

/* Repacks rows `at`.. of a (or columns of b) into one panel `width` wide, padded
 * with zeros after the last of `n`. `across` and `along` are the strides. */
static void gemm_pack(float *to, const float *from, size_t across, size_t along, size_t at,
                      size_t n, size_t width, size_t k)
{
    size_t count = smaller(width, n - at);
    to += at * k;
    from += at * across;
    if (across == 1 && count == width) {
        for (size_t p = 0; p < k; p++)
            memcpy(to + p * width, from + p * along, width * sizeof *to);
        return;
    }
    if (count < width)
        memset(to, 0, width * k * sizeof *to);
    for (size_t p0 = 0; p0 < k; p0 += 16)
        for (size_t i = 0; i < count; i++)
            for (size_t p = p0; p < smaller(k, p0 + 16); p++)
                to[p * width + i] = from[i * across + p * along];
}

/* c[rows x cols] = (or +=) a panel of A times a panel of B. */
static void gemm_micro(size_t k, const float *a, const float *b, float *c, size_t ldc, size_t rows,
                       size_t cols, int add)
{
    vec acc[MR][NV] = {{{0}}};
    for (size_t p = 0; p < k; p++, a += MR, b += NR)
#pragma GCC unroll 8
        for (int i = 0; i < MR; i++)
#pragma GCC unroll 2
            for (int j = 0; j < NV; j++)
                acc[i][j] += ((const vec *)b)[j] * a[i];
    if (rows == MR && cols == NR) {
#pragma GCC unroll 8
        for (int i = 0; i < MR; i++)
#pragma GCC unroll 2
            for (int j = 0; j < NV; j++) {
                vec *out = (vec *)(c + (size_t)i * ldc) + j;
                if (add)
                    acc[i][j] += *out;
                *out = acc[i][j];
            }
        return;
    }
    float tile[MR][NR];
    memcpy(tile, acc, sizeof tile);
    for (size_t i = 0; i < rows; i++)
        for (size_t j = 0; j < cols; j++)
            c[i * ldc + j] = tile[i][j] + (add ? c[i * ldc + j] : 0.0f);
}

/* One task: a TASK_ROWS x TASK_COLS part of a block whose operands are packed. */
static void gemm_task(const gemm_space *s, size_t i0, size_t j0, size_t m, size_t n, size_t k,
                      float *c, size_t ldc, int add)
{
    size_t i1 = smaller(m, i0 + TASK_ROWS), j1 = smaller(n, j0 + TASK_COLS);
    for (size_t i = i0; i < i1; i += MR)
        for (size_t j = j0; j < j1; j += NR)
            gemm_micro(k, s->a + i * k, s->b + j * k, c + i * ldc + j, ldc, smaller(MR, i1 - i),
                       smaller(NR, j1 - j), add);
}

/* One block: m and n fit the workspace, k is at most DEPTH. */
static void gemm_block(const gemm_space *s, size_t m, size_t n, size_t k, view a, view b,
                       int pack_b, float *c, size_t ldc, int add)
{
    long pa = (long)((m + MR - 1) / MR), pb = pack_b ? (long)((n + NR - 1) / NR) : 0;
    long across = (long)((n + TASK_COLS - 1) / TASK_COLS);
    long tasks = (long)((m + TASK_ROWS - 1) / TASK_ROWS) * across;
#pragma omp parallel if (s->parallel)
    {
#pragma omp for schedule(static)
        for (long i = 0; i < pa + pb; i++)
            if (i < pa)
                gemm_pack(s->a, a.data, a.row, a.col, (size_t)i * MR, m, MR, k);
            else
                gemm_pack(s->b, b.data, b.col, b.row, (size_t)(i - pa) * NR, n, NR, k);
#pragma omp for schedule(dynamic)
        for (long t = 0; t < tasks; t++)
            gemm_task(s, (size_t)(t / across) * TASK_ROWS, (size_t)(t % across) * TASK_COLS, m, n,
                      k, c, ldc, add);
    }
}

/* c[m x n] = a[m x k] b[k x n], or += with `add`. Plain or transposed views of
 * a and b give the three products of a linear layer:
 * forward y = x W, and backward dx = dy W', dW = x' dy. */
static void gemm(const gemm_space *s, size_t m, size_t n, size_t k, view a, view b, float *c,
                 size_t ldc, int add)
{
    size_t passes = k > DEPTH ? (k + DEPTH - 1) / DEPTH : 1, depth = (k + passes - 1) / passes;
    for (size_t j = 0; j < n; j += s->cols)
        for (size_t p = 0; p < k; p += depth)
            for (size_t i = 0; i < m; i += s->rows) {
                view va = {a.data + i * a.row + p * a.col, a.row, a.col};
                view vb = {b.data + p * b.row + j * b.col, b.row, b.col};
                gemm_block(s, smaller(s->rows, m - i), smaller(s->cols, n - j),
                           smaller(depth, k - p), va, vb, i == 0, c + i * ldc + j, ldc,
                           add || p > 0);
            }
}

/* ---- elementwise ------------------------------------------------------- */

/* e^x to about 2 units in the last place, in a form that vectorises; x is
 * clamped to where the result is a normal number. */
static inline float exp_fast(float x)
{
    x = x < -87.0f ? -87.0f : x > 88.0f ? 88.0f : x;
    float t = x * 1.44269504f + 12582912.0f; /* the nearest integer, in the low bits */
    float n = t - 12582912.0f;
    float r = x - n * 0.693359375f + n * 2.12194440e-4f;
    float p = 1.9875691500e-4f;
    p = p * r + 1.3981999507e-3f;
    p = p * r + 8.3334519073e-3f;
    p = p * r + 4.1665795894e-2f;
    p = p * r + 1.6666665459e-1f;
    p = p * r + 5.0000001201e-1f;
    p = p * r * r + r + 1.0f;
    uint32_t bits;
    memcpy(&bits, &t, sizeof bits);
    bits = (bits + 127u) << 23; /* the shift drops what belongs to 12582912.0f */
    float scale;
    memcpy(&scale, &bits, sizeof scale);
    return p * scale;
}

/* tanh of the GELU's argument u = sqrt(2/pi) (x + 0.044715 x^3). */
static inline float gelu_tanh(float x)
{
    float u = 0.7978845608f * (x + 0.044715f * x * x * x);
    return 1.0f - 2.0f / (1.0f + exp_fast(2.0f * u));
}

static void gelu_forward(float *out, const float *x, size_t n)
{
#pragma omp parallel for simd schedule(static)
    for (size_t i = 0; i < n; i++)
        out[i] = 0.5f * x[i] * (1.0f + gelu_tanh(x[i]));
}

/* dx *= gelu'(x) */
static void gelu_backward(float *dx, const float *x, size_t n)
{
#pragma omp parallel for simd schedule(static)
    for (size_t i = 0; i < n; i++) {
        float t = gelu_tanh(x[i]);
        float du = 0.7978845608f * (1.0f + 3.0f * 0.044715f * x[i] * x[i]);
        dx[i] *= 0.5f * (1.0f + t) + 0.5f * x[i] * (1.0f - t * t) * du;
    }
}

/* The square root of a number not negative, to about 2 units in the last place:
 * sqrtf, which may set errno, does not vectorise. */
static inline float root(float x)
{
    float y;
    uint32_t bits;
    memcpy(&bits, &x, sizeof bits);
    bits = 0x5f3759dfu - (bits >> 1); /* 1 / sqrt(x) within 4 %, then Newton's steps */
    memcpy(&y, &bits, sizeof y);
    y *= 1.5f - 0.5f * x * y * y;
    y *= 1.5f - 0.5f * x * y * y;
    y *= 1.5f - 0.5f * x * y * y;
    return x * y;
}

/* One step of Adam; `rate` holds the bias correction of m, `unbias` that of v:
 * w -= rate * m / (sqrt(v * unbias) + epsilon). */
static void adam(float *w, float *m, float *v, const float *g, size_t n, float rate, float unbias)
{
    const float b1 = 0.9f, b2 = 0.95f, epsilon = 1e-8f;
#pragma omp parallel for simd schedule(static)
    for (size_t i = 0; i < n; i++) {
        m[i] = b1 * m[i] + (1.0f - b1) * g[i];
        v[i] = b2 * v[i] + (1.0f - b2) * g[i] * g[i];
        w[i] -= rate * m[i] / (root(v[i] * unbias) + epsilon);
    }
}

/* ---- layer norm (a gain, no offset) ------------------------------------ */

static void norm_statistics(const float *x, size_t width, float *mean, float *scale)
{
    float sum = 0.0f, squares = 0.0f;
#pragma omp simd reduction(+ : sum)
    for (size_t j = 0; j < width; j++)
        sum += x[j];
    *mean = sum / (float)width;
    float centre = *mean;
#pragma omp simd reduction(+ : squares)
    for (size_t j = 0; j < width; j++)
        squares += (x[j] - centre) * (x[j] - centre);
    *scale = 1.0f / sqrtf(squares / (float)width + 1e-5f);
}

static void norm_forward(float *out, const float *x, const float *gain, size_t rows, size_t width)
{
#pragma omp parallel for schedule(static)
    for (size_t i = 0; i < rows; i++) {
        const float *in = x + i * width;
        float mean, scale;
        norm_statistics(in, width, &mean, &scale);
#pragma omp simd
        for (size_t j = 0; j < width; j++)
            out[i * width + j] = (in[j] - mean) * scale * gain[j];
    }
}

/* dgain = the gain's gradient; dx += the input's. `statistics`: 2 x rows. */
static void norm_backward(float *dx, float *dgain, const float *dy, const float *x,
                          const float *gain, float *statistics, size_t rows, size_t width)
{
    float *means = statistics, *scales = statistics + rows;
#pragma omp parallel for schedule(static)
    for (size_t i = 0; i < rows; i++) {
        const float *in = x + i * width, *d = dy + i * width;
        norm_statistics(in, width, &means[i], &scales[i]);
        float mean = means[i], scale = scales[i], sum = 0.0f, dot = 0.0f;
#pragma omp simd reduction(+ : sum, dot)
        for (size_t j = 0; j < width; j++) {
            sum += d[j] * gain[j];
            dot += d[j] * gain[j] * (in[j] - mean) * scale;
        }
        sum /= (float)width;
        dot /= (float)width;
#pragma omp simd
        for (size_t j = 0; j < width; j++)
            dx[i * width + j] += scale * (d[j] * gain[j] - sum - (in[j] - mean) * scale * dot);
    }
#pragma omp parallel for schedule(static)
    for (size_t j0 = 0; j0 < width; j0 += 64) {
        size_t j1 = smaller(width, j0 + 64);
        memset(dgain + j0, 0, (j1 - j0) * sizeof *dgain);
        for (size_t i = 0; i < rows; i++)
#pragma omp simd
            for (size_t j = j0; j < j1; j++)
                dgain[j] += dy[i * width + j] * (x[i * width + j] - means[i]) * scales[i];
    }
}

/* ---- softmax and cross entropy ----------------------------------------- */

static float row_max(const float *x, size_t n)
{
    float lanes[16], top = x[0];
    for (int l = 0; l < 16; l++)
        lanes[l] = top;
    for (size_t j = 0; j + 16 <= n; j += 16)
        for (size_t l = 0; l < 16; l++)
            lanes[l] = x[j + l] > lanes[l] ? x[j + l] : lanes[l];
    for (size_t j = n - n % 16; j < n; j++)
        top = x[j] > top ? x[j] : top;
    for (int l = 0; l < 16; l++)
        top = lanes[l] > top ? lanes[l] : top;
    return top;
}

/* Turns n scores into probabilities; returns log(sum of e^score). */
static float softmax_row(float *x, size_t n)
{
    float top = row_max(x, n), sum = 0.0f;
#pragma omp simd reduction(+ : sum)
    for (size_t j = 0; j < n; j++) {
        x[j] = exp_fast(x[j] - top);
        sum += x[j];
    }
    float inverse = 1.0f / sum;
#pragma omp simd
    for (size_t j = 0; j < n; j++)
        x[j] *= inverse;
    return top - logf(inverse);
}

/* Replaces logits by their gradient of the mean loss; losses[i] is row i's loss. */
static void cross_entropy(float *logits, const int *targets, double *losses, size_t rows,
                          size_t classes)
{
#pragma omp parallel for schedule(static)
    for (size_t i = 0; i < rows; i++) {
        float *row = logits + i * classes;
        double hit = row[targets[i]];
        losses[i] = (double)softmax_row(row, classes) - hit;
        row[targets[i]] -= 1.0f;
#pragma omp simd
        for (size_t j = 0; j < classes; j++)
            row[j] /= (float)rows;
    }
}

/* ---- causal multi-head attention --------------------------------------- */

enum { QUERIES = 64 }; /* queries handled together, to skip most of the masked half */

/* The shape, and one workspace per thread: two blocks of QUERIES x context. */
typedef struct attention {
    size_t batch, context, heads, width; /* width = heads * size of a head */
    int threads;
    gemm_space *space;
    float *blocks;
} attention;

static size_t attention_block(const attention *t) { return QUERIES * round_up(t->context, 16); }

static size_t attention_bytes(const attention *t)
{
    size_t longest = t->context > t->width / t->heads ? t->context : t->width / t->heads;
    return (size_t)t->threads *
           (gemm_space_bytes(longest, longest) + 2 * attention_block(t) * sizeof(float));
}

static void *attention_init(attention *t)
{
    size_t longest = t->context > t->width / t->heads ? t->context : t->width / t->heads;
    t->space = calloc((size_t)t->threads, sizeof *t->space);
    t->blocks = aligned_alloc(64, (size_t)t->threads * 2 * attention_block(t) * sizeof(float));
    if (!t->space || !t->blocks)
        return NULL;
    for (int i = 0; i < t->threads; i++)
        if (!gemm_space_init(&t->space[i], longest, longest, 0))
            return NULL;
    return t->space;
}

/* Scores of queries q0.. against keys 0..n-1: p[count x n]. */
static void attention_scores(const attention *t, const gemm_space *s, const float *q,
                             const float *k, size_t count, size_t n, float *p)
{
    size_t ld = 3 * t->width, head = t->width / t->heads;
    float scale = 1.0f / sqrtf((float)head);
    gemm(s, count, n, head, plain(q, ld), transposed(k, ld), p, n, 0);
#pragma omp simd
    for (size_t i = 0; i < count * n; i++)
        p[i] *= scale;
}

/* One head of one sequence: qkv is its first row (q, k, v side by side), out
 * its first output, logs one number per query for the backward pass. */
static void attention_head_forward(const attention *t, int thread, const float *qkv, float *out,
                                   float *logs)
{
    const gemm_space *s = &t->space[thread];
    size_t ld = 3 * t->width, head = t->width / t->heads;
    float *p = t->blocks + (size_t)thread * 2 * attention_block(t);
    for (size_t q = 0; q < t->context; q += QUERIES) {
        size_t count = smaller(QUERIES, t->context - q), n = q + count;
        attention_scores(t, s, qkv + q * ld, qkv + t->width, count, n, p);
        for (size_t i = 0; i < count; i++) {
            size_t seen = q + i + 1;
            logs[q + i] = softmax_row(p + i * n, seen);
            memset(p + i * n + seen, 0, (n - seen) * sizeof *p);
        }
        gemm(s, count, head, n, plain(p, n), plain(qkv + 2 * t->width, ld), out + q * t->width,
             t->width, 0);
    }
}

static void attention_forward(const attention *t, float *out, float *logs, const float *qkv)
{
    size_t head = t->width / t->heads;
#pragma omp parallel for schedule(dynamic) num_threads(t->threads)
    for (size_t i = 0; i < t->batch * t->heads; i++) {
        size_t row = i / t->heads * t->context, column = i % t->heads * head;
        attention_head_forward(t, omp_get_thread_num(), qkv + row * 3 * t->width + column,
                               out + row * t->width + column, logs + i * t->context);
    }
}

/* ds = p * (dp - sum(dout * out)) / sqrt(head), in the place of dp; p is
 * computed anew from the scores and the saved logarithms. */
static void attention_softmax_backward(const attention *t, const float *out, const float *dout,
                                       const float *logs, size_t q, size_t count, float *p,
                                       float *dp)
{
    size_t head = t->width / t->heads, n = q + count;
    float scale = 1.0f / sqrtf((float)head);
    for (size_t i = 0; i < count; i++) {
        float *pi = p + i * n, *di = dp + i * n, dot = 0.0f, log = logs[q + i];
        const float *o = out + (q + i) * t->width, *d = dout + (q + i) * t->width;
        size_t seen = q + i + 1;
#pragma omp simd reduction(+ : dot)
        for (size_t j = 0; j < head; j++)
            dot += o[j] * d[j];
#pragma omp simd
        for (size_t j = 0; j < seen; j++) {
            pi[j] = exp_fast(pi[j] - log);
            di[j] = pi[j] * (di[j] - dot) * scale;
        }
        memset(pi + seen, 0, (n - seen) * sizeof *pi);
        memset(di + seen, 0, (n - seen) * sizeof *di);
    }
}

static void attention_head_backward(const attention *t, int thread, const float *qkv,
                                    const float *out, const float *dout, const float *logs,
                                    float *dqkv)
{
    const gemm_space *s = &t->space[thread];
    size_t ld = 3 * t->width, w = t->width, head = t->width / t->heads;
    float *p = t->blocks + (size_t)thread * 2 * attention_block(t), *dp = p + attention_block(t);
    for (size_t i = 0; i < t->context; i++)
        for (size_t part = 0; part < 3; part++)
            memset(dqkv + i * ld + part * w, 0, head * sizeof *dqkv);
    for (size_t q = 0; q < t->context; q += QUERIES) {
        size_t count = smaller(QUERIES, t->context - q), n = q + count;
        const float *query = qkv + q * ld, *d = dout + q * w;
        attention_scores(t, s, query, qkv + w, count, n, p);
        gemm(s, count, n, head, plain(d, w), transposed(qkv + 2 * w, ld), dp, n, 0);
        attention_softmax_backward(t, out, dout, logs, q, count, p, dp);
        gemm(s, count, head, n, plain(dp, n), plain(qkv + w, ld), dqkv + q * ld, ld, 0);
        gemm(s, n, head, count, transposed(dp, n), plain(query, ld), dqkv + w, ld, 1);
        gemm(s, n, head, count, transposed(p, n), plain(d, w), dqkv + 2 * w, ld, 1);
    }
}

static void attention_backward(const attention *t, float *dqkv, const float *dout,
                               const float *qkv, const float *out, const float *logs)
{
    size_t head = t->width / t->heads;
#pragma omp parallel for schedule(dynamic) num_threads(t->threads)
    for (size_t i = 0; i < t->batch * t->heads; i++) {
        size_t row = i / t->heads * t->context, column = i % t->heads * head;
        attention_head_backward(t, omp_get_thread_num(), qkv + row * 3 * t->width + column,
                                out + row * t->width + column, dout + row * t->width + column,
                                logs + i * t->context, dqkv + row * 3 * t->width + column);
    }
}

/* ---- what the trainer calls besides (see gpt_compute.h) ----------------- */

typedef struct compute {
    size_t batch, context, heads, width;
    int threads, own_products;
    void *stream;
    gemm_space space;
    attention attention;
} compute;

static const char *compute_open(compute *c)
{
    c->stream = TERRACE_HOST_SYNC;
    c->attention = (attention){.batch = c->batch, .context = c->context, .heads = c->heads,
                               .width = c->width, .threads = c->threads};
    return gemm_space_init(&c->space, 1024, 2048, 1) && attention_init(&c->attention)
               ? NULL
               : "out of memory";
}

static void compute_close(compute *c)
{
    for (int i = 0; i < c->threads; i++)
        free(c->attention.space[i].a);
    free(c->attention.space);
    free(c->attention.blocks);
    free(c->space.a);
}

static size_t compute_bytes(const compute *c)
{
    return gemm_space_bytes(1024, 2048) + attention_bytes(&c->attention);
}

static const char *compute_products(const compute *c)
{
    (void)c;
    return "gpt_kernels.h";
}

static void *compute_memory(size_t bytes) { return aligned_alloc(64, bytes); }
static void compute_forget(void *memory) { free(memory); }
static void put(void *to, const void *from, size_t bytes) { memcpy(to, from, bytes); }
static void get(void *to, const void *from, size_t bytes) { memcpy(to, from, bytes); }
static void copy(float *to, const float *from, size_t n) { memcpy(to, from, n * sizeof *to); }
static void zero(float *to, size_t n) { memset(to, 0, n * sizeof *to); }

static void product(const compute *c, size_t m, size_t n, size_t k, view a, view b, float *out,
                    size_t ld, int add)
{
    gemm(&c->space, m, n, k, a, b, out, ld, add);
}

static void attend(const compute *c, float *out, float *logs, const float *qkv)
{
    attention_forward(&c->attention, out, logs, qkv);
}

static void attend_backward(const compute *c, float *dqkv, const float *dout, const float *qkv,
                            const float *out, const float *logs)
{
    attention_backward(&c->attention, dqkv, dout, qkv, out, logs);
}

/* x = the sum of a token's row and its position's. */
static void embed(float *x, const int *inputs, const float *token, const float *position,
                  size_t tokens, size_t width, size_t context)
{
#pragma omp parallel for schedule(static)
    for (size_t i = 0; i < tokens; i++)
        for (size_t j = 0; j < width; j++)
            x[i * width + j] = token[(size_t)inputs[i] * width + j] + position[i % context * width + j];
}

/* The gradient of an embedding table: dx's row i is added to row inputs[i] or,
 * without inputs, i modulo the rows. A thread has some columns to itself, so the
 * order of the sums is fixed. */
static void table_gradient(float *gradient, size_t rows, const float *dx, const int *inputs,
                           size_t tokens, size_t width)
{
    memset(gradient, 0, rows * width * sizeof *gradient);
#pragma omp parallel for schedule(static)
    for (size_t j0 = 0; j0 < width; j0 += 64)
        for (size_t i = 0; i < tokens; i++) {
            size_t row = inputs ? (size_t)inputs[i] : i % rows;
            for (size_t j = j0; j < smaller(width, j0 + 64); j++)
                gradient[row * width + j] += dx[i * width + j];
        }
}

#endif /* GPT_KERNELS_H */
