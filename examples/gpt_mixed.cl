/* gpt_mixed.cl - the trainer's arithmetic, once for all processors.
 *
 * This is OpenCL C, and C as well: a device's compiler gets the text, and
 * gpt_mixed.c includes it. Every element of every result is computed by one work
 * item, in an order that its shape alone decides, with additions, multiplications
 * and divisions that are rounded one by one: no library function, no fused
 * multiply-add. So results are the same bits wherever, and by however many work
 * items at a time, they are computed.
 *
 * All kernels have the same parameters: arrays, of which the first are written,
 * and numbers. */
#ifndef GPT_MIXED_NUMBERS
#define GPT_MIXED_NUMBERS

typedef struct matrix { /* element (i, j) is at `at` + i * row + j * col */
    uint at, row, col;
    uint next; /* the next of several is so much further */
} matrix;

typedef struct numbers {
    uint rows, width, inner;  /* of the result; what is summed over */
    uint count;               /* of heads, of tokens, of classes */
    uint flag;
    float scale, rate;
    matrix x, y, z;           /* of the arrays a, b, c */
} numbers;

#endif /* who needs no more than their types stops here */
#if defined(__OPENCL_VERSION__) || defined(GPT_MIXED_KERNELS)

#ifdef __OPENCL_VERSION__
#pragma OPENCL FP_CONTRACT OFF
#endif

#define KERNEL(name)                                                                             \
    kernel void name(global float *a, global float *b, global float *c, global float *d,         \
                     global float *e, const numbers n)
#define ITEM ((uint)get_global_id(0))

/* ---- functions ---------------------------------------------------------- */

/* e^x, within about 2 units in the last place, of what x is clamped to: where the
 * result is a normal number. */
static inline float power_of_e(float x)
{
    x = x < -87.0f ? -87.0f : x > 88.0f ? 88.0f : x;
    float t = x * 1.44269504f + 12582912.0f; /* the nearest integer, in the low bits */
    float whole = t - 12582912.0f;
    float r = x - whole * 0.693359375f + whole * 2.12194440e-4f;
    float p = 1.9875691500e-4f;
    p = p * r + 1.3981999507e-3f;
    p = p * r + 8.3334519073e-3f;
    p = p * r + 4.1665795894e-2f;
    p = p * r + 1.6666665459e-1f;
    p = p * r + 5.0000001201e-1f;
    p = p * r * r + r + 1.0f;
    return p * as_float((as_uint(t) + 127u) << 23); /* the shift drops what belongs to 12582912 */
}

/* The natural logarithm of a normal number above 0: of its exponent, and of the rest m
 * by the series of 2 artanh((m - 1) / (m + 1)), whose terms get smaller than a ninth. */
static inline float logarithm(float x)
{
    uint bits = as_uint(x);
    float exponent = (float)((int)(bits >> 23) - 127);
    float m = as_float((bits & 0x7fffffu) | 0x3f800000u);
    float s = (m - 1.0f) / (m + 1.0f), ss = s * s;
    float p = 1.0f / 13.0f;
    p = p * ss + 1.0f / 11.0f;
    p = p * ss + 1.0f / 9.0f;
    p = p * ss + 1.0f / 7.0f;
    p = p * ss + 1.0f / 5.0f;
    p = p * ss + 1.0f / 3.0f;
    p = p * ss + 1.0f;
    return exponent * 0.6931471806f + 2.0f * s * p;
}

/* The square root of a number not negative, by Newton's steps from a good guess. */
static inline float root(float x)
{
    float y = as_float(0x5f3759dfu - (as_uint(x) >> 1)); /* 1 / root(x), within 4 % */
    y *= 1.5f - 0.5f * x * y * y;
    y *= 1.5f - 0.5f * x * y * y;
    y *= 1.5f - 0.5f * x * y * y;
    return x * y;
}

/* tanh of the GELU's argument u = sqrt(2/pi) (x + 0.044715 x^3). */
static inline float gelu_tanh(float x)
{
    float u = 0.7978845608f * (x + 0.044715f * x * x * x);
    return 1.0f - 2.0f / (1.0f + power_of_e(2.0f * u));
}

/* ---- matrix product: a = b c, or +=, by tiles ---------------------------- */

