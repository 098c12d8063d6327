/* test_faults_stable.c - address-stable memory under faults: that the test of lost
 * writes can fail, what is said of a page of a real file that cannot be read, and
 * a disk that fails while a forked child reads it. */
#include <errno.h>
#include <fcntl.h>
#include <linux/userfaultfd.h>
#include <setjmp.h>
#include <signal.h>
#include <sys/wait.h>

#include "faults.h"
#include "manager.h"
#include "writers.h"

enum { BLOCK = 2 * MIB, PAGE = 4 * KIB };

static unsigned char *stable_of(terrace *m, size_t bytes)
{
    void *p = terrace_malloc(m, bytes, host_of(m), NULL);
    if (!p && strstr(terrace_last_error(), "address-stable memory needs"))
        cr_skip_test("%s", terrace_last_error());
    cr_assert_not_null(p, "%s", terrace_last_error());
    return p;
}

static unsigned long lost_writes(const char *conf, uint64_t seed, bool broken)
{
    terrace *m = open_with("numa:0,nvme:0", 16 * MIB, conf);
    unsigned char *p = stable_of(m, 48 * MIB);
    unsigned long writes, lost;
    fault_copy_then_drop(broken);
    lost = writers_run(m, host_of(m), p, 48 * MIB, seed, broken ? 1 : writers_seconds(2), &writes);
    fault_copy_then_drop(false);
    cr_assert_gt(writes, 1000);
    terrace_free(m, p);
    terrace_close(m);
    return lost;
}

Test(faults_stable, no_write_is_lost, .timeout = 3600)
{
    cr_assert_eq(lost_writes(NULL, 3, false), 0);
}

Test(faults_stable, no_write_is_lost_where_pages_are_copied, .timeout = 3600)
{
    cr_assert_eq(lost_writes("stable=copy", 3, false), 0);
}

/* The same threads notice where pages are copied and then dropped. */
Test(faults_stable, copying_and_dropping_loses_writes, .timeout = 120)
{
    unsigned long lost = 0;
    for (uint64_t seed = 1; seed <= 20 && !lost; seed++)
        lost = lost_writes(seed % 2 ? NULL : "stable=copy", seed, true);
    cr_assert_gt(lost, 0, "the test of lost writes cannot fail");
}

static sigjmp_buf bus;

static void on_bus(int signal)
{
    siglongjmp(bus, signal);
}

static int touch_expecting_bus(volatile unsigned char *p)
{
    struct sigaction action = {.sa_handler = on_bus}, old;
    sigaction(SIGBUS, &action, &old);
    int got = sigsetjmp(bus, 1);
    if (got == 0)
        (void)*p;
    sigaction(SIGBUS, &old, NULL);
    return got;
}

Test(faults_stable, a_page_that_cannot_be_read_is_named, .timeout = 60)
{
    char path[] = "/var/tmp/terrace-test-XXXXXX", conf[160], text[1024] = "";
    int log = mkstemp(path);
    snprintf(conf, sizeof conf, "io=threads;nvme_path=/var/tmp;log_file=%s", path);
    terrace *m = open_with("numa:0,nvme:0", 8 * MIB, conf);
    unsigned char *p = stable_of(m, 32 * MIB);
    memset(p, 7, 32 * MIB);
    assert_ok(terrace_advise(m, p, 32 * MIB, TERRACE_ADVISE_DONTNEED, host_of(m)));
    eventually(tier_stats_of(m, 0).tensors == 0);
    fault_arm(FAULT_PREAD, 1, EIO);
    cr_assert_eq(touch_expecting_bus(p + 9 * MIB + 5 * PAGE), SIGBUS);
    cr_assert(fault_disarm());
    cr_assert_gt(pread(log, text, sizeof text - 1, 0), 0);
    const char *offset = strstr(text, "offset ");
    cr_assert(strstr(text, "poisoned") && strstr(text, "/var/tmp") && offset, "%s", text);
    cr_assert_eq(strtoul(offset + 7, NULL, 10) % (2 * MIB), MIB + 5 * PAGE, "%s", text);
    cr_assert_eq(p[9 * MIB], 7);
    cr_assert_eq(p[9 * MIB + 6 * PAGE], 7);
    terrace_free(m, p);
    terrace_close(m);
    close(log);
    unlink(path);
}

