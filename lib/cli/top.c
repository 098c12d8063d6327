/* top.c - `terrace top`: what processes that use terrace are doing now.
 *
 * May call: cli.h, top.h, libc. */
#include <errno.h>
#include <poll.h>
#include <signal.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <time.h>
#include <unistd.h>

#include "top.h"

static const double SHORTEST = 0.1, LONGEST = 86400, USUAL = 2;

struct top {
    pid_t process; /* 0: all */
    bool once, json;
    double interval;
    enum top_sort by;
};

static volatile sig_atomic_t ended;

static void end(int signal)
{
    (void)signal;
    ended = 1;
}

/* ---- arguments -------------------------------------------------------------- */

static int usage(const char *what, const char *argument)
{
    fprintf(stderr, "terrace: top: %s%s; `terrace help top` shows how it is used\n", what, argument);
    return EXIT_USAGE;
}

static bool parse_number(const char *text, double least, double most, double *out)
{
    char *end_of;
    *out = strtod(text, &end_of);
    return *text && !*end_of && *out >= least && *out <= most; /* not a number is neither */
}

static bool parse_sort(const char *text, enum top_sort *out)
{
    for (int i = 0; i < SORTS; i++)
        if (strcmp(text, top_sorts[i]) == 0) {
            *out = (enum top_sort)i;
            return true;
        }
    return false;
}

/* The value of an option that has one, by itself or after '='; NULL: another option,
 * or the value is missing. */
static const char *value_of(const char *option, char ***argv)
{
    size_t n = strlen(option);
    if (strncmp(**argv, option, n) != 0)
        return NULL;
    if ((**argv)[n] == '=')
        return **argv + n + 1;
    return (**argv)[n] || !(*argv)[1] ? NULL : *++*argv;
}

/* 0, or the exit status. */
static int parse(struct top *t, char **argv)
{
    for (argv++; *argv; argv++) {
        const char *value;
        double number;
        if (strcmp(*argv, "--once") == 0) {
            t->once = true;
        } else if (strcmp(*argv, "--json") == 0) {
            t->json = true;
        } else if ((value = value_of("--interval", &argv)) != NULL) {
            if (!parse_number(value, SHORTEST, LONGEST, &t->interval))
                return usage("--interval is a number of seconds, 0.1 at least, not ", value);
        } else if ((value = value_of("--sort", &argv)) != NULL) {
            if (!parse_sort(value, &t->by))
                return usage("--sort is one of traffic, used, hits, stalls, pid, not ", value);
        } else if (**argv == '-') {
            return usage("there is no option like this, or its value is missing: ", *argv);
        } else if (t->process || !parse_number(*argv, 1, 1 << 22, &number) || number != (int)number) {
            return usage("one process can be named, by its number, not ", *argv);
        } else {
            t->process = (pid_t)number;
        }
    }
    return 0;
}

/* ---- showing ---------------------------------------------------------------- */

static int lines_of_terminal(void)
{
    struct winsize size;
    return ioctl(STDOUT_FILENO, TIOCGWINSZ, &size) == 0 && size.ws_row > 1 ? size.ws_row - 1 : 24;
}

/* As much as there is room for, over what was there before; long lines are cut. */
static void put_on_terminal(const char *text)
{
    int lines = lines_of_terminal();
    fputs("\033[H\033[?7l", stdout);
    for (const char *c = text; *c && lines--;) {
        size_t n = strcspn(c, "\n");
        printf("%.*s\033[K\n", (int)n, c);
        c += n + (c[n] == '\n');
    }
    fputs("\033[?7h\033[J", stdout);
}

/* False: no memory, or nobody reads it. */
static bool show(const struct top *t, struct top_list *list, bool terminal, bool first)
{
    char *text = NULL;
    size_t length = 0;
    FILE *f = open_memstream(&text, &length);
    if (!f)
        return false;
    if (t->json)
        top_show_json(list, f);
    else if (t->process)
        top_show_process(list, f);
    else
        top_show_list(list, t->by, f);
    bool good = fclose(f) == 0;
    if (good && terminal)
        put_on_terminal(text);
    else if (good)
        printf("%s%s", first || t->json ? "" : "\n", text);
    free(text);
    return good && fflush(stdout) == 0;
}

/* Until the next look, or a signal. */
static void nap(double seconds)
{
    struct timespec t = {.tv_sec = (time_t)seconds, .tv_nsec = (long)((seconds - (double)(time_t)seconds) * 1e9)};
    sigset_t none;
    sigemptyset(&none);
    ppoll(NULL, 0, &t, &none); /* only here may a signal come */
}

static void catch_signals(void)
{
    struct sigaction a = {.sa_handler = end};
    sigset_t both;
    sigemptyset(&both);
    sigaddset(&both, SIGINT);
    sigaddset(&both, SIGTERM);
    sigaction(SIGINT, &a, NULL);
    sigaction(SIGTERM, &a, NULL);
    sigprocmask(SIG_BLOCK, &both, NULL);
}

static int look_on(const struct top *t, struct top_list *list)
{
    char why[160] = "";
    bool terminal = !t->json && !t->once && isatty(STDOUT_FILENO);
    if (!t->once)
        catch_signals();
    if (terminal)
        fputs("\033[2J", stdout);
    for (bool first = true;; first = false) {
        if (!top_read(list, t->process, why, sizeof why)) {
            fputs("terrace: top: the host is out of memory\n", stderr);
            return EXIT_FAILED;
        }
        if (t->process && !list->n && first) {
            fprintf(stderr, "terrace: top: process %d: %s\n", (int)t->process, why);
            return EXIT_FAILED;
        }
        if (t->process && !list->n)
            return EXIT_OK; /* it has ended */
        if (!show(t, list, terminal, first))
            return EXIT_FAILED;
        if (t->once)
            return EXIT_OK;
        nap(t->interval);
        if (ended)
            return EXIT_OK;
    }
}

int top_run(int argc, char **argv)
{
    struct top t = {.interval = USUAL};
    struct top_list list = {0};
    (void)argc;
    int status = parse(&t, argv);
    if (status)
        return status;
    status = look_on(&t, &list);
    top_free(&list);
    return status;
}