/* An item computes a TILE x TILE part of one of several products. */
#define TILE 4u

static inline uint tiles(uint n)
{
    return (n + TILE - 1) / TILE;
}

KERNEL(product_tile)
{
    uint across = tiles(n.width), each = tiles(n.rows) * across;
    uint which = ITEM / each, tile = ITEM % each;
    uint i0 = tile / across * TILE, j0 = tile % across * TILE;
    uint rows = n.rows - i0 < TILE ? n.rows - i0 : TILE, width = n.width - j0 < TILE ? n.width - j0 : TILE;
    global float *to = a + n.x.at + which * n.x.next + i0 * n.x.row + j0;
    global const float *left = b + n.y.at + which * n.y.next + i0 * n.y.row;
    global const float *right = c + n.z.at + which * n.z.next + j0 * n.z.col;
    float sum[TILE][TILE];
    for (uint i = 0; i < TILE; i++)
        for (uint j = 0; j < TILE; j++)
            sum[i][j] = 0.0f;
    for (uint p = 0; p < n.inner; p++, left += n.y.col, right += n.z.row) {
        float l[TILE], r[TILE];
        for (uint i = 0; i < TILE; i++)
            l[i] = i < rows ? left[i * n.y.row] : 0.0f;
        for (uint j = 0; j < TILE; j++)
            r[j] = j < width ? right[j * n.z.col] : 0.0f;
        for (uint i = 0; i < TILE; i++)
            for (uint j = 0; j < TILE; j++)
                sum[i][j] += l[i] * r[j];
    }
    for (uint i = 0; i < rows; i++)
        for (uint j = 0; j < width; j++)
            to[i * n.x.row + j] = n.flag ? to[i * n.x.row + j] + sum[i][j] : sum[i][j];
}

/* ---- element by element -------------------------------------------------- */

/* a = gelu(b) */
KERNEL(gelu_element)
{
    float x = b[ITEM];
    a[ITEM] = 0.5f * x * (1.0f + gelu_tanh(x));
}

/* a *= gelu'(b) */
KERNEL(gelu_back_element)
{
    float x = b[ITEM], t = gelu_tanh(x);
    float du = 0.7978845608f * (1.0f + 3.0f * 0.044715f * x * x);
    a[ITEM] *= 0.5f * (1.0f + t) + 0.5f * x * (1.0f - t * t) * du;
}

/* Adam on the moments a and b: the gradient c becomes what is to be taken off the
 * weight. `rate` holds the bias correction of a, `scale` that of b. */
KERNEL(moments_element)
{
    const float b1 = 0.9f, b2 = 0.95f, epsilon = 1e-8f;
    float g = c[ITEM], m = b1 * a[ITEM] + (1.0f - b1) * g, v = b2 * b[ITEM] + (1.0f - b2) * g * g;
    a[ITEM] = m;
    b[ITEM] = v;
    c[ITEM] = n.rate * m / (root(v * n.scale) + epsilon);
}

/* a -= b */
KERNEL(subtract_element)
{
    a[ITEM] -= b[ITEM];
}

/* a = the sum of a token's row of c and its position's of d; b: which tokens. */
KERNEL(embed_element)
{
    uint i = ITEM / n.width, j = ITEM % n.width;
    uint token = (uint)((global const int *)b)[i];
    a[ITEM] = c[token * n.width + j] + d[i % n.rows * n.width + j];
}

/* A row of a table's gradient a sums up those of b whose token, or position, it is. */
KERNEL(table_element)
{
    uint row = ITEM / n.width, j = ITEM % n.width;
    float sum = 0.0f;
    for (uint i = n.flag ? 0 : row; i < n.count; i += n.flag ? 1 : n.rows)
        if (!n.flag || (uint)((global const int *)c)[i] == row)
            sum += b[i * n.width + j];
    a[ITEM] = sum;
}

/* ---- layer norm (a gain, no offset) -------------------------------------- */

static inline float norm_mean(global const float *x, uint width)
{
    float sum = 0.0f;
    for (uint j = 0; j < width; j++)
        sum += x[j];
    return sum / (float)width;
}

