/* heap_cache.c - thread caches in front of a heap.
 *
 * Addresses travel in magazines, arrays of a few dozen of one size. A thread has
 * two per size and allocates from, and frees to, the one that is loaded, with no
 * lock and no look at what it deals with: who frees says how large it was. When
 * neither will do, a full one is exchanged for an empty one with a depot. There are
 * a few of these, which threads take turns in calling their own, so that they seldom
 * meet; only where none of them has any is the heap asked. A magazine holds less
 * of what is large.
 *
 * A thread may lack host memory for its cache, then it uses the heap. Addresses
 * in a cache are allocated as far as the heap knows: to trim is to free those
 * magazines of the depot that were in it all the time since the last trim.
 *
 * May call: heap.h, libc. */
#include "heap_cache.h"

#include <pthread.h>
#include <stdatomic.h>
#include <stdbool.h>
#include <stdlib.h>
#include <string.h>
#include <sys/queue.h>
#include <unistd.h>

#include "error.h"

enum {
    CLASSES = 60,          /* 16, 32, 48, 64, 80 ... 1 MiB */
    ROUNDS = 30,           /* of a magazine, at most */
    ROUNDS_BYTES = 256 << 10,
    PAGE_BYTES = 4096,
    SHARDS = 4,            /* depots of a size */
    LINE = 64,             /* of a processor's cache */
};

/* In lines of its own: neighbours are other threads'. */
struct magazine {
    struct magazine *next;
    unsigned n; /* but while it is loaded */
    uint64_t at[ROUNDS];
};
_Static_assert(sizeof(struct magazine) % LINE == 0, "a magazine shares no line");

struct bin {
    struct magazine *loaded, *spare; /* or NULL */
    unsigned n, most;                /* of what is loaded; 0, 0: nothing */
};

/* One thread's part of one cache, which lives as long as any of its parts. */
struct local {
    struct heap_cache *cache;
    unsigned shard;             /* its own depots */
    struct local *next;         /* of the same thread */
    LIST_ENTRY(local) of_cache; /* under cache.lock, until that is closed */
    struct bin bin[CLASSES];
};

struct depot {
    _Alignas(LINE) pthread_mutex_t lock;
    struct magazine *full, *empty;
    atomic_uint n;  /* full ones; changes under the lock */
    unsigned least; /* of them, since the last trim */
};

struct heap_cache {
    struct heap *heap;
    pid_t process;        /* a child's threads leave it alone */
    atomic_uint users;    /* parts, and one until it is closed */
    pthread_mutex_t lock; /* before those of the depots; protects the two below */
    LIST_HEAD(, local) locals;
    atomic_bool closed;
    atomic_uint locals_made;
    struct depot depot[SHARDS][CLASSES];
};

static _Thread_local struct local *mine; /* the last one used first */
static pthread_key_t at_exit; /* of a thread */
static pthread_once_t at_exit_once = PTHREAD_ONCE_INIT;
static bool at_exit_made;

/* ---- sizes ------------------------------------------------------------- */

static size_t class_size(unsigned class)
{
    return class < 4 ? 16 * (class + 1) : (size_t)(class % 4 + 5) << (class / 4 + 3);
}

/* The smallest that holds `bytes` at a multiple of the alignment; CLASSES: none. */
static inline unsigned class_of(size_t bytes, size_t alignment)
{
    size_t last = bytes - 1;
    if (__builtin_expect(last >= HEAP_CACHE_MOST || alignment > PAGE_BYTES, 0))
        return CLASSES;
    unsigned log = 63 - (unsigned)__builtin_clzl(last | 63); /* at least 5 */
    unsigned class = (log - 5) * 4 + (unsigned)(last >> (log - (log > 5 ? 2 : 1)) & 3);
    if (alignment > 16)
        while (class < CLASSES && class_size(class) & (alignment - 1))
            class++;
    return class;
}

/* What every allocation of a class is aligned to. */
static size_t class_alignment(unsigned class)
{
    size_t size = class_size(class), alignment = size & -size;
    return alignment < PAGE_BYTES ? alignment : PAGE_BYTES;
}

