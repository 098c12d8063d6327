/* terrace.c - the command: finds what was asked for and runs it. */
#include <string.h>

#include "cli.h"
#include "nearest.h"

static int help_run(int argc, char **argv);
static int version_run(int argc, char **argv);

static const struct command {
    const char *name, *arguments, *summary, *details;
    int (*run)(int argc, char **argv);
} commands[] = {
    {"info", "[--routes] [--measure] [--json]", "the tiers, their budgets, and how bytes move",
     "Opens a manager as a program would, with the settings of the environment, and\n"
     "shows the tiers it has: what they are, their budgets and where these come from,\n"
     "which engine moves the bytes and why that one.\n"
     "\n"
     "  --routes    instead, by which way bytes get from each tier to each other\n"
     "  --measure   also writes and reads up to 256 MiB per tier and shows GB/s (10^9)\n"
     "  --json      for programs: one object, sizes in bytes, bandwidths in bytes/s\n",
     info_run},
    {"run", "[OPTION...] -- COMMAND...", "a program, unmodified, in less memory",
     "Runs COMMAND with libterrace-preload.so: its large blocks of memory stay within a\n"
     "budget, what does not fit goes to disk and comes back when, or before, it is used.\n"
     "Says on standard error what it will do, then becomes the program: exit status and\n"
     "signals are the program's own. Where nothing can be done (a static or setuid\n"
     "program, no userfaultfd, a setting of the environment that cannot be used), it says\n"
     "why, and the program runs untouched.\n"
     "\n"
     "  --ram SIZE         memory for large blocks, of each process (TERRACE_LIMIT_HOST);\n"
     "                     default: what is available. Code, stacks and small blocks come\n"
     "                     on top of it\n"
     "  --shared[=FILE]    that is for all processes of the job together, which is what\n"
     "                     they start, too (TERRACE_SHARED)\n"
     "  --hbm SIZE         memory of each NVIDIA device (TERRACE_LIMIT_CUDA); what does not\n"
     "                     fit is in that of the host; default: what is available\n"
     "  --nvme-path PATH   folders for the rest, separated by ':' (TERRACE_NVME_PATH)\n"
     "  --min-size SIZE    what a large block is (TERRACE_MIN_SIZE); default 1M\n"
     "  --report[=FILE]    what was moved, at the end of each process, on standard error or\n"
     "                     in a file, by its name as text, .json or .prom (TERRACE_REPORT)\n"
     "  --trace FILE       timeline of what was moved, for Perfetto (TERRACE_TRACE)\n"
     "  --rules TEXT       placement rules, or @FILE (TERRACE_RULES)\n"
     "  -q                 says nothing but errors\n",
     run_run},
    {"backend-check", "[--unit N] [--only CHECK] [--json] BACKEND", "whether a tier backend does all it must",
     "Tries everything that terrace_backend.h asks of a backend, each check in a process\n"
     "of its own, and shows what passed, what failed and why, and how fast bytes are\n"
     "copied: a report to send to whoever wrote it, or wants to use it. BACKEND is one of\n"
     "this library's (numa, nvme, opencl, cuda ...) or the path of a library, as\n"
     "TERRACE_BACKENDS takes it. Settings of the environment hold, but what is spilled\n"
     "goes to a temporary folder below $TMPDIR or /var/tmp. Exit status 1: some failed.\n"
     "\n"
     "  --unit N      of several devices, number N; default 0\n"
     "  --only CHECK  this check alone\n"
     "  --list        the checks, a line each\n"
     "  --json        for programs: one object; bandwidths in bytes/s\n",
     backend_check_run},
    {"rules", "check FILE | explain LABEL SIZE [OPTION...]", "placement rules, and what they say of a tensor",
     "Placement rules say which tensors may be on which tiers. They are given by\n"
     "TERRACE_RULES or terrace_rules_set(), as text or as @ and the path of a file.\n"
     "\n"
     "  check FILE           whether the file's rules can be used, and what they mean here;\n"
     "                       an error is told with line and column\n"
     "  explain LABEL SIZE   where a tensor may be, tier by tier, and which rule decides\n"
     "    --role ROLE        its role; default other\n"
     "    --rank N           in the process of that rank; default this one's\n"
     "    --rules TEXT       these rules, or @FILE, instead of TERRACE_RULES\n"
     "\n"
     "Entries are separated by commas or newlines; # begins a comment:\n"
     "\n"
     "  role=optimizer: !cuda                     never on cuda\n"
     "  label=restricted/*: host                  nowhere but in host memory\n"
     "  role=weight: cuda>host                    on cuda first, where there is a choice\n"
     "  size>=64M & label=kv/*: ascend|host !nvme two verdicts; ascend or host, not nvme\n"
     "  keep 30% of device on huawei|musa         a share of all bytes on devices\n"
     "\n"
     "Selectors, all of which are to match (&): label and role with = or != and\n"
     "alternatives (|), labels as patterns (*, ?, [...]) or in quotes; size and rank with =,\n"
     "!=, <, <=, > or >=, rank=0-3 for a range; * for any tensor. Roles: other, weight,\n"
     "gradient, optimizer, activation, kvcache. The rank is that of RANK,\n"
     "OMPI_COMM_WORLD_RANK, PMIX_RANK, PMI_RANK, SLURM_PROCID or LOCAL_RANK, else 0.\n"
     "\n"
     "Places: a tier (cuda:0), a kind (cuda), a vendor (nvidia), or a class (device, host,\n"
     "disk). A list with | is where a tensor may be, and it is nowhere else; with ! before\n"
     "it, where it never is; with > it is only the order of choice.\n"
     "\n"
     "Every rule that matches holds, whatever its place; none undoes another. Only for the\n"
     "order of choice the first that matches decides.\n",
     rules_run},
    {"top", "[PID] [OPTION...]", "what processes that use terrace are doing now",
     "Shows the processes that use terrace, linked or preloaded, and that you may look into\n"
     "(root: all): memory, budget, traffic, hits, and the share of the time in which\n"
     "somebody waited; of one process also its tiers, the routes of its bytes and its\n"
     "biggest tensors. Goes on until it is interrupted, or the process ends.\n"
     "\n"
     "  --once           only one look; rates are averages since the manager was opened\n"
     "  --json           for programs: an object in a line for each look\n"
     "  --interval S     seconds between looks, 0.1 at least; default 2. A process renews\n"
     "                   its figures twice a second when it moves bytes, else once\n"
     "  --sort KEY       traffic (the default), used, hits, stalls or pid\n"
     "\n"
     "With TERRACE_TOP=0 a process does not show itself.\n",
     top_run},
    {"help", "[COMMAND|env|errors]", "this text, a command's, the settings', or the errors'",
     "Without an argument: the list of commands.\n"
     "  env      every setting: name, example, meaning, what is accepted\n"
     "  errors   every error code of the library\n",
     help_run},
    {"version", "", "the version of command and library", "", version_run},
};
enum { COMMANDS = sizeof commands / sizeof *commands };

