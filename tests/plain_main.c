/* plain_main.c - runs a Criterion program's tests without Criterion's sandbox.
 *
 * Used under the sanitizers: the thread sanitizer leaves no room for the
 * sandbox's memory at fixed addresses, and a leak found when a sandboxed test
 * ends does not count as a failure. Here every test is a plain fork(), and
 * whatever makes it end other than expected is a failure. The few functions
 * Criterion's macros call are replaced by these; the rest of the library is
 * used as it is. With an argument, only tests whose suite/name contains it
 * are run. */
#include <criterion/criterion.h>
#include <pthread.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/wait.h>
#include <unistd.h>

extern struct criterion_test *__start_cr_tst[], *__stop_cr_tst[];
extern struct criterion_suite *__start_cr_sts[] __attribute__((weak)),
    *__stop_cr_sts[] __attribute__((weak));

void cri_asserts_passed_incr(void);

static const struct criterion_test *current;
static volatile int *failed; /* shared with the parent */
static jmp_buf leave;
static pthread_t main_thread;

/* ---- what the macros call ------------------------------------------------ */

static const struct criterion_test_extra_data *suite_data(void)
{
    for (struct criterion_suite **s = __start_cr_sts; s < __stop_cr_sts; s++)
        if (*s && (*s)->data && !strcmp((*s)->name, current->category))
            return (*s)->data;
    return NULL;
}

void criterion_internal_test_setup(void)
{
    const struct criterion_test_extra_data *suite = suite_data();
    if (suite && suite->init)
        suite->init();
    if (current->data->init)
        current->data->init();
}

void criterion_internal_test_main(void (*fn)(void))
{
    if (!setjmp(leave))
        fn();
}

void criterion_internal_test_teardown(void)
{
    const struct criterion_test_extra_data *suite = suite_data();
    if (current->data->fini)
        current->data->fini();
    if (suite && suite->fini)
        suite->fini();
}

void cri_asserts_passed_incr(void)
{
}

void criterion_send_assert(struct criterion_assert_stats *stats)
{
    if (stats->passed)
        return;
    *failed = 1;
    fprintf(stderr, "[----] %s:%u: %s/%s: %s\n", stats->file, stats->line, current->category,
            current->name, stats->message ? stats->message : "assertion failed");
}

void criterion_continue_test(void)
{
}

/* Only the thread that runs the test can jump out of it. */
void criterion_abort_test(void)
{
    if (pthread_equal(pthread_self(), main_thread))
        longjmp(leave, 1);
    _exit(1);
}

void criterion_skip_test(const char *format, ...)
{
    va_list args;
    va_start(args, format);
    fprintf(stderr, "[SKIP] %s/%s: ", current->category, current->name);
    vfprintf(stderr, format, args);
    fputc('\n', stderr);
    va_end(args);
    criterion_abort_test();
}

void criterion_test_die(const char *format, ...)
{
    va_list args;
    va_start(args, format);
    vfprintf(stderr, format, args);
    va_end(args);
    *failed = 1;
    _exit(1);
}

/* ---- running ------------------------------------------------------------- */

static void run_in_child(void)
{
    main_thread = pthread_self();
    current->test();
    exit(0); /* leaks are looked for here */
}

static bool as_expected(int status)
{
    const struct criterion_test_extra_data *suite = suite_data();
    int want_signal = current->data->signal, want_code = current->data->exit_code;
    if (suite && !want_signal)
        want_signal = suite->signal;
    if (suite && !want_code)
        want_code = suite->exit_code;
    if (want_signal)
        return WIFSIGNALED(status) && WTERMSIG(status) == want_signal;
    return WIFEXITED(status) && WEXITSTATUS(status) == want_code;
}

static bool run(void)
{
    int status;
    *failed = 0;
    fflush(NULL);
    pid_t pid = fork();
    if (pid < 0)
        return false;
    if (!pid)
        run_in_child();
    if (waitpid(pid, &status, 0) != pid)
        return false;
    bool ok = !*failed && as_expected(status);
    if (!ok)
        fprintf(stderr, "[FAIL] %s/%s (wait status 0x%x)\n", current->category, current->name,
                (unsigned)status);
    return ok;
}

static bool selected(const char *filter)
{
    char name[256];
    snprintf(name, sizeof name, "%s/%s", current->category, current->name);
    if (current->data->kind_ != CR_TEST_NORMAL) {
        fprintf(stderr, "[FAIL] %s: only plain tests can run here\n", name);
        exit(1);
    }
    return !current->data->disabled && (!filter || strstr(name, filter));
}

int main(int argc, char **argv)
{
    int tested = 0, passing = 0;
    failed = mmap(NULL, sizeof *failed, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
    if (failed == MAP_FAILED)
        return 1;
    for (struct criterion_test **t = __start_cr_tst; t < __stop_cr_tst; t++) {
        current = *t;
        if (!current || !selected(argc > 1 ? argv[1] : NULL))
            continue;
        tested++;
        passing += run();
    }
    fprintf(stderr, "[====] Synthesis: Tested: %d | Passing: %d | Failing: %d | Crashing: 0\n",
            tested, passing, tested - passing);
    return tested != passing;
}
