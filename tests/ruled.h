/* ruled.h - six simulated tiers that know whose bytes they hold, for tests of
 * placement rules: two devices, two host tiers and two disks, in this order.
 *
 * Tensors are filled with lines of 64 bytes that begin with a mark: whose they are. The
 * tiers are asked, not the core, where marks are: in all memory that is committed, and
 * in what is copied, at both of its ends. Nothing here is hardware.
 *
 * Include it instead of simnode.h; name the tiers wanted in TERRACE_TIERS. */
#ifndef TERRACE_TESTS_RULED_H
#define TERRACE_TESTS_RULED_H

#include <fcntl.h>

#include "manager.h"
#include "simnode.h"

enum { DEVA, DEVB, HOSTA, HOSTB, DISKA, DISKB, RULED_TIERS };
enum { RULED_RANGES = 6, RULED_MOST = 1 << 20, LINE_BYTES = 64, RULED_PAGE = 4096 };
#define RULED_ALL "deva:0,devb:0,hosta:0,hostb:0,diska:0,diskb:0"

static const struct {
    const char *kind, *vendor, *tier_class;
} ruled_kind[RULED_TIERS] = {{"deva", "avendor", "device"}, {"devb", "bvendor", "device"}, {"hosta", "", "host"},
                             {"hostb", "", "host"},         {"diska", "", "disk"},         {"diskb", "", "disk"}};

struct ruled {
    struct simnode node; /* first: its functions are given this */
    struct ruled_range {
        char *at;        /* NULL: none */
        size_t bytes;
        atomic_uchar *committed; /* per page */
    } range[RULED_RANGES];
};
static struct ruled ruled[RULED_TIERS];

/* Whose bytes may not be where: bit per tier, for the number in the mark. */
static atomic_uchar ruled_denied[RULED_MOST];
static bool ruled_lines;         /* marks may be anywhere, not just in whole pages */
static char ruled_failure[300];  /* the first that was found in copies, under the lock */
static pthread_mutex_t ruled_lock = PTHREAD_MUTEX_INITIALIZER;

/* ---- marks ------------------------------------------------------------- */

static const uint64_t RULED_MARK = 0xb17e5eed00000000, RULED_MASK = 0xffffffff00000000;

static inline void ruled_fill(void *p, size_t bytes, uint32_t id, uint32_t version)
{
    for (size_t i = 0; i + 16 <= bytes; i += LINE_BYTES) {
        uint64_t *line = (uint64_t *)(void *)((char *)p + i);
        line[0] = RULED_MARK | id;
        line[1] = (uint64_t)version << 32 | i / LINE_BYTES;
    }
}

static inline bool ruled_is(const void *p, size_t bytes, uint32_t id, uint32_t version)
{
    for (size_t i = 0; i + 16 <= bytes; i += LINE_BYTES) {
        const uint64_t *line = (const uint64_t *)(const void *)((const char *)p + i);
        bool right = version ? line[0] == (RULED_MARK | id) && line[1] == ((uint64_t)version << 32 | i / LINE_BYTES)
                             : line[0] == 0 && line[1] == 0;
        if (!right)
            return false;
    }
    return true;
}

/* The first number of those whose mark is there and who may not be on the tier; 0: all
 * is well. Others may be writing meanwhile. */
__attribute__((noinline, no_sanitize("thread", "address"))) static uint32_t ruled_stray(const void *p, size_t bytes,
                                                                                     unsigned tier)
{
    const volatile uint64_t *at = p;
    size_t step = ruled_lines ? LINE_BYTES / 8 : RULED_PAGE / 8 - LINE_BYTES / 8;
    for (size_t i = 0; i < bytes / 8; i += step) {
        uint64_t word = at[i];
        if ((word & RULED_MASK) == RULED_MARK && ruled_denied[word & (RULED_MOST - 1)] >> tier & 1)
            return (uint32_t)word;
        if (!ruled_lines && i % (RULED_PAGE / 8))
            i += LINE_BYTES / 8 - step; /* the first and the last line of each page */
    }
    return 0;
}

/* ---- the tiers --------------------------------------------------------- */

static struct ruled_range *ruled_find(struct ruled *r, const void *p)
{
    for (struct ruled_range *x = r->range; x < r->range + RULED_RANGES; x++)
        if (x->at && (uintptr_t)p - (uintptr_t)x->at < x->bytes)
            return x;
    return NULL;
}

