/* run.c - `terrace run`: starts a program with libterrace-preload.so.
 *
 * What can be known beforehand is found out here, where it can be said once, and
 * not in each process of the job: whether the settings are good, what memory and
 * disk there are, whether userfaultfd is allowed, whether the program can be
 * preloaded at all. Then it becomes the program: status and signals are its own.
 *
 * May call: cli.h, process.h, terrace.h, libc. */
#include <dlfcn.h>
#include <elf.h>
#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "cli.h"
#include "process.h"

enum { SIZE_TEXT = 24 };
enum { EXIT_CANNOT_RUN = 126, EXIT_NOT_FOUND = 127 }; /* as shells have it */

static const char LIBRARY[] = "libterrace-preload.so";

struct run {
    bool quiet;
    bool set; /* a setting was given as an option */
    char **command;
    char trace[PATH_MAX]; /* TERRACE_TRACE, of which what is opened here is to know nothing */
    char library[PATH_MAX];
    char program[PATH_MAX];
};

/* ---- options ------------------------------------------------------------- */

/* Options that stand for settings. */
static const struct {
    const char *option, *variable;
    const char *fallback; /* the value where none is given; NULL: it must be */
    bool file;            /* it is a file's path, from where we are: the program may go elsewhere */
} settings[] = {
    {"--ram", "TERRACE_LIMIT_HOST", NULL, false}, {"--nvme-path", "TERRACE_NVME_PATH", NULL, false},
    {"--hbm", "TERRACE_LIMIT_CUDA", NULL, false},
    {"--report", "TERRACE_REPORT", "1", true},    {"--trace", "TERRACE_TRACE", NULL, true},
    {"--rules", "TERRACE_RULES", NULL, false},    {"--min-size", "TERRACE_MIN_SIZE", NULL, false},
    {"--shared", "TERRACE_SHARED", "1", true},
};
enum { SETTINGS = sizeof settings / sizeof *settings };

static int usage(const char *what, const char *argument)
{
    fprintf(stderr, "terrace: run: %s%s; `terrace help run` shows how it is used\n", what, argument);
    return EXIT_USAGE;
}

/* Sets the variable, to an absolute path where it is a file's. */
static void set(int setting, const char *value)
{
    char here[PATH_MAX], path[2 * PATH_MAX];
    bool file = settings[setting].file && *value != '/' && strcmp(value, "0") != 0 && strcmp(value, "1") != 0;
    if (file && getcwd(here, sizeof here) && snprintf(path, sizeof path, "%s/%s", here, value) < (int)sizeof path)
        value = path;
    setenv(settings[setting].variable, value, 1);
}

/* One of those; takes the next argument where the value is one by itself. 0: not
 * one, -1: it has no value. */
static int take_setting(char **argv)
{
    for (int i = 0; i < SETTINGS; i++) {
        size_t n = strlen(settings[i].option);
        const char *value = argv[0][n] == '=' ? argv[0] + n + 1 : NULL;
        int used = 1;
        if (strncmp(argv[0], settings[i].option, n) != 0 || (argv[0][n] && !value))
            continue;
        if (!value && !(value = settings[i].fallback)) {
            value = argv[1];
            used = 2;
        }
        if (!value || !*value)
            return -1;
        set(i, value);
        return used;
    }
    return 0;
}

/* 0, or the exit status. */
static int parse(struct run *r, char **argv)
{
    for (argv++; *argv && **argv == '-'; argv++) {
        int used = strcmp(*argv, "--") == 0 || strcmp(*argv, "-q") == 0 ? 1 : take_setting(argv);
        if (used == 0)
            return usage("there is no option ", *argv);
        if (used < 0)
            return usage("a value is missing after ", *argv);
        if (strcmp(*argv, "--") == 0) {
            argv++;
            break;
        }
        r->quiet |= strcmp(*argv, "-q") == 0;
        r->set |= strcmp(*argv, "-q") != 0;
        argv += used - 1;
    }
    r->command = argv;
    return *argv ? 0 : usage("a command is missing", "");
}

/* An account of this job's own, unless it is part of one that has one. */
static void name_shared(const char *before)
{
    char path[PATH_MAX];
    const char *now = getenv("TERRACE_SHARED");
    if (!now || strcmp(now, "1") != 0)
        return;
    if (!before)
        terrace_process_name_shared(path, sizeof path);
    setenv("TERRACE_SHARED", before ? before : path, 1);
}

