/* sleep.h - sleeping on a condition of the monotonic clock, for a backend's wait().
 * May call: nothing of terrace. */
#ifndef TERRACE_OFFLOAD_SLEEP_H
#define TERRACE_OFFLOAD_SLEEP_H

#include <pthread.h>
#include <stdbool.h>
#include <stdint.h>
#include <time.h>

/* When so many nanoseconds from now have passed; negative: now. */
static inline struct timespec sleep_limit(int64_t timeout_ns)
{
    struct timespec limit;
    clock_gettime(CLOCK_MONOTONIC, &limit);
    if (timeout_ns > 0) {
        limit.tv_sec += timeout_ns / 1000000000;
        limit.tv_nsec += timeout_ns % 1000000000;
        if (limit.tv_nsec >= 1000000000) {
            limit.tv_sec++;
            limit.tv_nsec -= 1000000000;
        }
    }
    return limit;
}

/* Until the condition is signalled, or, unless timeout_ns is negative, the limit;
 * false: that has passed. */
static inline bool sleep_on(pthread_cond_t *condition, pthread_mutex_t *lock, int64_t timeout_ns,
                            const struct timespec *limit)
{
    if (timeout_ns < 0)
        return pthread_cond_wait(condition, lock) == 0;
    return pthread_cond_timedwait(condition, lock, limit) == 0;
}

#endif
