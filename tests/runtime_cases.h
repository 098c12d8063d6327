/* runtime_cases.h - the tests of a tier behind a vendor's runtime by itself, on a
 * simulated one: the conformance suite, what there is, memory, host memory, streams,
 * and what happens when calls fail.
 *
 * A program of a kind's says before it includes this what its runtime calls things
 * (runtime_names.h does for those in CUDA's shape):
 *
 *   KIND, API, LIMIT        "hip", "HIP", "TERRACE_LIMIT_HIP"
 *   MODEL                   a part of each device's name
 *   NO_MEMORY, NO_MEMORY_NAME, LOST, LOST_NAME, UNKNOWN, INVALID    errors
 *   ALLOCATE, FILL, COUNT   names of functions
 *   symbols                 names of all functions that the tier uses
 *   device_now, device_set, last_error, host_register, host_unregister,
 *   stream_new, stream_end, prepare_kind   functions
 *   NO_PINS                 defined where host memory cannot be registered
 *   MAPS                    defined where there is virtual memory management */
#ifndef TERRACE_TESTS_RUNTIME_CASES_H
#define TERRACE_TESTS_RUNTIME_CASES_H

#include <stdatomic.h>
#include <sys/wait.h>

#include "conformance.h"
#include "sim_books.h"

#define M UINT64_C(1048576)
enum { GRANULE = 2 << 20, CHUNK = 4 << 20 };
enum { SYMBOLS = sizeof symbols / sizeof *symbols };
#ifdef MAPS
static const bool maps = true;
#else
static const bool maps = false;
#endif

static void prepare(void)
{
    stub_tiers = KIND ":0";
    prepare_kind();
}

CONFORMANCE(runtime, .backend = KIND, .engine = API " runtime", .prepare = prepare)

/* ---- opening and closing ------------------------------------------------- */

static int try_open(int index)
{
    prepare();
    t.b = backend_named(KIND);
    t.info = (terrace_unit_info){.size = sizeof t.info, .node = -1};
    return t.b->open(&stub_host, index, &t.info, &t.unit);
}

static void start(void)
{
    cr_assert_eq(try_open(0), 0, "%s", stub.sentence);
}

static struct sim_counts counted(void)
{
    struct sim_counts c;
    sim_count(&c);
    return c;
}

static void nothing_left(void)
{
    cr_assert_eq(sim_leaks(stderr), 0);
    cr_assert_null(sim_complaint(), "%s", sim_complaint());
    cr_assert_eq(last_error(), 0, "an error is left for others to find");
}

static void end(void)
{
    t.b->close(t.unit);
    nothing_left();
}

#define says(part) cr_assert_not_null(strstr(stub.sentence, part), "no '%s' in: %s", part, stub.sentence)

/* ---- what there is ------------------------------------------------------- */

Test(runtime_info, says_what_it_is)
{
    start();
    cr_assert_not_null(strstr(t.info.location, MODEL), "%s", t.info.location);
    cr_assert_not_null(strstr(t.info.engine_reason, maps ? "virtual memory, by granules of 2 MiB" :
                              "all memory is allocated at once"), "%s", t.info.engine_reason);
    cr_assert_not_null(strstr(t.info.capacity_reason, "are free, less"), "%s", t.info.capacity_reason);
    cr_assert_eq(t.info.flags, maps ? 0 : TERRACE_UNIT_WHOLE);
    cr_assert(t.info.capacity > 128 * M && t.info.capacity < 256 * M, "%llu", (unsigned long long)t.info.capacity);
    end();
}

Test(runtime_info, others_memory_is_not_counted)
{
    cr_assert(sim_occupy(0, 128 << 20));
    start();
    cr_assert(t.info.capacity > 64 * M && t.info.capacity < 128 * M, "%llu", (unsigned long long)t.info.capacity);
    end();
}

