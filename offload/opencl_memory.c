/* opencl_memory.c - the memory of an OpenCL device: buffers behind plain numbers.
 *
 * A buffer (cl_mem) can neither be joined with another nor given back in part, and
 * its size is limited. So a reservation is cut into slabs as large as a buffer may
 * be. A slab has its buffer from the first commit in it until the last decommit; and
 * as the core reserves exactly the budget (TERRACE_UNIT_WHOLE), and has nothing cross
 * from one slab to the next, all buffers together are never larger than the budget.
 *
 * An address is a number: the unit's own range, the reservation's place in it, the
 * offset. What programs get is a sub-buffer; copies have one of their own each, too,
 * because OpenCL leaves undefined what a buffer and its sub-buffers show of each
 * other while both are in use.
 *
 * Where the device has shared virtual memory (OpenCL 2.0, coarse-grained buffers), a
 * slab's buffer lies in it, so that the same bytes can be given as a pointer, too.
 *
 * May call: opencl_unit.h, libc. */
#include <stdio.h>
#include <stdlib.h>

#include "opencl_unit.h"

/* Where the addresses of unit 0 begin, and how many each has. */
static const uint64_t FIRST = UINT64_C(1) << 62, SPAN = UINT64_C(1) << 50;
#define GIB 1073741824.0

/* ---- opening ------------------------------------------------------------- */

static void describe_capacity(const struct opencl_unit *u, bool shared, terrace_unit_info *info)
{
    char *why = info->capacity_reason;
    info->capacity = (shared ? u->all / 4 : u->all / 10 * 9) / OPENCL_GRANULE * OPENCL_GRANULE;
    if (shared)
        snprintf(why, sizeof info->capacity_reason, "a quarter of the %.1f GiB it may use of the host's memory",
                 (double)u->all / GIB);
    else
        snprintf(why, sizeof info->capacity_reason, "%.1f GiB less a tenth for others: OpenCL does not tell what is "
                 "free", (double)u->all / GIB);
}

void opencl_memory_open(struct opencl_unit *u, int index, bool shared, terrace_unit_info *info)
{
    uint64_t align = opencl_number(u->device, OPENCL_DEVICE_MEM_BASE_ADDR_ALIGN) / 8;
    uint64_t most = opencl_number(u->device, OPENCL_DEVICE_MAX_MEM_ALLOC_SIZE);
    u->all = opencl_number(u->device, OPENCL_DEVICE_GLOBAL_MEM_SIZE);
    u->boundary = most / OPENCL_GRANULE * OPENCL_GRANULE;
    u->svm = opencl.svm_alloc && opencl.svm_free &&
             opencl_number(u->device, OPENCL_DEVICE_SVM_CAPABILITIES) & OPENCL_DEVICE_SVM_COARSE_GRAIN_BUFFER;
    u->next = FIRST + (uint64_t)index * SPAN;
    u->end = u->next + SPAN;
    describe_capacity(u, shared, info);
    info->flags = TERRACE_UNIT_WHOLE;
    info->granule = OPENCL_GRANULE;
    info->page = align > 4096 ? align : 4096;
    info->boundary = u->boundary;
}

static void slab_free(const struct opencl_unit *u, struct opencl_slab *s)
{
    if (s->buffer)
        (void)opencl.memory_release(s->buffer);
    if (s->svm)
        opencl.svm_free(u->context, s->svm);
    s->buffer = NULL;
    s->svm = NULL;
}

/* 0 or OpenCL's code. */
static opencl_int slab_alloc(const struct opencl_unit *u, struct opencl_slab *s)
{
    opencl_int code = OPENCL_MEM_OBJECT_ALLOCATION_FAILURE;
    if (u->svm)
        s->svm = opencl.svm_alloc(u->context, OPENCL_MEM_READ_WRITE, s->bytes, 0);
    s->buffer = opencl.buffer_create(u->context, OPENCL_MEM_READ_WRITE | (s->svm ? OPENCL_MEM_USE_HOST_PTR : 0),
                                     s->bytes, s->svm, &code);
    if (!s->buffer)
        slab_free(u, s);
    return s->buffer ? OPENCL_OK : code;
}

void opencl_memory_close(struct opencl_unit *u)
{
    for (size_t i = 0; i < u->slabs; i++)
        slab_free(u, &u->slab[i]);
}

/* ---- reservations -------------------------------------------------------- */

int opencl_reserve(void *unit, uint64_t bytes, unsigned flags, uint64_t *base)
{
    struct opencl_unit *u = unit;
    (void)flags;
    if (bytes > u->all)
        return -TERRACE_ENOTSUP;
    size_t more = (bytes + u->boundary - 1) / u->boundary;
    int r = -TERRACE_ENOMEM;
    pthread_mutex_lock(&u->memory);
    uint64_t begin = (u->next + u->boundary - 1) / u->boundary * u->boundary;
    struct opencl_slab *slab = NULL;
    if (begin + bytes <= u->end)
        slab = realloc(u->slab, (u->slabs + more) * sizeof *slab);
    if (slab) {
        u->slab = slab;
        for (uint64_t at = 0; at < bytes; at += u->boundary)
            slab[u->slabs++] = (struct opencl_slab){
                .base = begin + at, .bytes = bytes - at < u->boundary ? bytes - at : u->boundary};
        u->next = begin + bytes;
        *base = begin;
        r = 0;
    }
    pthread_mutex_unlock(&u->memory);
    return r;
}