int cli_failed(const char *what)
{
    fprintf(stderr, "terrace: %s: %s\n", what, terrace_last_error());
    return EXIT_FAILED;
}

static void usage(FILE *out)
{
    fputs("usage: terrace COMMAND [ARGUMENT...]\n\n", out);
    for (int i = 0; i < COMMANDS; i++)
        fprintf(out, "  %-13s %s\n", commands[i].name, commands[i].summary);
}

static const struct command *command_find(const char *name)
{
    for (int i = 0; i < COMMANDS; i++)
        if (!strcmp(commands[i].name, name))
            return &commands[i];
    return NULL;
}

/* Says that there is no such command, and which one is like it. */
static int command_unknown(const char *name)
{
    const struct command *best = &commands[0];
    for (int i = 1; i < COMMANDS; i++)
        if (nearest_distance(name, commands[i].name) < nearest_distance(name, best->name))
            best = &commands[i];
    fprintf(stderr, "terrace: there is no command '%s'", name);
    if (nearest_is_near(name, nearest_distance(name, best->name)))
        fprintf(stderr, "; did you mean '%s'?\n", best->name);
    else
        fputs("; `terrace help` lists what there is\n", stderr);
    return EXIT_USAGE;
}

/* ---- help ---------------------------------------------------------------- */

static void help_env(void)
{
    puts("Settings are environment variables, or entries \"key=value\" of the string given\n"
         "to terrace_open(): the same names in lower case without TERRACE_, separated by\n"
         "newlines or ';'. Sizes are bytes, or have a suffix: 4096, 512M, 1.5GiB.\n");
    docs_options(DOCS_TEXT, stdout);
}

static void help_errors(void)
{
    puts("Functions return 0 or one of these, negative; terrace_last_error() has a sentence.\n");
    docs_errors(DOCS_TEXT, stdout);
}

/* For the build: fills the generated parts of a text on standard input.
 * `paths` are the source files for the README's map. */
static int help_fill(const char *format, char *const *paths)
{
    if (!strcmp(format, "man"))
        return docs_fill(DOCS_MAN, paths, stdin, stdout);
    if (!strcmp(format, "readme"))
        return docs_fill(DOCS_README, paths, stdin, stdout);
    return command_unknown(format);
}

static int help_run(int argc, char **argv)
{
    if (argc >= 3 && !strcmp(argv[1], "--fill"))
        return help_fill(argv[2], argv + 3);
    if (argc > 2) {
        fputs("terrace: help takes one argument at most\n", stderr);
        return EXIT_USAGE;
    }
    if (argc == 1) {
        usage(stdout);
    } else if (!strcmp(argv[1], "env")) {
        help_env();
    } else if (!strcmp(argv[1], "errors")) {
        help_errors();
    } else {
        const struct command *command = command_find(argv[1]);
        if (!command)
            return command_unknown(argv[1]);
        printf("usage: terrace %s %s\n\n%s", command->name, command->arguments, command->details);
    }
    return EXIT_OK;
}

static int version_run(int argc, char **argv)
{
    if (argc > 1) {
        fprintf(stderr, "terrace: version takes no argument '%s'\n", argv[1]);
        return EXIT_USAGE;
    }
    if (!strcmp(terrace_version(), TERRACE_VERSION))
        printf("terrace %s\n", TERRACE_VERSION);
    else
        printf("terrace %s (library %s)\n", TERRACE_VERSION, terrace_version());
    return EXIT_OK;
}

/* ---- start --------------------------------------------------------------- */

static bool is_any(const char *word, const char *a, const char *b)
{
    return !strcmp(word, a) || !strcmp(word, b);
}

static int dispatch(int argc, char **argv)
{
    if (argc < 2) {
        usage(stderr);
        return EXIT_USAGE;
    }
    if (is_any(argv[1], "--help", "-h"))
        return help_run(1, argv);
    if (is_any(argv[1], "--version", "-V"))
        return version_run(1, argv);
    const struct command *command = command_find(argv[1]);
    if (!command)
        return command_unknown(argv[1]);
    if (argc >= 3 && is_any(argv[2], "--help", "-h"))
        return help_run(2, (char *[]){argv[1], argv[1], NULL});
    return command->run(argc - 1, argv + 1);
}

/* What was not written (a full disk, a closed pipe) was not said. */
int main(int argc, char **argv)
{
    int status = dispatch(argc, argv);
    if (fflush(stdout) || ferror(stdout)) {
        perror("terrace: standard output");
        status = EXIT_FAILED;
    }
    return status;
}