/* ---- kernels that can do less -------------------------------------------------- */

#define FEATURE_MOVE (UINT64_C(1) << 16)

/* What serves on such a kernel; "": nothing does, with a sentence. */
static const char *serving(uint64_t lacks, const char *conf)
{
    static char engine[600];
    fault_kernel_lacks(lacks);
    terrace *m = open_with("numa:0,nvme:0", 16 * MIB, conf);
    unsigned char *p = terrace_malloc(m, 32 * MIB, host_of(m), NULL);
    snprintf(engine, sizeof engine, "%s", p ? tier_stats_of(m, 0).stable_engine : "");
    if (p) {
        pattern_fill(p, 32 * MIB, 1);
        cr_assert(pattern_is(p, 32 * MIB, 1));
    }
    terrace_close(m);
    fault_kernel_lacks(0);
    return engine;
}

Test(faults_stable, what_an_older_kernel_has_is_taken, .timeout = 120)
{
    const uint64_t nothing = FEATURE_MOVE | UFFD_FEATURE_PAGEFAULT_FLAG_WP;
    const char *now = serving(0, "stable=copy;nvme_path=/var/tmp");
    if (!*now)
        cr_skip_test("%s", terrace_last_error());
    cr_assert(strstr(now, "copying pages: TERRACE_STABLE=copy"), "%s", now);
    now = serving(FEATURE_MOVE, "nvme_path=/var/tmp");
    cr_assert(strstr(now, "copying pages, as this kernel cannot move them"), "%s", now);
    now = serving(FEATURE_MOVE, "stable=userfaultfd;nvme_path=/var/tmp");
    cr_assert(strstr(now, "copying pages"), "%s", now);
    now = serving(nothing, "nvme_path=/var/tmp");
    cr_assert(strstr(now, "file mapping") && strstr(now, "Linux 5.7"), "%s", now);
    now = serving(nothing, "stable=copy;nvme_path=/var/tmp");
    cr_assert_str_eq(now, "");
    cr_assert(strstr(terrace_last_error(), "UFFDIO_WRITEPROTECT"), "%s", terrace_last_error());
    now = serving(UFFD_FEATURE_PAGEFAULT_FLAG_WP, "stable=copy;nvme_path=/var/tmp");
    cr_assert_str_eq(now, "", "it moves pages: %s", now);
}

/* ---- a disk that fails while a child reads -------------------------------- */

enum { SHARED = 16 * MIB, SHARED_PAGES = SHARED / PAGE, STEP = 61 /* pages from one touched to the next */ };

static uint64_t *word(unsigned char *p, size_t page)
{
    return (uint64_t *)(p + page * PAGE + page % 500 * 8);
}

/* The page that is touched k-th, where all are touched here and there. */
static size_t anywhere(size_t k)
{
    return k * 2311 % SHARED_PAGES;
}

/* Every page is its number; every so many pages some `more`. */
static bool words_are(unsigned char *p, uint64_t more)
{
    for (size_t i = 0; i < SHARED_PAGES; i++)
        if (*word(p, i) != i + (i % STEP ? 0 : more))
            return false;
    return true;
}

static void words_change(unsigned char *p, uint64_t more)
{
    for (size_t k = 0; k < SHARED_PAGES; k++)
        if (anywhere(k) % STEP == 0)
            *word(p, anywhere(k)) = anywhere(k) + more;
}

/* Only what was changed is touched. */
static bool words_changed_are(unsigned char *p, uint64_t more)
{
    for (size_t k = 0; k < SHARED_PAGES; k++)
        if (anywhere(k) % STEP == 0 && *word(p, anywhere(k)) != anywhere(k) + more)
            return false;
    return true;
}

static void words_leave(terrace *m, unsigned char *p)
{
    assert_ok(terrace_advise(m, p, SHARED, TERRACE_ADVISE_DONTNEED, host_of(m)));
}

