/* threads.c - threads that come and go, and signals that find them anywhere. */
#include <pthread.h>
#include <signal.h>
#include <sys/time.h>

#include "job.h"

static char *shared;

static void *short_life(void *arg)
{
    size_t i = (size_t)(uintptr_t)arg;
    char *small = malloc(1000 + i), *large = i % 16 ? NULL : malloc(MIB + i);
    memset(small, 1, 1000 + i);
    if (large)
        large[MIB] = 5;
    uint64_t *w = (uint64_t *)shared + i % (SPILLS / 4096) * 512;
    NEED(*w == word_for(1, i % (SPILLS / 4096) * 512));
    free(small);
    return large;
}

static void come_and_go(void)
{
    enum { THREADS = 4000, AT_ONCE = 40 };
    pthread_t thread[AT_ONCE];
    shared = malloc(SPILLS);
    job_fill(shared, SPILLS, 1);
    for (size_t done = 0; done < THREADS; done += AT_ONCE) {
        for (size_t i = 0; i < AT_ONCE; i++)
            NEED(pthread_create(&thread[i], NULL, short_life, (void *)(uintptr_t)((done + i) * 5)) == 0);
        for (size_t i = 0; i < AT_ONCE; i++) {
            void *large;
            NEED(pthread_join(thread[i], &large) == 0);
            NEED(!large || ((char *)large)[MIB] == 5);
            free(large);
        }
    }
    free(shared);
}

static void *walk(void *arg)
{
    uint64_t seed = (uint64_t)(uintptr_t)arg;
    for (int round = 0; round < 3; round++) {
        size_t n = (size_t)(12 + seed) * MIB;
        char *p = malloc(n);
        NEED(p);
        job_fill(p, n, seed);
        NEED(job_has(p, n, seed));
        p = realloc(p, n / 2);
        NEED(p && *(uint64_t *)p == word_for(seed, 0));
        free(p);
    }
    return NULL;
}

static void all_at_once(void)
{
    pthread_t thread[8];
    for (size_t i = 0; i < 8; i++)
        NEED(pthread_create(&thread[i], NULL, walk, (void *)(uintptr_t)(i + 1)) == 0);
    for (int i = 0; i < 8; i++)
        NEED(pthread_join(thread[i], NULL) == 0);
}

static volatile sig_atomic_t signals;

/* Touches what may be spilled, in the middle of whatever is being done. */
static void on_alarm(int signal)
{
    (void)signal;
    size_t page = (size_t)signals * 7919 % (SPILLS / 4096);
    signals++;
    NEED(((volatile uint64_t *)shared)[page * 512] == word_for(2, page * 512));
}

static void alarms_find_it(int which, bool allocate)
{
    struct sigaction act = {.sa_handler = on_alarm, .sa_flags = SA_RESTART};
    struct itimerval every = {{0, 500}, {0, 500}}, never = {{0, 0}, {0, 0}};
    shared = malloc(SPILLS);
    job_fill(shared, SPILLS, 2);
    signals = 0;
    sigaction(SIGALRM, &act, NULL);
    NEED(setitimer(which, &every, NULL) == 0);
    for (int i = 0; signals < 400 && i < 20000; i++) {
        if (allocate) {
            char *p = malloc(3 * MIB);
            NEED(p);
            p[MIB] = 1;
            p = realloc(p, 5 * MIB);
            NEED(p && p[MIB] == 1);
            free(p);
        }
        size_t page = (size_t)i * 104729 % (SPILLS / 4096);
        NEED(((uint64_t *)shared)[page * 512] == word_for(2, page * 512));
        if (i % 50 == 0) {
            pid_t child = fork();
            if (child == 0)
                _exit(0);
            NEED(child < 0 || job_wait(child) == 0);
        }
    }
    setitimer(which, &never, NULL);
    NEED(signals >= 400 && job_has(shared, SPILLS, 2));
    free(shared);
}

static void alarms(void)
{
    alarms_find_it(ITIMER_REAL, false);
    alarms_find_it(ITIMER_REAL, true);
}

/* Handlers that allocate large blocks themselves while the program does not allocate. */
static void on_alarm_allocate(int signal)
{
    (void)signal;
    char *p = malloc(4 * MIB);
    NEED(p);
    p[3 * MIB] = 1;
    free(p);
    signals++;
}

static void handlers_allocate(void)
{
    struct sigaction act = {.sa_handler = on_alarm_allocate, .sa_flags = SA_RESTART};
    struct itimerval every = {{0, 1000}, {0, 1000}}, never = {{0, 0}, {0, 0}};
    shared = malloc(SPILLS);
    job_fill(shared, SPILLS, 3);
    signals = 0;
    sigaction(SIGALRM, &act, NULL);
    NEED(setitimer(ITIMER_REAL, &every, NULL) == 0);
    while (signals < 300)
        NEED(job_has(shared, SPILLS, 3));
    setitimer(ITIMER_REAL, &never, NULL);
    free(shared);
}

int main(int argc, char **argv)
{
    return job_run((const struct job[]){{"come_and_go", come_and_go},
                                        {"at_once", all_at_once},
                                        {"alarms", alarms},
                                        {"handlers", handlers_allocate},
                                        {0}},
                   argc, argv);
}
