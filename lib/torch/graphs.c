/* graphs.c - blocks that captured graphs use, and those whose last use nobody knows.
 *
 * Work that is captured into a graph is done whenever the graph runs, at the addresses
 * that were captured. So a block that was asked for on a stream being captured stays,
 * also when torch has given it back, until torch says that the graphs of its pool are
 * gone; until then only the same capture may have it again, as the graph then uses it
 * for one after the other. Where torch has not said which pool it is, it stays for good.
 *
 * When the graphs are gone they may still be running. Their blocks, and others of
 * which a use could not be recorded, are parted with when memory is wanted: after a
 * wait for the whole device, which is what torch's own allocator does then.
 *
 * May call: torch.h, by name the driver's cuCtxSynchronize(). */
#include <dlfcn.h>
#include <stdlib.h>

#include "torch.h"

struct kept {
    SLIST_ENTRY(kept) link;
    terrace_torch_pool id;
    int device;
    bool open;
    struct torch_list blocks;
};

static SLIST_HEAD(, kept) pools = SLIST_HEAD_INITIALIZER(pools);
static struct torch_list parted = SLIST_HEAD_INITIALIZER(parted);
static struct torch_list for_good = SLIST_HEAD_INITIALIZER(for_good);

static bool is(const struct kept *p, int device, terrace_torch_pool id)
{
    return p->device == device && p->id.first == id.first && p->id.second == id.second;
}

static struct kept *find(int device, terrace_torch_pool id)
{
    struct kept *p;
    SLIST_FOREACH(p, &pools, link)
        if (is(p, device, id))
            break;
    return p;
}

static bool known(terrace_torch_pool id)
{
    return id.first || id.second;
}

terrace_torch_pool torch_pool_of(int device)
{
    const struct kept *p, *one = NULL;
    unsigned n = 0;
    SLIST_FOREACH(p, &pools, link)
        if (p->open && p->device == device) {
            one = p;
            n++;
        }
    return n == 1 ? one->id : (terrace_torch_pool){0, 0}; /* of several, it could be any's */
}

struct torch_block *torch_pool_take(size_t bytes, int device, void *stream)
{
    struct kept *p = find(device, torch_pool_of(device)); /* none has the number 0 */
    struct torch_block *b = NULL;
    if (p)
        SLIST_FOREACH(b, &p->blocks, link)
            if (b->bytes == bytes && b->stream == stream)
                break;
    if (b)
        SLIST_REMOVE(&p->blocks, b, torch_block, link);
    return b;
}

bool torch_pool_keep(struct torch_block *b)
{
    struct kept *p = known(b->pool) ? find(b->device, b->pool) : NULL;
    if (p)
        SLIST_INSERT_HEAD(&p->blocks, b, link);
    else if (!known(b->pool))
        SLIST_INSERT_HEAD(&for_good, b, link);
    return p || !known(b->pool);
}

void torch_part(struct torch_block *b)
{
    SLIST_INSERT_HEAD(&parted, b, link);
}

/* Of the calling thread's context, which is torch's. */
static bool device_finishes(void)
{
    void *driver = dlopen("libcuda.so.1", RTLD_LAZY | RTLD_NOLOAD);
    int (*finish)(void) = driver ? (int (*)(void))(uintptr_t)dlsym(driver, "cuCtxSynchronize") : NULL;
    bool done = finish && finish() == 0;
    if (driver)
        dlclose(driver);
    return done;
}

void torch_parted_take(struct torch_list *out)
{
    const struct kept *p;
    bool capturing = false;
    SLIST_INIT(out);
    pthread_mutex_lock(&torch_lock);
    SLIST_FOREACH(p, &pools, link)
        capturing |= p->open; /* a wait for the device would spoil that */
    if (!capturing) {
        *out = parted;
        SLIST_INIT(&parted);
    }
    pthread_mutex_unlock(&torch_lock);
    if (SLIST_EMPTY(out) || device_finishes())
        return;
    struct torch_block *b;
    pthread_mutex_lock(&torch_lock);
    while ((b = SLIST_FIRST(out)) != NULL) {
        SLIST_REMOVE_HEAD(out, link);
        torch_part(b);
    }
    pthread_mutex_unlock(&torch_lock);
}

/* ---- what torch says of pools ------------------------------------------------ */

void terrace_torch_begin_allocate_to_pool(int device, terrace_torch_pool pool, void *filter)
{
    (void)filter; /* which streams: those that are being captured */
    pthread_mutex_lock(&torch_lock);
    struct kept *p = find(device, pool);
    if (!p && known(pool) && (p = calloc(1, sizeof *p)) != NULL) {
        *p = (struct kept){.id = pool, .device = device};
        SLIST_INSERT_HEAD(&pools, p, link);
    }
    if (p) /* else its blocks are kept for good */
        p->open = true;
    pthread_mutex_unlock(&torch_lock);
}

void terrace_torch_end_allocate_to_pool(int device, terrace_torch_pool pool)
{
    pthread_mutex_lock(&torch_lock);
    struct kept *p = find(device, pool);
    if (p)
        p->open = false;
    pthread_mutex_unlock(&torch_lock);
}

void terrace_torch_release_pool(int device, terrace_torch_pool pool)
{
    struct torch_block *b;
    pthread_mutex_lock(&torch_lock);
    struct kept *p = find(device, pool);
    while (p && (b = SLIST_FIRST(&p->blocks)) != NULL) {
        SLIST_REMOVE_HEAD(&p->blocks, link);
        torch_part(b);
    }
    if (p)
        SLIST_REMOVE(&pools, p, kept, link);
    free(p);
    pthread_mutex_unlock(&torch_lock);
}