Test(runtime_info, several_devices)
{
    void *unit[3];
    sim_set("DEVICES", 3);
    for (int i = 0; i < 3; i++) {
        cr_assert_eq(try_open(i), 0, "%s", stub.sentence);
        unit[i] = t.unit;
    }
    cr_assert_eq(t.b->count(&stub_host), 3);
    cr_assert_eq(try_open(3), -TERRACE_ENOENT);
    says("no " KIND ":3, only 3");
    for (int i = 0; i < 3; i++)
        t.b->close(unit[i]);
    nothing_left();
}

Test(runtime_info, none_is_said)
{
    prepare();
    sim_set("DEVICES", 0);
    t.b = backend_named(KIND);
    cr_assert_eq(t.b->count(&stub_host), 0);
    says("the " API " runtime has no device to use");
    cr_assert_eq(try_open(0), -TERRACE_ENOENT);
}

Test(runtime_info, counting_that_fails_is_tried_again)
{
    prepare();
    t.b = backend_named(KIND);
    sim_fail(COUNT, 1, 1, UNKNOWN);
    cr_assert_eq(t.b->count(&stub_host), 0);
    says("has no device to use: ");
    cr_assert_eq(t.b->count(&stub_host), 1, "the next who asks may find it: %s", stub.sentence);
}

/* ---- tried out ----------------------------------------------------------- */

Test(runtime_tried, that_gives_other_bytes_stays_off)
{
    sim_set("CORRUPT", 1);
    cr_assert_eq(try_open(0), -TERRACE_EDEVICE);
    says("stays off: tried out, the device gave 0x1 where 0 was filled in (byte 262143)");
    nothing_left();
    sim_set("CORRUPT", 0);
    start();
    end();
}

Test(runtime_tried, that_cannot_fill_stays_off)
{
    sim_fail(FILL, 1, 0, UNKNOWN);
    cr_assert_eq(try_open(0), -TERRACE_EDEVICE);
    says("trying the device out; TERRACE_TIERS can leave it out: ");
    nothing_left();
}

Test(runtime_tried, that_is_full_stays_off)
{
    cr_assert(sim_occupy(0, 256 << 20));
    cr_assert_eq(try_open(0), -TERRACE_EDEVMEM);
    says(NO_MEMORY_NAME);
    says("lower " LIMIT ", or end what else uses the device");
    nothing_left();
}

/* ---- memory -------------------------------------------------------------- */

Test(runtime_memory, is_taken_once)
{
    uint64_t base, other = 42;
    sim_set("VMM", 0);
    start();
    uint64_t before = counted().used[0];
    cr_assert_eq(t.b->reserve(t.unit, 128 * M, 0, &base), 0, "%s", stub.sentence);
    uint64_t all = counted().used[0] - before;
    cr_assert(all >= 128 * M && all <= 130 * M, "%llu", (unsigned long long)all);
    cr_assert_eq(t.b->commit(t.unit, base + 4096, 64 * M), 0);
    cr_assert_eq(t.b->commit(t.unit, base + 127 * M, 2 * M), -TERRACE_EINVAL);
    cr_assert_eq(counted().used[0] - before, all);
    cr_assert_eq(t.b->reserve(t.unit, 256 * M, 0, &other), -TERRACE_EDEVMEM);
    cr_assert_eq(other, 42);
    says(KIND ":0 (" );
    says(NO_MEMORY_NAME);
    says("lower " LIMIT);
    t.b->release(t.unit, base, 128 * M);
    cr_assert_eq(counted().used[0], before);
    end();
}

/* ---- between devices ------------------------------------------------------ */

Test(runtime_peers, of_two_devices)
{
    sim_set("DEVICES", 2);
    prepare();
    t.b = backend_named(KIND);
    for (int i = 0; i < 2; i++) {
        conform_begin(i);
        conform_peers();
        cr_assert_null(t.skipped, "%s", t.skipped);
        conform_end();
    }
    nothing_left();
}

#ifndef NO_PINS
/* ---- registered host memory ---------------------------------------------- */

