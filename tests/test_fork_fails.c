/* test_fork_fails.c - forks whose child could not have all address-stable memory:
 * they fail, and the parent is as it was; or, with TERRACE_FORK=allow, the child
 * meets a segmentation fault and never other bytes. */
#include <errno.h>
#include <pthread.h>
#include <signal.h>
#include <spawn.h>
#include <stdatomic.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/resource.h>
#include <sys/stat.h>
#include <sys/wait.h>

#include "manager.h"
#include "simdisk.h"

enum { BLOCK = 2 * MIB, LIMIT = 16 * MIB, BLOCKS = 32, PAGE = 4 * KIB, NOBODY = 65534 };

static const char *const sealed[] = {"verify=spill", "verify=all", "encrypt=1"};
#define EACH_SEAL(i) (size_t i = 0; i < sizeof sealed / sizeof sealed[0]; i++)

static char folder[64];

static void begin(void)
{
    snprintf(folder, sizeof folder, "/var/tmp/terrace-test.XXXXXX");
    cr_assert_not_null(mkdtemp(folder));
}

static void end(void)
{
    rmdir(folder);
}

TestSuite(fork_fails, .init = begin, .fini = end, .timeout = 120);

static terrace *open_disk(const char *more)
{
    char conf[256];
    terrace *m;
    snprintf(conf, sizeof conf, "tiers=numa:0,nvme:0;limit_numa=%d;nvme_path=%s;log=error;%s", LIMIT, folder, more);
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
        if (!pattern_is(p + i * BLOCK, BLOCK, seed + i))
            return false;
    return true;
}

/* Root is refused nothing where the system promises whatever is asked for. */
static void skip_where_nothing_is_refused(void)
{
    char mode = '0';
    FILE *f = fopen("/proc/sys/vm/overcommit_memory", "r");
    if (f) {
        cr_assert_eq(fread(&mode, 1, 1, f), 1);
        fclose(f);
    }
    if (mode == '1' && getuid() == 0)
        cr_skip_test("vm.overcommit_memory is 1, and this is root");
}

/* ---- children ---------------------------------------------------------------- */

static pid_t child(void)
{
    pid_t pid = fork();
    if (pid == 0) {
        prctl(PR_SET_PDEATHSIG, SIGKILL);
        signal(SIGSEGV, SIG_DFL);
    }
    return pid;
}

static pid_t child_that_ends(void)
{
    pid_t pid = child();
    if (pid == 0)
        _exit(0);
    return pid;
}

static int status_of(pid_t pid)
{
    int status;
    cr_assert_gt(pid, 0, "%s", strerror(errno));
    cr_assert_eq(waitpid(pid, &status, 0), pid);
    return status;
}

#define assert_no_child(error, sentence)                                                       \
    do {                                                                                       \
        errno = 0;                                                                             \
        pid_t assert_no_child_pid = child_that_ends();                                         \
        int assert_no_child_errno = errno;                                                     \
        cr_assert_eq(assert_no_child_pid, -1, "there is a child");                             \
        cr_assert_eq(assert_no_child_errno, error, "%s", strerror(assert_no_child_errno));     \
        cr_assert(strstr(terrace_last_error(), "fork fails"), "%s", terrace_last_error());     \
        cr_assert(strstr(terrace_last_error(), sentence), "%s", terrace_last_error());         \
        cr_assert(strstr(terrace_last_error(), "TERRACE_FORK=allow"), "%s", terrace_last_error()); \
        cr_assert(waitpid(-1, NULL, 0) == -1 && errno == ECHILD, "a child was made");          \
    } while (0)

/* 0: the child read 7; else how it ended. */
static int look(const unsigned char *p)
{
    pid_t pid = child();
    if (pid == 0)
        _exit(*(const volatile unsigned char *)p == 7 ? 0 : 1);
    return status_of(pid);
}

