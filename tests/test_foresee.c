/* test_foresee.c - what a manager makes of steps that repeat: fewer bytes moved,
 * and moved ahead of their use. The disk is simulated. */
#include <sys/stat.h>

#include "manager.h"
#include "simdisk.h"

enum { N = 40, BUDGET = 16, SIZE = MIB };

static terrace_tensor *t[N];

static void make_all(terrace *m)
{
    char label[32];
    for (int i = 0; i < N; i++) {
        snprintf(label, sizeof label, "t/%d", i);
        t[i] = tensor_of(m, SIZE, label);
        write_pattern(t[i], host_of(m), SIZE, (uint64_t)i);
    }
}

/* One step: every tensor once, in order; bytes are checked, and changed with WRITE. */
static void scan(terrace *m, unsigned mode, int step)
{
    for (int i = 0; i < N; i++) {
        void *p;
        uint64_t seed = (uint64_t)i + (mode & TERRACE_WRITE ? (uint64_t)step * N : 0);
        assert_ok(terrace_acquire(t[i], host_of(m), mode, NULL, &p, NULL));
        cr_assert(pattern_is(p, SIZE, seed), "tensor %d in step %d", i, step);
        if (mode & TERRACE_WRITE)
            pattern_fill(p, SIZE, seed + N);
        usleep(500);
        assert_ok(terrace_release(t[i], p, NULL));
    }
    assert_ok(terrace_step(m));
}

static uint64_t filled(terrace *m)
{
    return stats_of(m).fill_bytes;
}

/* Of a cyclic scan the least recently used policy keeps nothing, foresight as
 * much as fits, less what is brought ahead. */
static uint64_t fills_in_a_step(const char *conf, unsigned mode)
{
    terrace *m = open_sim(BUDGET * SIZE, conf);
    make_all(m);
    for (int step = 0; step < 4; step++)
        scan(m, mode, step);
    uint64_t before = filled(m);
    for (int step = 4; step < 8; step++)
        scan(m, mode, step);
    uint64_t bytes = (filled(m) - before) / 4;
    terrace_close(m);
    return bytes;
}

Test(foresee, a_scan_keeps_what_fits, .timeout = 60)
{
    uint64_t lru = fills_in_a_step("policy=lru", TERRACE_READ);
    uint64_t learned = fills_in_a_step("", TERRACE_READ);
    uint64_t on_demand = fills_in_a_step("prefetch=off", TERRACE_READ);
    cr_assert_geq(lru, (N - 1) * SIZE);
    cr_assert_leq(learned, (N - BUDGET / 2 + 2) * SIZE, "%llu MiB", (unsigned long long)learned / MIB);
    cr_assert_leq(on_demand, (N - BUDGET + 2) * SIZE, "%llu MiB", (unsigned long long)on_demand / MIB);
}

Test(foresee, also_one_that_writes, .timeout = 60)
{
    uint64_t learned = fills_in_a_step("", TERRACE_READ | TERRACE_WRITE);
    uint64_t on_demand = fills_in_a_step("prefetch=off", TERRACE_READ | TERRACE_WRITE);
    cr_assert_leq(learned, (N - BUDGET / 2 + 2) * SIZE, "%llu MiB", (unsigned long long)learned / MIB);
    cr_assert_leq(on_demand, (N - BUDGET + 3) * SIZE, "%llu MiB", (unsigned long long)on_demand / MIB);
}

/* Most of what is absent comes ahead of its use. How long computing takes is told by
 * the step before: where others take the CPU, now one step is late, now another. */
Test(foresee, absent_bytes_are_there_in_time, .timeout = 60)
{
    terrace_statistics before = {0}, after = {0};
    terrace *m = open_sim(BUDGET * SIZE, "");
    bool in_time = false;
    make_all(m);
    for (int step = 0; step < 3; step++)
        scan(m, TERRACE_READ, step);
    for (int step = 3; step < 23 && !in_time; step++) {
        before = stats_of(m);
        scan(m, TERRACE_READ, step);
        after = stats_of(m);
        in_time = after.prefetches - before.prefetches >= (N - BUDGET) / 2 && after.hits - before.hits >= N / 2;
    }
    cr_assert(in_time, "%llu prefetches, %llu hits in the last step",
              (unsigned long long)(after.prefetches - before.prefetches), (unsigned long long)(after.hits - before.hits));
    terrace_close(m);
}