Test(runtime_pin, is_shared_by_devices)
{
    void *unit[2];
    char *host = pages(4 * M);
    sim_set("DEVICES", 2);
    for (int i = 0; i < 2; i++) {
        cr_assert_eq(try_open(i), 0, "%s", stub.sentence);
        unit[i] = t.unit;
        cr_assert_eq(t.b->pin(t.unit, host, 2 * M), 0);
    }
    cr_assert_eq(counted().pinned, 2 * M);
    t.b->unpin(unit[0], host, 2 * M);
    cr_assert_eq(counted().pinned, 2 * M);
    t.b->unpin(unit[1], host, 2 * M);
    cr_assert_eq(counted().pinned, 0);
    t.b->close(unit[0]);
    t.b->close(unit[1]);
    nothing_left();
}

Test(runtime_pin, by_somebody_else_is_refused)
{
    char *host = pages(4 * M);
    start();
    cr_assert_eq(host_register(host, 2 * M), 0);
    cr_assert_eq(t.b->pin(t.unit, host, 4 * M), -TERRACE_ENOTSUP);
    t.b->unpin(t.unit, host, 4 * M);
    cr_assert_eq(counted().pinned, 2 * M);
    cr_assert_eq(host_unregister(host), 0);
    end();
}

Test(runtime_pin, past_the_limit_is_refused)
{
    char *host = pages(4 * M);
    sim_set("PINNED", M);
    start();
    cr_assert_eq(t.b->pin(t.unit, host, 4 * M), -TERRACE_ENOMEM);
    end();
}

Test(runtime_pin, makes_copies_asynchronous)
{
    char *host = pages(CHUNK);
    start();
    uint64_t base = conform_range(CHUNK);
    cr_assert_eq(t.b->pin(t.unit, host, CHUNK), 0);
    uint64_t before = counted().pageable_copies;
    cr_assert_eq(conform_copy(TERRACE_IO_WRITE, base, host, CHUNK), 0);
    cr_assert_eq(counted().pageable_copies, before);
    t.b->unpin(t.unit, host, CHUNK);
    cr_assert_eq(conform_copy(TERRACE_IO_WRITE, base, host, CHUNK), 0);
    cr_assert_eq(counted().pageable_copies, before + 1);
    t.b->release(t.unit, base, CHUNK);
    end();
}

/* ---- copies -------------------------------------------------------------- */

Test(runtime_copy, returns_soon, .timeout = 60)
{
    char *host = pages(CHUNK);
    terrace_io io, *one = &io, *done[1];
    start();
    uint64_t base = conform_range(CHUNK);
    cr_assert_eq(t.b->pin(t.unit, host, CHUNK), 0);
    sim_set("HTOD_NS", 1000000000);
    io = conform_io(TERRACE_IO_WRITE, base, host, CHUNK);
    int64_t begin = stub_now_ns();
    cr_assert_eq(t.b->submit(t.unit, &one, 1), 1);
    cr_assert_eq(t.b->wait(t.unit, done, 1, 0), 0);
    cr_assert_lt(stub_now_ns() - begin, 900000000, "submit waited for the copy");
    cr_assert_eq(t.b->wait(t.unit, done, 1, -1), 1);
    cr_assert_geq(stub_now_ns() - begin, 990000000, "it was handed back before it was done");
    cr_assert_eq(io.result, 0);
    t.b->unpin(t.unit, host, CHUNK);
    t.b->release(t.unit, base, CHUNK);
    end();
}

