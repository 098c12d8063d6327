/* others.h - other processes that a test talks to. They are started before the test has
 * threads, do what they are told, one order at a time, and answer with a number. */
#ifndef TERRACE_TESTS_OTHERS_H
#define TERRACE_TESTS_OTHERS_H

#include <criterion/criterion.h>
#include <signal.h>
#include <stdint.h>
#include <stdlib.h>
#include <sys/wait.h>
#include <unistd.h>

struct other {
    pid_t pid;
    int to, from;
};

struct order {
    int what;
    int64_t number;
};

enum { OTHER_ENDS = -1 }; /* those started later hold the pipe open, too */

typedef int64_t obey_fn(struct order order);

static inline struct other other_start(obey_fn *obey)
{
    int to[2], from[2];
    cr_assert_eq(pipe(to), 0);
    cr_assert_eq(pipe(from), 0);
    struct other o = {fork(), to[1], from[0]};
    cr_assert_geq(o.pid, 0);
    if (o.pid == 0) {
        struct order order;
        close(to[1]);
        while (read(to[0], &order, sizeof order) == sizeof order && order.what != OTHER_ENDS) {
            int64_t answer = obey(order);
            if (write(from[1], &answer, sizeof answer) != sizeof answer)
                break;
        }
        _exit(0);
    }
    close(to[0]);
    close(from[1]);
    return o;
}

static inline void other_begin(const struct other *o, int what, int64_t number)
{
    struct order order = {what, number};
    cr_assert_eq(write(o->to, &order, sizeof order), sizeof order);
}

static inline int64_t other_answer(const struct other *o)
{
    int64_t answer;
    cr_assert_eq(read(o->from, &answer, sizeof answer), sizeof answer, "the other process has died");
    return answer;
}

static inline int64_t other(const struct other *o, int what, int64_t number)
{
    other_begin(o, what, number);
    return other_answer(o);
}

static inline void other_kill(const struct other *o)
{
    int status;
    cr_assert_eq(kill(o->pid, SIGKILL), 0);
    cr_assert_eq(waitpid(o->pid, &status, 0), o->pid);
    close(o->to);
    close(o->from);
}

static inline void other_end(const struct other *o)
{
    int status = 1;
    other_begin(o, OTHER_ENDS, 0);
    close(o->to);
    cr_assert_eq(waitpid(o->pid, &status, 0), o->pid);
    cr_assert_eq(status, 0, "the other process ended with %x", (unsigned)status);
    close(o->from);
}

#endif
