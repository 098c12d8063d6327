/* conformance.h - what every tier backend must do, as checks that only use
 * terrace_backend.h. `terrace backend-check` runs them, and so do the tests.
 *
 * Whoever includes it, once per program, says before how a check fails,
 * CHECK(condition, format, ...), and offers stub_host, the services of a core, and
 * stub.sentence, the last failure that was told to them. Each check runs in a process
 * of its own, between conform_begin() and conform_end(), with a temporary folder.
 *
 * May call: terrace_backend.h, backend_tools.h, libc. */
#ifndef TERRACE_CLI_CONFORMANCE_H
#define TERRACE_CLI_CONFORMANCE_H

#include <fcntl.h>
#include <pthread.h>

#include "backend_tools.h"

#define CHECK_EQ(a, b, ...) CHECK((a) == (b), ##__VA_ARGS__)
#define CHECK_NEQ(a, b, ...) CHECK((a) != (b), ##__VA_ARGS__)
#define CHECK_LEQ(a, b, ...) CHECK((a) <= (b), ##__VA_ARGS__)
#define CHECK_GEQ(a, b, ...) CHECK((a) >= (b), ##__VA_ARGS__)
#define CHECK_LT(a, b, ...) CHECK((a) < (b), ##__VA_ARGS__)
#define CHECK_GT(a, b, ...) CHECK((a) > (b), ##__VA_ARGS__)
#define CHECK_NULL(a, ...) CHECK(!(a), ##__VA_ARGS__)
#define CHECK_NOT_NULL(a, ...) CHECK((a) != NULL, ##__VA_ARGS__)
#define CHECK_ARR_EQ(a, b, n, ...) CHECK(!memcmp(a, b, n), ##__VA_ARGS__)

static struct {
    const terrace_backend *b;
    void *unit;
    terrace_unit_info info;
    int index;
    unsigned fds, threads;
    const char *skipped; /* why a check did not concern it */
} t;

/* A committed range. */
STUB uint64_t conform_range(uint64_t bytes)
{
    uint64_t base = 0;
    CHECK_EQ(t.b->reserve(t.unit, bytes, 0, &base), 0, "%s", stub.sentence);
    CHECK_EQ(base % t.info.granule, 0);
    CHECK_EQ(t.b->commit(t.unit, base, bytes), 0, "%s", stub.sentence);
    return base;
}

/* ---- before and after each check ------------------------------------------ */

/* Until what the mark stands for has been done; fails after 20 s. */
STUB void conform_await(void *event)
{
    int64_t start = stub_now_ns();
    int passed = 0;
    while ((passed = t.b->passed(t.unit, event)) == 0 && stub_now_ns() - start < INT64_C(20000000000))
        usleep(1000);
    CHECK_EQ(passed, 1, "passed gave %d after 20 s", passed);
    t.b->forget(t.unit, event);
}

/* Opens unit `index` of t.b. What a device's runtime starts with the first use stays,
 * so that comes before anything is counted. */
STUB void conform_begin(int index)
{
    t.index = index;
    CHECK_GT(t.b->count(&stub_host), index, "%s", stub.sentence);
    for (int warm = t.b->tier_class == TERRACE_CLASS_DEVICE; warm >= 0; warm--) {
        t.fds = fds_open();
        t.threads = entries_in("/proc/self/task");
        t.info = (terrace_unit_info){.size = sizeof t.info, .node = -1};
        CHECK_EQ(t.b->open(&stub_host, index, &t.info, &t.unit), 0, "%s", stub.sentence);
        if (!warm)
            break;
        t.b->release(t.unit, conform_range(t.info.granule), t.info.granule);
        void *mark = NULL;
        if (t.b->record && t.b->record(t.unit, NULL, &mark) == 0)
            conform_await(mark);
        t.b->close(t.unit);
    }
}

