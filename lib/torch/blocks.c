/* blocks.c - PyTorch's door: what torch.cuda.memory.CUDAPluggableAllocator calls.
 *
 * Each block is a tensor that is held acquired on the device's tier for as long as torch
 * has it, so that its address stays; by the stream on which torch asked for it, so that
 * its memory goes to others only when the device has got past that block's last use. It
 * counts to the tier's budget beside the tensors of the program itself, which make room
 * for it. The manager is the process's: the one of a preloaded libterrace-preload.so, or
 * of a program that has opened one with the settings of the environment, or a new one.
 *
 * Torch calls from many threads and knows blocks by their address alone.
 *
 * May call: torch.h, core.h, error.h, process.h, terrace.h. */
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>

#include "core.h"
#include "process.h"
#include "torch.h"

enum { ALIGNMENT = 512 }; /* torch's own allocator gives no less */

RB_HEAD(block_tree, torch_block);

/* Blocks are the same where they overlap. */
static int compare(const struct torch_block *a, const struct torch_block *b)
{
    return a->address + a->bytes <= b->address ? -1 : b->address + b->bytes <= a->address;
}

#define UNUSED_STATIC __attribute__((unused)) static
RB_GENERATE_INTERNAL(block_tree, torch_block, by_address, compare, UNUSED_STATIC)

pthread_mutex_t torch_lock = PTHREAD_MUTEX_INITIALIZER;
static pthread_mutex_t opening = PTHREAD_MUTEX_INITIALIZER; /* taken before all others */

/* Under the lock, but for the manager, which once there stays. */
static struct door {
    terrace *_Atomic manager;
    struct block_tree blocks;
    uint64_t used[TORCH_DEVICES], most[TORCH_DEVICES]; /* 0: no limit of torch's */
} door;

static int manager_open_once(terrace **out)
{
    int r = 0;
    if (!door.manager) {
        terrace *m;
        pthread_mutex_lock(&opening);
        if (!door.manager && (r = process_share(&m)) == 0)
            door.manager = m;
        pthread_mutex_unlock(&opening);
    }
    *out = door.manager;
    return r ? r : manager_check(*out); /* a child's torch has no device, either */
}

/* Torch numbers the devices as the driver does. It is built for one vendor's. */
static int tier_of(terrace *m, int device, terrace_tier *out)
{
    char name[32];
    if (device < 0 || device >= TORCH_DEVICES)
        return error_set(-TERRACE_EINVAL, "torch asks for device %d; there are at most %d", device, TORCH_DEVICES);
    snprintf(name, sizeof name, "hip:%d", device);
    if (terrace_tier_find(m, name, out) == 0)
        return 0;
    snprintf(name, sizeof name, "cuda:%d", device);
    return terrace_tier_find(m, name, out);
}

/* ---- the books ---------------------------------------------------------------- */

/* Whether torch's own limit allows so many bytes more; counts them. */
static int charge(int device, size_t bytes)
{
    pthread_mutex_lock(&torch_lock);
    uint64_t used = door.used[device], most = door.most[device];
    bool fits = !most || (used <= most && bytes <= most - used);
    if (fits)
        door.used[device] += bytes;
    pthread_mutex_unlock(&torch_lock);
    char asked[BYTES_TEXT], in_use[BYTES_TEXT], limit[BYTES_TEXT];
    return fits ? 0 : error_set(-TERRACE_EBUDGET, "torch asks for %s more than the %s it uses of device %d, and "
                                "set_per_process_memory_fraction() allows it %s", bytes_text(bytes, asked),
                                bytes_text(used, in_use), device, bytes_text(most, limit));
}

static void uncharge(int device, size_t bytes)
{
    pthread_mutex_lock(&torch_lock);
    door.used[device] -= bytes;
    pthread_mutex_unlock(&torch_lock);
}

static void publish(struct torch_block *b)
{
    pthread_mutex_lock(&torch_lock);
    RB_INSERT(block_tree, &door.blocks, b);
    pthread_mutex_unlock(&torch_lock);
}

static struct torch_block *find_locked(const void *p)
{
    struct torch_block key = {.address = (uintptr_t)p, .bytes = 1};
    return RB_FIND(block_tree, &door.blocks, &key);
}

/* ---- memory ------------------------------------------------------------------- */

static void block_free(struct torch_block *b)
{
    struct torch_use *u;
    while ((u = b->uses) != NULL) {
        b->uses = u->next;
        free(u);
    }
    free(b);
}