Test(foresee, prefetch_off_brings_nothing_early, .timeout = 60)
{
    terrace *m = open_sim(BUDGET * SIZE, "prefetch=off");
    make_all(m);
    for (int step = 0; step < 5; step++)
        scan(m, TERRACE_READ, step);
    cr_assert_eq(stats_of(m).prefetches, 0);
    terrace_close(m);
}

Test(foresee, what_fits_is_not_written, .timeout = 60)
{
    terrace *m = open_sim((N + 1) * SIZE, "");
    make_all(m);
    for (int step = 0; step < 5; step++)
        scan(m, TERRACE_READ | TERRACE_WRITE, step);
    cr_assert_eq(simdisk_pieces(), 0);
    terrace_close(m);
}

/* Another order from one step to the next: everything right, and learned anew. */
Test(foresee, the_order_changes, .timeout = 60)
{
    terrace *m = open_sim(BUDGET * SIZE, "prefetch=off");
    make_all(m);
    for (int step = 0; step < 3; step++)
        scan(m, TERRACE_READ, step);
    for (int step = 0; step < 4; step++) {
        for (int k = 0; k < N; k++)
            expect_pattern(t[k * 7 % N], host_of(m), SIZE, (uint64_t)(k * 7 % N));
        assert_ok(terrace_step(m));
    }
    uint64_t before = filled(m);
    for (int k = 0; k < N; k++)
        expect_pattern(t[k * 7 % N], host_of(m), SIZE, (uint64_t)(k * 7 % N));
    assert_ok(terrace_step(m));
    cr_assert_leq(filled(m) - before, (N - BUDGET + 4) * SIZE);
    terrace_close(m);
}

Test(foresee, a_program_without_steps, .timeout = 60)
{
    terrace *m = open_sim(BUDGET * SIZE, "prefetch=off");
    make_all(m);
    for (int round = 0; round < 6; round++)
        for (int i = 0; i < N; i++)
            expect_pattern(t[i], host_of(m), SIZE, (uint64_t)i);
    uint64_t before = filled(m);
    for (int i = 0; i < N; i++)
        expect_pattern(t[i], host_of(m), SIZE, (uint64_t)i);
    cr_assert_leq(filled(m) - before, (N - BUDGET + 4) * SIZE);
    terrace_close(m);
}

Test(foresee, what_was_learned_serves_the_next_run, .timeout = 60)
{
    char path[] = "/var/tmp/terrace-schedule.XXXXXX", conf[128];
    close(mkstemp(path));
    unlink(path);
    snprintf(conf, sizeof conf, "schedule=%s", path);
    uint64_t first[2];
    for (int run = 0; run < 2; run++) {
        terrace *m = open_sim(BUDGET * SIZE, conf);
        make_all(m);
        uint64_t before = filled(m);
        scan(m, TERRACE_READ, 0);
        first[run] = filled(m) - before;
        for (int step = 1; step < 3; step++)
            scan(m, TERRACE_READ, step);
        terrace_close(m);
    }
    struct stat is;
    cr_assert_eq(stat(path, &is), 0);
    cr_assert_eq(is.st_mode & 0777, 0600);
    unlink(path);
    cr_assert_lt(first[1], first[0]);
}

Test(foresee, a_foreign_file_is_ignored, .timeout = 60)
{
    char path[] = "/var/tmp/terrace-schedule.XXXXXX", conf[128], log[] = "/var/tmp/terrace-log.XXXXXX", text[4096] = "";
    int fd = mkstemp(path);
    cr_assert_eq(write(fd, "somebody else's", 15), 15);
    close(fd);
    close(mkstemp(log));
    snprintf(conf, sizeof conf, "schedule=%s;log=warn;log_file=%s", path, log);
    terrace *m = open_sim(BUDGET * SIZE, conf);
    make_all(m);
    scan(m, TERRACE_READ, 0);
    terrace_close(m);
    FILE *f = fopen(log, "r");
    cr_assert(fread(text, 1, sizeof text - 1, f) > 0);
    fclose(f);
    cr_assert(strstr(text, "TERRACE_SCHEDULE") && strstr(text, path), "%s", text);
    unlink(path);
    unlink(log);
}

Test(foresee, a_file_that_cannot_be_written, .timeout = 60)
{
    terrace *m = open_sim(BUDGET * SIZE, "schedule=/nonexistent/folder/schedule;log=off");
    make_all(m);
    scan(m, TERRACE_READ, 0);
    terrace_close(m);
}
