/* maps.c - mmap's family on large mappings, whole and in parts. */
#include <sys/mman.h>

#include <fcntl.h>
#include <setjmp.h>
#include <signal.h>

#include "job.h"

enum { PAGE = 4096, RW = PROT_READ | PROT_WRITE, ANON = MAP_PRIVATE | MAP_ANONYMOUS };

static sigjmp_buf back;

static void on_fault(int signal)
{
    siglongjmp(back, signal);
}

/* The signal that reading (or writing) there raises; 0: none. */
static int touch(volatile char *p, bool write)
{
    struct sigaction old[2], act = {.sa_handler = on_fault};
    sigaction(SIGSEGV, &act, &old[0]);
    sigaction(SIGBUS, &act, &old[1]);
    int got = sigsetjmp(back, 1);
    if (got == 0) {
        char c = *p;
        if (write)
            *p = c;
    }
    sigaction(SIGSEGV, &old[0], NULL);
    sigaction(SIGBUS, &old[1], NULL);
    return got;
}

static char *map(size_t bytes)
{
    char *p = mmap(NULL, bytes, RW, ANON, -1, 0);
    NEED(p != MAP_FAILED && !((uintptr_t)p % PAGE));
    return p;
}

static char *map_filled(size_t bytes)
{
    char *p = map(bytes);
    NEED(job_is_zero(p, PAGE) && job_is_zero(p + bytes - PAGE, PAGE));
    job_fill(p, bytes, 5);
    job_press();
    return p;
}

static void spills(void)
{
    char *p = map_filled(SPILLS);
    NEED(job_has(p, SPILLS, 5));
    NEED(munmap(p, SPILLS) == 0);
    NEED(touch(p, false) == SIGSEGV && touch(p + SPILLS - 1, false) == SIGSEGV);
}

static void parts_are_unmapped(void)
{
    size_t n = 48 * MIB;
    char *p = map_filled(n);
    NEED(munmap(p + 10 * MIB + PAGE, 9 * MIB) == 0);
    NEED(touch(p + 10 * MIB + PAGE - 1, true) == 0);
    NEED(touch(p + 10 * MIB + PAGE, false) == SIGSEGV);
    NEED(touch(p + 15 * MIB, false) == SIGSEGV);
    NEED(touch(p + 19 * MIB + PAGE - 1, true) == SIGSEGV);
    NEED(touch(p + 19 * MIB + PAGE, true) == 0);
    job_press();
    for (size_t at = 0; at < n - PAGE; at += PAGE)
        if (at < 10 * MIB + PAGE || at >= 19 * MIB + PAGE)
            NEED(*(uint64_t *)(p + at) == word_for(5, at / 8));
    NEED(munmap(p, 2 * MIB) == 0 && touch(p, false) == SIGSEGV && touch(p + 2 * MIB, true) == 0);
    NEED(munmap(p + n - PAGE, PAGE) == 0 && touch(p + n - PAGE, false) == SIGSEGV);
    NEED(munmap(p, n) == 0 && touch(p + 30 * MIB, false) == SIGSEGV);
    for (int i = 0; i < 200; i++) { /* in pieces, until nothing is left */
        p = map(4 * MIB);
        memset(p, 1, 4 * MIB);
        NEED(munmap(p + MIB, 2 * MIB) == 0 && munmap(p, MIB) == 0 && munmap(p + 3 * MIB, MIB) == 0);
    }
}

/* As allocators do for an alignment. */
static void trims(void)
{
    char *p[16];
    for (int i = 0; i < 16; i++) {
        char *raw = map(6 * MIB - PAGE);
        size_t head = (size_t)(-(uintptr_t)(raw + PAGE) % MIB) + PAGE;
        NEED(munmap(raw, head) == 0);
        NEED(munmap(raw + head + 4 * MIB, 2 * MIB - PAGE - head) == 0);
        p[i] = raw + head;
        job_fill(p[i], 4 * MIB, (uint64_t)i);
    }
    for (int i = 0; i < 16; i++) {
        NEED(job_has(p[i], 4 * MIB, (uint64_t)i));
        NEED(munmap(p[i], 4 * MIB) == 0);
    }
}