/* All use of it has ended. */
static void drop(struct torch_block *b)
{
    while (b->pins--)
        terrace_release(b->tensor, (void *)b->address, TERRACE_HOST_SYNC);
    terrace_tensor_destroy(b->tensor);
    block_free(b);
}

void torch_drop(struct torch_list *list)
{
    struct torch_block *b;
    while ((b = SLIST_FIRST(list)) != NULL) {
        SLIST_REMOVE_HEAD(list, link);
        drop(b);
    }
}

/* A stream that is being captured cannot have anything recorded for it; memory that is
 * new has nothing to wait for. */
static int hold(struct torch_block *b, terrace_tier tier)
{
    void *p;
    int r = terrace_acquire(b->tensor, tier, TERRACE_OVERWRITE, b->stream, &p, NULL);
    if (r == -TERRACE_EBUSY) {
        b->captured = true;
        r = terrace_acquire(b->tensor, tier, TERRACE_OVERWRITE, TERRACE_HOST_SYNC, &p, NULL);
    }
    if (r)
        return r;
    b->address = (uintptr_t)p;
    b->pins = 1;
    return 0;
}

static int block_new(terrace *m, size_t bytes, int device, void *stream, terrace_tier tier, struct torch_block **out)
{
    terrace_tensor_attr attr = {.size = sizeof attr, .label = "torch", .alignment = ALIGNMENT};
    struct torch_block *b = calloc(1, sizeof *b);
    if (!b)
        return error_set(-TERRACE_ENOMEM, "no host memory for the book-keeping of a block of torch's");
    *b = (struct torch_block){.bytes = bytes, .device = device, .stream = stream};
    int r = terrace_tensor_create(m, bytes, &attr, &b->tensor);
    if (r == 0 && (r = hold(b, tier)) == 0) {
        *out = b;
        return 0;
    }
    terrace_tensor_destroy(b->tensor);
    block_free(b);
    return r;
}

static bool is_shortage(int r)
{
    return r == -TERRACE_EBUDGET || r == -TERRACE_EDEVMEM || r == -TERRACE_ENOMEM || r == -TERRACE_ERULE;
}

/* Where there is no room, what is only kept until the device rests goes first. */
static int block_make(terrace *m, size_t bytes, int device, void *stream, struct torch_block **out)
{
    terrace_tier tier;
    struct torch_list parted;
    int r = tier_of(m, device, &tier);
    if (r == 0)
        r = block_new(m, bytes, device, stream, tier, out);
    if (is_shortage(r)) {
        torch_parted_take(&parted);
        bool again = !SLIST_EMPTY(&parted);
        torch_drop(&parted);
        if (again)
            r = block_new(m, bytes, device, stream, tier, out);
    }
    return r;
}

static int allocate(size_t bytes, int device, void *stream, void **out)
{
    terrace *m;
    struct torch_block *b = NULL;
    int r = manager_open_once(&m);
    if (r == 0 && (device < 0 || device >= TORCH_DEVICES))
        r = error_set(-TERRACE_EINVAL, "torch asks for device %d; there are at most %d", device, TORCH_DEVICES);
    if (r == 0)
        r = charge(device, bytes);
    if (r)
        return r;
    pthread_mutex_lock(&torch_lock);
    b = torch_pool_take(bytes, device, stream);
    pthread_mutex_unlock(&torch_lock);
    if (!b)
        r = block_make(m, bytes, device, stream, &b);
    if (r) {
        uncharge(device, bytes);
        return r;
    }
    if (b->captured) {
        pthread_mutex_lock(&torch_lock);
        b->pool = torch_pool_of(device);
        pthread_mutex_unlock(&torch_lock);
    }
    *out = (void *)b->address;
    publish(b);
    return 0;
}

void *terrace_torch_alloc_or_null(size_t size, int device, void *stream)
{
    void *p;
    return size && allocate(size, device, stream, &p) == 0 ? p : NULL;
}

void *terrace_torch_alloc(size_t size, int device, void *stream)
{
    void *p = terrace_torch_alloc_or_null(size, device, stream);
    if (!p && size)
        torch_raise(terrace_last_error());
    return p;
}

/* Every use is recorded in its stream, and the memory goes to others behind that.
 * False: one could not be. */
