/* forks.c - children of a process whose memory is spilled. */
#include <sched.h>
#include <signal.h>
#include <spawn.h>
#include <sys/mman.h>
#include <sys/syscall.h>

#include "job.h"

extern char **environ;

static char *spilled(uint64_t seed)
{
    char *p = malloc(SPILLS);
    NEED(p);
    job_fill(p, SPILLS, seed);
    job_press();
    return p;
}

static void child_reads_and_writes(void)
{
    char *p = spilled(1);
    pid_t child = fork();
    NEED(child >= 0);
    if (child == 0) {
        NEED(job_has(p, SPILLS, 1));
        job_fill(p, SPILLS, 2);
        char *more = malloc(SPILLS); /* under a budget of its own */
        NEED(more);
        job_fill(more, SPILLS, 3);
        NEED(job_has(p, SPILLS, 2) && job_has(more, SPILLS, 3));
        free(more);
        p = realloc(p, SPILLS + MIB);
        NEED(p && *(uint64_t *)p == word_for(2, 0));
        free(p);
        _exit(0);
    }
    job_fill(p, SPILLS, 4);
    job_press();
    NEED(job_wait(child) == 0 && job_has(p, SPILLS, 4));
    free(p);
}

static void child_outlives_its_parent(void)
{
    int ends[2];
    NEED(pipe(ends) == 0);
    pid_t middle = fork();
    NEED(middle >= 0);
    if (middle == 0) {
        char *p = spilled(5);
        pid_t child = fork();
        NEED(child >= 0);
        if (child)
            _exit(0);
        close(ends[0]);
        while (getppid() == middle)
            ;
        usleep(200000);
        pid_t grandchild = fork(); /* and again */
        NEED(grandchild >= 0);
        NEED(job_has(p, SPILLS, 5));
        if (grandchild == 0) {
            job_fill(p, SPILLS, 6);
            _exit(job_has(p, SPILLS, 6) ? 0 : 1);
        }
        NEED(job_wait(grandchild) == 0 && job_has(p, SPILLS, 5));
        NEED(write(ends[1], "x", 1) == 1);
        _exit(0);
    }
    close(ends[1]);
    NEED(job_wait(middle) == 0);
    char c = 0;
    NEED(read(ends[0], &c, 1) == 1 && c == 'x');
    close(ends[0]);
}

static void many_children(void)
{
    char *p = spilled(7);
    pid_t child[8];
    for (int i = 0; i < 8; i++) {
        ((uint64_t *)p)[512 * 300 * (size_t)i] = (uint64_t)i;
        child[i] = fork();
        NEED(child[i] >= 0);
        if (child[i] == 0) {
            for (int k = 0; k < 8; k++)
                NEED(((uint64_t *)p)[512 * 300 * (size_t)k] == (k <= i ? (uint64_t)k : word_for(7, 512 * 300 * (size_t)k)));
            _exit(0);
        }
    }
    for (int i = 0; i < 8; i++)
        NEED(job_wait(child[i]) == 0);
    free(p);
}