static unsigned class_rounds(unsigned class)
{
    size_t n = ROUNDS_BYTES / class_size(class);
    return n > ROUNDS ? ROUNDS : n < 2 ? 2 : (unsigned)n;
}

/* ---- magazines --------------------------------------------------------- */

static struct magazine *magazine_new(void)
{
    return aligned_alloc(LINE, sizeof(struct magazine));
}

static void magazine_unload(struct heap *heap, struct magazine *m)
{
    while (m && m->n)
        heap_free(heap, m->at[--m->n]);
}

static struct depot *depot_at(struct heap_cache *c, unsigned i)
{
    return &c->depot[i / CLASSES][i % CLASSES];
}

static void magazines_free(struct magazine *m)
{
    while (m) {
        struct magazine *next = m->next;
        free(m);
        m = next;
    }
}

static void bin_load(struct bin *b, struct magazine *m, unsigned class)
{
    b->loaded = m;
    b->n = m ? m->n : 0;
    b->most = m ? class_rounds(class) : 0;
}

static struct magazine *bin_loaded(const struct bin *b)
{
    if (b->loaded)
        b->loaded->n = b->n;
    return b->loaded;
}

static void bin_swap(struct bin *b, unsigned class)
{
    struct magazine *m = bin_loaded(b);
    bin_load(b, b->spare, class);
    b->spare = m;
}

/* Takes a full one in exchange for what is loaded, which is empty; false: there is none. */
static bool depot_take(struct depot *d, struct bin *b, unsigned class)
{
    pthread_mutex_lock(&d->lock);
    struct magazine *m = d->full;
    if (m) {
        d->full = m->next;
        if (--d->n < d->least)
            d->least = d->n;
        if (b->loaded) {
            b->loaded->next = d->empty;
            d->empty = b->loaded;
        }
    }
    pthread_mutex_unlock(&d->lock);
    if (m)
        bin_load(b, m, class);
    return m;
}

static void depot_put_locked(struct depot *d, struct magazine *full)
{
    full->next = d->full;
    d->full = full;
    d->n++;
}

/* The same from whichever depot has one, its own first. */
static bool depots_take(struct heap_cache *c, unsigned shard, struct bin *b, unsigned class)
{
    for (unsigned i = 0; i < SHARDS; i++) {
        struct depot *d = &c->depot[(shard + i) % SHARDS][class];
        if (atomic_load_explicit(&d->n, memory_order_relaxed) && depot_take(d, b, class))
            return true;
    }
    return false;
}

/* Has an empty one loaded; a full spare one goes. False: no host memory. */
static bool depot_give(struct depot *d, struct bin *b, unsigned class)
{
    pthread_mutex_lock(&d->lock);
    struct magazine *m = d->empty, *full = b->spare;
    if (m) {
        d->empty = m->next;
        if (full)
            depot_put_locked(d, full);
    }
    pthread_mutex_unlock(&d->lock);
    if (!m) {
        m = magazine_new();
        if (!m)
            return false;
        if (full) {
            pthread_mutex_lock(&d->lock);
            depot_put_locked(d, full);
            pthread_mutex_unlock(&d->lock);
        }
    }
    m->n = 0;
    b->spare = bin_loaded(b);
    bin_load(b, m, class);
    return true;
}

/* Frees those full ones that were not needed, or all, and all that are empty. */
static void depot_shed(struct heap *heap, struct depot *d, bool all)
{
    pthread_mutex_lock(&d->lock);
    struct magazine *empty = d->empty, *full = NULL;
    for (unsigned n = all ? d->n : d->least; n; n--) {
        struct magazine *m = d->full;
        d->full = m->next;
        d->n--;
        m->next = full;
        full = m;
    }
    d->least = d->n;
    d->empty = NULL;
    pthread_mutex_unlock(&d->lock);
    for (struct magazine *m = full; m; m = m->next)
        magazine_unload(heap, m);
    magazines_free(full);
    magazines_free(empty);
}

/* ---- a thread's part --------------------------------------------------- */