static int ruled_add(struct ruled *r, void *at, size_t bytes)
{
    pthread_mutex_lock(&ruled_lock);
    for (struct ruled_range *x = r->range; x < r->range + RULED_RANGES; x++)
        if (!x->at) {
            *x = (struct ruled_range){at, bytes, calloc(bytes / RULED_PAGE + 1, 1)};
            pthread_mutex_unlock(&ruled_lock);
            return 0;
        }
    pthread_mutex_unlock(&ruled_lock);
    return -TERRACE_ENOMEM;
}

static int ruled_reserve(void *unit, uint64_t bytes, unsigned flags, uint64_t *base)
{
    int r = simnode_reserve(unit, bytes, flags, base);
    return r ? r : ruled_add(unit, simnode_at(unit, *base), bytes);
}

static void ruled_release(void *unit, uint64_t base, uint64_t bytes)
{
    pthread_mutex_lock(&ruled_lock);
    struct ruled_range *x = ruled_find(unit, simnode_at(unit, base));
    free((void *)x->committed);
    x->at = NULL;
    pthread_mutex_unlock(&ruled_lock);
    simnode_release(unit, base, bytes);
}

static void ruled_mark(struct ruled *r, const char *at, uint64_t bytes, bool committed)
{
    const struct ruled_range *x = ruled_find(r, at);
    for (size_t i = 0; i < bytes / RULED_PAGE; i++)
        atomic_store_explicit(&x->committed[(size_t)(at - x->at) / RULED_PAGE + i], committed, memory_order_relaxed);
}

static int ruled_commit(void *unit, uint64_t address, uint64_t bytes)
{
    int r = simnode_commit(unit, address, bytes);
    if (r == 0)
        ruled_mark(unit, simnode_at(unit, address), bytes, true);
    return r;
}

static void ruled_decommit(void *unit, uint64_t address, uint64_t bytes)
{
    ruled_mark(unit, simnode_at(unit, address), bytes, false);
    simnode_decommit(unit, address, bytes);
}

/* The tier that memory of the process belongs to; RULED_TIERS: none. */
static unsigned ruled_owner(const void *p)
{
    unsigned i = 0;
    while (i < RULED_TIERS && !ruled_find(&ruled[i], p))
        i++;
    return i;
}

/* Looks at both ends of a copy. Bytes may be nowhere but in tiers. */
static void ruled_look(struct ruled *r, const terrace_io *io)
{
    const void *tier = simnode_at(&r->node, io->address);
    unsigned here = (unsigned)(r - ruled), there = ruled_owner(io->host);
    const struct ruled_range *x = ruled_find(r, tier);
    uint32_t id = x ? ruled_stray(tier, io->bytes, here) : 0; /* else it is a user's file */
    if (!id)
        id = ruled_stray(io->host, io->bytes, here = there);
    if (id && !*ruled_failure)
        snprintf(ruled_failure, sizeof ruled_failure, "a copy %s %s had bytes of tensor %u in %s",
                 io->op == TERRACE_IO_READ ? "from" : "to", ruled_kind[r - ruled].kind, id,
                 here < RULED_TIERS ? ruled_kind[here].kind : "no tier");
}

static int ruled_wait(void *unit, terrace_io **done, unsigned max, int64_t timeout_ns)
{
    int n = simnode_wait(unit, done, max, timeout_ns);
    pthread_mutex_lock(&ruled_lock);
    for (int i = 0; i < n; i++)
        ruled_look(unit, done[i]);
    pthread_mutex_unlock(&ruled_lock);
    return n;
}

static int ruled_open(const terrace_host *host, int index, terrace_unit_info *info, void **unit)
{
    (void)host;
    struct ruled *r = &ruled[index];
    if (!r->node.shift)
        pthread_cond_init(&r->node.changed, NULL);
    pthread_mutex_init(&r->node.lock, NULL);
    r->node.shift = index == HOSTA || index == HOSTB ? 0 : 1ull << 62;
    r->node.committed = 0;
    snprintf(info->vendor, sizeof info->vendor, "%s", ruled_kind[index].vendor);
    *unit = r;
    return simnode_describe(info);
}