Test(runtime_copy, comes_back_when_it_is_done_and_no_sooner, .timeout = 60)
{
    char *memory = pages(2 * CHUNK);
    terrace_io io[2], *list[2] = {&io[0], &io[1]}, *done[2];
    start();
    uint64_t base = conform_range(2 * CHUNK);
    cr_assert_eq(t.b->pin(t.unit, memory, 2 * CHUNK), 0);
    for (unsigned i = 0; i < 2; i++) {
        io[i] = conform_io(TERRACE_IO_WRITE, base + i * CHUNK, memory + i * CHUNK, CHUNK);
        sim_set("HTOD_NS", i ? 1000000000 : 0);
        cr_assert_eq(t.b->submit(t.unit, &list[i], 1), 1);
        usleep(i ? 0 : 50000);
    }
    int64_t begin = stub_now_ns();
    cr_assert_eq(t.b->wait(t.unit, done, 2, -1), 1);
    cr_assert_eq(done[0], &io[0]);
    cr_assert_eq(t.b->wait(t.unit, done, 2, 0), 0);
    cr_assert_eq(t.b->wait(t.unit, done, 2, -1), 1);
    cr_assert_geq(stub_now_ns() - begin, 500000000, "it was handed back before it was done");
    t.b->unpin(t.unit, memory, 2 * CHUNK);
    t.b->release(t.unit, base, 2 * CHUNK);
    end();
}

Test(runtime_copy, goes_both_ways_at_once, .timeout = 60)
{
    char *memory = pages(2 * CHUNK);
    terrace_io io[2], *list[2] = {&io[0], &io[1]}, *done[2];
    start();
    uint64_t base = conform_range(2 * CHUNK);
    cr_assert_eq(t.b->pin(t.unit, memory, 2 * CHUNK), 0);
    sim_set("HTOD_NS", 1000000000);
    io[0] = conform_io(TERRACE_IO_WRITE, base, memory, CHUNK);
    io[1] = conform_io(TERRACE_IO_READ, base + CHUNK, memory + CHUNK, CHUNK);
    cr_assert_eq(t.b->submit(t.unit, list, 2), 2);
    cr_assert_eq(t.b->wait(t.unit, done, 2, -1), 1);
    cr_assert_eq(done[0], &io[1], "the one waited for the other");
    cr_assert_eq(t.b->wait(t.unit, done, 2, -1), 1);
    t.b->unpin(t.unit, memory, 2 * CHUNK);
    t.b->release(t.unit, base, 2 * CHUNK);
    end();
}

#endif

Test(runtime_copy, a_lost_device_is_an_error_and_not_a_wait, .timeout = 60)
{
    char *host = pages(4 * CHUNK), text[300];
    terrace_io io[4], *list[4], *done[4];
    start();
    uint64_t base = conform_range(4 * CHUNK);
    bool pinned = t.b->pin(t.unit, host, 4 * CHUNK) == 0;
    for (unsigned i = 0; i < 4; i++) {
        io[i] = conform_io(TERRACE_IO_WRITE, base + i * CHUNK, host + i * CHUNK, CHUNK);
        list[i] = &io[i];
    }
    sim_lose(0, 2, LOST);
    cr_assert_eq(t.b->submit(t.unit, list, 4), 4);
    for (int back = 0, n; back < 4; back += n)
        cr_assert_gt(n = t.b->wait(t.unit, done, 4, INT64_C(10000000000)), 0, "a copy does not come back");
    cr_assert_eq(io[3].result, -TERRACE_EDEVICE);
    t.b->explain(t.unit, &io[3], text, sizeof text);
    cr_assert(strstr(text, "writing 4194304 bytes") && strstr(text, LOST_NAME), "%s", text);
    void *mark;
    cr_assert_eq(t.b->record(t.unit, NULL, &mark), -TERRACE_EDEVICE);
    says("the device is of no more use to this process");
    if (pinned)
        t.b->unpin(t.unit, host, 4 * CHUNK);
    t.b->release(t.unit, base, 4 * CHUNK);
    t.b->close(t.unit);
}

/* ---- streams ------------------------------------------------------------- */

static atomic_uint steps;

static void step(void *by)
{
    atomic_store(&steps, atomic_load(&steps) * 10 + (unsigned)(uintptr_t)by);
}