/* Says, per block, whether a child reads it; it must read right, or not at all. */
static unsigned readable(const unsigned char *p)
{
    unsigned n = 0;
    for (size_t i = 0; i < BLOCKS; i++) {
        int status = look(p + i * BLOCK);
        cr_assert(status == 0 || WIFSIGNALED(status), "block %zu: status 0x%x", i, (unsigned)status);
        n += status == 0;
    }
    return n;
}

/* ---- there is no child -------------------------------------------------------- */

Test(fork_fails, where_what_is_spilled_is_sealed)
{
    skip_where_nothing_is_refused();
    for EACH_SEAL(i) {
        terrace *m = open_disk(sealed[i]);
        unsigned char *p = stable_of(m, (size_t)BLOCKS * BLOCK);
        fill(p, 1);
        for (int n = 0; n < 3; n++)
            assert_no_child(ENOMEM, "encrypted, checked");
        cr_assert(is(p, 1));
        fill(p, 100);
        assert_no_child(ENOMEM, "encrypted, checked");
        cr_assert(is(p, 100));
        terrace_close(m);
    }
}

Test(fork_fails, until_what_was_spilled_is_back)
{
    skip_where_nothing_is_refused();
    terrace *m = open_disk("encrypt=1");
    unsigned char *p = stable_of(m, (size_t)BLOCKS * BLOCK), *few = stable_of(m, 2 * BLOCK);
    memset(few, 7, 2 * BLOCK);
    fill(p, 1);
    assert_no_child(ENOMEM, "encrypted");
    terrace_free(m, p);
    cr_assert_eq(few[0] + few[BLOCK], 14);
    cr_assert_eq(look(few), 0);
    cr_assert_eq(look(few + BLOCK), 0);
    terrace_close(m);
}

Test(fork_fails, where_the_disk_is_no_file)
{
    skip_where_nothing_is_refused();
    terrace *m = open_sim(LIMIT, "log=error");
    unsigned char *p = stable_of(m, (size_t)BLOCKS * BLOCK);
    fill(p, 1);
    assert_no_child(ENOMEM, "not in a file");
    cr_assert(is(p, 1));
    terrace_close(m);
}

Test(fork_fails, where_a_file_mapping_serves)
{
    skip_where_nothing_is_refused();
    terrace *m = open_disk("stable=file");
    cr_assert_eq(status_of(child_that_ends()), 0, "there is no such memory yet");
    unsigned char *p = stable_of(m, (size_t)BLOCKS * BLOCK);
    fill(p, 1);
    for (int n = 0; n < 3; n++)
        assert_no_child(ENOMEM, "a file mapping serves it");
    cr_assert(is(p, 1));
    terrace_free(m, p);
    cr_assert_eq(status_of(child_that_ends()), 0, "there is none any more");
    terrace_close(m);
}

static size_t parts_allowed(void)
{
    size_t allowed;
    FILE *f = fopen("/proc/sys/vm/max_map_count", "r");
    cr_assert(f && fscanf(f, "%zu", &allowed) == 1);
    fclose(f);
    return allowed / 8 * 3;
}

/* Every other page is in memory: each is a part of its own. */
static unsigned char *pages_of(terrace *m, size_t pages)
{
    unsigned char *p = stable_of(m, pages * PAGE);
    for (size_t i = 0; i < pages; i++)
        *(uint64_t *)(p + i * PAGE) = i;
    assert_ok(terrace_advise(m, p, pages * PAGE, TERRACE_ADVISE_DONTNEED, host_of(m)));
    eventually(tier_stats_of(m, 0).tensors == 0);
    for (size_t i = 0; i < pages; i += 2)
        cr_assert_eq(*(volatile uint64_t *)(p + i * PAGE), i);
    return p;
}

enum { MANY = 32768 }; /* pages */