static inline float norm_scale(global const float *x, float mean, uint width)
{
    float squares = 0.0f;
    for (uint j = 0; j < width; j++)
        squares += (x[j] - mean) * (x[j] - mean);
    return 1.0f / root(squares / (float)width + 1e-5f);
}

/* A row: a = norm(b) with the gain c. */
KERNEL(norm_row)
{
    global const float *in = b + ITEM * n.width;
    global float *out = a + ITEM * n.width;
    float mean = norm_mean(in, n.width), scale = norm_scale(in, mean, n.width);
    for (uint j = 0; j < n.width; j++)
        out[j] = (in[j] - mean) * scale * c[j];
}

/* A row: a += the input's gradient, from that of the output c, the input d and the gain
 * e; b: the rows' means, then their scales. */
KERNEL(norm_back_row)
{
    global const float *dy = c + ITEM * n.width, *in = d + ITEM * n.width;
    global float *dx = a + ITEM * n.width;
    float mean = norm_mean(in, n.width), scale = norm_scale(in, mean, n.width), sum = 0.0f, dot = 0.0f;
    for (uint j = 0; j < n.width; j++) {
        sum += dy[j] * e[j];
        dot += dy[j] * e[j] * (in[j] - mean) * scale;
    }
    sum /= (float)n.width;
    dot /= (float)n.width;
    for (uint j = 0; j < n.width; j++)
        dx[j] += scale * (dy[j] * e[j] - sum - (in[j] - mean) * scale * dot);
    b[ITEM] = mean;
    b[n.rows + ITEM] = scale;
}

/* A column: a = the gain's gradient, with those means and scales in b. */
KERNEL(norm_gain_column)
{
    float sum = 0.0f;
    for (uint i = 0; i < n.rows; i++)
        sum += c[i * n.width + ITEM] * (d[i * n.width + ITEM] - b[i]) * b[n.rows + i];
    a[ITEM] = sum;
}

/* ---- softmax: a row of probabilities ------------------------------------- */

/* Turns some scores into probabilities; returns log(sum of e^score). */
static inline float softmax(global float *x, uint some)
{
    float top = x[0], sum = 0.0f;
    for (uint j = 1; j < some; j++)
        top = x[j] > top ? x[j] : top;
    for (uint j = 0; j < some; j++) {
        x[j] = power_of_e(x[j] - top);
        sum += x[j];
    }
    for (uint j = 0; j < some; j++)
        x[j] /= sum;
    return top + logarithm(sum);
}

/* A token: the logits a become their gradient of the mean loss; b: its loss; c: the
 * classes that were right. */
KERNEL(cross_entropy_row)
{
    global float *row = a + ITEM * n.width;
    uint right = (uint)((global const int *)c)[ITEM];
    float hit = row[right];
    b[ITEM] = softmax(row, n.width) - hit;
    row[right] -= 1.0f;
    for (uint j = 0; j < n.width; j++)
        row[j] /= (float)n.rows;
}

/* A query of a head: its scores a for all keys become probabilities, 0 for what comes
 * later; b: for the way back. */
KERNEL(attend_row)
{
    global float *p = a + ITEM * n.width;
    uint seen = ITEM % n.width + 1;
    for (uint j = 0; j < n.width; j++)
        p[j] = j < seen ? p[j] * n.scale : 0.0f;
    b[n.x.at + ITEM] = softmax(p, seen);
}

/* A query of a head: scores a become probabilities p again, and in their gradient's
 * place b comes ds = p (dp - sum(dout out)) scale; c: the logarithms, d: out, e: dout. */
KERNEL(attend_back_row)
{
    global float *p = a + ITEM * n.width, *ds = b + ITEM * n.width;
    uint query = ITEM % n.width, at = n.y.at + query * n.y.row + ITEM / n.width * n.y.next;
    float dot = 0.0f, logs = c[n.x.at + ITEM];
    for (uint j = 0; j < n.inner; j++)
        dot += d[at + j] * e[at + j];
    for (uint j = 0; j < n.width; j++) {
        p[j] = j <= query ? power_of_e(p[j] * n.scale - logs) : 0.0f;
        ds[j] = j <= query ? p[j] * (ds[j] - dot) * n.scale : 0.0f;
    }
}

#endif
