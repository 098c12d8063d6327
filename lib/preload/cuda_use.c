/* cuda_use.c - which memory kernels use, as far as their arguments show it.
 *
 * The device does not tell which of its memory is used. What a kernel is given does:
 * words among its arguments, also inside of structures, that are addresses in a block.
 * They are counted, so that what is used most comes to, or stays in, the device's own
 * memory. Addresses that a kernel finds in memory are not seen; they are as right as
 * others, and slower at worst.
 *
 * How large the arguments are the driver says from 12.4 on; it is asked once for each
 * function, and again once code has been unloaded, whose functions' handles may be
 * given again. What drivers before do not say is not counted.
 *
 * May call: cuda_reach.c, cuda_memory.c, small.h. */
#include <pthread.h>
#include <string.h>

#include "cuda_hooks.h"
#include "small.h"

enum { BUCKETS = 1 << 12, MOST = 256 /* arguments */ };
enum { BUFFER = 1, BUFFER_SIZE = 2 }; /* what follows in `extra`, which ends with 0 */

/* The bytes of each argument of a function. Once there, it stays, but counts only as
 * long as no code has been unloaded. */
struct shape {
    struct shape *next;
    cuda_function function;
    unsigned era;
    size_t n, bytes[];
};

static _Atomic(struct shape *) shapes[BUCKETS];
static atomic_uint era; /* begins when code is unloaded */

void use_forget(void)
{
    era++;
}

static bool size_of(cuda_function function, size_t i, size_t *bytes)
{
    size_t offset;
    if (driver.cuFuncGetParamInfo && driver.cuFuncGetParamInfo(function, i, &offset, bytes) == CUDA_OK)
        return true;
    return driver.cuKernelGetParamInfo && driver.cuKernelGetParamInfo((cuda_kernel)function, i, &offset, bytes) == CUDA_OK;
}

static struct shape *shape_new(cuda_function function, unsigned now)
{
    size_t bytes[MOST], n = 0;
    while (n < MOST && size_of(function, n, &bytes[n]))
        n++;
    struct shape *s = small_malloc(sizeof *s + n * sizeof bytes[0]);
    if (!s)
        return NULL;
    *s = (struct shape){.function = function, .era = now, .n = n};
    memcpy(s->bytes, bytes, n * sizeof bytes[0]);
    return s;
}

/* Two threads may add the same one, which does no harm. */
static const struct shape *shape_of(cuda_function function)
{
    _Atomic(struct shape *) *head = &shapes[((uintptr_t)function >> 4) * UINT64_C(0x9e3779b97f4a7c15) >> 52];
    unsigned now = era;
    struct shape *s = *head;
    while (s && (s->function != function || s->era != now))
        s = s->next;
    if (s || !(s = shape_new(function, now)))
        return s;
    s->next = *head;
    while (!atomic_compare_exchange_weak(head, &s->next, s))
        ;
    return s;
}

static void look_at(const char *at, size_t bytes)
{
    uint64_t word;
    for (; bytes >= sizeof word; at += sizeof word, bytes -= sizeof word) {
        memcpy(&word, at, sizeof word);
        memory_use(word);
    }
}

static void look_at_buffer(void **extra)
{
    const char *buffer = NULL;
    size_t bytes = 0;
    for (; extra[0]; extra += 2)
        if ((uintptr_t)extra[0] == BUFFER)
            buffer = extra[1];
        else if ((uintptr_t)extra[0] == BUFFER_SIZE)
            bytes = *(const size_t *)extra[1];
    if (buffer)
        look_at(buffer, bytes);
}

void use_launch(cuda_function function, void **args, void **extra)
{
    const struct shape *s = args ? shape_of(function) : NULL;
    for (size_t i = 0; s && i < s->n; i++)
        look_at(args[i], s->bytes[i]);
    if (!args && extra)
        look_at_buffer(extra);
}
