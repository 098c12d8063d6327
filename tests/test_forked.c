/* test_forked.c - address-stable memory in forked children: the bytes as of the
 * fork, whatever the parent does then, and never zeros in their place. */
#include <fcntl.h>
#include <pthread.h>
#include <signal.h>
#include <stdatomic.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <time.h>

#include "manager.h"
#include "simdisk.h"
#include "writers.h"

enum { BLOCK = 2 * MIB, LIMIT = 16 * MIB, BLOCKS = 32, TEXT = 4096 };
enum { PAGE = 4 * KIB, PAGES = BLOCKS * (BLOCK / PAGE) };

static char folder[64];
static char *said; /* by a child that fails */

static void begin(void)
{
    snprintf(folder, sizeof folder, "/var/tmp/terrace-test.XXXXXX");
    cr_assert_not_null(mkdtemp(folder));
    said = mmap(NULL, TEXT, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
    cr_assert_neq(said, MAP_FAILED);
}

static void end(void)
{
    rmdir(folder);
}

TestSuite(forked, .init = begin, .fini = end, .timeout = 120);

static terrace *open_disk(const char *more)
{
    char conf[256];
    terrace *m;
    snprintf(conf, sizeof conf, "tiers=numa:0,nvme:0;limit_numa=%d;nvme_path=%s;%s", LIMIT, folder, more);
    assert_ok(terrace_open(&m, conf));
    return m;
}

static unsigned char *stable_of(terrace *m, size_t bytes)
{
    void *p = terrace_malloc(m, bytes, host_of(m), NULL);
    if (!p && strstr(terrace_last_error(), "address-stable memory needs"))
        cr_skip_test("%s", terrace_last_error()); /* an older kernel, or not allowed */
    cr_assert_not_null(p, "%s", terrace_last_error());
    return p;
}

static void fill(unsigned char *p, uint64_t seed)
{
    for (size_t i = 0; i < BLOCKS; i++)
        pattern_fill(p + i * BLOCK, BLOCK, seed + i);
}

static bool is(const unsigned char *p, uint64_t seed)
{
    for (size_t i = 0; i < BLOCKS; i++)
        if (!pattern_is(p + i * BLOCK, BLOCK, seed + i)) {
            snprintf(said, TEXT, "block %zu is not that of seed %llu", i, (unsigned long long)seed);
            return false;
        }
    return true;
}

/* ---- children ---------------------------------------------------------------- */

/* A child that hangs ends with its parent, and no sanitizer reports its end. */
static pid_t child(void)
{
    pid_t pid = fork();
    if (pid == 0) {
        prctl(PR_SET_PDEATHSIG, SIGKILL);
        signal(SIGSEGV, SIG_DFL);
        signal(SIGBUS, SIG_DFL);
    }
    return pid;
}

static int status_of(pid_t pid)
{
    int status;
    cr_assert_gt(pid, 0);
    cr_assert_eq(waitpid(pid, &status, 0), pid);
    return status;
}

static void expect_clean_end(pid_t pid)
{
    int status = status_of(pid);
    cr_assert(WIFEXITED(status) && WEXITSTATUS(status) == 0, "status 0x%x: %s", (unsigned)status, said);
}

/* A gate that one side opens for the other. */
struct gate {
    int end[2];
};

static struct gate gate_of(void)
{
    struct gate g;
    cr_assert_eq(pipe(g.end), 0);
    return g;
}

static void gate_open(struct gate g)
{
    (void)!write(g.end[1], "x", 1);
}

static void gate_pass(struct gate g)
{
    char c;
    (void)!read(g.end[0], &c, 1);
}

/* ---- what a child finds ------------------------------------------------------ */

Test(forked, a_child_reads_everything)
{
    terrace *m = open_disk("");
    unsigned char *p = stable_of(m, (size_t)BLOCKS * BLOCK), *blank = stable_of(m, 3 * BLOCK);
    fill(p, 1);
    pid_t pid = child();
    if (pid == 0)
        _exit(is(p, 1) && blank[0] == 0 && blank[3 * BLOCK - 1] == 0 ? 0 : 1);
    expect_clean_end(pid);
    cr_assert(is(p, 1));
    terrace_close(m);
}

Test(forked, what_the_parent_writes_and_evicts_meanwhile_is_not_seen)
{
    terrace *m = open_disk("");
    unsigned char *p = stable_of(m, (size_t)BLOCKS * BLOCK);
    struct gate go = gate_of();
    fill(p, 1);
    for (uint64_t round = 1; round <= 3; round++) {
        pid_t pid = child();
        if (pid == 0) {
            gate_pass(go);
            _exit(is(p, round * 1000 - (round == 1 ? 999 : 0)) ? 0 : 1);
        }
        fill(p, (round + 1) * 1000);
        cr_assert(is(p, (round + 1) * 1000));
        fill(p, (round + 1) * 1000);
        gate_open(go);
        expect_clean_end(pid);
        cr_assert(is(p, (round + 1) * 1000));
    }
    terrace_close(m);
}

Test(forked, several_children_have_each_its_own_time)
{
    enum { CHILDREN = 4 };
    terrace *m = open_disk("");
    unsigned char *p = stable_of(m, (size_t)BLOCKS * BLOCK);
    struct gate go = gate_of();
    pid_t pid[CHILDREN];
    for (uint64_t n = 0; n < CHILDREN; n++) {
        fill(p, n * 100);
        pid[n] = child();
        if (pid[n] == 0) {
            gate_pass(go);
            _exit(is(p, n * 100) ? 0 : 1);
        }
    }
    fill(p, 7);
    for (int n = 0; n < CHILDREN; n++)
        gate_open(go);
    for (int n = 0; n < CHILDREN; n++)
        expect_clean_end(pid[n]);
    cr_assert(is(p, 7));
    terrace_close(m);
}

Test(forked, what_a_child_writes_the_parent_does_not_see)
{
    terrace *m = open_disk("");
    unsigned char *p = stable_of(m, (size_t)BLOCKS * BLOCK);
    fill(p, 1);
    pid_t pid = child();
    if (pid == 0) {
        fill(p, 500);
        _exit(is(p, 500) ? 0 : 1);
    }
    expect_clean_end(pid);
    cr_assert(is(p, 1));
    terrace_close(m);
}

Test(forked, a_child_forks_again)
{
    terrace *m = open_disk("");
    unsigned char *p = stable_of(m, (size_t)BLOCKS * BLOCK);
    struct gate go = gate_of(), ready = gate_of();
    fill(p, 1);
    pid_t pid = child();
    if (pid == 0) {
        p[0] ^= 1;
        pid_t grandchild = fork();
        if (grandchild == 0) {
            gate_open(ready);
            gate_pass(go);
            p[0] ^= 1;
            snprintf(said, TEXT, "%s", is(p, 1) ? "fine" : "wrong");
            gate_open(ready);
            _exit(0);
        }
        _exit(0); /* before its child */
    }
    expect_clean_end(pid);
    gate_pass(ready);
    fill(p, 100); /* the blocks that the grandchild is to read are not for this */
    fill(p, 200);
    gate_open(go);
    gate_pass(ready);
    cr_assert_str_eq(said, "fine");
    cr_assert(is(p, 200));
    terrace_close(m);
}

Test(forked, a_child_that_closes_all_descriptors_still_reads)
{
    terrace *m = open_disk("");
    unsigned char *p = stable_of(m, (size_t)BLOCKS * BLOCK);
    atomic_int *turn = (atomic_int *)(said + TEXT / 2);
    fill(p, 1);
    pid_t pid = child();
    if (pid == 0) {
        for (int fd = 3; fd < 256; fd++)
            close(fd);
        atomic_store(turn, 1);
        while (atomic_load(turn) != 2)
            usleep(1000);
        _exit(is(p, 1) ? 0 : 1);
    }
    eventually(atomic_load(turn) == 1);
    fill(p, 100);
    fill(p, 200);
    atomic_store(turn, 2);
    expect_clean_end(pid);
    terrace_close(m);
}

/* The parent of the child that reads is a child itself, so that it can end. */
static void orphan(bool close_first, bool killed)
{
    struct gate go = gate_of(), done = gate_of();
    pid_t parent = child();
    if (parent == 0) {
        terrace *m = open_disk("");
        unsigned char *p = terrace_malloc(m, (size_t)BLOCKS * BLOCK, host_of(m), NULL);
        if (!p)
            _exit(2);
        fill(p, 1);
        if (fork() == 0) {
            gate_pass(go);
            snprintf(said, TEXT, "%s", is(p, 1) ? "fine" : "wrong");
            gate_open(done);
            _exit(0);
        }
        fill(p, 100);
        if (close_first)
            terrace_close(m);
        if (killed)
            raise(SIGKILL);
        _exit(0);
    }
    int status = status_of(parent);
    if (WIFEXITED(status) && WEXITSTATUS(status) == 2)
        cr_skip_test("no stable memory here");
    gate_open(go);
    gate_pass(done);
    cr_assert_str_eq(said, "fine");
}

Test(forked, the_parent_ends_first)
{
#ifdef __SANITIZE_THREAD__
    cr_skip_test("this sanitizer has no threads in children of a process with threads");
#endif
    orphan(false, false);
    orphan(true, false);
    orphan(false, true);
}

Test(forked, bytes_on_their_way_are_there_too)
{
    terrace *m = open_disk("");
    unsigned char *p = stable_of(m, (size_t)BLOCKS * BLOCK);
    fill(p, 1);
    for (int n = 0; n < 20; n++) {
        size_t i = (size_t)(n * 5) % (BLOCKS - 4);
        assert_ok(terrace_advise(m, p + i * BLOCK, 4 * BLOCK, n % 2 ? TERRACE_ADVISE_DONTNEED : TERRACE_ADVISE_WILLNEED,
                                 host_of(m)));
        usleep((unsigned)n * 100);
        pid_t pid = child();
        if (pid == 0)
            _exit(is(p, 1) ? 0 : 1);
        p[(size_t)n * BLOCK] ^= 1;
        p[(size_t)n * BLOCK] ^= 1;
        expect_clean_end(pid);
    }
    cr_assert(is(p, 1));
    terrace_close(m);
}

Test(forked, memory_that_was_freed_is_still_the_childs)
{
    terrace *m = open_disk("");
    unsigned char *p = stable_of(m, (size_t)BLOCKS * BLOCK), *q;
    struct gate go = gate_of();
    fill(p, 1);
    pid_t pid = child();
    if (pid == 0) {
        gate_pass(go);
        _exit(is(p, 1) ? 0 : 1);
    }
    terrace_free(m, p);
    q = stable_of(m, (size_t)BLOCKS * BLOCK);
    fill(q, 100);
    cr_assert(is(q, 100));
    gate_open(go);
    expect_clean_end(pid);
    terrace_close(m);
}

Test(forked, blocks_kept_for_a_child_come_back_when_it_is_gone)
{
    terrace *m = open_disk("");
    unsigned char *p = stable_of(m, (size_t)BLOCKS * BLOCK);
    struct gate go = gate_of();
    uint64_t most = 0, bytes = (uint64_t)BLOCKS * BLOCK;
    for (uint64_t n = 1; n <= 5; n++) {
        fill(p, n * 100);
        fill(p, n * 100);
        pid_t pid = child();
        if (pid == 0) {
            gate_pass(go);
            _exit(is(p, n * 100) ? 0 : 1);
        }
        fill(p, 1);
        fill(p, 2);
        gate_open(go);
        expect_clean_end(pid);
        uint64_t used = tier_stats_of(m, 1).used;
        most = used > most ? used : most;
    }
    cr_assert_gt(most, bytes, "nothing was kept for the children");
    cr_assert_leq(most, 3 * bytes, "%llu bytes are in use", (unsigned long long)most);
    terrace_close(m);
}

/* ---- single pages ------------------------------------------------------------ */

/* Memory used at random: most of its pages are only on disk, one by one. */
struct pages {
    terrace *m;
    unsigned char *p;
    uint64_t random;
    uint64_t *seed; /* of what is in each page: a child's copy says what was */
};

static size_t any_page(struct pages *s)
{
    return writers_random(&s->random) % PAGES;
}

static void pages_change(struct pages *s, unsigned n)
{
    while (n--) {
        size_t i = any_page(s);
        s->seed[i] = s->random;
        pattern_fill(s->p + i * PAGE, PAGE, s->seed[i]);
    }
}

static bool pages_are(const struct pages *s)
{
    for (size_t i = 0; i < PAGES; i++)
        if (!pattern_is(s->p + i * PAGE, PAGE, s->seed[i])) {
            snprintf(said, TEXT, "page %zu is another", i);
            return false;
        }
    return true;
}

static void pages_leave(const struct pages *s)
{
    assert_ok(terrace_advise(s->m, s->p, (size_t)PAGES * PAGE, TERRACE_ADVISE_DONTNEED, host_of(s->m)));
}

static struct pages pages_of(terrace *m)
{
    struct pages s = {.m = m, .p = stable_of(m, (size_t)PAGES * PAGE), .random = 1};
    s.seed = malloc(PAGES * sizeof *s.seed);
    for (size_t i = 0; i < PAGES; i++) {
        s.seed[i] = i;
        pattern_fill(s.p + i * PAGE, PAGE, i);
    }
    pages_leave(&s);
    pages_change(&s, 2 * LIMIT / PAGE);
    return s;
}

static void pages_end(struct pages *s)
{
    free(s->seed);
    terrace_close(s->m);
}

Test(forked, single_pages_on_disk_are_there_too)
{
    struct pages s = pages_of(open_disk(""));
    struct gate go = gate_of();
    enum { CHANGES = 3000 };
    for (int round = 0; round < 3; round++) {
        pid_t pid = child();
        if (pid == 0) {
            gate_pass(go);
            _exit(pages_are(&s) ? 0 : 1);
        }
        uint64_t filled = stats_of(s.m).fill_bytes;
        pages_change(&s, CHANGES);
        pages_leave(&s);
        pages_change(&s, CHANGES);
        pages_leave(&s);
        cr_assert_leq(stats_of(s.m).fill_bytes - filled, 4ull * CHANGES * PAGE, "it comes by whole blocks");
        gate_open(go);
        expect_clean_end(pid);
        cr_assert(pages_are(&s), "%s", said);
        pages_change(&s, CHANGES); /* nobody reads now */
    }
    cr_assert(pages_are(&s), "%s", said);
    pages_end(&s);
}

Test(forked, several_children_have_single_pages_each_of_its_own_time)
{
    enum { CHILDREN = 4 };
    struct pages s = pages_of(open_disk(""));
    struct gate go[CHILDREN];
    pid_t pid[CHILDREN];
    for (int n = 0; n < CHILDREN; n++) {
        go[n] = gate_of();
        pid[n] = child();
        if (pid[n] == 0) {
            gate_pass(go[n]);
            _exit(pages_are(&s) ? 0 : 1);
        }
        pages_change(&s, 1500);
        pages_leave(&s);
    }
    static const int order[CHILDREN] = {2, 0, 3, 1};
    for (int n = 0; n < CHILDREN; n++) {
        pages_change(&s, 1500);
        pages_leave(&s);
        gate_open(go[order[n]]);
        expect_clean_end(pid[order[n]]);
    }
    cr_assert(pages_are(&s), "%s", said);
    pages_end(&s);
}

Test(forked, a_childs_child_has_single_pages_too)
{
    struct pages s = pages_of(open_disk(""));
    struct gate go = gate_of(), ready = gate_of();
    pid_t pid = child();
    if (pid == 0) {
        pages_change(&s, 100); /* its own */
        if (fork() == 0) {
            gate_open(ready);
            gate_pass(go);
            snprintf(said, TEXT, "%s", pages_are(&s) ? "fine" : "wrong");
            gate_open(ready);
        }
        _exit(0);
    }
    expect_clean_end(pid);
    gate_pass(ready);
    for (int round = 0; round < 2; round++) {
        pages_change(&s, 3000);
        pages_leave(&s);
    }
    gate_open(go);
    gate_pass(ready);
    cr_assert_str_eq(said, "fine");
    cr_assert(pages_are(&s), "%s", said);
    pages_end(&s);
}

Test(forked, single_pages_outlive_the_parent)
{
#ifdef __SANITIZE_THREAD__
    cr_skip_test("this sanitizer has no threads in children of a process with threads");
#endif
    struct gate go = gate_of(), done = gate_of();
    pid_t parent = child();
    if (parent == 0) {
        struct pages s = pages_of(open_disk(""));
        if (fork() == 0) {
            gate_pass(go);
            snprintf(said, TEXT, "%s", pages_are(&s) ? "fine" : "wrong");
            gate_open(done);
            _exit(0);
        }
        pages_change(&s, 3000);
        pages_leave(&s);
        pages_change(&s, 3000);
        raise(SIGKILL);
    }
    int status = status_of(parent);
    cr_assert(WIFSIGNALED(status), "status 0x%x", (unsigned)status);
    gate_open(go);
    gate_pass(done);
    cr_assert_str_eq(said, "fine");
}

struct reader {
    struct pages s;
    atomic_bool stop;
};

static void *read_anywhere(void *arg)
{
    struct reader *r = arg;
    while (!atomic_load(&r->stop))
        (void)__atomic_load_n((uint64_t *)(r->s.p + any_page(&r->s) * PAGE), __ATOMIC_RELAXED);
    return NULL;
}

/* A page that was on its way to memory until just before the fork. */
Test(forked, what_was_written_last_is_there)
{
    enum { READERS = 3, FORKS = 150 };
    struct pages s = pages_of(open_disk(""));
    struct reader r[READERS];
    pthread_t thread[READERS];
    for (unsigned n = 0; n < READERS; n++) {
        r[n] = (struct reader){.s = {.p = s.p, .random = n + 100}};
        cr_assert_eq(pthread_create(&thread[n], NULL, read_anywhere, &r[n]), 0);
    }
    for (int n = 0; n < FORKS; n++) {
        size_t i = any_page(&s);
        __atomic_store_n((uint64_t *)(s.p + i * PAGE), s.random, __ATOMIC_RELAXED);
        pid_t pid = child();
        if (pid == 0)
            _exit(*(volatile uint64_t *)(s.p + i * PAGE) == s.random ? 0 : 1);
        expect_clean_end(pid);
    }
    for (unsigned n = 0; n < READERS; n++) {
        atomic_store(&r[n].stop, true);
        pthread_join(thread[n], NULL);
    }
    pages_end(&s);
}

/* ---- under load -------------------------------------------------------------- */

struct load {
    unsigned char *p;
    bool at_random;
    atomic_bool stop;
    unsigned seed;
    uint64_t rounds;
};

/* The page that comes at a place in a round: each comes once. */
static size_t page_at(size_t i, bool at_random)
{
    if (!at_random)
        return i;
    i = (i ^ i >> 7) * 0x9e3779b1 % PAGES;
    return (i ^ i >> 5) * 0x85ebca6b % PAGES;
}

/* Writes its part of every page, one number per round. */
static void *load_run(void *arg)
{
    struct load *l = arg;
    while (!atomic_load(&l->stop) || l->rounds < 3) {
        l->rounds++;
        for (size_t i = 0; i < PAGES; i++)
            *(volatile uint64_t *)(l->p + page_at(i, l->at_random) * PAGE + l->seed * 8) = l->rounds;
    }
    return NULL;
}

/* In a snapshot each writer is in one round, or between two: its numbers fall
 * by one at most once, and are never 0. */
static bool snapshot(const unsigned char *p, unsigned writers, bool at_random)
{
    for (unsigned w = 0; w < writers; w++) {
        uint64_t first = *(const uint64_t *)(p + w * 8), last = first;
        for (size_t i = 0; i < PAGES; i++) {
            uint64_t now = *(const uint64_t *)(p + page_at(i, at_random) * PAGE + w * 8);
            bool fine = now == last || (last == first && now == first - 1);
            if (!fine || now == 0) {
                snprintf(said, TEXT, "writer %u, place %zu, page %zu: %llu after %llu, first %llu", w, i,
                         page_at(i, at_random), (unsigned long long)now, (unsigned long long)last,
                         (unsigned long long)first);
                return false;
            }
            last = now;
        }
    }
    return true;
}

static void fork_under_load(bool at_random)
{
    enum { LOADS = 2, FORKS = 25 };
    terrace *m = open_disk("");
    unsigned char *p = stable_of(m, (size_t)BLOCKS * BLOCK);
    struct load l[LOADS];
    pthread_t thread[LOADS];
    for (size_t at = 0; at < (size_t)BLOCKS * BLOCK; at += 4096)
        for (unsigned w = 0; w < LOADS; w++)
            *(uint64_t *)(p + at + w * 8) = 1;
    for (unsigned w = 0; w < LOADS; w++) {
        l[w] = (struct load){.p = p, .at_random = at_random, .seed = w, .rounds = 1};
        cr_assert_eq(pthread_create(&thread[w], NULL, load_run, &l[w]), 0);
    }
    for (int n = 0; n < FORKS; n++) {
        pid_t pid = child();
        if (pid == 0)
            _exit(snapshot(p, LOADS, at_random) ? 0 : 1);
        if (n % 3 == 0) { /* some at the same time */
            pid_t other = child();
            if (other == 0)
                _exit(snapshot(p, LOADS, at_random) ? 0 : 1);
            expect_clean_end(other);
        }
        expect_clean_end(pid);
    }
    for (unsigned w = 0; w < LOADS; w++)
        atomic_store(&l[w].stop, true);
    for (unsigned w = 0; w < LOADS; w++)
        pthread_join(thread[w], NULL);
    cr_assert(snapshot(p, LOADS, at_random), "%s", said);
    terrace_close(m);
}

Test(forked, many_forks_while_everything_is_written_and_evicted)
{
    fork_under_load(false);
}

Test(forked, many_forks_while_pages_are_written_at_random)
{
    fork_under_load(true);
}

Test(forked, programs_are_started_meanwhile)
{
    terrace *m = open_disk("");
    unsigned char *p = stable_of(m, (size_t)BLOCKS * BLOCK);
    struct load l = {.p = p, .rounds = 0};
    pthread_t thread;
    cr_assert_eq(pthread_create(&thread, NULL, load_run, &l), 0);
    for (int n = 0; n < 60; n++) {
        pid_t pid = fork();
        if (pid == 0) {
            execl("/bin/true", "true", NULL);
            _exit(1);
        }
        expect_clean_end(pid);
    }
    atomic_store(&l.stop, true);
    pthread_join(thread, NULL);
    cr_assert_eq(*(uint64_t *)p, l.rounds);
    terrace_close(m);
}

/* A huge page of which a part was copied for a child must still be able to leave. */
Test(forked, blocks_written_in_part_meanwhile_still_move)
{
    terrace *m = open_disk("");
    unsigned char *p = stable_of(m, (size_t)BLOCKS * BLOCK);
    struct gate go = gate_of();
    fill(p, 1);
    for (int round = 0; round < 4; round++) {
        pid_t pid = child();
        if (pid == 0) {
            gate_pass(go);
            _exit(0);
        }
        for (size_t i = BLOCKS - 4; i < BLOCKS; i++)
            for (size_t at = 0; at < BLOCK / 4; at += 4096)
                *(volatile unsigned char *)(p + i * BLOCK + at) = p[i * BLOCK + at];
        gate_open(go);
        expect_clean_end(pid);
        cr_assert(is(p, 1), "%s", said);
        cr_assert(is(p, 1), "%s", said);
    }
    terrace_close(m);
}

/* ---- past fork() -------------------------------------------------------------- */

/* How many blocks children read; each must read 7, or meet a segmentation fault. */
static unsigned readable(const unsigned char *p, bool bare)
{
    unsigned n = 0;
    for (size_t i = 0; i < BLOCKS; i++) {
        pid_t pid = bare ? (pid_t)syscall(SYS_clone, SIGCHLD, 0, 0, 0, 0) : fork();
        if (pid == 0) {
            signal(SIGSEGV, SIG_DFL);
            _exit(*(const volatile unsigned char *)(p + i * BLOCK) == 7 ? 0 : 1);
        }
        int status = status_of(pid);
        cr_assert(status == 0 || WIFSIGNALED(status), "block %zu: status 0x%x", i, (unsigned)status);
        n += status == 0;
    }
    return n;
}

Test(forked, the_bare_system_call_is_a_segmentation_fault)
{
    terrace *m = open_disk("");
    unsigned char *p = stable_of(m, (size_t)BLOCKS * BLOCK);
    memset(p, 7, (size_t)BLOCKS * BLOCK);
    cr_assert_eq(readable(p, true), 0);
    cr_assert_eq(readable(p, false), BLOCKS);
    terrace_close(m);
}