/* What a child does to inherited memory. */
static void child_maps(void)
{
    size_t n = 40 * MIB;
    char *p = mmap(NULL, n, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    job_fill(p, n, 8);
    job_press();
    pid_t child = fork();
    NEED(child >= 0);
    if (child == 0) {
        NEED(madvise(p + 3 * MIB, 9 * MIB, MADV_DONTNEED) == 0 && job_is_zero(p + 3 * MIB, 9 * MIB));
        NEED(munmap(p + 20 * MIB, MIB) == 0 && mprotect(p, MIB, PROT_READ) == 0);
        NEED(*(uint64_t *)(p + 21 * MIB) == word_for(8, 21 * MIB / 8));
        p = mremap(p + 21 * MIB, 19 * MIB, 30 * MIB, MREMAP_MAYMOVE);
        NEED(p != MAP_FAILED && *(uint64_t *)p == word_for(8, 21 * MIB / 8) && p[19 * MIB] == 0);
        _exit(0);
    }
    NEED(job_wait(child) == 0 && job_has(p, n, 8) && munmap(p, n) == 0);
}

static void programs_are_started(void)
{
    char *p = spilled(9);
    NEED(system("exit 7") == 7 << 8);
    FILE *f = popen("echo out", "r");
    char line[20] = "";
    NEED(f && fgets(line, sizeof line, f) && strcmp(line, "out\n") == 0 && pclose(f) == 0);
    strcpy(p + 33 * MIB, "/bin/sh");
    strcpy(p + 44 * MIB, "exit $JOB");
    char **argv = (char **)(p + 55 * MIB), **env = (char **)(p + 66 * MIB);
    argv[0] = p + 33 * MIB;
    argv[1] = strcpy(p + 34 * MIB, "-c");
    argv[2] = p + 44 * MIB;
    argv[3] = NULL;
    env[0] = strcpy(p + 77 * MIB, "JOB=5");
    env[1] = NULL;
    job_press();
    pid_t child = vfork();
    if (child == 0) {
        execve(argv[0], argv, env);
        _exit(100);
    }
    NEED(child > 0 && job_wait(child) == 5);
    job_press();
    NEED(posix_spawn(&child, argv[0], NULL, NULL, argv, env) == 0 && job_wait(child) == 5);
    free(p);
}

static int reads_some(void *p)
{
    volatile char c = *((char *)p + 40 * MIB);
    (void)c;
    return 0;
}

/* By the bare system call a child gets nothing, rather than something else; its
 * parent, and what the child allocates, are unharmed. */
static void bare_clones(void)
{
    char *p = spilled(10);
    pid_t child = (pid_t)syscall(SYS_clone, SIGCHLD, NULL, NULL, NULL, NULL);
    NEED(child >= 0);
    if (child == 0) {
        char *own = calloc(3, MIB);
        if (!own || own[2 * MIB])
            _exit(1);
        memset(own, 1, 3 * MIB);
        reads_some(p);
        _exit(2);
    }
    NEED(job_wait(child) == 256 + SIGSEGV);
    char *stack = malloc(64 << 10);
    child = clone(reads_some, stack + (64 << 10), CLONE_VM | CLONE_VFORK | SIGCHLD, p);
    NEED(child > 0 && job_wait(child) == 0);
    NEED(job_has(p, SPILLS, 10));
    free(stack);
    free(p);
}

/* Run where what is spilled is encrypted. */
static void fork_fails(void)
{
    char *p = spilled(11);
    for (int i = 0; i < 3; i++) {
        errno = 0;
        NEED(fork() == -1 && errno == ENOMEM);
        NEED(waitpid(-1, NULL, 0) == -1 && errno == ECHILD);
    }
    NEED(system("exit 3") == 3 << 8);
    NEED(job_has(p, SPILLS, 11));
    free(p);
    pid_t child = fork(); /* nothing is spilled now */
    if (child == 0)
        _exit(0);
    NEED(child > 0 && job_wait(child) == 0);
}

/* The child says on standard output what it found. */
static void becomes_a_daemon(void)
{
    char *p = spilled(12);
    NEED(daemon(1, 1) == 0);
    puts(job_has(p, SPILLS, 12) ? "all is there" : "something is missing");
    fflush(stdout);
}

int main(int argc, char **argv)
{
    if (argc == 2 && strcmp(argv[1], "daemon") == 0)
        return becomes_a_daemon(), 0;
    if (argc == 2 && strcmp(argv[1], "fails") == 0)
        return fork_fails(), 0;
    return job_run((const struct job[]){{"reads", child_reads_and_writes},
                                        {"outlives", child_outlives_its_parent},
                                        {"many", many_children},
                                        {"maps", child_maps},
                                        {"starts", programs_are_started},
                                        {"clones", bare_clones},
                                        {0}},
                   argc, argv);
}