/* A file is read into memory; it is never more than some pages. */
static int ruled_attach(void *unit, const char *path, uint64_t offset, uint64_t bytes, uint64_t *base)
{
    struct ruled *r = unit;
    size_t room = (bytes + RULED_PAGE - 1) / RULED_PAGE * RULED_PAGE;
    void *p = mmap(NULL, room, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    int fd = open(path, O_RDONLY | O_CLOEXEC);
    bool good = fd >= 0 && p != MAP_FAILED && pread(fd, p, bytes, (off_t)offset) == (ssize_t)bytes;
    if (fd >= 0)
        close(fd);
    *base = (uint64_t)(uintptr_t)p + r->node.shift;
    return good ? 0 : -TERRACE_ENOENT; /* not in the list of ranges: no tier's memory */
}

static void ruled_detach(void *unit, uint64_t base, uint64_t bytes)
{
    munmap(simnode_at(unit, base), (bytes + RULED_PAGE - 1) / RULED_PAGE * RULED_PAGE);
}

#define RULED_OPEN(index)                                                                            \
    static int ruled_open_##index(const terrace_host *host, int i, terrace_unit_info *info, void **unit) \
    {                                                                                                \
        (void)i;                                                                                     \
        return ruled_open(host, index, info, unit);                                                  \
    }
RULED_OPEN(0) RULED_OPEN(1) RULED_OPEN(2) RULED_OPEN(3) RULED_OPEN(4) RULED_OPEN(5)

#define RULED(index, kind, class, capabilities, ...)                                                 \
    {.abi = TERRACE_BACKEND_ABI, .size = sizeof(terrace_backend), .name = kind, .tier_class = class, \
     .caps = capabilities, .count = simnode_count, .open = ruled_open_##index, .close = simnode_close, \
     .reserve = ruled_reserve, .release = ruled_release, .commit = ruled_commit,                     \
     .decommit = ruled_decommit, .submit = simnode_submit, .wait = ruled_wait, .wake = simnode_wake, \
     .explain = simnode_explain, __VA_ARGS__}
static const terrace_backend ruled_backend[RULED_TIERS] = {
    RULED(0, "deva", TERRACE_CLASS_DEVICE, 0, .pin = NULL),
    RULED(1, "devb", TERRACE_CLASS_DEVICE, 0, .pin = NULL),
    RULED(2, "hosta", TERRACE_CLASS_HOST, TERRACE_CAP_CPU, .adopt = simnode_adopt),
    RULED(3, "hostb", TERRACE_CLASS_HOST, TERRACE_CAP_CPU, .adopt = simnode_adopt),
    RULED(4, "diska", TERRACE_CLASS_DISK, 0, .attach = ruled_attach, .detach = ruled_detach),
    RULED(5, "diskb", TERRACE_CLASS_DISK, 0, .attach = ruled_attach, .detach = ruled_detach),
};

/* Aligned as single entries are: there are others in the section. */
__attribute__((used, section("terrace_backends"), aligned(sizeof(void *)))) static const terrace_backend *const ruled_entry[] = {
    &ruled_backend[0], &ruled_backend[1], &ruled_backend[2], &ruled_backend[3], &ruled_backend[4], &ruled_backend[5]};

/* Where the CPU finds what lies at an address that acquire gave. */
static inline void *ruled_seen(void *at)
{
    return (uintptr_t)at >> 62 & 1 ? simnode_at(&ruled[DEVA].node, (uintptr_t)at) : at;
}

/* ---- asking them ------------------------------------------------------- */

static inline bool ruled_clean(char *why, size_t len)
{
    uint32_t id = 0;
    pthread_mutex_lock(&ruled_lock);
    snprintf(why, len, "%s", ruled_failure);
    for (unsigned t = 0; t < RULED_TIERS && !id && !*why; t++)
        for (const struct ruled_range *x = ruled[t].range; x < ruled[t].range + RULED_RANGES && !id; x++)
            for (size_t i = 0; x->at && i < x->bytes / RULED_PAGE && !id; i++)
                if (atomic_load_explicit(&x->committed[i], memory_order_relaxed) &&
                    (id = ruled_stray(x->at + i * RULED_PAGE, RULED_PAGE, t)) != 0)
                    snprintf(why, len, "bytes of tensor %u are in %s", id, ruled_kind[t].kind);
    pthread_mutex_unlock(&ruled_lock);
    return !*why;
}

#endif