Test(fork_fails, where_memory_lies_in_too_many_parts)
{
    skip_where_nothing_is_refused();
    if (MANY <= parts_allowed())
        cr_skip_test("vm.max_map_count has been raised");
    terrace *m = open_disk("limit_numa=160M");
    unsigned char *p = pages_of(m, MANY);
    assert_no_child(ENOMEM, "raise vm.max_map_count");
    for (size_t i = 0; i < MANY; i++)
        cr_assert_eq(*(volatile uint64_t *)(p + i * PAGE), i);
    pid_t pid = child(); /* all is in memory */
    if (pid == 0) {
        for (size_t i = 0; i < MANY; i++)
            if (*(volatile uint64_t *)(p + i * PAGE) != i)
                _exit(1);
        _exit(0);
    }
    cr_assert_eq(status_of(pid), 0);
    terrace_close(m);
}

/* One manager's memory is enough. */
Test(fork_fails, where_it_is_one_managers_of_two)
{
    skip_where_nothing_is_refused();
    terrace *lenient = open_disk("encrypt=1;fork=allow"), *plain = open_disk("");
    unsigned char *p = stable_of(lenient, (size_t)BLOCKS * BLOCK), *q = stable_of(plain, (size_t)BLOCKS * BLOCK);
    memset(p, 7, (size_t)BLOCKS * BLOCK);
    memset(q, 7, (size_t)BLOCKS * BLOCK);
    cr_assert_eq(readable(q), BLOCKS);
    terrace *strict = open_disk("encrypt=1");
    unsigned char *r = stable_of(strict, (size_t)BLOCKS * BLOCK);
    fill(r, 1);
    assert_no_child(ENOMEM, "encrypted");
    terrace_close(strict);
    cr_assert_eq(readable(q), BLOCKS);
    terrace_close(lenient);
    terrace_close(plain);
}

static size_t address_space(void)
{
    size_t pages;
    FILE *f = fopen("/proc/self/statm", "r");
    cr_assert(f && fscanf(f, "%zu", &pages) == 1);
    fclose(f);
    return pages;
}

Test(fork_fails, and_leaves_nothing_behind)
{
    skip_where_nothing_is_refused();
    terrace *m = open_disk("encrypt=1");
    fill(stable_of(m, (size_t)BLOCKS * BLOCK), 1);
    assert_no_child(ENOMEM, "encrypted");
    struct rlimit before, after;
    size_t pages = address_space();
    cr_assert_eq(getrlimit(RLIMIT_NPROC, &before), 0);
    for (int n = 0; n < 30; n++)
        assert_no_child(ENOMEM, "encrypted");
    cr_assert_leq(address_space(), pages + 16 * MIB / PAGE);
    cr_assert_eq(getrlimit(RLIMIT_NPROC, &after), 0);
    cr_assert_eq(before.rlim_cur, after.rlim_cur);
    terrace_close(m);
}

Test(fork_fails, each_time_with_one_line_in_the_log)
{
    skip_where_nothing_is_refused();
    char conf[128], line[512], path[80];
    snprintf(path, sizeof path, "%s/log", folder);
    snprintf(conf, sizeof conf, "encrypt=1;log=warn;log_file=%s", path);
    terrace *m = open_disk(conf);
    fill(stable_of(m, (size_t)BLOCKS * BLOCK), 1);
    assert_no_child(ENOMEM, "encrypted");
    assert_no_child(ENOMEM, "encrypted");
    terrace_close(m);
    FILE *f = fopen(path, "r");
    cr_assert_not_null(f);
    int lines = 0;
    while (fgets(line, sizeof line, f))
        lines += strstr(line, "fork fails") && strstr(line, "TERRACE_FORK=allow");
    fclose(f);
    unlink(path);
    cr_assert_eq(lines, 2);
}

struct load {
    unsigned char *p;
    atomic_bool stop;
    uint64_t rounds;
};

static void *load_run(void *arg)
{
    struct load *l = arg;
    while (!atomic_load(&l->stop) || l->rounds < 2) {
        l->rounds++;
        for (size_t at = 0; at < (size_t)BLOCKS * BLOCK; at += PAGE)
            *(volatile uint64_t *)(l->p + at) = l->rounds + at;
    }
    return NULL;
}