static int passes(void *mark)
{
    int passed = 0;
    for (int i = 0; i < 10000 && passed == 0; i++) {
        passed = t.b->passed(t.unit, mark);
        usleep(passed ? 0 : 100);
    }
    return passed;
}

Test(runtime_stream, marks_pass_and_are_followed, .timeout = 30)
{
    void *mark, *first, *second;
    start();
    first = stream_new();
    second = stream_new();
    cr_assert_eq(sim_launch(first, step, (void *)1, 500000000), 0);
    cr_assert_eq(t.b->record(t.unit, first, &mark), 0, "%s", stub.sentence);
    cr_assert_eq(t.b->passed(t.unit, mark), 0, "it passed before the kernel had ended");
    cr_assert_eq(t.b->follow(t.unit, second, mark), 0, "%s", stub.sentence);
    cr_assert_eq(sim_launch(second, step, (void *)2, 0), 0);
    cr_assert_eq(passes(mark), 1);
    t.b->forget(t.unit, mark);
    cr_assert_eq(t.b->record(t.unit, second, &mark), 0);
    cr_assert_eq(passes(mark), 1);
    t.b->forget(t.unit, mark);
    cr_assert_eq(steps, 12, "%u", steps);
    cr_assert_eq(t.b->follow(t.unit, second, NULL), 0);
    cr_assert_eq(t.b->follow(t.unit, NULL, NULL), 0);
    stream_end(first);
    stream_end(second);
    end();
}

Test(runtime_stream, copies_are_followed, .timeout = 30)
{
    char *host = pages(CHUNK);
    terrace_io io, *one = &io;
    void *mark, *stream;
    sim_set("STAGED", CHUNK);
    start();
    stream = stream_new();
    uint64_t base = conform_range(CHUNK);
    sim_set("HTOD_NS", 1000000000);
    io = conform_io(TERRACE_IO_WRITE, base, host, CHUNK);
    cr_assert_eq(t.b->submit(t.unit, &one, 1), 1);
    cr_assert_eq(t.b->record(t.unit, TERRACE_STREAM_COPIES, &mark), 0);
    cr_assert_eq(t.b->passed(t.unit, mark), 0);
    cr_assert_eq(t.b->follow(t.unit, stream, mark), 0);
    int64_t begin = stub_now_ns();
    cr_assert_eq(sim_launch(stream, step, (void *)1, 0), 0);
    t.b->forget(t.unit, mark);
    cr_assert_eq(t.b->record(t.unit, stream, &mark), 0);
    cr_assert_eq(passes(mark), 1);
    cr_assert_geq(stub_now_ns() - begin, 150000000, "the kernel did not wait for the copy");
    t.b->forget(t.unit, mark);
    conform_collect(&io, 1);
    stream_end(stream);
    t.b->release(t.unit, base, CHUNK);
    end();
}

Test(runtime_stream, what_is_none_is_refused)
{
    void *mark = (void *)42;
    start();
    cr_assert_eq(t.b->record(t.unit, (void *)UINT64_C(0x123456), &mark), -TERRACE_EINVAL);
    cr_assert_eq(mark, (void *)42);
    cr_assert_eq(t.b->follow(t.unit, (void *)UINT64_C(0x123456), NULL), -TERRACE_EINVAL);
    cr_assert_eq(last_error(), 0);
    t.b->close(t.unit);
}

/* ---- whatever fails ------------------------------------------------------ */

enum { RANGE = 16 << 20, SMALL = 64 << 10 };
static char *host;
static int callers; /* the device that the caller has set */
static const char *failing; /* for messages */
static unsigned nth;
static int code;

static void unmoved(const char *after)
{
    sim_fail(NULL, 0, 0, 0);
    int now = device_now();
    cr_assert_eq(now, callers, "%s changed the current device to %d (%s, call %u, code %d)", after, now, failing, nth,
                 code);
}

/* 0, or an error that left a sentence. */
static int said(const char *what, int r)
{
    if (r < 0)
        cr_assert(stub.sentence[0], "%s: %d without a sentence (%s, call %u, code %d)", what, r, failing, nth, code);
    stub.sentence[0] = '\0';
    return r;
}

