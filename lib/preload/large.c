/* large.c - large blocks: address-stable memory of the process's manager.
 *
 * The manager is opened for the first of them, and no earlier: a process that has
 * none pays for nothing. Where it cannot be opened, one line says why, and the
 * process goes on as if nothing had been preloaded.
 *
 * A forked child inherits blocks as plain memory that the kernel serves. It counts
 * epochs: what was made in an earlier one is not terrace's any more. For its own
 * large blocks it opens a manager of its own.
 *
 * May call: terrace.h, process.h, table.c, guard.c. */
#include <errno.h>
#include <fcntl.h>
#include <pthread.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

#include "preload.h"
#include "small.h"

size_t large_least = SIZE_MAX;

/* A child never waits for its parent's threads: who finds the manager being opened
 * by another thread does without. */
static enum { CLOSED, OPENING, OPEN, OFF } _Atomic state;
static terrace *manager;
static terrace_tier host;
static unsigned epoch;
static int error_output = -1; /* where the report goes, should the program close its stderr before */
static unsigned char *alive; /* reads 0 in a child, also of the bare system call */

/* ---- the manager --------------------------------------------------------- */

static void child_begins(void)
{
    epoch++;
    if (state != OFF)
        state = CLOSED;
    if (alive)
        *alive = 1;
}

static bool alive_open(void)
{
    void *page = alive ? alive : real_mmap(NULL, PAGE, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    if (page == MAP_FAILED || madvise(page, PAGE, MADV_WIPEONFORK))
        return false;
    alive = page;
    *alive = 1;
    return true;
}

void large_stop(void)
{
    state = OFF;
    large_least = SIZE_MAX;
}

static void manager_open(void)
{
    if (!malloc_is_ours()) { /* terrace would itself live in memory that it is to move */
        say("host memory is not tiered, as the program has a malloc of its own linked in");
        large_stop();
        return;
    }
    int r = alive_open() ? terrace_process_open(&manager) : -TERRACE_ESYSTEM;
    if (r == 0)
        r = terrace_tier_find(manager, "host", &host);
    if (r == 0) {
        const char *report = getenv("TERRACE_REPORT");
        if (report && strcmp(report, "1") == 0)
            error_output = fcntl(STDERR_FILENO, F_DUPFD_CLOEXEC, 100);
        state = OPEN;
        return;
    }
    if (r == -TERRACE_EAGAIN) {
        state = CLOSED;
        return;
    }
    say_untiered("host", terrace_last_error());
    large_stop();
}

static bool usable(void)
{
    int closed = CLOSED;
    if (state == OPEN && !*alive)
        child_begins();
    if (state == CLOSED && atomic_compare_exchange_strong((_Atomic int *)&state, &closed, OPENING))
        manager_open();
    return state == OPEN;
}

/* ---- blocks -------------------------------------------------------------- */

/* What terrace_malloc() reserves for so many bytes. */
static size_t reserved_for(size_t bytes)
{
    return round_up(bytes, bytes < SLOT ? PAGE : SLOT);
}

static struct block *block_new(size_t bytes, size_t reserve)
{
    struct block *b = small_calloc(1, sizeof *b);
    if (!b)
        return NULL;
    *b = (struct block){.bytes = bytes, .reserved = reserved_for(reserve), .epoch = epoch};
    b->base = terrace_malloc(manager, reserve, host, NULL);
    if (b->base && !((uintptr_t)b->base % SLOT) && table_add(b))
        return b;
    terrace_free(manager, b->base);
    small_free(b);
    return NULL;
}

struct block *large_new(size_t bytes, size_t reserve, const void *caller)
{
    struct guard g;
    if (inside || bytes > SIZE_MAX / 8 || guard_is_library(caller))
        return NULL;
    guard_enter(&g);
    struct block *b = usable() ? block_new(bytes, reserve > bytes ? reserve : bytes) : NULL;
    guard_leave(&g);
    return b;
}

bool large_inherited(const struct block *b)
{
    return b->epoch != epoch;
}

void large_free(struct block *b)
{
    struct guard g;
    guard_enter(&g);
    table_remove(b);
    if (large_inherited(b))
        real_munmap(b->base, b->reserved);
    else
        terrace_free(manager, b->base);
    if (b->page)
        real_munmap(b->page, b->reserved / PAGE + b->reserved / SLOT + 1);
    small_free(b);
    guard_leave(&g);
}

int large_advise(const struct block *b, char *at, size_t bytes, int advice)
{
    struct guard g;
    (void)b;
    guard_enter(&g);
    int r = terrace_advise(manager, at, bytes, advice, host);
    guard_leave(&g);
    return r == 0 ? 0 : r == -TERRACE_EINVAL ? EINVAL : ENOMEM;
}

void large_discard(const struct block *b, char *at, size_t bytes)
{
    struct guard g;
    (void)b;
    guard_enter(&g);
    terrace_process_discard(manager, at, bytes);
    guard_leave(&g);
}

/* ---- the beginning and the end ------------------------------------------- */

/* Before the C library's own constructor, which sets `environ` to the same. */
__attribute__((constructor)) static void begin(int argc, char **argv, char **environment)
{
    (void)argc;
    (void)argv;
    if (!environ)
        environ = environment;
    inside = true;
    small_free(small_malloc(1)); /* its fork handlers come before those of terrace */
    guard_begin();
    terrace_process_begin();
    mapping_begin();
    pthread_atfork(NULL, NULL, child_begins);
    large_least = memory_least = terrace_process_threshold();
    inside = false;
}

__attribute__((destructor)) static void end(void)
{
    struct guard g;
    guard_enter(&g);
    if (error_output >= 0 && fcntl(STDERR_FILENO, F_GETFD) < 0)
        dup2(error_output, STDERR_FILENO);
    terrace_process_report(); /* nothing, where no manager was opened */
    guard_leave(&g);
}