static void protects(void)
{
    size_t n = 40 * MIB;
    char *p = map_filled(n);
    NEED(mprotect(p + 3 * MIB, MIB, PROT_READ) == 0);
    NEED(mprotect(p + 8 * MIB, PAGE, PROT_NONE) == 0);
    job_press();
    NEED(touch(p + 3 * MIB, false) == 0 && touch(p + 3 * MIB, true) == SIGSEGV);
    NEED(touch(p + 8 * MIB, false) == SIGSEGV && touch(p + 8 * MIB + PAGE, true) == 0);
    NEED(*(uint64_t *)(p + 3 * MIB) == word_for(5, 3 * MIB / 8));
    NEED(mprotect(p, n, RW) == 0);
    job_press();
    NEED(job_has(p, n, 5));
    NEED(mprotect(p + 20 * MIB, 2 * MIB, PROT_READ | PROT_EXEC) == 0 && mprotect(p + 20 * MIB, 2 * MIB, RW) == 0);
    NEED(munmap(p, n) == 0);
    NEED(mprotect(p, PAGE, RW) < 0 && errno == ENOMEM);
}

static void empties(void)
{
    size_t n = 40 * MIB;
    char *p = map_filled(n);
    NEED(madvise(p + 5 * MIB + PAGE, 9 * MIB, MADV_DONTNEED) == 0);
    NEED(job_is_zero(p + 5 * MIB + PAGE, 9 * MIB));
    NEED(*(uint64_t *)(p + 5 * MIB) == word_for(5, 5 * MIB / 8));
    NEED(*(uint64_t *)(p + 14 * MIB + PAGE) == word_for(5, (14 * MIB + PAGE) / 8));
    job_fill(p, n, 6);
    job_press();
    NEED(job_has(p, n, 6));
    NEED(mprotect(p + 2 * MIB, PAGE, PROT_READ) == 0 && madvise(p, n, MADV_DONTNEED) == 0);
    NEED(job_is_zero(p, n) && touch(p + 2 * MIB, true) == SIGSEGV);
    NEED(madvise(p, n, MADV_HUGEPAGE) == 0 && madvise(p, n, MADV_WILLNEED) == 0 && madvise(p, n, MADV_FREE) == 0);
    NEED(posix_madvise(p, n, POSIX_MADV_SEQUENTIAL) == 0);
    NEED(munmap(p, n) == 0);
    NEED(madvise(p, n, MADV_DONTNEED) < 0 && errno == ENOMEM);
}

static void empties_while_used(void)
{
    char *p = map(SPILLS);
    for (int round = 0; round < 3; round++) {
        job_fill(p, SPILLS, (uint64_t)round);
        for (size_t at = 0; at < SPILLS; at += 2 * MIB) {
            NEED(madvise(p + at, 2 * MIB, MADV_DONTNEED) == 0);
            NEED(p[at] == 0 && p[at + 2 * MIB - 1] == 0);
        }
    }
    NEED(munmap(p, SPILLS) == 0);
}

static void remaps(void)
{
    char *p = map_filled(20 * MIB);
    p = mremap(p, 20 * MIB, 50 * MIB, MREMAP_MAYMOVE);
    NEED(p != MAP_FAILED && *(uint64_t *)p == word_for(5, 0) && job_is_zero(p + 20 * MIB, 30 * MIB));
    NEED(*(uint64_t *)(p + 20 * MIB - 8) == word_for(5, 20 * MIB));
    NEED(mremap(p, 50 * MIB, 20 * MIB, 0) == p);
    NEED(job_has(p, 20 * MIB, 5) && touch(p + 20 * MIB, false) == SIGSEGV);
    NEED(mremap(p, 20 * MIB, 2000 * MIB, 0) == MAP_FAILED && errno == ENOMEM);
    char *hole = mmap(NULL, 32 * MIB, PROT_NONE, ANON | MAP_NORESERVE, -1, 0);
    NEED(hole != MAP_FAILED);
    NEED(mremap(p, 20 * MIB, 20 * MIB, MREMAP_MAYMOVE | MREMAP_FIXED, hole) == hole);
    NEED(job_has(hole, 20 * MIB, 5) && touch(p, false) == SIGSEGV);
    NEED(munmap(hole, 32 * MIB) == 0);
}