STUB void conform_end(void)
{
    t.b->close(t.unit);
    CHECK_EQ(fds_open(), t.fds, "%u descriptors open after close, %u before open", fds_open(), t.fds);
    CHECK(threads_settle(t.threads), "%u threads left after close, %u before open",
          entries_in("/proc/self/task"), t.threads);
    for (unsigned i = 0; i < STUB_FOLDERS; i++)
        if (stub_folder[i][0])
            CHECK_EQ(entries_in(stub_folder[i]), 0, "files left in %s", stub_folder[i]);
}

/* The check does not concern this backend. */
STUB void conform_skip(const char *why)
{
    t.skipped = why;
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
        CHECK(got > 0 && (unsigned)got <= left, "wait gave %d of %u", got, left);
        left -= (unsigned)got;
        for (int i = 0; i < got; i++) {
            CHECK_NULL(done[i]->user, "a copy came back twice");
            done[i]->user = done;
            CHECK_EQ(done[i]->result, 0, "result %d, errno %d", done[i]->result, done[i]->os_error);
        }
    }
    CHECK_EQ(t.b->wait(t.unit, done, 64, 0), 0);
}

/* ---- the tests ----------------------------------------------------------- */

STUB void conform_table(void)
{
    const terrace_unit_info *i = &t.info;
    CHECK_EQ(t.b->abi, TERRACE_BACKEND_ABI);
    CHECK_GEQ(t.b->size, offsetof(terrace_backend, attach));
    CHECK(t.b->tier_class >= TERRACE_CLASS_DEVICE && t.b->tier_class <= TERRACE_CLASS_DISK);
    CHECK(t.b->count && t.b->open && t.b->close && t.b->reserve && t.b->release && t.b->commit);
    CHECK(t.b->decommit && t.b->submit && t.b->wait && t.b->wake && t.b->explain);
    CHECK_EQ(!t.b->attach, !t.b->detach);
    CHECK_EQ(strspn(t.b->name, "abcdefghijklmnopqrstuvwxyz0123456789"), strlen(t.b->name));
    CHECK_GEQ(t.b->count(&stub_host), 1);
    CHECK(i->page >= 4096 && !(i->page & (i->page - 1)));
    CHECK(i->granule >= i->page && i->granule % i->page == 0);
    CHECK(i->io_chunk >= i->page && !(i->io_chunk & (i->io_chunk - 1)));
    CHECK(i->io_depth >= 1 && i->io_boundary % i->io_chunk == 0);
    CHECK(i->location[0] && i->engine[0] && i->engine_reason[0]);
    CHECK(!i->capacity || i->capacity_reason[0]);
    void *unit;
    terrace_unit_info info = {.size = sizeof info};
    CHECK_LT(t.b->open(&stub_host, t.b->count(&stub_host), &info, &unit), 0);
}

STUB void conform_ranges(void)
{
    uint64_t granule = t.info.granule, base[4];
    char *host = pages(granule);
    for (unsigned i = 0; i < 4; i++) {
        base[i] = conform_range((i + 1) * granule);
        CHECK_NEQ(base[i], 0);
        for (unsigned j = 0; j < i; j++)
            CHECK(base[i] >= base[j] + (j + 1) * granule || base[j] >= base[i] + (i + 1) * granule);
    }
    t.b->release(t.unit, base[1], 2 * granule);
    t.b->decommit(t.unit, base[2], 3 * granule);
    CHECK_EQ(t.b->commit(t.unit, base[2] + t.info.page, t.info.page), 0);
    pattern_fill(host, t.info.page, 7);
    CHECK_EQ(conform_copy(TERRACE_IO_WRITE, base[2] + t.info.page, host, t.info.page), 0);
    CHECK_EQ(conform_copy(TERRACE_IO_READ, base[2] + t.info.page, host + 4096, t.info.page), 0);
    CHECK(pattern_is(host + 4096, t.info.page, 7));
    t.b->release(t.unit, base[0], granule);
    t.b->release(t.unit, base[2], 3 * granule);
    t.b->release(t.unit, base[3], 4 * granule);
}