Test(fork_fails, while_everything_is_written_and_evicted)
{
    skip_where_nothing_is_refused();
    terrace *m = open_disk("encrypt=1");
    struct load l = {.p = stable_of(m, (size_t)BLOCKS * BLOCK)};
    pthread_t thread;
    fill(l.p, 1);
    cr_assert_eq(pthread_create(&thread, NULL, load_run, &l), 0);
    for (int n = 0; n < 30; n++) {
        assert_no_child(ENOMEM, "encrypted");
        usleep(1000);
    }
    atomic_store(&l.stop, true);
    pthread_join(thread, NULL);
    for (size_t at = 0; at < (size_t)BLOCKS * BLOCK; at += PAGE)
        cr_assert_eq(*(volatile uint64_t *)(l.p + at), l.rounds + at);
    terrace_close(m);
}

/* ---- how it is refused -------------------------------------------------------- */

enum { REFUSED = 1, SEGMENTATION_FAULT, OTHER };

/* In a process of its own, which the kernel cannot refuse a fork for want of memory:
 * that has a limit of its own. What run() says. */
static int elsewhere(uid_t user, int (*run)(void))
{
    cr_assert_eq(chmod(folder, 0777), 0);
    pid_t pid = child();
    if (pid == 0) {
        const struct rlimit finite = {.rlim_cur = (rlim_t)1 << 46, .rlim_max = (rlim_t)1 << 46};
        if (setrlimit(RLIMIT_DATA, &finite) || (user && setresuid(user, user, user)))
            _exit(OTHER);
        _exit(run());
    }
    int status = status_of(pid);
    cr_assert(WIFEXITED(status), "status 0x%x", (unsigned)status);
    return WEXITSTATUS(status);
}

static int fork_ends(void)
{
    char conf[160];
    terrace *m;
    struct rlimit before, after;
    snprintf(conf, sizeof conf, "nvme_path=%s;tiers=numa:0,nvme:0;limit_numa=%d;stable=file;log=off", folder, LIMIT);
    unsigned char *p = terrace_open(&m, conf) ? NULL : terrace_malloc(m, BLOCK, 0, NULL);
    if (!p)
        return fprintf(stderr, "%s\n", terrace_last_error()), OTHER;
    p[0] = 7;
    getrlimit(RLIMIT_NPROC, &before);
    pid_t pid = child();
    int error = errno, status;
    getrlimit(RLIMIT_NPROC, &after);
    if (pid == 0)
        _exit(p[0] == 7 ? 0 : 1);
    if (before.rlim_cur != after.rlim_cur)
        return OTHER;
    if (pid < 0)
        return error == EAGAIN && strstr(terrace_last_error(), "fork fails") ? REFUSED : OTHER;
    return waitpid(pid, &status, 0) == pid && WIFSIGNALED(status) && WTERMSIG(status) == SIGSEGV &&
           strstr(terrace_last_error(), "a forked child does not get") ? SEGMENTATION_FAULT : OTHER;
}

Test(fork_fails, by_the_number_of_processes_where_memory_is_limited)
{
    if (getuid() != 0)
        cr_skip_test("only root becomes another user");
    cr_assert_eq(elsewhere(NOBODY, fork_ends), REFUSED);
}

Test(fork_fails, not_where_nothing_can_refuse_it)
{
    if (getuid() != 0)
        cr_skip_test("only root is not refused");
    cr_assert_eq(elsewhere(0, fork_ends), SEGMENTATION_FAULT);
}

/* ---- what is no fork of that kind --------------------------------------------- */