static bool copies(int op, uint64_t base)
{
    terrace_io io[4], *list[4], *done[4];
    bool right = true;
    for (unsigned i = 0; i < 4; i++) {
        io[i] = conform_io(op, base + i * 2 * SMALL, host + i * 2 * SMALL, SMALL);
        list[i] = &io[i];
    }
    int taken = t.b->submit(t.unit, list, 4);
    for (int back = 0; back < taken;) {
        int n = t.b->wait(t.unit, done, 4, INT64_C(5000000000));
        cr_assert_gt(n, 0, "a copy does not come back (%s, call %u, code %d)", failing, nth, code);
        back += n;
    }
    for (int i = 0; i < taken; i++)
        right &= io[i].result == 0;
    return taken == 4 && right;
}

static void copies_there_and_back(uint64_t base)
{
    for (unsigned i = 0; i < 4; i++)
        pattern_fill(host + i * 2 * SMALL, SMALL, i);
    if (!copies(TERRACE_IO_WRITE, base))
        return;
    memset(host, 0, 8 * SMALL);
    if (!copies(TERRACE_IO_READ, base))
        return;
    for (unsigned i = 0; i < 4; i++)
        cr_assert(pattern_is(host + i * 2 * SMALL, SMALL, i), "wrong bytes (%s, call %u, code %d)", failing, nth, code);
}

static void marks(void)
{
    void *mark = NULL;
    if (said("record", t.b->record(t.unit, NULL, &mark)))
        return;
    cr_assert_neq(said("passed", passes(mark)), 0);
    said("follow", t.b->follow(t.unit, NULL, mark));
    t.b->forget(t.unit, mark);
    if (said("record", t.b->record(t.unit, TERRACE_STREAM_COPIES, &mark)) == 0)
        t.b->forget(t.unit, mark);
}

static void contents(void)
{
    uint64_t base = 0;
    bool pinned = t.b->pin(t.unit, host, M) == 0;
    if (said("reserve", t.b->reserve(t.unit, RANGE, 0, &base)) == 0) {
        if (said("commit", t.b->commit(t.unit, base, M)) == 0)
            copies_there_and_back(base);
        marks();
        t.b->release(t.unit, base, RANGE);
    }
    if (pinned)
        t.b->unpin(t.unit, host, M);
}

static void everything(void)
{
    t.info = (terrace_unit_info){.size = sizeof t.info};
    if (said("open", t.b->open(&stub_host, 0, &t.info, &t.unit)))
        return;
    contents();
    t.b->close(t.unit);
}

static void sweep_symbol(const char *symbol)
{
    failing = symbol;
    for (nth = 1;; nth++) {
        unsigned before = sim_calls(symbol);
        sim_fail(symbol, nth, 1, code);
        everything();
        bool struck = sim_calls(symbol) - before >= nth;
        sim_fail(symbol, 0, 0, 0);
        unmoved("all of it");
        unsigned leaks = sim_leaks(stderr);
        cr_assert_eq(leaks, 0, "%u were not given back (%s, call %u, code %d)", leaks, symbol, nth, code);
        cr_assert_null(sim_complaint(), "%s (%s, call %u, code %d)", sim_complaint(), symbol, nth, code);
        cr_assert_eq(last_error(), 0, "an error is left for others to find (%s, call %u, code %d)", symbol, nth, code);
        if (!struck)
            return;
    }
}

/* With device 0 of two current, or the other. */
static void sweep(int device, int with)
{
    sim_set("DEVICES", 2);
    prepare();
    t.b = backend_named(KIND);
    cr_assert_eq(t.b->count(&stub_host), 2, "%s", stub.sentence);
    host = pages(M);
    code = with;
    callers = device;
    device_set(device);
    for (unsigned i = 0; i < SYMBOLS; i++)
        sweep_symbol(symbols[i]);
    cr_assert_geq(sim_calls(ALLOCATE), 100, "little was tried");
}

