/* conformance.h - what every tier backend must do, as Criterion tests: the checks of
 * lib/cli/conformance.h.
 *
 * CONFORMANCE(name, subject) makes one suite of them, where subject is a struct
 * conformance that names the backend and how it is set up. A subject's suite runs each
 * test in a process of its own, with fresh temporary folders. */
#ifndef TERRACE_TESTS_CONFORMANCE_H
#define TERRACE_TESTS_CONFORMANCE_H

#include <criterion/criterion.h>

#include "backend_stub.h"

#define CHECK(...) cr_assert(__VA_ARGS__)
#include "cli/conformance.h"

struct conformance {
    const char *backend;
    const char *io;     /* option IO; the engine it must give, where engine is set */
    const char *engine;
    unsigned folders;   /* spill folders */
    void (*prepare)(void); /* what is to be set up before, or NULL */
};

STUB void conform_open(const struct conformance *c)
{
    folders_make(c->folders);
    stub.io = c->io;
    if (c->prepare)
        c->prepare();
    t.b = backend_named(c->backend);
    cr_assert_not_null(t.b);
    conform_begin(0);
    if (c->engine)
        cr_assert_str_eq(t.info.engine, c->engine, "%s", t.info.engine_reason);
}

STUB void conform_close(void)
{
    conform_end();
    folders_remove();
}

#define CONFORMANCE_TEST(suite, name)                                                      \
    Test(suite, name, .timeout = 120)                                                      \
    {                                                                                      \
        conform_open(&suite##_subject);                                                    \
        conform_##name();                                                                  \
        conform_close();                                                                   \
    }

#define CONFORMANCE(suite, ...)                                                            \
    static const struct conformance suite##_subject = {__VA_ARGS__};                       \
    CONFORMANCE_TEST(suite, table) \
    CONFORMANCE_TEST(suite, ranges) \
    CONFORMANCE_TEST(suite, absurd) \
    CONFORMANCE_TEST(suite, churn) \
    CONFORMANCE_TEST(suite, reopen) \
    CONFORMANCE_TEST(suite, bytes) \
    CONFORMANCE_TEST(suite, full) \
    CONFORMANCE_TEST(suite, many) \
    CONFORMANCE_TEST(suite, wake) \
    CONFORMANCE_TEST(suite, timeout) \
    CONFORMANCE_TEST(suite, stray) \
    CONFORMANCE_TEST(suite, pins) \
    CONFORMANCE_TEST(suite, views) \
    CONFORMANCE_TEST(suite, places) \
    CONFORMANCE_TEST(suite, streams) \
    CONFORMANCE_TEST(suite, attach) \
    CONFORMANCE_TEST(suite, attach_shares) \
    CONFORMANCE_TEST(suite, attach_changed) \
    CONFORMANCE_TEST(suite, attach_refused)

#endif
