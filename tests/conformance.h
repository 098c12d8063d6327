/* conformance.h - what every tier backend must do, as tests.
 *
 * CONFORMANCE(name, subject) makes one Criterion suite of them, where subject
 * is a struct conformance that names the backend and how it is set up. They
 * only use include/terrace_backend.h. A subject's suite runs each test in a
 * process of its own, with fresh temporary folders. */
#ifndef TERRACE_TESTS_CONFORMANCE_H
#define TERRACE_TESTS_CONFORMANCE_H

#include <criterion/criterion.h>
#include <fcntl.h>
#include <pthread.h>

#include "backend_stub.h"

struct conformance {
    const char *backend;
    const char *io;     /* option IO; the engine it must give, where engine is set */
    const char *engine;
    unsigned folders;   /* spill folders */
    void (*prepare)(void); /* what is to be set up before, or NULL */
};

static struct {
    const terrace_backend *b;
    void *unit;
    terrace_unit_info info;
    unsigned fds, threads;
} t;

/* A committed range. */
STUB uint64_t conform_range(uint64_t bytes)
{
    uint64_t base = 0;
    cr_assert_eq(t.b->reserve(t.unit, bytes, 0, &base), 0, "%s", stub.sentence);
    cr_assert_eq(base % t.info.granule, 0);
    cr_assert_eq(t.b->commit(t.unit, base, bytes), 0, "%s", stub.sentence);
    return base;
}

/* ---- set up and taken down around every test ----------------------------- */

STUB void conform_open(const struct conformance *c)
{
    folders_make(c->folders);
    stub.io = c->io;
    if (c->prepare)
        c->prepare();
    t.b = backend_named(c->backend);
    cr_assert_not_null(t.b);
    cr_assert_geq(t.b->count(&stub_host), 1, "%s", stub.sentence);
    if (t.b->tier_class == TERRACE_CLASS_DEVICE) { /* what its runtime starts with the first use stays */
        t.info = (terrace_unit_info){.size = sizeof t.info};
        cr_assert_eq(t.b->open(&stub_host, 0, &t.info, &t.unit), 0, "%s", stub.sentence);
        t.b->release(t.unit, conform_range(t.info.granule), t.info.granule);
        t.b->close(t.unit);
    }
    t.fds = fds_open();
    t.threads = entries_in("/proc/self/task");
    t.info = (terrace_unit_info){.size = sizeof t.info};
    int error = t.b->open(&stub_host, 0, &t.info, &t.unit);
    cr_assert_eq(error, 0, "%s", stub.sentence);
    if (c->engine)
        cr_assert_str_eq(t.info.engine, c->engine, "%s", t.info.engine_reason);
}

STUB void conform_close(void)
{
    t.b->close(t.unit);
    cr_assert_eq(fds_open(), t.fds, "descriptors leaked");
    cr_assert(threads_settle(t.threads), "threads leaked");
    for (unsigned i = 0; i < STUB_FOLDERS; i++)
        if (stub_folder[i][0])
            cr_assert_eq(entries_in(stub_folder[i]), 0, "files left in %s", stub_folder[i]);
    folders_remove();
}

STUB terrace_io conform_io(int op, uint64_t address, void *host, size_t bytes)
{
    return (terrace_io){.address = address, .host = host, .bytes = bytes, .op = op, .result = 1};
}

STUB int conform_copy(int op, uint64_t address, void *host, size_t bytes)
{
    terrace_io io = conform_io(op, address, host, bytes);
    return copy_now(t.b, t.unit, &io);
}

/* Takes back n copies; fails the test where one comes twice or never. */
STUB void conform_collect(terrace_io *io, unsigned n)
{
    terrace_io *done[64];
    for (unsigned i = 0; i < n; i++)
        io[i].user = NULL;
    for (unsigned left = n; left;) {
        int got = t.b->wait(t.unit, done, 64, INT64_C(20000000000));
        cr_assert(got > 0 && (unsigned)got <= left, "wait gave %d of %u", got, left);
        left -= (unsigned)got;
        for (int i = 0; i < got; i++) {
            cr_assert_null(done[i]->user, "a copy came back twice");
            done[i]->user = done;
            cr_assert_eq(done[i]->result, 0, "result %d, errno %d", done[i]->result, done[i]->os_error);
        }
    }
    cr_assert_eq(t.b->wait(t.unit, done, 64, 0), 0);
}

