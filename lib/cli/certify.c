/* certify.c - `terrace backend-check`: the conformance suite over one backend, and a
 * report fit to send.
 *
 * The backend is one of this library's, by name, or a library by its path. Every check
 * runs in a process of its own, which loads and opens it anew: what crashes, hangs or
 * leaks spoils no other, and this process itself never touches the hardware. The last
 * check puts a whole manager on top and moves tensors at random.
 *
 * May call: cli.h, conformance.h, json.h, terrace_backend.h, libc. */
#include <dlfcn.h>
#include <errno.h>
#include <limits.h>
#include <poll.h>
#include <signal.h>
#include <stdarg.h>
#include <sys/utsname.h>
#include <sys/wait.h>

#include "cli.h"
#include "json.h"
#include "terrace_backend.h"

/* ---- what the checks need: see conformance.h ------------------------------- */

static struct {
    char sentence[1024]; /* the last failure */
} stub;

static __attribute__((noreturn, format(printf, 3, 4))) void check_failed(const char *condition, int line,
                                                                        const char *format, ...);

#define CHECK(condition, ...)                                                \
    do {                                                                     \
        if (!(condition))                                                    \
            check_failed(#condition, __LINE__, " " __VA_ARGS__);             \
    } while (0)

static const terrace_host stub_host;
#include "conformance.h"

enum { SECONDS = 120 }; /* for one check */

static struct {
    const char *name;     /* of a built-in one, or the path of a library */
    bool library;
    int unit;
    char tier[80];        /* "cuda:0" */
    int report;           /* of a check's process: where it tells how it went */
} subject;

/* What a check's process tells, in one piece. */
struct outcome {
    enum { FAILED, PASSED, SKIPPED, ABSENT /* none can be tried */ } result;
    char text[700];
    double read, write; /* bytes per second */
    terrace_unit_info info;
    char kind[40];
    int tier_class;
    size_t table;
    unsigned abi;
};

static void tell(const struct outcome *o)
{
    if (write(subject.report, o, sizeof *o) != sizeof *o)
        _exit(EXIT_FAILED);
}

static void check_failed(const char *condition, int line, const char *format, ...)
{
    struct outcome o = {.result = FAILED};
    va_list args;
    int n = snprintf(o.text, sizeof o.text, "not so: %s (conformance.h:%d);", condition, line);
    va_start(args, format);
    vsnprintf(o.text + n, sizeof o.text - (size_t)n, format, args);
    va_end(args);
    tell(&o);
    folders_remove();
    _exit(EXIT_FAILED);
}

/* Settings come from the environment, but for the folder of what is spilled. */
static const char *stub_option(void *context, const char *name)
{
    char variable[80];
    (void)context;
    if (!strcmp(name, "NVME_PATH"))
        return stub_folders;
    snprintf(variable, sizeof variable, "TERRACE_%.60s", name);
    const char *value = getenv(variable);
    if (!strcmp(name, "TIERS")) /* it was named */
        return subject.tier;
    return value && *value ? value : NULL;
}

static __attribute__((format(printf, 3, 4))) void stub_log(void *context, int level, const char *format, ...)
{
    (void)context, (void)level, (void)format;
}

static __attribute__((format(printf, 3, 4))) int stub_fail(void *context, int err, const char *format, ...)
{
    va_list args;
    (void)context;
    va_start(args, format);
    vsnprintf(stub.sentence, sizeof stub.sentence, format, args);
    va_end(args);
    return err;
}

static const terrace_host stub_host = {
    .size = sizeof(terrace_host), .option = stub_option, .log = stub_log, .fail = stub_fail,
};

/* ---- loading --------------------------------------------------------------- */

static __attribute__((noreturn, format(printf, 1, 2))) void not_loaded(const char *format, ...)
{
    struct outcome o = {.result = ABSENT};
    va_list args;
    va_start(args, format);
    vsnprintf(o.text, sizeof o.text, format, args);
    va_end(args);
    tell(&o);
    folders_remove();
    _exit(EXIT_FAILED);
}

/* The table, as the core would read it: what an older one lacks is NULL. */
static void load(void)
{
    static terrace_backend table;
    const terrace_backend *from = NULL;
    if (subject.library) {
        void *library = dlopen(subject.name, RTLD_NOW | RTLD_LOCAL);
        if (!library)
            not_loaded("it cannot be loaded: %s", dlerror());
        const terrace_backend *(*get)(void) =
            (const terrace_backend *(*)(void))dlsym(library, "terrace_backend_plugin");
        from = get ? get() : NULL;
        if (!from)
            not_loaded("it has no terrace_backend_plugin(), which TERRACE_BACKEND_PLUGIN() of terrace_backend.h "
                       "makes");
        // cppcheck-suppress resourceLeak -- it stays loaded
    } else {
        from = terrace_backend_find(subject.name);
    }
    if (!from || from->abi != TERRACE_BACKEND_ABI || from->size < offsetof(terrace_backend, attach))
        not_loaded("its table is of ABI %u with %zu bytes; ABI %u with at least %zu is understood",
                   from ? from->abi : 0, from ? from->size : 0, TERRACE_BACKEND_ABI,
                   offsetof(terrace_backend, attach));
    memcpy(&table, from, from->size < sizeof table ? from->size : sizeof table);
    t.b = &table;
    snprintf(subject.tier, sizeof subject.tier, "%.40s:%d", table.name ? table.name : "?", subject.unit);
    int units = t.b->count(&stub_host);
    if (units <= subject.unit)
        not_loaded("there is no unit %d: it has %d%s%s", subject.unit, units, *stub.sentence ? "; " : "",
                   stub.sentence);
}

/* ---- checks of this command's own ------------------------------------------ */

/* Bytes per second of copies in one direction, as many in flight as may be. */
static double rate(int op, uint64_t base, uint64_t bytes, char *host)
{
    enum { MOST = 256 };
    terrace_io io[MOST], *done[MOST], *one;
    size_t chunk = t.info.io_chunk;
    unsigned depth = t.info.io_depth < MOST ? t.info.io_depth : MOST, in_flight = 0, idle[MOST] = {0}, idles = 0;
    uint64_t started = 0, ended = 0, moved = 0;
    int64_t begin = stub_now_ns(), passed = 0;
    CHECK(chunk && bytes >= chunk);
    for (unsigned i = 0; i < depth; i++)
        idle[idles++] = i;
    while (passed < 300000000 || in_flight) {
        while (passed < 300000000 && idles) {
            unsigned i = idle[idles - 1];
            uint64_t at = started * chunk % bytes;
            io[i] = conform_io(op, base + at, host + i * chunk, chunk);
            one = &io[i];
            if (t.b->submit(t.unit, &one, 1) != 1)
                break;
            idles--, in_flight++, started++;
        }
        int n = t.b->wait(t.unit, done, MOST, INT64_C(20000000000));
        CHECK(n > 0, "wait gave %d", n);
        for (int i = 0; i < n; i++) {
            CHECK_EQ(done[i]->result, 0, "a copy gave %d (%d)", done[i]->result, done[i]->os_error);
            idle[idles++] = (unsigned)(done[i] - io);
            moved += done[i]->bytes;
        }
        in_flight -= (unsigned)n, ended += (unsigned)n;
        passed = stub_now_ns() - begin;
    }
    CHECK_EQ(started, ended);
    return (double)moved * 1e9 / (double)passed;
}

static void check_rate(struct outcome *o)
{
    uint64_t bytes = 256u << 20, unit = t.info.io_chunk > t.info.granule ? t.info.io_chunk : t.info.granule;
    if (t.info.capacity && t.info.capacity / 4 < bytes)
        bytes = t.info.capacity / 4;
    bytes = bytes < unit ? unit : bytes / unit * unit;
    size_t memory = (size_t)t.info.io_depth * t.info.io_chunk;
    char *host = pages(memory);
    memset(host, 1, memory);
    bool pinned = t.b->pin && t.b->pin(t.unit, host, memory) == 0;
    uint64_t base = conform_range(bytes);
    for (uint64_t at = 0; at < bytes; at += t.info.io_chunk) /* memory that is new may cost more */
        CHECK_EQ(conform_copy(TERRACE_IO_WRITE, base + at, host, t.info.io_chunk), 0);
    o->write = rate(TERRACE_IO_WRITE, base, bytes, host);
    o->read = rate(TERRACE_IO_READ, base, bytes, host);
    if (pinned)
        t.b->unpin(t.unit, host, memory);
    t.b->release(t.unit, base, bytes);
    munmap(host, memory);
    snprintf(o->text, sizeof o->text, "write %.2f GB/s, read %.2f GB/s: %u copies of %zu KiB in flight, %s host "
             "memory", o->write / 1e9, o->read / 1e9, t.info.io_depth, t.info.io_chunk >> 10,
             pinned ? "known" : "plain");
}

/* ---- a whole manager --------------------------------------------------------- */

enum { TENSORS = 60, STEPS = 1500 }; /* 80 MiB of them, and budgets for a part */
#define HOST_BUDGET "48M"
#define BUDGET "32M"
#define DISK_BUDGET "1G"

struct world {
    terrace *m;
    terrace_tier host, tier;
    bool acquires; /* the tier's bytes can be acquired: it is no disk */
    terrace_tensor *tensor[TENSORS];
    size_t bytes[TENSORS];
    uint64_t seed[TENSORS];
};

#define OK(call) call_is(call, #call)

static void call_is(int r, const char *call)
{
    CHECK(r == 0, "%s: %s", call, terrace_last_error());
}

static void on_host(struct world *w, unsigned i, uint64_t seed)
{
    void *p;
    OK(terrace_acquire(w->tensor[i], w->host, (seed ? TERRACE_OVERWRITE : TERRACE_READ) | TERRACE_WAIT,
                       TERRACE_HOST_SYNC, &p, NULL));
    if (seed)
        pattern_fill(p, w->bytes[i], w->seed[i] = seed);
    else
        CHECK(pattern_is(p, w->bytes[i], w->seed[i]), "tensor %u of %zu bytes came back with other bytes", i,
              w->bytes[i]);
    OK(terrace_release(w->tensor[i], p, TERRACE_HOST_SYNC));
}

static void on_tier(struct world *w, unsigned i, unsigned mode)
{
    void *p;
    OK(terrace_acquire(w->tensor[i], w->tier, mode | TERRACE_WAIT, TERRACE_HOST_SYNC, &p, NULL));
    OK(terrace_release(w->tensor[i], p, TERRACE_HOST_SYNC));
}

static void world_open(struct world *w)
{
    char conf[PATH_MAX + 1000];
    const char *kind = t.b->name, *name = subject.tier;
    bool host = t.b->tier_class == TERRACE_CLASS_HOST, disk = t.b->tier_class == TERRACE_CLASS_DISK;
    snprintf(conf, sizeof conf, "tiers=%s%s,%s;limit_host=%s;limit_%s=%s;nvme_path=%s%s%s;log=off",
             disk ? "numa:0" : name, host || disk ? "" : ",numa:0", disk ? name : "nvme:0", HOST_BUDGET, kind,
             disk ? DISK_BUDGET : BUDGET, stub_folders, subject.library ? ";backends=" : "",
             subject.library ? subject.name : "");
    OK(terrace_open(&w->m, conf));
    OK(terrace_tier_find(w->m, "host", &w->host));
    OK(terrace_tier_find(w->m, name, &w->tier));
    w->acquires = !disk;
}

/* Tensors of more than the budgets, moved at random, each with bytes of its own. */
static void check_whole(struct outcome *o)
{
    struct world w = {0};
    unsigned random = 11;
    world_open(&w);
    for (unsigned i = 0; i < TENSORS; i++) {
        w.bytes[i] = (size_t)4096 << (i % 12);
        OK(terrace_tensor_create(w.m, w.bytes[i], NULL, &w.tensor[i]));
        on_host(&w, i, i + 1);
    }
    for (uint64_t step = 1; step <= STEPS; step++) {
        unsigned i = (random = random * 1103515245u + 12345u) >> 16;
        unsigned what = i / TENSORS % 6;
        i %= TENSORS;
        if (what == 0)
            on_host(&w, i, step * 1000);
        else if (what < 3)
            on_host(&w, i, 0);
        else if (what < 5 && w.acquires)
            on_tier(&w, i, what == 3 ? TERRACE_READ : TERRACE_WRITE);
        else
            OK(what == 5 && w.acquires ? terrace_prefetch(w.tensor[i], w.tier) : terrace_demote(w.tensor[i], w.tier));
    }
    for (unsigned i = 0; i < TENSORS; i++)
        on_host(&w, i, 0);
    terrace_tier_statistics s = {.size = sizeof s};
    OK(terrace_tier_stats(w.m, w.tier, &s));
    CHECK(s.peak <= s.limit, "it held %llu bytes, of a budget of %llu", (unsigned long long)s.peak,
          (unsigned long long)s.limit);
    CHECK(s.in_bytes > 0, "nothing was moved there");
    snprintf(o->text, sizeof o->text, "%d operations on %d tensors", STEPS, TENSORS);
    terrace_close(w.m);
}

/* ---- running them -------------------------------------------------------------- */

static const struct conform_check checks[] = {
#define NAMED(name, what) {#name, conform_##name, what},
    CONFORM_CHECKS(NAMED)
#undef NAMED
    {"rate", NULL, "how fast bytes are copied"},
    {"whole", NULL, "a manager over it: tensors moved at random keep their bytes"},
};
enum { CHECKS = sizeof checks / sizeof *checks };

static void check_run(const struct conform_check *check)
{
    struct outcome o = {.result = PASSED};
    folders_create(1);
    load();
    if (!strcmp(check->name, "whole")) {
        check_whole(&o);
    } else {
        conform_begin(subject.unit);
        o.info = t.info;
        if (check->run)
            check->run();
        else
            check_rate(&o);
        conform_end();
    }
    if (t.skipped) {
        o.result = SKIPPED;
        snprintf(o.text, sizeof o.text, "%s", t.skipped);
    }
    snprintf(o.kind, sizeof o.kind, "%s", t.b->name);
    o.tier_class = t.b->tier_class;
    o.table = t.b->size;
    o.abi = t.b->abi;
    folders_remove();
    tell(&o);
}

/* Reads what the process tells, until it has ended or its time is over. */
static void outcome_read(int fd, pid_t child, struct outcome *o)
{
    size_t got = 0;
    struct pollfd p = {.fd = fd, .events = POLLIN};
    int64_t end = stub_now_ns() + SECONDS * INT64_C(1000000000);
    *o = (struct outcome){.result = FAILED};
    while (got < sizeof *o) {
        int64_t left = (end - stub_now_ns()) / 1000000;
        int ready = left > 0 ? poll(&p, 1, (int)left) : 0;
        if (ready < 0 && errno == EINTR)
            continue;
        if (ready <= 0) {
            kill(child, SIGKILL);
            *o = (struct outcome){.result = FAILED};
            snprintf(o->text, sizeof o->text, "it had not ended after %d s", SECONDS);
            return;
        }
        ssize_t n = read(fd, (char *)o + got, sizeof *o - got);
        if (n <= 0)
            break;
        got += (size_t)n;
    }
}

static void check_in_process(const struct conform_check *check, struct outcome *o)
{
    int fds[2], status = 0;
    pid_t child = -1;
    if (pipe2(fds, O_CLOEXEC) == 0) {
        child = fork();
        if (child == 0) {
            close(fds[0]);
            subject.report = fds[1];
            check_run(check);
            _exit(EXIT_OK);
        }
        close(fds[1]);
    }
    if (child < 0) {
        *o = (struct outcome){.result = FAILED};
        snprintf(o->text, sizeof o->text, "no process for it: %s", strerror(errno));
        return;
    }
    outcome_read(fds[0], child, o);
    close(fds[0]);
    while (waitpid(child, &status, 0) < 0 && errno == EINTR)
        continue;
    if (WIFSIGNALED(status) && !*o->text) {
        o->result = FAILED;
        snprintf(o->text, sizeof o->text, "its process was killed by signal %d, %s", WTERMSIG(status),
                 strsignal(WTERMSIG(status)));
    }
}

/* ---- the report ---------------------------------------------------------------- */

static const char *const results[] = {"FAIL", "ok", "skip"};
static const char *const classes[] = {"?", "device", "host", "disk"};

static void show_head(const struct outcome *o)
{
    char capacity[32], granule[32], chunk[32];
    struct utsname system;
    time_t now = time(NULL);
    struct tm parts;
    char date[40] = "";
    if (gmtime_r(&now, &parts))
        strftime(date, sizeof date, "%Y-%m-%d %H:%M UTC", &parts);
    uname(&system);
    size_text(o->info.capacity, capacity, sizeof capacity);
    size_text(o->info.granule, granule, sizeof granule);
    size_text(o->info.io_chunk, chunk, sizeof chunk);
    printf("%s:%d, a %s tier of %s\n", o->kind, subject.unit, classes[o->tier_class & 3],
           subject.library ? subject.name : "this library");
    printf("  location   %s\n", o->info.location);
    printf("  engine     %s (%s)\n", o->info.engine, o->info.engine_reason);
    if (o->info.capacity)
        printf("  capacity   %s (%s)\n", capacity, o->info.capacity_reason);
    printf("  units      granule %s, page %zu bytes; copies of %s, %u in flight\n", granule, o->info.page, chunk,
           o->info.io_depth);
    printf("  interface  ABI %u, table of %zu bytes\n", o->abi, o->table);
    printf("  here       terrace %s, %s %s %s, %s\n\n", terrace_version(), system.sysname, system.release,
           system.machine, date);
}

static void json_text(const char *key, const char *text, const char *end)
{
    json_member(key, text, stdout);
    fputs(end, stdout);
}

static void show_json(const struct outcome *o, const bool *run)
{
    int first = 0, shown = 0;
    while (!run[first])
        first++;
    const struct outcome *about = &o[first];
    printf("{");
    json_text("backend", subject.name, ", ");
    json_text("version", terrace_version(), ", ");
    json_text("kind", about->kind, ", ");
    json_text("class", classes[about->tier_class & 3], ", ");
    json_text("location", about->info.location, ", ");
    json_text("engine", about->info.engine, ", ");
    printf("\"unit\": %d, \"capacity\": %llu,\n \"checks\": [", subject.unit, (unsigned long long)about->info.capacity);
    for (int i = 0; i < CHECKS; i++) {
        if (!run[i])
            continue;
        printf("%s\n  {", shown++ ? "," : "");
        json_text("name", checks[i].name, ", ");
        json_text("result", o[i].result == FAILED ? "failed" : o[i].result == PASSED ? "passed" : "skipped", ", ");
        if (o[i].write > 0)
            printf("\"write\": %.0f, \"read\": %.0f, ", o[i].write, o[i].read);
        json_text("text", o[i].text, "}");
    }
    printf("]}\n");
}

static int usage_wrong(const char *format, const char *word)
{
    fputs("terrace: ", stderr);
    fprintf(stderr, format, word);
    fputs("; see `terrace help backend-check`\n", stderr);
    return EXIT_USAGE;
}

static int list_checks(void)
{
    for (int i = 0; i < CHECKS; i++)
        printf("  %-15s %s\n", checks[i].name, checks[i].what);
    return EXIT_OK;
}

/* What is to be tried; EXIT_OK, or it has been said what is wrong. */
static int subject_find(const char *name)
{
    static char real[PATH_MAX];
    subject.library = strchr(name, '/') != NULL;
    subject.name = name;
    if (subject.library && !realpath(name, real)) {
        fprintf(stderr, "terrace: %s: %s\n", name, strerror(errno));
        return EXIT_FAILED;
    }
    if (subject.library)
        subject.name = real;
    else if (!terrace_backend_find(name))
        return usage_wrong("there is no backend '%s' in this library; a library of one's own is given by its path",
                           name);
    return EXIT_OK;
}

static int run_all(const bool *run, bool json)
{
    static struct outcome o[CHECKS];
    int count[ABSENT] = {0}, headed = 0;
    for (int i = 0; i < CHECKS; i++) {
        if (!run[i])
            continue;
        check_in_process(&checks[i], &o[i]);
        if (o[i].result == ABSENT) {
            fprintf(stderr, "terrace: %s cannot be tried: %s\n", subject.name, o[i].text);
            return EXIT_FAILED;
        }
        count[o[i].result]++;
        if (json)
            continue;
        if (!headed++ && o[i].kind[0])
            show_head(&o[i]);
        printf("%-5s %-15s %s%s%s\n", results[o[i].result], checks[i].name, checks[i].what, *o[i].text ? ": " : "",
               o[i].text);
        fflush(stdout);
    }
    if (json)
        show_json(o, run);
    else
        printf("\n%d passed, %d failed, %d do not concern it\n", count[PASSED], count[FAILED], count[SKIPPED]);
    return count[FAILED] ? EXIT_FAILED : EXIT_OK;
}

int backend_check_run(int argc, char **argv)
{
    const char *name = NULL, *only = NULL;
    bool json = false, run[CHECKS] = {false};
    for (int i = 1; i < argc; i++) {
        char *end = NULL;
        if (!strcmp(argv[i], "--list"))
            return list_checks();
        if (!strcmp(argv[i], "--json")) {
            json = true;
        } else if (!strcmp(argv[i], "--only") && i + 1 < argc) {
            only = argv[++i];
        } else if (!strcmp(argv[i], "--unit") && i + 1 < argc) {
            subject.unit = (int)strtol(argv[++i], &end, 10);
            if (*end || end == argv[i] || subject.unit < 0)
                return usage_wrong("'%s' is no number of a unit", argv[i]);
        } else if (argv[i][0] == '-' || name) {
            return usage_wrong("backend-check takes no argument '%s'", argv[i]);
        } else {
            name = argv[i];
        }
    }
    if (!name)
        return usage_wrong("backend-check needs a backend%s", "");
    int found = 0;
    for (int i = 0; i < CHECKS; i++)
        found += run[i] = !only || !strcmp(only, checks[i].name);
    if (!found)
        return usage_wrong("there is no check '%s'", only);
    int status = subject_find(name);
    return status ? status : run_all(run, json);
}