static void fixed_goes_over_it(void)
{
    size_t n = 24 * MIB;
    char *p = map_filled(n);
    int file = memfd_create("job", 0);
    NEED(file >= 0 && ftruncate(file, 8 * (off_t)MIB) == 0 && pwrite(file, "file", 4, 0) == 4);
    NEED(mmap(p + 3 * MIB, 8 * MIB, RW, MAP_SHARED | MAP_FIXED, file, 0) == p + 3 * MIB);
    NEED(memcmp(p + 3 * MIB, "file", 4) == 0);
    memset(p + 3 * MIB, 9, 8 * MIB);
    job_press();
    NEED(p[3 * MIB] == 9 && p[11 * MIB - 1] == 9);
    NEED(*(uint64_t *)(p + 3 * MIB - PAGE) == word_for(5, (3 * MIB - PAGE) / 8));
    NEED(*(uint64_t *)(p + 11 * MIB) == word_for(5, 11 * MIB / 8));
    NEED(munmap(p, 3 * MIB) == 0 && munmap(p + 11 * MIB, n - 11 * MIB) == 0);
    NEED(p[3 * MIB] == 9 && touch(p, false) == SIGSEGV); /* it is the program's own */
    NEED(madvise(p + 3 * MIB, 8 * MIB, MADV_DONTNEED) == 0 && p[3 * MIB] == 9);
    NEED(munmap(p + 3 * MIB, 8 * MIB) == 0 && touch(p + 3 * MIB, false) == SIGSEGV);
    char *big = mmap(NULL, 64 * MIB, PROT_NONE, ANON | MAP_NORESERVE, -1, 0);
    NEED(mmap(big + PAGE, 16 * MIB, RW, ANON | MAP_FIXED, -1, 0) == big + PAGE); /* as arenas grow */
    memset(big + PAGE, 1, 16 * MIB);
    NEED(munmap(big, 64 * MIB) == 0);
}

static void locks(void)
{
    char *p = map_filled(12 * MIB);
    NEED(mlock(p + MIB + 100, 3 * MIB) == 0);
    job_press();
    unsigned char in[3 * MIB / PAGE];
    NEED(mincore(p + MIB, 3 * MIB, in) == 0);
    for (size_t i = 0; i < sizeof in; i++)
        NEED(in[i] & 1);
    NEED(munlock(p + MIB + 100, 3 * MIB) == 0);
    job_press();
    NEED(job_has(p, 12 * MIB, 5) && munmap(p, 12 * MIB) == 0);
}

/* The kernel's own view of what was not to be touched. */
static void others_pass(void)
{
    char *shared = mmap(NULL, 8 * MIB, RW, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
    NEED(shared != MAP_FAILED);
    pid_t child = fork();
    if (child == 0) {
        shared[4 * MIB] = 3;
        _exit(0);
    }
    NEED(job_wait(child) == 0 && shared[4 * MIB] == 3 && munmap(shared, 8 * MIB) == 0);
    char *hole = mmap(NULL, (size_t)1 << 40, PROT_NONE, ANON | MAP_NORESERVE, -1, 0);
    NEED(hole != MAP_FAILED && mprotect(hole + MIB, MIB, RW) == 0);
    hole[MIB] = 1;
    NEED(munmap(hole, (size_t)1 << 40) == 0);
    int zero = open("/dev/zero", O_RDWR);
    char *file = mmap(NULL, 4 * MIB, RW, MAP_PRIVATE, zero, 0);
    NEED(file != MAP_FAILED && job_is_zero(file, 4 * MIB) && munmap(file, 4 * MIB) == 0);
    char *stack = mmap(NULL, 8 * MIB, RW, ANON | MAP_STACK, -1, 0);
    NEED(stack != MAP_FAILED && munmap(stack, 8 * MIB) == 0);
    NEED(mmap(NULL, 0, RW, ANON, -1, 0) == MAP_FAILED && errno == EINVAL);
}

int main(int argc, char **argv)
{
    return job_run((const struct job[]){{"spills", spills},
                                        {"unmaps", parts_are_unmapped},
                                        {"trims", trims},
                                        {"protects", protects},
                                        {"empties", empties},
                                        {"empties_used", empties_while_used},
                                        {"remaps", remaps},
                                        {"fixed", fixed_goes_over_it},
                                        {"locks", locks},
                                        {"passes", others_pass},
                                        {0}},
                   argc, argv);
}
