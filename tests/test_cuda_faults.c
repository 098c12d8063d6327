/* test_cuda_faults.c - the NVIDIA tier when single calls of the driver fail, on a
 * simulated driver: whatever fails, and with whichever context the caller has
 * current, that context stays, nothing is lost, and the tier is right or says no. */
#include <criterion/criterion.h>
#include <sys/wait.h>

#include "../offload/cuda_driver.h"
#include "backend_stub.h"
#include "sim_books.h"

#define M UINT64_C(1048576)
enum { RANGE = 16 << 20, PART = 5 << 20, SMALL = 64 << 10 };

static const char *const symbols[] = {
#define SYMBOL(name, symbol, parameters) #symbol,
    CUDA_FUNCTIONS(SYMBOL, SYMBOL)
#undef SYMBOL
};
enum { SYMBOLS = sizeof symbols / sizeof *symbols };

static struct {
    const terrace_backend *b;
    void *unit;
    terrace_unit_info info;
} t;
static cuda_context callers; /* what the caller has current */
static char *host;
static const char *failing; /* for messages */
static unsigned nth, code;

/* ---- one use of everything ----------------------------------------------- */

/* The call that fails may be one of these. */
static void unmoved(const char *after)
{
    cuda_context now = NULL;
    if (cuda.context_get(&now))
        cr_assert_eq(cuda.context_get(&now), 0);
    cr_assert_eq(now, callers, "%s changed the current context (%s, call %u, code %u)", after, failing, nth, code);
    cuda_mode mode = 0, back;
    if (!cuda.exchange_mode)
        return;
    if (cuda.exchange_mode(&mode))
        cr_assert_eq(cuda.exchange_mode(&mode), 0);
    back = mode;
    if (cuda.exchange_mode(&back))
        cr_assert_eq(cuda.exchange_mode(&back), 0);
    cr_assert_eq(mode, 0, "%s changed the capture mode (%s, call %u, code %u)", after, failing, nth, code);
}

/* 0, or an error that left a sentence. */
static int said(const char *what, int r)
{
    unmoved(what);
    if (r < 0)
        cr_assert(stub.sentence[0], "%s: %d without a sentence (%s, call %u, code %u)", what, r, failing, nth, code);
    stub.sentence[0] = '\0';
    return r;
}