/* ---- the tests ----------------------------------------------------------- */

STUB void conform_table(void)
{
    const terrace_unit_info *i = &t.info;
    cr_assert_eq(t.b->abi, TERRACE_BACKEND_ABI);
    cr_assert_eq(t.b->size, sizeof *t.b);
    cr_assert(t.b->tier_class >= TERRACE_CLASS_DEVICE && t.b->tier_class <= TERRACE_CLASS_DISK);
    cr_assert(t.b->count && t.b->open && t.b->close && t.b->reserve && t.b->release && t.b->commit);
    cr_assert(t.b->decommit && t.b->submit && t.b->wait && t.b->wake && t.b->explain);
    cr_assert_eq(!t.b->attach, !t.b->detach);
    cr_assert_eq(strspn(t.b->name, "abcdefghijklmnopqrstuvwxyz0123456789"), strlen(t.b->name));
    cr_assert_geq(t.b->count(&stub_host), 1);
    cr_assert(i->page >= 4096 && !(i->page & (i->page - 1)));
    cr_assert(i->granule >= i->page && i->granule % i->page == 0);
    cr_assert(i->io_chunk >= i->page && !(i->io_chunk & (i->io_chunk - 1)));
    cr_assert(i->io_depth >= 1 && i->io_boundary % i->io_chunk == 0);
    cr_assert(i->location[0] && i->engine[0] && i->engine_reason[0]);
    cr_assert(!i->capacity || i->capacity_reason[0]);
    void *unit;
    terrace_unit_info info = {.size = sizeof info};
    cr_assert_lt(t.b->open(&stub_host, t.b->count(&stub_host), &info, &unit), 0);
}

STUB void conform_ranges(void)
{
    uint64_t granule = t.info.granule, base[4];
    char *host = pages(granule);
    for (unsigned i = 0; i < 4; i++) {
        base[i] = conform_range((i + 1) * granule);
        cr_assert_neq(base[i], 0);
        for (unsigned j = 0; j < i; j++)
            cr_assert(base[i] >= base[j] + (j + 1) * granule || base[j] >= base[i] + (i + 1) * granule);
    }
    t.b->release(t.unit, base[1], 2 * granule);
    t.b->decommit(t.unit, base[2], 3 * granule);
    cr_assert_eq(t.b->commit(t.unit, base[2] + t.info.page, t.info.page), 0);
    pattern_fill(host, t.info.page, 7);
    cr_assert_eq(conform_copy(TERRACE_IO_WRITE, base[2] + t.info.page, host, t.info.page), 0);
    cr_assert_eq(conform_copy(TERRACE_IO_READ, base[2] + t.info.page, host + 4096, t.info.page), 0);
    cr_assert(pattern_is(host + 4096, t.info.page, 7));
    t.b->release(t.unit, base[0], granule);
    t.b->release(t.unit, base[2], 3 * granule);
    t.b->release(t.unit, base[3], 4 * granule);
}

STUB void conform_absurd(void)
{
    uint64_t base = 42;
    int error = t.b->reserve(t.unit, UINT64_C(1) << 62, 0, &base);
    cr_assert(error == -TERRACE_ENOMEM || error == -TERRACE_ENOTSUP, "reserve gave %d", error);
    cr_assert_eq(base, 42, "an output was written on failure");
}

