/* lib/write_ahead.c: what is written down ahead of need lies together, and is handed to
 * the disk together. The disk is simulated, and says what it was asked for. */
#include "manager.h"
#include "simdisk.h"

enum { N = 512, SIZE = 9 * 4096, BUDGET = N * SIZE / 2, HOLES = 64, STEPS = 5 };

static terrace *m;
static terrace_tensor *t[N];

static void use(terrace_tensor *x, unsigned mode, uint64_t seed)
{
    void *p;
    assert_ok(terrace_acquire(x, host_of(m), mode, NULL, &p, NULL));
    if (mode & TERRACE_READ)
        cr_assert(pattern_is(p, SIZE, seed));
    if (mode & (TERRACE_WRITE | TERRACE_OVERWRITE))
        pattern_fill(p, SIZE, seed + 1);
    assert_ok(terrace_release(x, p, NULL));
}

/* Leaves the disk with free blocks in many small pieces, and a large one. */
static void scatter(void)
{
    static terrace_tensor *x[2 * HOLES];
    for (int i = 0; i < 2 * HOLES; i++)
        x[i] = tensor_of(m, SIZE, NULL);
    for (int i = 0; i < 2 * HOLES; i++) {
        use(x[i], TERRACE_OVERWRITE, 0);
        assert_ok(terrace_demote(x[i], disk_of(m)));
        assert_ok(terrace_wait(x[i]));
    }
    for (int i = 0; i < 2 * HOLES; i += 2)
        terrace_tensor_destroy(x[i]);
}

struct tally {
    unsigned pieces, rows, calls; /* rows: of pieces each of which begins where the one before ends */
};

static struct tally tally(char op, unsigned from)
{
    struct tally n = {0};
    uint64_t end = 0;
    unsigned call = 0;
    for (unsigned i = from; i < sizeof simdisk.order - 1 && simdisk.order[i]; i++) {
        if (simdisk.order[i] != op)
            continue;
        n.pieces++;
        n.rows += simdisk.at[i] != end;
        n.calls += simdisk.call[i] != call;
        end = simdisk.end[i];
        call = simdisk.call[i];
    }
    return n;
}

/* Each step makes its tensors anew, uses them in order, then once more: like what is kept
 * between the two passes of training. The disk has to find room for them. */
static void step(void)
{
    for (int i = 0; i < N; i++) {
        t[i] = tensor_of(m, SIZE, NULL);
        use(t[i], TERRACE_OVERWRITE, 0);
        usleep(100);
    }
    for (int i = 0; i < N; i++) {
        use(t[i], TERRACE_READ, 1);
        terrace_tensor_destroy(t[i]);
    }
    assert_ok(terrace_step(m));
}

static void check(const char *conf)
{
    m = open_sim(BUDGET, conf);
    scatter();
    unsigned from = simdisk_pieces();
    for (int i = 0; i < STEPS; i++)
        step();
    struct tally wrote = tally('w', from), read = tally('r', from);
    printf("%s: written %u pieces in %u rows and %u calls, read %u in %u rows\n", conf, wrote.pieces, wrote.rows,
           wrote.calls, read.pieces, read.rows);
    cr_assert_lt(from + wrote.pieces + read.pieces, sizeof simdisk.order - 1);
    cr_assert_gt(wrote.pieces, N);
    cr_assert_leq(wrote.rows, wrote.pieces / 8, "%u pieces in %u rows", wrote.pieces, wrote.rows);
    cr_assert_leq(wrote.calls, wrote.pieces / 2, "%u pieces in %u calls", wrote.pieces, wrote.calls);
    cr_assert_leq(read.rows, read.pieces / 8, "%u pieces in %u rows", read.pieces, read.rows);
    terrace_close(m);
}

Test(write_ahead, what_leaves_together_lies_together, .timeout = 60)
{
    check("");
}

Test(write_ahead, also_where_nothing_is_foreseen, .timeout = 60)
{
    check("policy=lru");
}