STUB void conform_absurd(void)
{
    uint64_t base = 42;
    int error = t.b->reserve(t.unit, UINT64_C(1) << 62, 0, &base);
    CHECK(error == -TERRACE_ENOMEM || error == -TERRACE_ENOTSUP, "reserve gave %d", error);
    CHECK_EQ(base, 42, "an output was written on failure");
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
            CHECK_EQ(conform_copy(TERRACE_IO_WRITE, base + at, out, size), 0);
            CHECK_EQ(conform_copy(TERRACE_IO_READ, base + at, in, size), 0);
            CHECK(pattern_is(in, size, seed), "%zu bytes at %llu", size, (unsigned long long)at);
        }
    /* Written small, read large: no copy lands in another's place. */
    for (size_t at = 0; at < bytes; at += chunk) {
        pattern_fill(out, chunk, at);
        for (size_t part = 0; part < chunk; part += chunk / 4)
            CHECK_EQ(conform_copy(TERRACE_IO_WRITE, base + at + part, out + part, chunk / 4), 0);
    }
    for (size_t at = 0; at < bytes; at += chunk) {
        CHECK_EQ(conform_copy(TERRACE_IO_READ, base + at, in, chunk), 0);
        CHECK(pattern_is(in, chunk, at), "chunk at %zu", at);
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
    CHECK_LEQ(n, MOST);
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
        CHECK_EQ(t.b->submit(t.unit, list, n), (int)depth);
        CHECK_EQ(t.b->submit(t.unit, list + depth, EXTRA), 0);
        conform_collect(io, depth);
        for (unsigned i = 0; round % 2 && i < depth; i++)
            CHECK(pattern_is(memory + i * SIZE, SIZE, (uint64_t)((round - 1) * 1000 + (int)i)));
    }
    CHECK_EQ(t.b->submit(t.unit, list, 0), 0);
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
            CHECK_EQ(taken, in_flight < conform_depth());
            busy[p] = taken;
            in_flight += (unsigned)taken;
            if (!taken && !reading)
                seed[p] = 0;
        }
        int got = t.b->wait(t.unit, done, 3, in_flight >= t.info.io_depth || round >= ROUNDS ? -1 : 0);
        CHECK(got >= 0 && (unsigned)got <= in_flight);
        in_flight -= (unsigned)got;
        for (int i = 0; i < got; i++) {
            unsigned q = (unsigned)(done[i] - io);
            CHECK(busy[q] && done[i]->result == 0);
            busy[q] = false;
            checked += done[i]->op == TERRACE_IO_READ;
            CHECK(pattern_is(memory + q * SIZE, SIZE, seed[q]), "place %u", q);
        }
    }
    CHECK_GT(checked, 100);
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
        CHECK_EQ(pthread_create(&waker, NULL, conform_waker, &delay), 0);
        CHECK_EQ(t.b->wait(t.unit, done, 1, i ? -1 : INT64_C(20000000000)), 0);
        int64_t slept = stub_now_ns() - start;
        pthread_join(waker, NULL);
        CHECK(slept >= 90000000 && slept < 5000000000, "slept %lld ns", (long long)slept);
    }
    /* Before the wait, too, also many times, and only once. */
    for (int i = 0; i < 5; i++)
        t.b->wake(t.unit);
    CHECK_EQ(t.b->wait(t.unit, done, 1, -1), 0);
    int64_t start = stub_now_ns();
    CHECK_EQ(t.b->wait(t.unit, done, 1, 100000000), 0);
    CHECK_GEQ(stub_now_ns() - start, 90000000);
}

STUB void conform_timeout(void)
{
    static const int64_t limit[] = {0, 1000, 20000000, 200000000};
    terrace_io *done[1];
    for (unsigned i = 0; i < 4; i++) {
        int64_t start = stub_now_ns();
        CHECK_EQ(t.b->wait(t.unit, done, 1, limit[i]), 0);
        int64_t slept = stub_now_ns() - start;
        CHECK(slept >= limit[i] && slept < limit[i] + 2000000000, "%lld", (long long)slept);
    }
}