/* Every power of two from page to chunk, all over a range. */
STUB void conform_bytes(void)
{
    size_t chunk = t.info.io_chunk, page = t.info.page;
    uint64_t bytes = chunk > 8 * t.info.granule ? chunk : 8 * t.info.granule, base = conform_range(bytes), seed = 0;
    char *out = pages(chunk), *in = pages(chunk);
    for (size_t size = page; size <= chunk; size *= 4)
        for (uint64_t at = 0; at + size <= bytes; at += bytes / 4) {
            pattern_fill(out, size, ++seed);
            memset(in, 0, size);
            cr_assert_eq(conform_copy(TERRACE_IO_WRITE, base + at, out, size), 0);
            cr_assert_eq(conform_copy(TERRACE_IO_READ, base + at, in, size), 0);
            cr_assert(pattern_is(in, size, seed), "%zu bytes at %llu", size, (unsigned long long)at);
        }
    /* Written small, read large: no copy lands in another's place. */
    for (size_t at = 0; at < bytes; at += chunk) {
        pattern_fill(out, chunk, at);
        for (size_t part = 0; part < chunk; part += chunk / 4)
            cr_assert_eq(conform_copy(TERRACE_IO_WRITE, base + at + part, out + part, chunk / 4), 0);
    }
    for (size_t at = 0; at < bytes; at += chunk) {
        cr_assert_eq(conform_copy(TERRACE_IO_READ, base + at, in, chunk), 0);
        cr_assert(pattern_is(in, chunk, at), "chunk at %zu", at);
    }
    t.b->release(t.unit, base, bytes);
}

/* The most that submit accepts. */
STUB unsigned conform_depth(void)
{
    return t.info.io_depth_most > t.info.io_depth ? t.info.io_depth_most : t.info.io_depth;
}

/* As many as fit in flight, each with bytes of its own; more are not taken. */
STUB void conform_full(void)
{
    enum { SIZE = 65536, EXTRA = 3, MOST = 128 };
    unsigned depth = conform_depth(), n = depth + EXTRA;
    cr_assert_leq(n, MOST);
    uint64_t base = conform_range(MOST * SIZE);
    char *memory = pages((size_t)MOST * SIZE);
    terrace_io io[MOST], *list[MOST];
    for (int round = 0; round < 20; round++) {
        for (unsigned i = 0; i < n; i++) {
            if (round % 2 == 0)
                pattern_fill(memory + i * SIZE, SIZE, (uint64_t)(round * 1000 + i));
            else
                memset(memory + i * SIZE, 0, SIZE);
            io[i] = conform_io(round % 2 ? TERRACE_IO_READ : TERRACE_IO_WRITE, base + i * SIZE,
                               memory + i * SIZE, SIZE);
            list[i] = &io[i];
        }
        cr_assert_eq(t.b->submit(t.unit, list, n), (int)depth);
        cr_assert_eq(t.b->submit(t.unit, list + depth, EXTRA), 0);
        conform_collect(io, depth);
        for (unsigned i = 0; round % 2 && i < depth; i++)
            cr_assert(pattern_is(memory + i * SIZE, SIZE, (uint64_t)((round - 1) * 1000 + (int)i)));
    }
    cr_assert_eq(t.b->submit(t.unit, list, 0), 0);
    t.b->release(t.unit, base, MOST * SIZE);
}

/* Handed back a few at a time, submitted again at once, in a random order. */
STUB void conform_many(void)
{
    enum { SIZE = 16384, PLACES = 64, ROUNDS = 2000 };
    uint64_t base = conform_range(PLACES * SIZE), seed[PLACES] = {0};
    char *memory = pages((size_t)PLACES * SIZE);
    terrace_io io[PLACES], *done[3];
    bool busy[PLACES] = {0};
    unsigned random = 1, in_flight = 0, checked = 0;
    for (int round = 0; round < ROUNDS || in_flight; round++) {
        unsigned p = (random = random * 1103515245u + 12345u) >> 16 & (PLACES - 1);
        if (round < ROUNDS && !busy[p]) {
            bool reading = seed[p] && random & 0x8000;
            if (!reading)
                pattern_fill(memory + p * SIZE, SIZE, seed[p] = (uint64_t)round + 1);
            else
                memset(memory + p * SIZE, 0, SIZE);
            io[p] = conform_io(reading ? TERRACE_IO_READ : TERRACE_IO_WRITE, base + p * SIZE,
                               memory + p * SIZE, SIZE);
            terrace_io *one = &io[p];
            int taken = t.b->submit(t.unit, &one, 1);
            cr_assert_eq(taken, in_flight < conform_depth());
            busy[p] = taken;
            in_flight += (unsigned)taken;
            if (!taken && !reading)
                seed[p] = 0;
        }
        int got = t.b->wait(t.unit, done, 3, in_flight >= t.info.io_depth || round >= ROUNDS ? -1 : 0);
        cr_assert(got >= 0 && (unsigned)got <= in_flight);
        in_flight -= (unsigned)got;
        for (int i = 0; i < got; i++) {
            unsigned q = (unsigned)(done[i] - io);
            cr_assert(busy[q] && done[i]->result == 0);
            busy[q] = false;
            checked += done[i]->op == TERRACE_IO_READ;
            cr_assert(pattern_is(memory + q * SIZE, SIZE, seed[q]), "place %u", q);
        }
    }
    cr_assert_gt(checked, 100);
    t.b->release(t.unit, base, PLACES * SIZE);
}

