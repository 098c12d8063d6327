/* malloc.c - malloc and its family, in place of the C library's.
 *
 * The common case is one comparison more than jemalloc's own: sizes are compared
 * with the least of a large block, addresses looked up only where they are
 * multiples of 2 MiB. C++'s new and delete rest on these.
 *
 * May call: small.h, large.c. */
#include <dlfcn.h>
#include <errno.h>
#include <link.h>
#include <malloc.h>
#include <string.h>

#include "preload.h"
#include "small.h"

#define CALLER __builtin_return_address(0)

enum { GROWTH = 2 }; /* address space for a block that grows, as a multiple */

static void *large_malloc(size_t bytes, const void *caller)
{
    struct block *b = large_new(bytes, 0, caller);
    return b ? b->base : NULL;
}

HOOK void *malloc(size_t bytes)
{
    if (LIKELY(bytes < large_least))
        return small_malloc(bytes);
    void *p = large_malloc(bytes, CALLER);
    return p ? p : small_malloc(bytes);
}

/* In a program at a fixed address the name may stand for a stub there, which calls
 * the one defined elsewhere. */
bool malloc_is_ours(void)
{
    Dl_info used, here;
    const ElfW(Sym) *symbol = NULL;
    if (!dladdr1(dlsym(RTLD_DEFAULT, "malloc"), &used, (void **)&symbol, RTLD_DL_SYMENT) ||
        !dladdr((void *)(uintptr_t)malloc_is_ours, &here))
        return false;
    return used.dli_fbase == here.dli_fbase || (symbol && symbol->st_shndx == SHN_UNDEF);
}

HOOK void free(void *p)
{
    if (LIKELY((uintptr_t)p % SLOT)) {
        small_free(p);
        return;
    }
    struct block *b = large_of(p);
    if (b)
        large_free(b);
    else if (p)
        small_free(p);
}

HOOK void *calloc(size_t n, size_t each)
{
    size_t bytes;
    if (__builtin_mul_overflow(n, each, &bytes) || bytes < large_least)
        return small_calloc(n, each);
    void *p = large_malloc(bytes, CALLER);
    return p ? p : small_calloc(n, each);
}

/* A copy of the block elsewhere, then the block is gone. */
static void *move(struct block *b, size_t bytes, const void *caller)
{
    struct block *to = bytes < large_least ? NULL : large_new(bytes, b->bytes < bytes ? bytes * GROWTH : 0, caller);
    void *p = to ? to->base : small_malloc(bytes);
    if (!p)
        return NULL;
    memcpy(p, b->base, b->bytes < bytes ? b->bytes : bytes);
    large_free(b);
    return p;
}

static void *large_realloc(struct block *b, size_t bytes, const void *caller)
{
    bool fits = bytes <= (b->page ? round_up(b->bytes, PAGE) : b->reserved);
    bool stays = fits && bytes >= large_least / 2 && !large_inherited(b);
    if (!stays)
        return move(b, bytes, caller);
    size_t end = round_up(bytes, SLOT);
    if (bytes < b->bytes && end < b->reserved)
        large_discard(b, b->base + end, b->reserved - end);
    b->bytes = bytes;
    return b->base;
}

HOOK void *realloc(void *p, size_t bytes)
{
    struct block *b = large_of(p);
    if (b && bytes)
        return large_realloc(b, bytes, CALLER);
    if (p && !bytes) { /* as the C library has it */
        free(p);
        return NULL;
    }
    struct block *to = bytes < large_least ? NULL : large_new(bytes, p ? bytes * GROWTH : 0, CALLER);
    if (!to)
        return small_realloc(p, bytes);
    if (p) {
        size_t had = small_usable(p);
        memcpy(to->base, p, had < bytes ? had : bytes);
        small_free(p);
    }
    return to->base;
}

HOOK void *reallocarray(void *p, size_t n, size_t each)
{
    size_t bytes;
    if (__builtin_mul_overflow(n, each, &bytes)) {
        errno = ENOMEM;
        return NULL;
    }
    return realloc(p, bytes);
}

/* ---- alignments ---------------------------------------------------------- */

/* `alignment` is a power of two. */
static void *aligned(size_t alignment, size_t bytes, const void *caller)
{
    void *p = bytes < large_least || alignment > SLOT ? NULL : large_malloc(bytes, caller);
    return p ? p : small_aligned(alignment, bytes);
}

static bool power_of_two(size_t n)
{
    return n && !(n & (n - 1));
}

HOOK int posix_memalign(void **out, size_t alignment, size_t bytes)
{
    int error = errno;
    if (!power_of_two(alignment) || alignment % sizeof(void *))
        return EINVAL;
    void *p = aligned(alignment, bytes, CALLER);
    errno = error;
    if (!p)
        return ENOMEM;
    *out = p;
    return 0;
}

HOOK void *aligned_alloc(size_t alignment, size_t bytes)
{
    if (power_of_two(alignment))
        return aligned(alignment, bytes, CALLER);
    errno = EINVAL;
    return NULL;
}

/* As the C library has it: an alignment is rounded up to a power of two. */
HOOK void *memalign(size_t alignment, size_t bytes)
{
    size_t power = sizeof(void *);
    while (power < alignment && power < SIZE_MAX / 2)
        power *= 2;
    return aligned(power, bytes, CALLER);
}

HOOK void *valloc(size_t bytes)
{
    return aligned(PAGE, bytes, CALLER);
}

HOOK void *pvalloc(size_t bytes)
{
    return aligned(PAGE, bytes > SIZE_MAX - PAGE ? bytes : bytes ? round_up(bytes, PAGE) : PAGE, CALLER);
}

HOOK size_t malloc_usable_size(void *p)
{
    const struct block *b = large_of(p);
    return b ? b->bytes : p ? small_usable(p) : 0;
}
