/* test_staging.c - the pool of pinned memory that bytes pass through. */
#include <fcntl.h>
#include <pthread.h>
#include <sys/resource.h>
#include <sys/wait.h>

#include "core.h"
#include "manager.h"
#define pattern_fill stub_pattern_fill
#define pattern_is stub_pattern_is
#include "backend_stub.h"
#undef pattern_fill
#undef pattern_is
#include "staging.h"

enum { BUDGET = 64 * MIB };

#if defined(__SANITIZE_ADDRESS__) || defined(__SANITIZE_THREAD__)
enum { SANITIZED = 1 }; /* there mlock() does nothing */
#else
enum { SANITIZED = 0 };
#endif

static void *take(terrace *m, uint64_t bytes)
{
    void *p;
    assert_ok(staging_take(&m->tier[1], bytes, UINT64_MAX, false, &p));
    return p;
}

static terrace *open_here(void)
{
    return open_with("numa:0,nvme:0", BUDGET, "");
}

static unsigned long long locked_kib(void)
{
    unsigned long long kib = 0;
    char line[200];
    FILE *f = fopen("/proc/self/status", "r");
    cr_assert(f);
    while (fgets(line, sizeof line, f))
        if (sscanf(line, "VmLck: %llu", &kib) == 1)
            break;
    fclose(f);
    return kib;
}

Test(staging, takes_what_is_asked_for_and_no_more, .timeout = 20)
{
    static const uint64_t sizes[] = {1, 4096, 5000, 3 * MIB + 1, 2 * MIB};
    terrace *m = open_here();
    uint64_t pages = 0;
    for (unsigned i = 0; i < sizeof sizes / sizeof *sizes; i++) {
        unsigned char *p = take(m, sizes[i]);
        memset(p, 1, sizes[i]);
        pages += round_up(sizes[i], 4096);
        terrace_tier_statistics s = tier_stats_of(m, 0);
        cr_assert_eq(s.staging, pages);
        cr_assert_eq(s.used, pages, "it is in the budget, and nothing else is");
    }
    cr_assert_null(tier_stats_of(m, 1).staging_state);
    cr_assert_not_null(tier_stats_of(m, 0).staging_state);
    terrace_close(m);
}

Test(staging, pieces_are_used_again_and_join, .timeout = 20)
{
    terrace *m = open_here();
    char *all = take(m, 4 * MIB);
    staging_give(m, all);
    char *a = take(m, MIB), *b = take(m, MIB), *c = take(m, 2 * MIB);
    cr_assert(a == all && b == all + MIB && c == all + 2 * MIB);
    cr_assert_eq(tier_stats_of(m, 0).staging, 4 * MIB);
    staging_give(m, a);
    staging_give(m, c);
    cr_assert_eq(take(m, 100 * KIB), all, "the smallest that suffices");
    staging_give(m, all);
    staging_give(m, b);
    cr_assert_eq(take(m, 4 * MIB), all, "the pieces have not joined");
    staging_give(m, all);
    staging_give(m, NULL);
    terrace_close(m);
}

struct giver {
    terrace *m;
    void *p;
};

static void *give_later(void *arg)
{
    struct giver *g = arg;
    usleep(50000);
    staging_give(g->m, g->p);
    return NULL;
}

Test(staging, exhausted_is_an_error_or_waits, .timeout = 20)
{
    terrace *m = open_here();
    pthread_t thread;
    void *p, *q;
    assert_ok(staging_take(&m->tier[1], 3 * MIB, 4 * MIB, false, &p));
    assert_fails(staging_take(&m->tier[1], 3 * MIB, 4 * MIB, false, &q), TERRACE_EBUDGET);
    cr_assert(strstr(terrace_last_error(), "3.0 MiB") && strstr(terrace_last_error(), "numa:0"), "%s",
              terrace_last_error());
    assert_fails(staging_take(&m->tier[1], 5 * MIB, 4 * MIB, true, &q), TERRACE_EBUDGET); /* never */
    struct giver g = {m, p};
    cr_assert_eq(pthread_create(&thread, NULL, give_later, &g), 0);
    assert_ok(staging_take(&m->tier[1], 3 * MIB, 4 * MIB, true, &q));
    cr_assert_eq(p, q);
    pthread_join(thread, NULL);
    terrace_tensor *t = tensor_of(m, BUDGET - 4 * MIB, "t");
    assert_ok(terrace_acquire(t, 0, TERRACE_OVERWRITE, NULL, &p, NULL));
    assert_fails(staging_take(&m->tier[1], 2 * MIB, UINT64_MAX, false, &q), TERRACE_EBUDGET);
    terrace_close(m);
}

Test(staging, is_locked_as_long_as_it_is_there, .timeout = 20)
{
    terrace *m = open_here();
    unsigned long long before = locked_kib();
    for (int round = 0; round < 20; round++) {
        take(m, 2 * MIB);
        if (!SANITIZED && !strncmp(tier_stats_of(m, 0).staging_state, "pinned", 6))
            cr_assert_eq(locked_kib(), before + 2048);
        manager_lock(m);
        staging_close(m);
        manager_unlock(m);
        cr_assert_eq(locked_kib(), before);
        cr_assert_eq(m->tier[0].arena.used, 0);
        cr_assert_eq(m->tier[0].staging, 0);
    }
    terrace_close(m);
}

Test(staging, without_a_host_tier, .timeout = 20)
{
    terrace *m;
    void *p;
    assert_ok(terrace_open(&m, "tiers=nvme:0"));
    assert_fails(staging_take(&m->tier[0], 4096, UINT64_MAX, false, &p), TERRACE_ENOTSUP);
    terrace_close(m);
}