STUB void *conform_waker(void *delay_us)
{
    usleep(*(useconds_t *)delay_us);
    t.b->wake(t.unit);
    return NULL;
}

STUB void conform_wake(void)
{
    useconds_t delay = 100000;
    terrace_io *done[1];
    pthread_t waker;
    for (int i = 0; i < 3; i++) {
        int64_t start = stub_now_ns();
        cr_assert_eq(pthread_create(&waker, NULL, conform_waker, &delay), 0);
        cr_assert_eq(t.b->wait(t.unit, done, 1, i ? -1 : INT64_C(20000000000)), 0);
        int64_t slept = stub_now_ns() - start;
        pthread_join(waker, NULL);
        cr_assert(slept >= 90000000 && slept < 5000000000, "slept %lld ns", (long long)slept);
    }
    /* Before the wait, too, also many times, and only once. */
    for (int i = 0; i < 5; i++)
        t.b->wake(t.unit);
    cr_assert_eq(t.b->wait(t.unit, done, 1, -1), 0);
    int64_t start = stub_now_ns();
    cr_assert_eq(t.b->wait(t.unit, done, 1, 100000000), 0);
    cr_assert_geq(stub_now_ns() - start, 90000000);
}

STUB void conform_timeout(void)
{
    static const int64_t limit[] = {0, 1000, 20000000, 200000000};
    terrace_io *done[1];
    for (unsigned i = 0; i < 4; i++) {
        int64_t start = stub_now_ns();
        cr_assert_eq(t.b->wait(t.unit, done, 1, limit[i]), 0);
        int64_t slept = stub_now_ns() - start;
        cr_assert(slept >= limit[i] && slept < limit[i] + 2000000000, "%lld", (long long)slept);
    }
}

/* A copy that failed by itself comes back like any other. */
STUB void conform_stray(void)
{
    if (t.b->caps & TERRACE_CAP_CPU)
        return; /* there an address is a pointer, and this one a fault */
    char text[512], *host = pages(t.info.page);
    terrace_io io = conform_io(TERRACE_IO_READ, UINT64_C(1) << 60, host, t.info.page);
    cr_assert_eq(copy_now(t.b, t.unit, &io), -TERRACE_EINVAL);
    t.b->explain(t.unit, &io, text, sizeof text);
    cr_assert_not_null(strstr(text, "reading 4096 bytes"), "%s", text);
}

/* ---- attached files ------------------------------------------------------ */

enum { CONFORM_FILE = 3 * 1048576 + 12345 };
static char conform_path[300];

STUB void conform_file(void)
{
    char *bytes = pages(CONFORM_FILE + 8);
    snprintf(conform_path, sizeof conform_path, "%s/model.bin", stub_folder[0]);
    pattern_fill(bytes, CONFORM_FILE + 7, 99);
    int fd = open(conform_path, O_CREAT | O_RDWR | O_TRUNC, 0600);
    cr_assert(fd >= 0 && write(fd, bytes, CONFORM_FILE) == CONFORM_FILE && !fsync(fd));
    close(fd);
    munmap(bytes, CONFORM_FILE + 8);
}