/* A copy that failed by itself comes back like any other. */
STUB void conform_stray(void)
{
    if (t.b->caps & TERRACE_CAP_CPU) {
        conform_skip("its addresses are pointers, and this one a fault");
        return;
    }
    char text[512], *host = pages(t.info.page);
    terrace_io io = conform_io(TERRACE_IO_READ, UINT64_C(1) << 60, host, t.info.page);
    CHECK_EQ(copy_now(t.b, t.unit, &io), -TERRACE_EINVAL);
    t.b->explain(t.unit, &io, text, sizeof text);
    CHECK_NOT_NULL(strstr(text, "reading 4096 bytes"), "%s", text);
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
    CHECK(fd >= 0 && write(fd, bytes, CONFORM_FILE) == CONFORM_FILE && !fsync(fd));
    close(fd);
    munmap(bytes, CONFORM_FILE + 8);
}

STUB bool conform_has_attach(void)
{
    if (t.b->attach)
        conform_file();
    else
        conform_skip("it reads no users' files: it has no attach");
    return t.b->attach;
}

/* Reads a whole attached range chunk by chunk and compares. */
STUB void conform_attached_range(uint64_t offset, uint64_t bytes)
{
    uint64_t base = 0;
    size_t chunk = t.info.io_chunk;
    char *in = pages(bytes + t.info.page), *want = pages(CONFORM_FILE + 8);
    pattern_fill(want, CONFORM_FILE + 7, 99);
    CHECK_EQ(t.b->attach(t.unit, conform_path, offset, bytes, &base), 0, "%s", stub.sentence);
    for (uint64_t at = 0; at < bytes; at += chunk) {
        size_t size = bytes - at < chunk ? bytes - at : chunk;
        terrace_io io = conform_io(TERRACE_IO_READ, base + at, in + at, size);
        CHECK_EQ(copy_now(t.b, t.unit, &io), 0, "errno %d", io.os_error);
        CHECK_EQ(io.cpu_copied, offset % 4096 ? size : 0, "%zu", io.cpu_copied);
    }
    CHECK_ARR_EQ(in, want + offset, bytes);
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
        CHECK_EQ(t.b->attach(t.unit, conform_path, i * 4096, 4096, &base[i]), 0);
    CHECK_LEQ(fds_open(), fds + 2, "descriptors of one file are shared");
    for (unsigned i = 0; i < 39; i++)
        t.b->detach(t.unit, base[i], 4096);
    CHECK_EQ(conform_copy(TERRACE_IO_READ, base[39], in, 4096), 0);
    CHECK_ARR_EQ(in, want + 39 * 4096, 4096);
    CHECK_EQ(conform_copy(TERRACE_IO_WRITE, base[39], in, 4096), -TERRACE_EINVAL);
    t.b->detach(t.unit, base[39], 4096);
    CHECK_EQ(fds_open(), fds);
    unlink(conform_path);
}

/* Changed by `how` after attach: no read succeeds. */
STUB void conform_changed_by(void (*how)(int fd), uint64_t offset)
{
    uint64_t base = 0;
    char text[512], *in = pages(t.info.page);
    conform_file();
    CHECK_EQ(t.b->attach(t.unit, conform_path, offset, 4096, &base), 0);
    CHECK_EQ(conform_copy(TERRACE_IO_READ, base, in, 4096), 0);
    usleep(20000); /* a time stamp may be as coarse as the timer's tick */
    int fd = open(conform_path, O_RDWR);
    how(fd);
    close(fd);
    terrace_io io = conform_io(TERRACE_IO_READ, base, in, 4096);
    CHECK_EQ(copy_now(t.b, t.unit, &io), -TERRACE_ECHANGED);
    t.b->explain(t.unit, &io, text, sizeof text);
    CHECK(strstr(text, conform_path) && strstr(text, "changed"), "%s", text);
    t.b->detach(t.unit, base, 4096);
    /* Attached anew it reads again, where the range is still there. */
    if (t.b->attach(t.unit, conform_path, offset, 4096, &base) == 0) {
        CHECK_EQ(conform_copy(TERRACE_IO_READ, base, in, 4096), 0);
        t.b->detach(t.unit, base, 4096);
    }
    unlink(conform_path);
}