/* ---- files --------------------------------------------------------------- */

static bool try_library(struct run *r, const char *beside, const char *folder)
{
    char path[PATH_MAX];
    const char *slash = strrchr(beside, '/');
    int n = snprintf(path, sizeof path, "%.*s/%s%s", slash ? (int)(slash - beside) : 0, beside, folder, LIBRARY);
    return slash && n < (int)sizeof path && access(path, R_OK) == 0 && realpath(path, r->library);
}

/* Next to the library or the command, or where that is installed. */
static bool find_library(struct run *r)
{
    char self[PATH_MAX] = "";
    Dl_info info;
    if (dladdr((void *)(uintptr_t)terrace_version, &info) && info.dli_fname && try_library(r, info.dli_fname, ""))
        return true;
    if (readlink("/proc/self/exe", self, sizeof self - 1) < 0)
        return false;
    return try_library(r, self, "") || try_library(r, self, "../lib/");
}

/* The program's file, as execvp() finds it. */
static bool find_program(struct run *r)
{
    const char *name = r->command[0], *path = getenv("PATH");
    if (strchr(name, '/'))
        return snprintf(r->program, sizeof r->program, "%s", name) < PATH_MAX && access(name, F_OK) == 0;
    for (const char *at = path ? path : "/bin:/usr/bin", *end; *at; at = *end ? end + 1 : end) {
        struct stat st;
        end = strchrnul(at, ':');
        int n = snprintf(r->program, sizeof r->program, "%.*s/%s", (int)(end - at), at, name);
        if (n < PATH_MAX && access(r->program, X_OK) == 0 && stat(r->program, &st) == 0 && S_ISREG(st.st_mode))
            return true;
    }
    return false;
}

/* Whether an ELF file names an interpreter, which is what preloads. */
static bool has_interpreter(int fd, const Elf64_Ehdr *h)
{
    Elf64_Phdr p;
    for (unsigned i = 0; i < h->e_phnum; i++)
        if (pread(fd, &p, sizeof p, (off_t)(h->e_phoff + i * sizeof p)) == sizeof p && p.p_type == PT_INTERP)
            return true;
    return false;
}

static const char *why_not_elf(int fd, const Elf64_Ehdr *h)
{
    static const int one = 1;
    int order = *(const char *)&one ? ELFDATA2LSB : ELFDATA2MSB;
    if (h->e_ident[EI_CLASS] != ELFCLASS64 || h->e_ident[EI_DATA] != order)
        return "it is for another kind of processor than this library";
    return has_interpreter(fd, h) ? NULL : "it is statically linked, and nothing can be preloaded into it";
}

static const char *why_untouched(const char *path, int depth)
{
    union {
        Elf64_Ehdr elf;
        char text[256];
    } start = {.text = ""};
    struct stat st;
    const char *why = NULL;
    int fd = open(path, O_RDONLY | O_CLOEXEC);
    if (fd < 0 || fstat(fd, &st)) {
        if (fd >= 0)
            close(fd);
        return NULL; /* exec has the last word */
    }
    ssize_t n = pread(fd, &start, sizeof start - 1, 0);
    bool alien = (st.st_mode & S_ISUID && st.st_uid != geteuid()) || (st.st_mode & S_ISGID && st.st_gid != getegid());
    if (alien)
        why = "it changes its user or group (setuid), and the system preloads nothing into it";
    else if (n >= (ssize_t)sizeof start.elf && memcmp(start.text, ELFMAG, SELFMAG) == 0)
        why = why_not_elf(fd, &start.elf);
    else if (n > 2 && memcmp(start.text, "#!", 2) == 0 && depth < 4) {
        char *name = start.text + 2 + strspn(start.text + 2, " \t");
        name[strcspn(name, " \t\n")] = 0;
        why = why_untouched(name, depth + 1);
    }
    close(fd);
    return why;
}

/* ---- saying what will be done --------------------------------------------- */

static void describe_tier(const terrace_tier_statistics *s)
{
    char limit[SIZE_TEXT];
    size_text(s->limit, limit, sizeof limit);
    if (strcmp(s->tier_class, "host") == 0)
        fprintf(stderr, "  in memory  %s on %s: %s\n", limit, s->location, s->limit_reason);
    else if (strcmp(s->tier_class, "disk") == 0)
        fprintf(stderr, "  on disk    %s: %s; by %s\n", s->location, s->limit_reason, s->engine);
}