static void bins_free(struct local *l)
{
    for (unsigned i = 0; i < CLASSES; i++) {
        free(l->bin[i].loaded);
        free(l->bin[i].spare);
        l->bin[i] = (struct bin){NULL, NULL, 0, 0};
    }
}

/* What a thread has kept, for others: full magazines go to the depot. */
static void bins_hand_over(struct heap_cache *c, struct local *l)
{
    for (unsigned i = 0; i < CLASSES; i++) {
        struct bin *b = &l->bin[i];
        struct magazine **both[] = {&b->loaded, &b->spare};
        bin_loaded(b);
        for (int k = 0; k < 2; k++) {
            struct magazine *m = *both[k];
            if (!m || m->n < class_rounds(i)) {
                magazine_unload(c->heap, m);
                continue;
            }
            struct depot *d = &c->depot[l->shard][i];
            pthread_mutex_lock(&d->lock);
            depot_put_locked(d, m);
            pthread_mutex_unlock(&d->lock);
            *both[k] = NULL;
        }
    }
}

static void cache_leave(struct heap_cache *c)
{
    if (--c->users == 0) {
        pthread_mutex_destroy(&c->lock);
        free(c);
    }
}

/* The thread's part, off its list, ends. */
static void local_end(struct local *l)
{
    struct heap_cache *c = l->cache;
    pthread_mutex_lock(&c->lock);
    if (!c->closed) {
        bins_hand_over(c, l);
        LIST_REMOVE(l, of_cache);
    }
    pthread_mutex_unlock(&c->lock);
    bins_free(l);
    free(l);
    cache_leave(c);
}

static void thread_ends(void *first)
{
    struct local *l = first;
    mine = NULL;
    while (l) {
        struct local *next = l->next;
        if (l->cache->process == getpid())
            local_end(l);
        l = next;
    }
}

static void at_exit_make(void)
{
    at_exit_made = pthread_key_create(&at_exit, thread_ends) == 0;
}

/* Ends the thread's parts of caches that have been closed. */
static void locals_tidy(void)
{
    struct local **link = &mine;
    while (*link) {
        struct local *l = *link;
        if (l->cache->closed && l->cache->process == getpid()) {
            *link = l->next;
            local_end(l);
        } else {
            link = &l->next;
        }
    }
    pthread_setspecific(at_exit, mine);
}

static struct local *local_add(struct heap_cache *c)
{
    struct local *l = at_exit_made ? calloc(1, sizeof *l) : NULL;
    if (!l)
        return NULL;
    l->cache = c;
    l->shard = c->locals_made++ % SHARDS;
    l->next = mine;
    if (pthread_setspecific(at_exit, l)) {
        free(l);
        return NULL;
    }
    mine = l;
    c->users++;
    pthread_mutex_lock(&c->lock);
    LIST_INSERT_HEAD(&c->locals, l, of_cache);
    pthread_mutex_unlock(&c->lock);
    return l;
}

/* The thread's part of a cache that is not the first on its list; NULL: there is
 * no host memory for one. */
static __attribute__((noinline)) struct local *local_find(struct heap_cache *c)
{
    pthread_once(&at_exit_once, at_exit_make);
    if (at_exit_made)
        locals_tidy();
    struct local **link = &mine;
    while (*link && (*link)->cache != c)
        link = &(*link)->next;
    struct local *l = *link;
    if (!l)
        return local_add(c);
    *link = l->next;
    l->next = mine;
    mine = l;
    pthread_setspecific(at_exit, l); /* there is one already: cannot fail */
    return l;
}

static inline struct local *local_of(struct heap_cache *c)
{
    struct local *l = mine;
    return __builtin_expect(l && l->cache == c, 1) ? l : local_find(c);
}

/* ---- allocating -------------------------------------------------------- */

static uint64_t alloc_anew(struct heap_cache *c, unsigned class)
{
    uint64_t address = heap_alloc(c->heap, class_size(class), class_alignment(class));
    if (address)
        return address;
    heap_cache_purge(c); /* what it needs may be kept in other sizes */
    return heap_alloc(c->heap, class_size(class), class_alignment(class));
}

