/* simwait.h - how the simulated tiers wait: until something changes, or for as long
 * as the core asks for. */
#ifndef TERRACE_TESTS_SIMWAIT_H
#define TERRACE_TESTS_SIMWAIT_H

#include <pthread.h>
#include <stdbool.h>
#include <stdint.h>
#include <time.h>

/* The end of a wait that begins now. */
static inline struct timespec simwait_until(int64_t timeout_ns)
{
    struct timespec t;
    clock_gettime(CLOCK_REALTIME, &t);
    int64_t ns = t.tv_nsec + (timeout_ns > 0 ? timeout_ns : 0);
    return (struct timespec){.tv_sec = t.tv_sec + ns / 1000000000, .tv_nsec = ns % 1000000000};
}

/* Sleeps, a negative timeout_ns: without limit. False: the time is over. */
static inline bool simwait_sleep(pthread_cond_t *changed, pthread_mutex_t *lock, int64_t timeout_ns,
                                 const struct timespec *until)
{
    if (timeout_ns < 0)
        return pthread_cond_wait(changed, lock) == 0;
    return timeout_ns && pthread_cond_timedwait(changed, lock, until) == 0;
}

#endif