static uint64_t host_limit(terrace *m, bool describe)
{
    uint64_t sum = 0;
    terrace_tier_statistics s = {.size = sizeof s};
    for (terrace_tier i = 0; terrace_tier_stats(m, i, &s) == 0; i++) {
        if (strcmp(s.tier_class, "host") == 0)
            sum += s.limit;
        if (describe)
            describe_tier(&s);
    }
    return sum;
}

/* A budget above what the process can have gets it killed, whoever asked for it. */
static void warn_of_too_much(uint64_t limit)
{
    terrace *m;
    char asked[SIZE_TEXT], there[SIZE_TEXT];
    if (terrace_open(&m, "limit_host=\"\"; limit_numa=\"\"; report=\"\"; log=off"))
        return;
    uint64_t most = host_limit(m, false);
    terrace_close(m);
    size_text(limit, asked, sizeof asked);
    size_text(most, there, sizeof there);
    if (limit > most)
        fprintf(stderr, "  warning: %s are more than the %s that this process can have now: set --ram lower\n",
                asked, there);
}

static void describe(const struct run *r, terrace *m, const char *untouched)
{
    char least[SIZE_TEXT];
    size_text(terrace_process_threshold(), least, sizeof least);
    fprintf(stderr, "terrace: %s: blocks of %s and more move between memory and disk\n", r->command[0],
            least);
    uint64_t limit = host_limit(m, true);
    if (getenv("TERRACE_LIMIT_HOST") || getenv("TERRACE_LIMIT_NUMA"))
        warn_of_too_much(limit);
    if (untouched)
        fprintf(stderr, "  but %s itself runs untouched: %s\n", r->command[0], untouched);
}

/* ---- running it ----------------------------------------------------------- */

static int start(const struct run *r)
{
    if (*r->trace)
        setenv("TERRACE_TRACE", r->trace, 1);
    execvp(r->command[0], r->command);
    int e = errno;
    fprintf(stderr, "terrace: run: %s: %s\n", r->command[0], strerror(e));
    return e == ENOENT ? EXIT_NOT_FOUND : EXIT_CANNOT_RUN;
}

static int start_untouched(const struct run *r, const char *why)
{
    if (!r->quiet)
        fprintf(stderr, "terrace: %s runs untouched: %s\n", r->command[0], why);
    return start(r);
}

/* Adds the library in front of what is preloaded already. */
static int preload(const struct run *r)
{
    const char *others = getenv("LD_PRELOAD");
    char *list = NULL;
    if (strpbrk(r->library, ": "))
        return usage("LD_PRELOAD cannot name a path with blanks or colons: ", r->library);
    if (asprintf(&list, "%s%s%s", r->library, others && *others ? ":" : "", others ? others : "") < 0)
        return EXIT_FAILED;
    setenv("LD_PRELOAD", list, 1);
    free(list);
    return 0;
}

/* Settings of the command line are checked; those of the environment were there
 * before, and do not keep the program from running. */
static int cannot_open(const struct run *r)
{
    if (r->set)
        return cli_failed("run");
    return start_untouched(r, terrace_last_error());
}

int run_run(int argc, char **argv)
{
    struct run r = {.quiet = false};
    terrace *m;
    (void)argc;
    const char *shared = getenv("TERRACE_SHARED");
    char *before = shared ? strdup(shared) : NULL;
    int status = parse(&r, argv);
    name_shared(before);
    free(before);
    if (status)
        return status;
    if (!find_library(&r)) {
        fprintf(stderr, "terrace: run: %s is neither next to libterrace.so nor to this command\n", LIBRARY);
        return EXIT_FAILED;
    }
    if (!find_program(&r))
        return start(&r); /* says what is wrong */
    const char *trace = getenv("TERRACE_TRACE");
    snprintf(r.trace, sizeof r.trace, "%s", trace ? trace : "");
    unsetenv("TERRACE_TRACE");
    if (terrace_open(&m, "report=\"\""))
        return cannot_open(&r);
    terrace_close(m);
    if (terrace_process_open(&m))
        return start_untouched(&r, terrace_last_error());
    if (!r.quiet)
        describe(&r, m, why_untouched(r.program, 0));
    status = preload(&r);
    return status ? status : start(&r);
}