Test(runtime_faults, memory_on_the_device, .timeout = 240) { sweep(0, NO_MEMORY); }
Test(runtime_faults, memory_on_another, .timeout = 240) { sweep(1, NO_MEMORY); }
Test(runtime_faults, unknown_on_another, .timeout = 240) { sweep(1, UNKNOWN); }
Test(runtime_faults, invalid_on_the_device, .timeout = 240) { sweep(0, INVALID); }

/* ---- the current device -------------------------------------------------- */

Test(runtime_current, device_stays_the_callers)
{
    uint64_t base;
    void *mark;
    failing = "nothing";
    sim_set("DEVICES", 3);
    host = pages(M);
    callers = 2;
    cr_assert_eq(try_open(1), 0, "%s", stub.sentence);
    device_set(2);
    t.b->close(t.unit);
    unmoved("close");
    cr_assert_eq(t.b->open(&stub_host, 1, &t.info, &t.unit), 0);
    unmoved("open");
    cr_assert_eq(t.b->reserve(t.unit, RANGE, 0, &base), 0);
    unmoved("reserve");
    cr_assert_eq(t.b->commit(t.unit, base, M), 0);
    unmoved("commit");
    bool pinned = t.b->pin(t.unit, host, M) == 0;
    unmoved("pin");
    cr_assert(copies(TERRACE_IO_WRITE, base));
    unmoved("submit and wait");
    cr_assert_eq(t.b->record(t.unit, NULL, &mark), 0);
    unmoved("record");
    cr_assert_eq(passes(mark), 1);
    unmoved("passed");
    cr_assert_eq(t.b->follow(t.unit, NULL, mark), 0);
    unmoved("follow");
    t.b->forget(t.unit, mark);
    unmoved("forget");
    if (pinned)
        t.b->unpin(t.unit, host, M);
    unmoved("unpin");
    t.b->release(t.unit, base, RANGE);
    unmoved("release");
    end();
    unmoved("close");
}

/* ---- forked children ----------------------------------------------------- */

static unsigned runtime_calls_seen(void)
{
    unsigned n = 0;
    for (unsigned i = 0; i < SYMBOLS; i++)
        n += sim_calls(symbols[i]);
    return n;
}

/* What a child gets: errors, and no call to the runtime. */
static int child(uint64_t base)
{
    terrace_io io = conform_io(TERRACE_IO_READ, base, host, SMALL), *one = &io;
    uint64_t other;
    void *mark;
    unsigned before = runtime_calls_seen();
    if (t.b->count(&stub_host) != 0 || !strstr(stub.sentence, "forked"))
        return 1;
    if (t.b->submit(t.unit, &one, 1) >= 0 || t.b->reserve(t.unit, RANGE, 0, &other) != -TERRACE_EFORK)
        return 2;
    if (t.b->commit(t.unit, base, M) != -TERRACE_EFORK || t.b->record(t.unit, NULL, &mark) != -TERRACE_EFORK)
        return 3;
    if (t.b->pin(t.unit, host, M) >= 0)
        return 4;
    t.b->decommit(t.unit, base, M);
    t.b->release(t.unit, base, RANGE);
    t.b->close(t.unit);
    return runtime_calls_seen() == before ? 0 : 5;
}

Test(runtime_fork, a_child_leaves_the_runtime_alone, .timeout = 30)
{
    uint64_t base;
    int status;
    host = pages(M);
    start();
    cr_assert_eq(t.b->reserve(t.unit, RANGE, 0, &base), 0);
    pid_t pid = fork();
    if (!pid)
        _exit(child(base));
    cr_assert_eq(waitpid(pid, &status, 0), pid);
    cr_assert_eq(status, 0, "wait status 0x%x", (unsigned)status);
    copies_there_and_back(base);
    t.b->release(t.unit, base, RANGE);
    end();
}

#endif