/* Nothing may be locked: it is used as it is, and the reason told. */
static void unlocked_child(void)
{
    struct rlimit none = {0, 0};
    if (setrlimit(RLIMIT_MEMLOCK, &none) || (geteuid() == 0 && setresuid(65534, 65534, 65534)))
        _exit(77);
    terrace *m;
    void *p;
    if (terrace_open(&m, "tiers=numa:0,nvme:0;limit_numa=64M;nvme_path=/var/tmp"))
        _exit(2);
    if (staging_take(&m->tier[1], 2 * MIB, UINT64_MAX, false, &p))
        _exit(3);
    memset(p, 1, 2 * MIB);
    const char *state = tier_stats_of(m, 0).staging_state;
    fprintf(stderr, "%s\n", state);
    if (!state || !strstr(state, "not pinned") || !strstr(state, "ulimit -l"))
        _exit(4);
    if (!strstr(state, "not registered with nvme:0") && !strstr(m->tier[1].info.engine, "threads"))
        _exit(5);
    terrace_close(m);
    _exit(0);
}

Test(staging, without_locked_memory_it_is_used_as_it_is, .timeout = 60)
{
    if (SANITIZED)
        cr_skip_test("a sanitizer lets nothing be locked");
    fflush(NULL);
    pid_t pid = fork();
    if (pid == 0)
        unlocked_child();
    int status;
    cr_assert_eq(waitpid(pid, &status, 0), pid);
    if (WIFEXITED(status) && WEXITSTATUS(status) == 77)
        cr_skip_test("privileges cannot be dropped here");
    cr_assert_eq(status, 0, "wait status %#x", (unsigned)status);
}

/* ---- the ring ------------------------------------------------------------- */

enum { BYTES = 64 * KIB };

static int move(const terrace_backend *b, void *unit, uint64_t address, void *host, int op)
{
    terrace_io io = {.address = address, .host = host, .bytes = BYTES, .op = op};
    return copy_now(b, unit, &io);
}

/* Registered pages stay those of the copies, also where others have taken their
 * place in the address space: so it can be seen whether they are used. */
Test(staging, registered_memory_is_used, .timeout = 60, .fini = folders_remove)
{
    const terrace_backend *b = backend_named("nvme");
    terrace_unit_info info = {.size = sizeof info};
    uint64_t base;
    void *unit;
    folders_make(1);
    cr_assert_eq(b->open(&stub_host, 0, &info, &unit), 0, "%s", stub.sentence);
    cr_assert_eq(b->reserve(unit, 2 * MIB, 0, &base), 0);
    cr_assert_eq(b->commit(unit, base, 2 * MIB), 0);
    char *in = pages(BYTES), *out = pages(BYTES), *plain = pages(BYTES);
    memset(in, 'a', BYTES);
    int r = b->pin(unit, in, BYTES);
    if (r)
        cr_skip_test("registering is refused here");
    cr_assert_eq(mmap(in, BYTES, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_FIXED, -1, 0), in);
    memset(in, 'b', BYTES);
    cr_assert_eq(move(b, unit, base, in, TERRACE_IO_WRITE), 0);
    cr_assert_eq(move(b, unit, base, out, TERRACE_IO_READ), 0);
    cr_assert(out[0] == 'a' && out[BYTES - 1] == 'a', "the registered pages were not used");
    b->unpin(unit, in, BYTES);
    cr_assert_eq(move(b, unit, base, in, TERRACE_IO_WRITE), 0);
    cr_assert_eq(move(b, unit, base, out, TERRACE_IO_READ), 0);
    cr_assert(out[0] == 'b' && out[BYTES - 1] == 'b', "they were used after unpin");
    memset(plain, 'c', BYTES);
    cr_assert_eq(b->pin(unit, plain, BYTES / 2), 0);
    cr_assert_eq(move(b, unit, base, plain, TERRACE_IO_WRITE), 0); /* lies in it only in part */
    cr_assert_eq(move(b, unit, base, out, TERRACE_IO_READ), 0);
    cr_assert(out[0] == 'c' && out[BYTES - 1] == 'c');
    unsigned refused = 0;
    for (int i = 0; i < 260; i++) /* there is no room for that many */
        refused += b->pin(unit, pages(4096), 4096) == -TERRACE_ENOMEM;
    cr_assert_eq(refused, 5);
    cr_assert_eq(move(b, unit, base, out, TERRACE_IO_READ), 0);
    b->close(unit);
}

Test(staging, threads_have_nothing_to_register, .timeout = 60, .fini = folders_remove)
{
    const terrace_backend *b = backend_named("nvme");
    terrace_unit_info info = {.size = sizeof info};
    void *unit, *p = pages(4096);
    folders_make(1);
    stub.io = "threads";
    cr_assert_eq(b->open(&stub_host, 0, &info, &unit), 0, "%s", stub.sentence);
    cr_assert_eq(b->pin(unit, p, 4096), -TERRACE_ENOTSUP);
    b->unpin(unit, p, 4096);
    b->close(unit);
}

Test(staging, ciphertext_goes_through_it, .timeout = 60)
{
    terrace *m = open_with("numa:0,nvme:0", BUDGET, "encrypt=1");
    terrace_tensor *t = tensor_of(m, 3 * MIB, "t");
    cr_assert_gt(tier_stats_of(m, 0).staging, 0);
    cr_assert_leq(tier_stats_of(m, 0).staging, BUDGET / 16);
    write_pattern(t, 0, 3 * MIB, 5);
    push_down(t, m);
    expect_pattern(t, 0, 3 * MIB, 5);
    terrace_close(m);
}
