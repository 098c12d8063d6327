/* job.h - for programs that know nothing of terrace: tests/check_preload.sh runs them
 * with a budget of BUDGET, preloaded.
 *
 * A program is a list of cases; without arguments it runs all, and ends with 1 where
 * one of them failed. */
#ifndef JOB_H
#define JOB_H

#include <errno.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/wait.h>
#include <unistd.h>

#define MIB ((size_t)1 << 20)
#define BUDGET (32 * MIB)
#define SPILLS (3 * BUDGET) /* a block of this size does not stay in memory */

#define NEED(condition)                                                                  \
    do {                                                                                 \
        if (!(condition)) {                                                              \
            fprintf(stderr, "%s:%d: %s (errno %d)\n", __FILE__, __LINE__, #condition, errno); \
            _exit(1);                                                                    \
        }                                                                                \
    } while (0)

static inline uint64_t word_for(uint64_t seed, size_t i)
{
    return (seed + i) * UINT64_C(0x9e3779b97f4a7c15) | 1;
}

/* A word in each page, and the last one. */
static inline void job_fill(void *p, size_t bytes, uint64_t seed)
{
    uint64_t *w = p;
    for (size_t i = 0; i < bytes / 8; i += 512)
        w[i] = word_for(seed, i);
    w[bytes / 8 - 1] = word_for(seed, bytes);
}

static inline bool job_has(const void *p, size_t bytes, uint64_t seed)
{
    const uint64_t *w = p;
    for (size_t i = 0; i < bytes / 8; i += 512)
        if (w[i] != word_for(seed, i) && i != bytes / 8 - 1)
            return false;
    return w[bytes / 8 - 1] == word_for(seed, bytes);
}

static inline bool job_is_zero(const void *p, size_t bytes)
{
    const char *c = p;
    for (size_t i = 0; i < bytes; i++)
        if (c[i])
            return false;
    return true;
}

/* Pushes everything else out of memory. */
static inline void job_press(void)
{
    char *p = malloc(SPILLS);
    NEED(p);
    job_fill(p, SPILLS, 77);
    NEED(job_has(p, SPILLS, 77));
    free(p);
}

/* What a child of this process said by its exit status. */
static inline int job_wait(pid_t child)
{
    int status;
    while (waitpid(child, &status, 0) < 0)
        NEED(errno == EINTR);
    return WIFEXITED(status) ? WEXITSTATUS(status) : 256 + WTERMSIG(status);
}

struct job {
    const char *name;
    void (*run)(void);
};

static inline int job_run(const struct job *jobs, int argc, char **argv)
{
    int ran = 0;
    for (; jobs->name; jobs++)
        if (argc < 2 || strcmp(argv[1], jobs->name) == 0) {
            jobs->run();
            ran++;
        }
    return ran ? 0 : 2;
}

#endif