STUB void conform_overwrite(int fd)
{
    CHECK_EQ(pwrite(fd, "x", 1, 2000000), 1);
}

STUB void conform_truncate(int fd)
{
    CHECK_EQ(ftruncate(fd, 10000), 0);
}

STUB void conform_extend(int fd)
{
    CHECK_EQ(ftruncate(fd, 10000000), 0);
}

STUB void conform_attach_changed(void)
{
    if (!t.b->attach) {
        conform_skip("it reads no users' files: it has no attach");
        return;
    }
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
    CHECK_EQ(t.b->attach(t.unit, path, offset, bytes, &base), want, "%s: %s", path, stub.sentence);
    CHECK_NOT_NULL(strstr(stub.sentence, path), "%s", stub.sentence);
    CHECK_EQ(base, 42);
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
    CHECK_EQ(mkfifo(path, 0600), 0);
    conform_refused(path, 0, 4096, -TERRACE_EINVAL);
    CHECK_EQ(fds_open(), fds);
    unlink(path);
    unlink(conform_path);
}

/* ---- what is optional ---------------------------------------------------- */

/* Opened and closed again and again, with memory in use each time. */
STUB void conform_reopen(void)
{
    uint64_t before = 0, after = 0;
    bool known = t.b->tier_class == TERRACE_CLASS_DEVICE && t.b->available &&
                 t.b->available(t.unit, &before) == 0;
    char *host = pages(t.info.page);
    for (int i = 0; i < 10; i++) {
        t.b->close(t.unit);
        t.info = (terrace_unit_info){.size = sizeof t.info, .node = -1};
        CHECK_EQ(t.b->open(&stub_host, t.index, &t.info, &t.unit), 0, "%s", stub.sentence);
        uint64_t base = conform_range(4 * t.info.granule);
        CHECK_EQ(conform_copy(TERRACE_IO_WRITE, base, host, t.info.page), 0);
        t.b->release(t.unit, base, 4 * t.info.granule);
    }
    if (known && t.b->available(t.unit, &after) == 0)
        CHECK(after + 16 * t.info.granule >= before, "%llu bytes could be had before, %llu after",
              (unsigned long long)before, (unsigned long long)after);
    munmap(host, t.info.page);
}

/* Parts of a reservation come and go in any order, and hold what was written last. */
STUB void conform_churn(void)
{
    enum { PARTS = 16, ROUNDS = 400 };
    uint64_t part = t.info.granule, base = 0;
    bool there[PARTS] = {false};
    char *out = pages(t.info.page), *in = pages(t.info.page);
    uint64_t seed[PARTS] = {0};
    unsigned random = 7;
    CHECK_EQ(t.b->reserve(t.unit, PARTS * part, 0, &base), 0, "%s", stub.sentence);
    for (uint64_t round = 1; round <= ROUNDS; round++) {
        unsigned p = (random = random * 1103515245u + 12345u) >> 16 & (PARTS - 1);
        uint64_t at = base + p * part + part - t.info.page;
        if (there[p]) {
            CHECK_EQ(conform_copy(TERRACE_IO_READ, at, in, t.info.page), 0);
            CHECK(pattern_is(in, t.info.page, seed[p]), "part %u in round %llu", p, (unsigned long long)round);
            t.b->decommit(t.unit, base + p * part, part);
        } else {
            CHECK_EQ(t.b->commit(t.unit, base + p * part, part), 0, "%s", stub.sentence);
            pattern_fill(out, t.info.page, seed[p] = round);
            CHECK_EQ(conform_copy(TERRACE_IO_WRITE, at, out, t.info.page), 0);
        }
        there[p] = !there[p];
    }
    t.b->release(t.unit, base, PARTS * part);
    munmap(in, t.info.page);
    munmap(out, t.info.page);
}