/* The same until nothing is in memory: what is on its way there does not hear it. */
static void words_all_leave(terrace *m, unsigned char *p)
{
    for (int i = 0; i < 2000 && tier_stats_of(m, 0).tensors; i++) {
        words_leave(m, p);
        usleep(10000);
    }
    cr_assert_eq(tier_stats_of(m, 0).tensors, 0);
}

/* All of it is on disk, by single pages. */
static terrace *shared_open(const char *conf, unsigned char **p)
{
    terrace *m = open_with("numa:0,nvme:0", 8 * MIB, conf);
    *p = stable_of(m, SHARED);
    for (size_t i = 0; i < SHARED_PAGES; i++)
        *word(*p, i) = i;
    words_all_leave(m, *p);
    words_change(*p, 1);
    words_all_leave(m, *p);
    return m;
}

/* A child that looks when *go is set. */
static pid_t looker(unsigned char *p, int gate[2])
{
    cr_assert_eq(pipe(gate), 0);
    pid_t pid = fork();
    cr_assert_geq(pid, 0);
    if (pid == 0) {
        char c;
        close(gate[1]);
        (void)!read(gate[0], &c, 1); /* until the parent closes it */
        _exit(words_are(p, 1) ? 0 : 1);
    }
    close(gate[0]);
    return pid;
}

static void expect_right(pid_t pid, const int gate[2])
{
    int status;
    close(gate[1]);
    cr_assert_eq(waitpid(pid, &status, 0), pid);
    cr_assert_eq(status, 0, "the child ended with status 0x%x", (unsigned)status);
}

/* Whether the fault struck. */
static bool fail_while_a_child_reads(enum fault_call call, unsigned nth, int error)
{
    unsigned char *p;
    int gate[2];
    terrace *m = shared_open("io=threads;nvme_path=/var/tmp;log=error", &p);
    pid_t pid = looker(p, gate);
    words_change(p, 2);
    fault_arm(call, nth, error);
    words_leave(m, p);
    for (int i = 0; i < 100 && tier_stats_of(m, 0).tensors; i++)
        usleep(1000);
    bool struck = fault_disarm();
    cr_assert(error == FAULT_SHORT || !struck || stats_of(m).io_errors > 0 || call == FAULT_ALLOCATE);
    cr_assert(words_are(p, 2), "call %d, number %u", (int)call, nth);
    words_change(p, 3);
    words_leave(m, p);
    cr_assert(words_are(p, 3));
    expect_right(pid, gate);
    words_change(p, 4);
    words_leave(m, p);
    cr_assert(words_are(p, 4));
    terrace_close(m);
    return struck;
}

Test(faults_stable, a_disk_that_fails_while_a_child_reads, .timeout = 200)
{
    static const struct {
        enum fault_call call;
        int error;
    } fault[] = {{FAULT_PREAD, EIO}, {FAULT_PREAD, FAULT_SHORT}, {FAULT_PWRITE, EIO}, {FAULT_PWRITE, ENOSPC},
                 {FAULT_PWRITE, FAULT_SHORT}, {FAULT_ALLOCATE, ENOMEM}};
    for (size_t i = 0; i < sizeof fault / sizeof *fault; i++)
        for (unsigned nth = 1; nth <= 10; nth += 3)
            cr_assert(fail_while_a_child_reads(fault[i].call, nth, fault[i].error), "fault %zu, %u", i, nth);
}

/* No room for what is written while a child reads: it stays in memory. */
Test(faults_stable, a_disk_that_is_full_while_a_child_reads, .timeout = 60)
{
    unsigned char *p;
    int gate[2];
    terrace *m = shared_open("nvme_path=/var/tmp;log=error;limit_nvme=18M", &p);
    pid_t pid = looker(p, gate);
    words_change(p, 2);
    words_leave(m, p);
    eventually(stats_of(m).io_errors > 0);
    cr_assert(words_changed_are(p, 2));
    expect_right(pid, gate);
    words_all_leave(m, p);
    cr_assert(words_are(p, 2));
    terrace_close(m);
}