static bool release(struct torch_block *b)
{
    void *p = (void *)b->address;
    for (struct torch_use *u = b->uses; u && !b->unmarked; u = b->uses) {
        if (terrace_release(b->tensor, p, u->stream))
            return false;
        b->pins--;
        b->uses = u->next;
        free(u);
    }
    if (b->unmarked || terrace_release(b->tensor, p, b->stream))
        return false;
    b->pins--;
    return true;
}

void terrace_torch_free(void *ptr, size_t size, int device, void *stream)
{
    (void)size; /* as it was asked for; so are the others */
    (void)device;
    (void)stream;
    if (!ptr || !door.manager || manager_check(door.manager))
        return;
    pthread_mutex_lock(&torch_lock);
    struct torch_block *b = find_locked(ptr);
    if (b && b->address != (uintptr_t)ptr)
        b = NULL;
    if (b) {
        RB_REMOVE(block_tree, &door.blocks, b);
        door.used[b->device] -= b->bytes;
    }
    bool kept = b && b->captured && torch_pool_keep(b);
    pthread_mutex_unlock(&torch_lock);
    if (!b) {
        log_write(&((terrace *)door.manager)->log, TERRACE_LOG_WARN, "torch frees %p, which is no block of its", ptr);
        return;
    }
    if (kept)
        return;
    if (!b->captured && release(b)) {
        terrace_tensor_destroy(b->tensor);
        block_free(b);
        return;
    }
    pthread_mutex_lock(&torch_lock);
    torch_part(b);
    pthread_mutex_unlock(&torch_lock);
}

/* ---- what else torch may ask ---------------------------------------------------- */

void terrace_torch_init(int devices)
{
    terrace *m;
    if (devices > 0)
        (void)manager_open_once(&m); /* the first block says what is wrong */
}

void terrace_torch_reset(void)
{
    terrace *m = door.manager;
    struct torch_list parted;
    if (!m || manager_check(m))
        return;
    torch_parted_take(&parted);
    torch_drop(&parted);
    manager_lock(m);
    for (unsigned i = 0; i < m->tiers; i++)
        if (m->tier[i].backend->tier_class == TERRACE_CLASS_DEVICE)
            tier_purge_locked(&m->tier[i]);
    manager_unlock(m);
}

void terrace_torch_memory_fraction(double fraction, int device)
{
    terrace *m;
    terrace_tier tier;
    terrace_tier_statistics s = {.size = sizeof s};
    if (manager_open_once(&m) || tier_of(m, device, &tier) || terrace_tier_stats(m, tier, &s))
        return;
    double most = fraction >= 0 && fraction < 1 ? fraction * (double)s.limit : 0;
    pthread_mutex_lock(&torch_lock);
    door.most[device] = fraction >= 1 ? 0 : most >= 1 ? (uint64_t)most : 1;
    pthread_mutex_unlock(&torch_lock);
}

void *terrace_torch_base_alloc(void *ptr, size_t *size)
{
    pthread_mutex_lock(&torch_lock);
    const struct torch_block *b = find_locked(ptr);
    void *base = b ? (void *)b->address : ptr;
    if (size)
        *size = b ? b->bytes : 0;
    pthread_mutex_unlock(&torch_lock);
    return base;
}

/* One more pin, which that stream is to let go of. */
static bool use(struct torch_block *b, void *stream)
{
    struct torch_use *u = calloc(1, sizeof *u);
    terrace_tier tier;
    void *p;
    if (!u || tier_of(b->tensor->manager, b->device, &tier) ||
        terrace_acquire(b->tensor, tier, TERRACE_WRITE, stream, &p, NULL)) {
        free(u);
        return false;
    }
    pthread_mutex_lock(&torch_lock);
    *u = (struct torch_use){b->uses, stream};
    b->uses = u;
    b->pins++;
    pthread_mutex_unlock(&torch_lock);
    return true;
}

/* Torch does not give a block back while it says this of it. */
void terrace_torch_record_stream(void *ptr, void *stream)
{
    if (!door.manager || manager_check(door.manager))
        return;
    pthread_mutex_lock(&torch_lock);
    struct torch_block *b = find_locked(ptr);
    bool other = b && !b->captured && stream != b->stream;
    for (const struct torch_use *u = b ? b->uses : NULL; u && other; u = u->next)
        other = u->stream != stream;
    pthread_mutex_unlock(&torch_lock);
    if (other && !use(b, stream))
        b->unmarked = true;
}