static bool copies(int op, uint64_t base)
{
    terrace_io io[4], *list[4], *done[4];
    bool right = true;
    for (unsigned i = 0; i < 4; i++) {
        io[i] = (terrace_io){.op = op, .address = base + i * 2 * SMALL, .host = host + i * 2 * SMALL, .bytes = SMALL};
        list[i] = &io[i];
    }
    int taken = t.b->submit(t.unit, list, 4);
    unmoved("submit");
    for (int back = 0; back < taken;) {
        int n = t.b->wait(t.unit, done, 4, INT64_C(5000000000));
        unmoved("wait");
        cr_assert_gt(n, 0, "a copy does not come back (%s, call %u, code %u)", failing, nth, code);
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
        cr_assert(pattern_is(host + i * 2 * SMALL, SMALL, i), "wrong bytes (%s, call %u, code %u)", failing, nth, code);
}

static void streams(void)
{
    void *mark = NULL;
    if (said("record", t.b->record(t.unit, NULL, &mark)))
        return;
    int r = 0;
    for (int i = 0; i < 5000 && r == 0; i++) {
        r = said("passed", t.b->passed(t.unit, mark));
        usleep(r ? 0 : 100);
    }
    cr_assert_neq(r, 0);
    said("follow", t.b->follow(t.unit, NULL, mark));
    t.b->forget(t.unit, mark);
    unmoved("forget");
    if (said("record", t.b->record(t.unit, TERRACE_STREAM_COPIES, &mark)) == 0)
        t.b->forget(t.unit, mark);
}

/* Memory that changes places: whatever fails, its bytes are there once it is asked for
 * again. */
static void placing(uint64_t base)
{
    enum { GRANULES = 3 };
    uint64_t granule = t.info.granule, done = 0, bytes = GRANULES * granule;
    if (said("place", t.b->place(t.unit, base, bytes, TERRACE_PLACE_UNIT, &done)))
        cr_assert(done < bytes && done % granule == 0);
    if (done < bytes) {
        t.b->decommit(t.unit, base, bytes);
        return;
    }
    copies_there_and_back(base);
    bool right = copies(TERRACE_IO_READ, base);
    for (unsigned i = 0; i < 4; i++) /* else writing them has failed */
        right &= pattern_is(host + i * 2 * SMALL, SMALL, i);
    for (int where = TERRACE_PLACE_HOST; right && where >= TERRACE_PLACE_UNIT; where--) {
        int r = -1;
        for (int again = 0; again < 3 && r; again++)
            r = said("place", t.b->place(t.unit, base, bytes, where, &done));
        cr_assert(r == 0 || (r == -TERRACE_ENOTSUP && where == TERRACE_PLACE_HOST), "place does not get over it (%s, call %u, code %u)", failing, nth, code);
    }
    memset(host, 0, 8 * SMALL);
    if (right && copies(TERRACE_IO_READ, base))
        for (unsigned i = 0; i < 4; i++)
            cr_assert(pattern_is(host + i * 2 * SMALL, SMALL, i), "wrong bytes (%s, call %u, code %u)", failing, nth, code);
    t.b->decommit(t.unit, base, bytes);
    unmoved("place");
}

static void contents(void)
{
    uint64_t base = 0, room;
    bool pinned = t.b->pin(t.unit, host, M) == 0;
    unmoved("pin");
    if (said("reserve", t.b->reserve(t.unit, RANGE, 0, &base)) == 0) {
        bool half = said("commit", t.b->commit(t.unit, base + M, PART)) == 0;
        if (said("commit", t.b->commit(t.unit, base, M)) == 0)
            copies_there_and_back(base);
        t.b->available(t.unit, &room);
        unmoved("available");
        if (half)
            t.b->decommit(t.unit, base + M, PART);
        unmoved("decommit");
        streams();
        t.b->release(t.unit, base, RANGE);
        unmoved("release");
    }
    if (!(t.info.flags & TERRACE_UNIT_WHOLE) && said("reserve", t.b->reserve(t.unit, RANGE, 0, &base)) == 0) {
        placing(base);
        t.b->release(t.unit, base, RANGE);
        unmoved("release");
    }
    if (pinned)
        t.b->unpin(t.unit, host, M);
    unmoved("unpin");
}

static void everything(void)
{
    t.info = (terrace_unit_info){.size = sizeof t.info};
    if (said("open", t.b->open(&stub_host, 0, &t.info, &t.unit)))
        return;
    contents();
    t.b->close(t.unit);
    unmoved("close");
}

/* ---- sweeps -------------------------------------------------------------- */

static void sweep_symbol(const char *symbol)
{
    failing = symbol;
    for (nth = 1;; nth++) {
        unsigned before = sim_calls(symbol);
        sim_fail(symbol, nth, 1, (int)code);
        everything();
        bool struck = sim_calls(symbol) - before >= nth;
        sim_fail(symbol, 0, 0, 0);
        unsigned leaks = sim_leaks(callers ? NULL : stderr), kept = callers ? 1 : 0;
        cr_assert_leq(leaks, kept, "%u were not given back (%s, call %u, code %u)", leaks, symbol, nth, code);
        const char *complaint = sim_complaint();
        cr_assert_null(complaint, "%s (%s, call %u, code %u)", complaint, symbol, nth, code);
        sim_forget_misuses();
        if (!struck)
            return;
    }
}

/* With a context of the caller's: none, that of the device itself, or of another. */
static void sweep(int device, unsigned with)
{
    char why[300];
    sim_set("DEVICES", 2);
    t.b = backend_named("cuda");
    cr_assert_eq(cuda_load(why, sizeof why), 2, "%s", why);
    host = pages(M);
    code = with;
    if (device >= 0) {
        cr_assert_eq(cuda.context_retain(&callers, device), 0);
        cr_assert_eq(cuda.context_set(callers), 0);
    }
    for (unsigned i = 0; i < SYMBOLS; i++)
        sweep_symbol(symbols[i]);
    cr_assert_geq(sim_calls("cuMemMap"), 100, "little was tried");
}

Test(cuda_faults, memory_without_a_context, .timeout = 240) { sweep(-1, 2); }
Test(cuda_faults, memory_in_the_devices_context, .timeout = 240) { sweep(0, 2); }
Test(cuda_faults, unknown_in_anothers_context, .timeout = 240) { sweep(1, 999); }
Test(cuda_faults, invalid_without_a_context, .timeout = 240) { sweep(-1, 1); }

Test(cuda_faults, whole_memory, .timeout = 240)
{
    sim_set("VMM", 0);
    char why[300];
    t.b = backend_named("cuda");
    cr_assert_eq(cuda_load(why, sizeof why), 1);
    host = pages(M);
    code = 2;
    for (unsigned i = 0; i < SYMBOLS; i++)
        sweep_symbol(symbols[i]);
    cr_assert_geq(sim_calls("cuMemAlloc_v2"), 100);
}

/* ---- loading ------------------------------------------------------------- */

static void not_loaded(const char *symbol, int with, const char *says)
{
    t.b = backend_named("cuda");
    sim_fail(symbol, 1, 1, with);
    cr_assert_eq(t.b->count(&stub_host), 0);
    cr_assert_not_null(strstr(stub.sentence, says), "%s", stub.sentence);
    cr_assert_eq(t.b->count(&stub_host), 1, "the next who asks may find it");
}

Test(cuda_load, init_fails)
{
    not_loaded("cuInit", 803, "803");
}

Test(cuda_load, count_fails)
{
    not_loaded("cuDeviceGetCount", 999, "CUDA_ERROR_UNKNOWN");
}

/* ---- forked children ----------------------------------------------------- */

static unsigned driver_calls(void)
{
    unsigned n = 0;
    for (unsigned i = 0; i < SYMBOLS; i++)
        n += sim_calls(symbols[i]);
    return n;
}

/* What a child gets: errors, and no call to the driver. */
static int child(uint64_t base)
{
    terrace_io io = {.op = TERRACE_IO_READ, .address = base, .host = host, .bytes = SMALL}, *one = &io;
    uint64_t other, room;
    void *mark;
    unsigned before = driver_calls();
    if (t.b->count(&stub_host) != 0 || !strstr(stub.sentence, "forked"))
        return 1;
    if (t.b->submit(t.unit, &one, 1) >= 0 || t.b->reserve(t.unit, RANGE, 0, &other) != -TERRACE_EFORK)
        return 2;
    if (t.b->commit(t.unit, base, M) != -TERRACE_EFORK || t.b->record(t.unit, NULL, &mark) != -TERRACE_EFORK)
        return 3;
    if (t.b->available(t.unit, &room) >= 0 || t.b->pin(t.unit, host, M) >= 0)
        return 4;
    t.b->decommit(t.unit, base, M);
    t.b->release(t.unit, base, RANGE);
    t.b->close(t.unit);
    return driver_calls() == before ? 0 : 5;
}

Test(cuda_fork, a_child_leaves_the_driver_alone, .timeout = 30)
{
    uint64_t base;
    int status;
    t.b = backend_named("cuda");
    host = pages(M);
    t.info = (terrace_unit_info){.size = sizeof t.info};
    cr_assert_eq(t.b->open(&stub_host, 0, &t.info, &t.unit), 0, "%s", stub.sentence);
    cr_assert_eq(t.b->reserve(t.unit, RANGE, 0, &base), 0);
    cr_assert_eq(t.b->commit(t.unit, base, M), 0);
    pid_t pid = fork();
    if (!pid)
        _exit(child(base));
    cr_assert_eq(waitpid(pid, &status, 0), pid);
    cr_assert_eq(status, 0, "wait status 0x%x", (unsigned)status);
    copies_there_and_back(base);
    t.b->release(t.unit, base, RANGE);
    t.b->close(t.unit);
    cr_assert_eq(sim_leaks(stderr), 0);
}