void opencl_release(void *unit, uint64_t base, uint64_t bytes)
{
    struct opencl_unit *u = unit;
    size_t kept = 0;
    pthread_mutex_lock(&u->memory);
    for (size_t i = 0; i < u->slabs; i++) {
        struct opencl_slab *s = &u->slab[i];
        if (s->base < base || s->base >= base + bytes)
            u->slab[kept++] = *s;
        else
            slab_free(u, s);
    }
    u->slabs = kept;
    pthread_mutex_unlock(&u->memory);
}

/* ---- memory behind them -------------------------------------------------- */

/* How many bytes of the slab lie in the range. */
static uint64_t overlap(const struct opencl_slab *s, uint64_t address, uint64_t bytes)
{
    uint64_t begin = address > s->base ? address : s->base, end = s->base + s->bytes;
    if (address + bytes < end)
        end = address + bytes;
    return begin < end ? end - begin : 0;
}

static uint64_t held_locked(const struct opencl_unit *u)
{
    uint64_t sum = 0;
    for (size_t i = 0; i < u->slabs; i++)
        sum += u->slab[i].buffer ? u->slab[i].bytes : 0;
    return sum;
}

static void give_locked(const struct opencl_unit *u, struct opencl_slab *s, uint64_t bytes)
{
    s->committed -= bytes < s->committed ? bytes : s->committed;
    if (!s->committed)
        slab_free(u, s);
}

static int take_locked(struct opencl_unit *u, struct opencl_slab *s, uint64_t bytes)
{
    if (!s->buffer) {
        opencl_int code = OPENCL_MEM_OBJECT_ALLOCATION_FAILURE;
        if (held_locked(u) + s->bytes <= u->all)
            code = slab_alloc(u, s);
        if (!s->buffer)
            return opencl_fail(u, code, "a buffer of %llu bytes, besides %llu", (unsigned long long)s->bytes,
                               (unsigned long long)held_locked(u));
    }
    s->committed += bytes;
    return 0;
}

int opencl_commit(void *unit, uint64_t address, uint64_t bytes)
{
    struct opencl_unit *u = unit;
    size_t i;
    int r = 0;
    pthread_mutex_lock(&u->memory);
    for (i = 0; r == 0 && i < u->slabs; i++) {
        uint64_t part = overlap(&u->slab[i], address, bytes);
        if (part)
            r = take_locked(u, &u->slab[i], part);
    }
    for (size_t k = 0; r && k + 1 < i; k++)
        give_locked(u, &u->slab[k], overlap(&u->slab[k], address, bytes));
    pthread_mutex_unlock(&u->memory);
    return r;
}

void opencl_decommit(void *unit, uint64_t address, uint64_t bytes)
{
    struct opencl_unit *u = unit;
    pthread_mutex_lock(&u->memory);
    for (size_t i = 0; i < u->slabs; i++)
        give_locked(u, &u->slab[i], overlap(&u->slab[i], address, bytes));
    pthread_mutex_unlock(&u->memory);
}

/* ---- handles ------------------------------------------------------------- */

opencl_memory opencl_part(struct opencl_unit *u, uint64_t address, uint64_t bytes, opencl_int *code)
{
    opencl_memory part = NULL;
    *code = 0;
    pthread_mutex_lock(&u->memory);
    for (size_t i = 0; i < u->slabs; i++) {
        const struct opencl_slab *s = &u->slab[i];
        if (!s->buffer || overlap(s, address, bytes) < bytes)
            continue;
        opencl_region region = {.origin = address - s->base, .size = bytes};
        part = opencl.part_create(s->buffer, OPENCL_MEM_READ_WRITE, OPENCL_BUFFER_CREATE_TYPE_REGION, &region, code);
        break;
    }
    pthread_mutex_unlock(&u->memory);
    // cppcheck-suppress returnDanglingLifetime ; the region is read, not kept
    return part;
}

/* Where a committed part is in shared virtual memory, NULL: it is not. */
static void *svm_pointer(struct opencl_unit *u, uint64_t address, uint64_t bytes)
{
    char *pointer = NULL;
    pthread_mutex_lock(&u->memory);
    for (size_t i = 0; i < u->slabs && !pointer; i++)
        if (u->slab[i].svm && overlap(&u->slab[i], address, bytes) == bytes)
            pointer = u->slab[i].svm + (address - u->slab[i].base);
    pthread_mutex_unlock(&u->memory);
    return pointer;
}

static bool is_svm_pointer(struct opencl_unit *u, const void *handle)
{
    bool is = false;
    pthread_mutex_lock(&u->memory);
    for (size_t i = 0; i < u->slabs; i++) {
        const struct opencl_slab *s = &u->slab[i];
        is |= s->svm && (uintptr_t)handle - (uintptr_t)s->svm < s->bytes;
    }
    pthread_mutex_unlock(&u->memory);
    return is;
}

int opencl_view(void *unit, uint64_t address, uint64_t bytes, unsigned flags, void **handle)
{
    struct opencl_unit *u = unit;
    opencl_int code;
    if (flags & TERRACE_ATTR_SVM) {
        void *pointer = svm_pointer(u, address, bytes);
        if (!pointer)
            return u->host->fail(u->host->context, -TERRACE_ENOTSUP, "%s: TERRACE_ATTR_SVM: the device has no shared "
                                 "virtual memory for it, only buffers (cl_mem); create the tensor without it", u->name);
        *handle = pointer;
        return 0;
    }
    opencl_memory part = opencl_part(u, address, bytes, &code);
    if (!part && code == 0)
        code = OPENCL_INVALID_MEM_OBJECT;
    if (!part)
        return opencl_fail(u, code, "a sub-buffer of %llu bytes", (unsigned long long)bytes);
    *handle = part;
    return 0;
}

void opencl_unview(void *unit, void *handle)
{
    if (!is_svm_pointer(unit, handle)) /* which is no object of its own */
        (void)opencl.memory_release(handle);
}
