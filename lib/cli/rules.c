/* rules.c - `terrace rules`: checks placement rules, and tells what they say of a tensor.
 *
 * Which tiers a rule means depends on those that are here: a manager is opened as a
 * program would. */
#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "cli.h"

enum { TEXT = 1 << 20 };

static int usage(const char *what, const char *word)
{
    fprintf(stderr, "terrace: rules: %s '%s'; `terrace help rules` tells what there is\n", what, word);
    return EXIT_USAGE;
}

/* Shows what the library writes; bytes of 0: of the rules themselves. */
static int show(terrace *m, size_t bytes, const terrace_tensor_attr *attr, int rank)
{
    char *text = malloc(TEXT);
    if (!text) {
        fputs("terrace: the host is out of memory\n", stderr);
        return EXIT_FAILED;
    }
    int status = terrace_rules_explain(m, bytes, attr, rank, text, TEXT) ? cli_failed("rules") : EXIT_OK;
    if (status == EXIT_OK)
        fputs(text, stdout);
    free(text);
    return status;
}

/* A manager under other rules than TERRACE_RULES says. */
static int open_with(const char *rules, terrace **m)
{
    if (terrace_open(m, "rules="))
        return cli_failed("rules");
    if (terrace_rules_set(*m, rules) == 0)
        return EXIT_OK;
    terrace_close(*m);
    return cli_failed("rules");
}

static int check(int argc, char **argv)
{
    terrace *m;
    if (argc != 1)
        return usage(argc ? "check takes no more than a file, not" : "check: there is no", argc ? argv[1] : "FILE");
    size_t size = strlen(argv[0]) + 2;
    char *rules = malloc(size);
    if (!rules)
        return EXIT_FAILED;
    snprintf(rules, size, "@%s", argv[0]);
    int status = open_with(rules, &m);
    free(rules);
    if (status)
        return status;
    status = show(m, 0, NULL, -1);
    terrace_close(m);
    return status;
}

static bool parse_size(const char *text, size_t *out)
{
    static const char letters[] = "kmgtp";
    char *end;
    double value = strtod(text, &end);
    const char *letter = *end ? strchr(letters, *end | 0x20) : NULL;
    if (letter) {
        value *= (double)(1ull << (10 * (letter - letters + 1)));
        end++;
        end += *end == 'i';
        end += (*end | 0x20) == 'b';
    }
    *out = value >= 1 && value < 0x1p62 ? (size_t)value : 0;
    return end != text && !*end && *out;
}

static bool parse_rank(const char *text, int *out)
{
    char *end;
    errno = 0;
    long n = strtol(text, &end, 10);
    *out = (int)n;
    return *text && !*end && !errno && n >= 0 && n <= 1000000000;
}

static bool parse_role(const char *text, int *out)
{
    static const char *const roles[] = {"other", "weight", "gradient", "optimizer", "activation", "kvcache"};
    for (int i = 0; i < 6; i++)
        if (strcmp(text, roles[i]) == 0) {
            *out = i;
            return true;
        }
    return false;
}

static int explain(int argc, char **argv)
{
    terrace_tensor_attr attr = {.size = sizeof attr};
    const char *rules = NULL;
    size_t bytes;
    int rank = -1;
    if (argc < 2)
        return usage("explain takes a label and a size, not only", argc ? argv[0] : "");
    attr.label = argv[0];
    if (!parse_size(argv[1], &bytes))
        return usage("a size is bytes such as 4096, 512M or 1.5GiB, not", argv[1]);
    for (int i = 2; i < argc; i += 2) {
        const char *value = i + 1 < argc ? argv[i + 1] : "";
        if (strcmp(argv[i], "--rules") == 0 && i + 1 < argc)
            rules = value;
        else if (strcmp(argv[i], "--role") == 0 ? !parse_role(value, &attr.role)
                 : strcmp(argv[i], "--rank") == 0 ? !parse_rank(value, &rank) : true)
            return usage(argv[i], value);
    }
    terrace *m = NULL;
    int status = rules ? open_with(rules, &m) : terrace_open(&m, NULL) ? cli_failed("rules") : EXIT_OK;
    if (status)
        return status;
    status = show(m, bytes, &attr, rank);
    terrace_close(m);
    return status;
}

int rules_run(int argc, char **argv)
{
    if (argc < 2)
        return usage("check or explain is missing after", "rules");
    if (strcmp(argv[1], "check") == 0)
        return check(argc - 2, argv + 2);
    if (strcmp(argv[1], "explain") == 0)
        return explain(argc - 2, argv + 2);
    return usage("there is no", argv[1]);
}