/* Copies to and from memory that was made known, and the same memory afterwards. */
STUB void conform_pins(void)
{
    if (!t.b->pin) {
        conform_skip("it has no pin");
        return;
    }
    size_t chunk = t.info.io_chunk;
    uint64_t base = conform_range(chunk > t.info.granule ? chunk : t.info.granule);
    char *host = pages(2 * chunk);
    for (uint64_t round = 1; round <= 4; round++) {
        int r = round % 2 ? t.b->pin(t.unit, host, 2 * chunk) : 0;
        CHECK(r == 0 || r == -TERRACE_ENOMEM || r == -TERRACE_EPERM || r == -TERRACE_ENOTSUP, "pin gave %d", r);
        pattern_fill(host, chunk, round);
        memset(host + chunk, 0, chunk);
        CHECK_EQ(conform_copy(TERRACE_IO_WRITE, base, host, chunk), 0);
        CHECK_EQ(conform_copy(TERRACE_IO_READ, base, host + chunk, chunk), 0);
        CHECK(pattern_is(host + chunk, chunk, round), "%s", round % 2 ? "while pinned" : "after unpin");
        if (round % 2 && r == 0)
            t.b->unpin(t.unit, host, 2 * chunk);
    }
    t.b->release(t.unit, base, chunk > t.info.granule ? chunk : t.info.granule);
    munmap(host, 2 * chunk);
}

STUB void conform_views(void)
{
    if (!t.b->view) {
        conform_skip("its addresses are used as they are: it has no view");
        return;
    }
    uint64_t base = conform_range(2 * t.info.granule);
    void *whole = NULL, *part = NULL;
    CHECK_EQ(t.b->view(t.unit, base, 2 * t.info.granule, 0, &whole), 0, "%s", stub.sentence);
    CHECK_EQ(t.b->view(t.unit, base + t.info.granule, t.info.page, 0, &part), 0, "%s", stub.sentence);
    CHECK(whole && part && whole != part, "two views have the handles %p and %p", whole, part);
    t.b->unview(t.unit, part);
    t.b->unview(t.unit, whole);
    t.b->release(t.unit, base, 2 * t.info.granule);
}

/* Memory behind addresses that stay, in either place. */
STUB void conform_places(void)
{
    enum { GRANULES = 4 };
    if (!t.b->place || t.info.flags & TERRACE_UNIT_WHOLE) {
        conform_skip("what is behind its addresses stays: it has no place");
        return;
    }
    uint64_t granule = t.info.granule, size = t.info.page, base = 0, done = 7;
    char *host = pages(2 * size);
    CHECK_EQ(t.b->reserve(t.unit, 2 * GRANULES * granule, 0, &base), 0, "%s", stub.sentence);
    CHECK_EQ(t.b->place(t.unit, base, size, TERRACE_PLACE_UNIT, &done), -TERRACE_EINVAL);
    CHECK_EQ(done, 0, "an error, but %llu bytes are placed", (unsigned long long)done);
    CHECK_EQ(t.b->place(t.unit, base, GRANULES * granule, TERRACE_PLACE_UNIT, &done), 0, "%s", stub.sentence);
    CHECK_EQ(done, GRANULES * granule);
    for (uint64_t g = 0; g < GRANULES; g++) {
        memset(host, 1, size);
        CHECK_EQ(conform_copy(TERRACE_IO_READ, base + g * granule + granule - size, host, size), 0);
        CHECK(!host[0] && !memcmp(host, host + 1, size - 1), "new memory is not zeros");
        pattern_fill(host, size, g);
        CHECK_EQ(conform_copy(TERRACE_IO_WRITE, base + g * granule, host, size), 0);
    }
    for (int round = 0; round < 6; round++) { /* one, two and all of them there, and back */
        uint64_t bytes = (1u << round / 2) * granule;
        int r = t.b->place(t.unit, base + (4 - (1u << round / 2)) * granule, bytes,
                           round % 2 ? TERRACE_PLACE_UNIT : TERRACE_PLACE_HOST, &done);
        CHECK(r == 0 || (r == -TERRACE_ENOTSUP && round % 2 == 0), "place gave %d: %s", r, stub.sentence);
        CHECK_EQ(done, r ? 0 : bytes);
        for (uint64_t g = 0; g < GRANULES; g++) {
            CHECK_EQ(conform_copy(TERRACE_IO_READ, base + g * granule, host, size), 0);
            CHECK(pattern_is(host, size, g), "granule %llu has other bytes in round %d", (unsigned long long)g, round);
        }
    }
    t.b->decommit(t.unit, base, GRANULES * granule);
    t.b->release(t.unit, base, 2 * GRANULES * granule);
    munmap(host, 2 * size);
}