STUB bool conform_has_attach(void)
{
    if (t.b->attach)
        conform_file();
    return t.b->attach;
}

/* Reads a whole attached range chunk by chunk and compares. */
STUB void conform_attached_range(uint64_t offset, uint64_t bytes)
{
    uint64_t base = 0;
    size_t chunk = t.info.io_chunk;
    char *in = pages(bytes + t.info.page), *want = pages(CONFORM_FILE + 8);
    pattern_fill(want, CONFORM_FILE + 7, 99);
    cr_assert_eq(t.b->attach(t.unit, conform_path, offset, bytes, &base), 0, "%s", stub.sentence);
    for (uint64_t at = 0; at < bytes; at += chunk) {
        size_t size = bytes - at < chunk ? bytes - at : chunk;
        terrace_io io = conform_io(TERRACE_IO_READ, base + at, in + at, size);
        cr_assert_eq(copy_now(t.b, t.unit, &io), 0, "errno %d", io.os_error);
        cr_assert_eq(io.cpu_copied, offset % 4096 ? size : 0, "%zu", io.cpu_copied);
    }
    cr_assert_arr_eq(in, want + offset, bytes);
    t.b->detach(t.unit, base, bytes);
    munmap(in, bytes + t.info.page);
    munmap(want, CONFORM_FILE + 8);
}

STUB void conform_attach(void)
{
    static const uint64_t offset[] = {0, 4096, 1, 511, 512, 8191, 1048576};
    if (!conform_has_attach())
        return;
    for (unsigned i = 0; i < 7; i++) {
        conform_attached_range(offset[i], CONFORM_FILE - offset[i]);
        conform_attached_range(offset[i], 1);
        conform_attached_range(offset[i], 4097);
        conform_attached_range(offset[i], 1048576);
    }
    unlink(conform_path);
}

STUB void conform_attach_shares(void)
{
    uint64_t base[40];
    char *in = pages(t.info.page), *want = pages(CONFORM_FILE + 8);
    if (!conform_has_attach())
        return;
    pattern_fill(want, CONFORM_FILE + 7, 99);
    unsigned fds = fds_open();
    for (unsigned i = 0; i < 40; i++)
        cr_assert_eq(t.b->attach(t.unit, conform_path, i * 4096, 4096, &base[i]), 0);
    cr_assert_leq(fds_open(), fds + 2, "descriptors of one file are shared");
    for (unsigned i = 0; i < 39; i++)
        t.b->detach(t.unit, base[i], 4096);
    cr_assert_eq(conform_copy(TERRACE_IO_READ, base[39], in, 4096), 0);
    cr_assert_arr_eq(in, want + 39 * 4096, 4096);
    cr_assert_eq(conform_copy(TERRACE_IO_WRITE, base[39], in, 4096), -TERRACE_EINVAL);
    t.b->detach(t.unit, base[39], 4096);
    cr_assert_eq(fds_open(), fds);
    unlink(conform_path);
}

/* Changed by `how` after attach: no read succeeds. */
STUB void conform_changed_by(void (*how)(int fd), uint64_t offset)
{
    uint64_t base = 0;
    char text[512], *in = pages(t.info.page);
    conform_file();
    cr_assert_eq(t.b->attach(t.unit, conform_path, offset, 4096, &base), 0);
    cr_assert_eq(conform_copy(TERRACE_IO_READ, base, in, 4096), 0);
    usleep(20000); /* a time stamp may be as coarse as the timer's tick */
    int fd = open(conform_path, O_RDWR);
    how(fd);
    close(fd);
    terrace_io io = conform_io(TERRACE_IO_READ, base, in, 4096);
    cr_assert_eq(copy_now(t.b, t.unit, &io), -TERRACE_ECHANGED);
    t.b->explain(t.unit, &io, text, sizeof text);
    cr_assert(strstr(text, conform_path) && strstr(text, "changed"), "%s", text);
    t.b->detach(t.unit, base, 4096);
    /* Attached anew it reads again, where the range is still there. */
    if (t.b->attach(t.unit, conform_path, offset, 4096, &base) == 0) {
        cr_assert_eq(conform_copy(TERRACE_IO_READ, base, in, 4096), 0);
        t.b->detach(t.unit, base, 4096);
    }
    unlink(conform_path);
}