static void starts_programs(terrace *m, unsigned char *p)
{
    char *const argv[] = {"sh", "-c", "exit 7", NULL};
    pid_t pid;
    fill(p, 1);
    cr_assert_eq(system("exit 7"), 7 << 8);
    cr_assert_eq(posix_spawn(&pid, "/bin/sh", NULL, NULL, argv, NULL), 0);
    cr_assert_eq(status_of(pid), 7 << 8);
    FILE *f = popen("exit 7", "r");
    cr_assert(f && pclose(f) == 7 << 8);
#ifndef __SANITIZE_THREAD__ /* which makes it a fork() */
    pid = vfork();
    if (pid == 0) {
        execl("/bin/sh", "sh", "-c", "exit 7", NULL);
        _exit(1);
    }
    cr_assert_eq(status_of(pid), 7 << 8);
#endif
    cr_assert(is(p, 1));
    terrace_close(m);
}

Test(fork_fails, but_programs_are_started)
{
    static const char *const lacking[] = {"encrypt=1", "verify=spill", "stable=file"};
    for (size_t i = 0; i < 3; i++) {
        terrace *m = open_disk(lacking[i]);
        starts_programs(m, stable_of(m, (size_t)BLOCKS * BLOCK));
    }
}

/* ---- TERRACE_FORK=allow ------------------------------------------------------- */

Test(fork_fails, unless_allowed_then_what_is_sealed_is_a_segmentation_fault)
{
    for EACH_SEAL(i) {
        char conf[64];
        snprintf(conf, sizeof conf, "%s;fork=allow", sealed[i]);
        terrace *m = open_disk(conf);
        unsigned char *p = stable_of(m, (size_t)BLOCKS * BLOCK);
        memset(p, 7, (size_t)BLOCKS * BLOCK);
        unsigned n = readable(p);
        cr_assert(n > 0 && n < BLOCKS, "%u", n);
        terrace_close(m);
    }
}

Test(fork_fails, unless_allowed_then_a_disk_that_is_no_file_is_one_too)
{
    terrace *m = open_sim(LIMIT, "fork=allow");
    unsigned char *p = stable_of(m, (size_t)BLOCKS * BLOCK);
    memset(p, 7, (size_t)BLOCKS * BLOCK);
    unsigned n = readable(p);
    cr_assert(n > 0 && n < BLOCKS, "%u", n);
    terrace_close(m);
}

Test(fork_fails, unless_allowed_then_a_file_mapping_is_one_too)
{
    terrace *m = open_disk("stable=file;fork=allow");
    unsigned char *p = stable_of(m, (size_t)BLOCKS * BLOCK);
    memset(p, 7, (size_t)BLOCKS * BLOCK);
    cr_assert_eq(readable(p), 0);
    cr_assert_eq(p[BLOCK], 7);
    terrace_close(m);
}

/* Counts the pages that a child finds, each of which must have its own bytes. */
static size_t pages_found(const unsigned char *p, size_t pages)
{
    int probe[2]; /* the kernel reads a byte: an error, and no signal, where there is none */
    size_t *found = mmap(NULL, PAGE, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
    cr_assert_neq(found, MAP_FAILED);
    cr_assert_eq(pipe(probe), 0);
    pid_t pid = child();
    if (pid == 0) {
        for (size_t i = 0; i < pages; i++) {
            char c;
            const uint64_t *page = (const uint64_t *)(p + i * PAGE);
            if (write(probe[1], page, 1) != 1 || read(probe[0], &c, 1) != 1)
                continue;
            if (*page != i)
                _exit(1);
            ++*found;
        }
        _exit(0);
    }
    int status = status_of(pid);
    cr_assert(WIFEXITED(status) && WEXITSTATUS(status) == 0, "status 0x%x", (unsigned)status);
    return *found;
}

Test(fork_fails, unless_allowed_then_there_are_as_many_parts_as_mappings_allow)
{
    size_t allowed = parts_allowed();
    terrace *m = open_disk("limit_numa=96M;fork=allow");
    size_t found = pages_found(pages_of(m, MANY), MANY);
    if (MANY <= allowed)
        cr_assert_eq(found, MANY);
    else
        cr_assert(found >= allowed && found < MANY, "%zu of %d", found, MANY);
    terrace_close(m);
}