/* Marks in the default stream and among the copies to the tier. */
STUB void conform_streams(void)
{
    enum { SIZE = 65536 };
    if (!t.b->record) {
        conform_skip("it has no streams");
        return;
    }
    bool usable = t.b->follow(t.unit, NULL, NULL) == 0; /* not every runtime has a default one */
    uint64_t base = conform_range(t.info.granule);
    char *host = pages(SIZE);
    void *copies = NULL, *mark = NULL;
    terrace_io io = conform_io(TERRACE_IO_WRITE, base, host, SIZE), *one = &io;
    CHECK_EQ(t.b->submit(t.unit, &one, 1), 1);
    CHECK_EQ(t.b->record(t.unit, TERRACE_STREAM_COPIES, &copies), 0, "%s", stub.sentence);
    if (usable) {
        CHECK_EQ(t.b->follow(t.unit, NULL, copies), 0, "%s", stub.sentence);
        CHECK_EQ(t.b->record(t.unit, NULL, &mark), 0, "%s", stub.sentence);
    }
    conform_collect(&io, 1);
    conform_await(copies);
    if (usable)
        conform_await(mark);
    t.b->release(t.unit, base, t.info.granule);
    munmap(host, SIZE);
}

/* ---- all of them ---------------------------------------------------------- */

struct conform_check {
    const char *name;
    void (*run)(void);
    const char *what;
};

#define CONFORM_CHECKS(CHECK_NAMED)                                                          \
    CHECK_NAMED(table, "the table and what a unit says of itself")                           \
    CHECK_NAMED(ranges, "reserving, committing and giving back, in parts")                   \
    CHECK_NAMED(absurd, "more addresses than there are")                                     \
    CHECK_NAMED(churn, "memory that comes and goes")                                         \
    CHECK_NAMED(reopen, "opening again and again leaks nothing")                             \
    CHECK_NAMED(bytes, "copies of all sizes, all over a range")                              \
    CHECK_NAMED(full, "as many copies in flight as fit, and no more")                        \
    CHECK_NAMED(many, "thousands of copies in a random order")                               \
    CHECK_NAMED(wake, "a wait that is woken")                                                \
    CHECK_NAMED(timeout, "a wait that times out")                                            \
    CHECK_NAMED(stray, "a copy to nowhere is an error with a text")                          \
    CHECK_NAMED(pins, "host memory that is made known")                                      \
    CHECK_NAMED(views, "handles in place of addresses")                                      \
    CHECK_NAMED(places, "memory that changes places behind its addresses")                   \
    CHECK_NAMED(streams, "marks in streams, and what waits for them")                        \
    CHECK_NAMED(attach, "users' files")                                                      \
    CHECK_NAMED(attach_shares, "many ranges of one file")                                    \
    CHECK_NAMED(attach_changed, "a file that has changed is not read")                       \
    CHECK_NAMED(attach_refused, "paths that are no such file")

#endif