static __attribute__((noinline)) uint64_t alloc_slow(struct heap_cache *c, struct local *l, unsigned class)
{
    struct bin *b = l ? &l->bin[class] : NULL;
    if (!b)
        return alloc_anew(c, class);
    if (b->spare && b->spare->n)
        bin_swap(b, class);
    else if (!depots_take(c, l->shard, b, class))
        return alloc_anew(c, class);
    return b->loaded->at[--b->n];
}

uint64_t heap_cache_alloc(struct heap_cache *c, size_t bytes, size_t alignment)
{
    unsigned class = class_of(bytes, alignment);
    if (__builtin_expect(class >= CLASSES, 0))
        return heap_alloc(c->heap, bytes, alignment);
    struct local *l = local_of(c);
    struct bin *b = l ? &l->bin[class] : NULL;
    if (__builtin_expect(b && b->n, 1))
        return b->loaded->at[--b->n];
    return alloc_slow(c, l, class);
}

static __attribute__((noinline)) void free_slow(struct heap_cache *c, struct local *l, unsigned class,
                                                uint64_t address)
{
    struct bin *b = l ? &l->bin[class] : NULL;
    if (b && b->spare && b->spare->n < class_rounds(class))
        bin_swap(b, class);
    else if (!b || !depot_give(&c->depot[l->shard][class], b, class)) {
        heap_free(c->heap, address);
        return;
    }
    b->loaded->at[b->n++] = address;
}

void heap_cache_free(struct heap_cache *c, uint64_t address, size_t bytes, size_t alignment)
{
    if (!address)
        return;
    unsigned class = class_of(bytes, alignment);
    if (__builtin_expect(class >= CLASSES, 0)) {
        heap_free(c->heap, address);
        return;
    }
    struct local *l = local_of(c);
    struct bin *b = l ? &l->bin[class] : NULL;
    if (__builtin_expect(b && b->n < b->most, 1))
        b->loaded->at[b->n++] = address;
    else
        free_slow(c, l, class, address);
}

/* ---- giving back ------------------------------------------------------- */

void heap_cache_trim(struct heap_cache *c)
{
    for (unsigned i = 0; i < SHARDS * CLASSES; i++)
        depot_shed(c->heap, depot_at(c, i), false);
}

void heap_cache_purge(struct heap_cache *c)
{
    struct local *l = local_of(c);
    for (unsigned i = 0; l && i < CLASSES; i++) {
        magazine_unload(c->heap, bin_loaded(&l->bin[i]));
        magazine_unload(c->heap, l->bin[i].spare);
        l->bin[i].n = 0;
    }
    for (unsigned i = 0; i < SHARDS * CLASSES; i++)
        depot_shed(c->heap, depot_at(c, i), true);
    heap_purge(c->heap);
}

/* ---- opening and closing ----------------------------------------------- */

int heap_cache_open(struct heap_cache **out, struct heap *heap)
{
    struct heap_cache *c = aligned_alloc(LINE, sizeof *c);
    if (!c)
        return error_set(-TERRACE_ENOMEM, "no host memory to keep small allocations for reuse");
    memset(c, 0, sizeof *c);
    c->heap = heap;
    c->process = getpid();
    c->users = 1;
    LIST_INIT(&c->locals);
    pthread_mutex_init(&c->lock, NULL);
    for (unsigned i = 0; i < SHARDS * CLASSES; i++)
        pthread_mutex_init(&depot_at(c, i)->lock, NULL);
    *out = c;
    return 0;
}

void heap_cache_close(struct heap_cache *c)
{
    struct local *l;
    if (!c)
        return;
    pthread_mutex_lock(&c->lock);
    c->closed = true;
    while ((l = LIST_FIRST(&c->locals)) != NULL) {
        LIST_REMOVE(l, of_cache);
        bins_free(l); /* the rest is its thread's, which frees it some time */
    }
    pthread_mutex_unlock(&c->lock);
    for (unsigned i = 0; i < SHARDS * CLASSES; i++) {
        struct depot *d = depot_at(c, i);
        magazines_free(d->full);
        magazines_free(d->empty);
        pthread_mutex_destroy(&d->lock);
    }
    cache_leave(c);
}