STUB void conform_overwrite(int fd)
{
    cr_assert_eq(pwrite(fd, "x", 1, 2000000), 1);
}

STUB void conform_truncate(int fd)
{
    cr_assert_eq(ftruncate(fd, 10000), 0);
}

STUB void conform_extend(int fd)
{
    cr_assert_eq(ftruncate(fd, 10000000), 0);
}

STUB void conform_attach_changed(void)
{
    if (!t.b->attach)
        return;
    for (uint64_t offset = 0; offset < 5; offset += 3) {
        conform_changed_by(conform_overwrite, offset);
        conform_changed_by(conform_truncate, 1048576 + offset);
        conform_changed_by(conform_extend, offset);
    }
}

STUB void conform_refused(const char *path, uint64_t offset, uint64_t bytes, int want)
{
    uint64_t base = 42;
    stub.sentence[0] = 0;
    cr_assert_eq(t.b->attach(t.unit, path, offset, bytes, &base), want, "%s: %s", path, stub.sentence);
    cr_assert_not_null(strstr(stub.sentence, path), "%s", stub.sentence);
    cr_assert_eq(base, 42);
}

STUB void conform_attach_refused(void)
{
    char path[320];
    if (!conform_has_attach())
        return;
    unsigned fds = fds_open();
    snprintf(path, sizeof path, "%s.missing", conform_path);
    conform_refused(path, 0, 4096, -TERRACE_ENOENT);
    conform_refused(stub_folder[0], 0, 4096, -TERRACE_EINVAL);
    conform_refused("/dev/null", 0, 4096, -TERRACE_EINVAL);
    conform_refused(conform_path, 0, 0, -TERRACE_EINVAL);
    conform_refused(conform_path, 0, CONFORM_FILE + 1, -TERRACE_EINVAL);
    conform_refused(conform_path, CONFORM_FILE, 1, -TERRACE_EINVAL);
    conform_refused(conform_path, UINT64_MAX, 2, -TERRACE_EINVAL);
    snprintf(path, sizeof path, "%s/pipe", stub_folder[0]);
    cr_assert_eq(mkfifo(path, 0600), 0);
    conform_refused(path, 0, 4096, -TERRACE_EINVAL);
    cr_assert_eq(fds_open(), fds);
    unlink(path);
    unlink(conform_path);
}

/* ---- the suite ----------------------------------------------------------- */

#define CONFORMANCE_TEST(suite, name)                                                      \
    Test(suite, name, .timeout = 120)                                                      \
    {                                                                                      \
        conform_open(&suite##_subject);                                                    \
        conform_##name();                                                                  \
        conform_close();                                                                   \
    }

#define CONFORMANCE(suite, ...)                                                            \
    static const struct conformance suite##_subject = {__VA_ARGS__};                       \
    CONFORMANCE_TEST(suite, table)                                                         \
    CONFORMANCE_TEST(suite, ranges)                                                        \
    CONFORMANCE_TEST(suite, absurd)                                                        \
    CONFORMANCE_TEST(suite, bytes)                                                         \
    CONFORMANCE_TEST(suite, full)                                                          \
    CONFORMANCE_TEST(suite, many)                                                          \
    CONFORMANCE_TEST(suite, wake)                                                          \
    CONFORMANCE_TEST(suite, timeout)                                                       \
    CONFORMANCE_TEST(suite, stray)                                                         \
    CONFORMANCE_TEST(suite, attach)                                                        \
    CONFORMANCE_TEST(suite, attach_shares)                                                 \
    CONFORMANCE_TEST(suite, attach_changed)                                                \
    CONFORMANCE_TEST(suite, attach_refused)

#endif
