/* Settings: every row of options.def with good and bad values, limits, conf
 * strings, names that are not known. */
#include <criterion/criterion.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <strings.h>
#include <unistd.h>

#include "error.h"
#include "options.h"

enum kind { CHOICE, BOOL, SIZE, TEXT, PATHS };
enum status { HERE, LATER };

static const struct row {
    const char *name, *fallback, *choices, *example, *meaning;
    enum kind kind;
    enum status status;
} rows[OPT_COUNT] = {
#define OPTION(id, name, kind, fallback, choices, example, meaning, status) \
    [OPT_##id] = {name, fallback, choices, example, meaning, kind, status},
#include "options.def"
#undef OPTION
};

static struct options o;

/* "TERRACE_IO" or, for conf strings, "io". */
static const char *variable(const char *name)
{
    static char buf[80];
    snprintf(buf, sizeof buf, "TERRACE_%s", name);
    return buf;
}

static const char *key(const char *name)
{
    static char buf[80];
    snprintf(buf, sizeof buf, "%s", name);
    for (char *c = buf; *c; c++)
        *c |= *c == '_' ? 0 : 0x20;
    return buf;
}

static void must_fail(int code, const char *conf, const char *mentions)
{
    cr_assert_eq(options_parse(&o, conf), code, "%s: %s", conf, terrace_last_error());
    cr_assert(strstr(terrace_last_error(), mentions), "\"%s\" does not mention %s",
              terrace_last_error(), mentions);
}

static void must_parse(const char *conf)
{
    cr_assert_eq(options_parse(&o, conf), 0, "%s: %s", conf ? conf : "", terrace_last_error());
}

/* ---- the table ----------------------------------------------------------- */

Test(options, defaults_are_the_table_s)
{
    must_parse(NULL);
    for (int i = 0; i < OPT_COUNT; i++) {
        cr_assert_not(o.value[i].set);
        cr_assert_eq(!o.value[i].text, !rows[i].fallback, "%s", rows[i].name);
        if (rows[i].fallback)
            cr_assert_str_eq(o.value[i].text, rows[i].fallback);
        cr_assert_eq(options_text(&o, rows[i].name), o.value[i].text);
    }
    cr_assert_eq(o.limits, 0);
    cr_assert_eq(o.unknowns, 0);
    options_free(&o);
}

Test(options, every_example_parses_and_conf_goes_over_environment)
{
    for (int i = 0; i < OPT_COUNT; i++) {
        if (rows[i].status == LATER)
            continue;
        setenv(variable(rows[i].name), rows[i].example, 1);
        must_parse(NULL);
        cr_assert(o.value[i].set && !o.value[i].from_conf);
        cr_assert_str_eq(o.value[i].text, rows[i].example);
        options_free(&o);

        char conf[200];
        snprintf(conf, sizeof conf, "%s = \"%s\"", key(rows[i].name), rows[i].example);
        setenv(variable(rows[i].name), "", 1);
        must_parse(conf);
        cr_assert(o.value[i].set && o.value[i].from_conf);
        cr_assert_str_eq(o.value[i].text, rows[i].example);
        options_free(&o);
    }
}

/* Values no option of the kind accepts, with a part of what it says instead. */
static const struct {
    enum kind kind;
    const char *values[8], *accepted;
} bad[] = {
    {CHOICE, {"purple", "auto|lru", " auto", "0", "off,all"}, " or "},
    {BOOL, {"2", "-1", "maybe", "01", " 1"}, "0 or 1"},
    {SIZE, {"-1", "1Q", "many", "1e9", "0x10", "99999999999T", "1 2"}, "a size in bytes"},
    {TEXT, {"a\nb", "\x01"}, "text without control characters"},
    {PATHS, {"a::b", ":", "/a:", ":/a"}, "paths separated by ':'"},
};

static void check_bad_value(const struct row *row, const char *value, const char *accepted)
{
    char shown[200];
    snprintf(shown, sizeof shown, "%s=%s ", variable(row->name), value);
    setenv(variable(row->name), value, 1);
    must_fail(-TERRACE_ECONFIG, NULL, shown);
    must_fail(-TERRACE_ECONFIG, NULL, "accepted is");
    must_fail(-TERRACE_ECONFIG, NULL, accepted);
    unsetenv(variable(row->name));

    char conf[200];
    snprintf(conf, sizeof conf, "%s=\"%s\"", key(row->name), value);
    snprintf(shown, sizeof shown, "%s=%s ", key(row->name), value);
    must_fail(-TERRACE_ECONFIG, conf, shown);
}

Test(options, every_bad_value_names_variable_value_and_what_is_accepted)
{
    for (int i = 0; i < OPT_COUNT; i++)
        for (size_t b = 0; b < sizeof bad / sizeof *bad; b++)
            for (int v = 0; bad[b].values[v] && rows[i].status == HERE; v++)
                if (bad[b].kind == rows[i].kind)
                    check_bad_value(&rows[i], bad[b].values[v], bad[b].accepted);
}

Test(options, choices_are_named_in_full_and_numbered)
{
    must_fail(-TERRACE_ECONFIG, "io=fast", "auto, uring or threads");
    must_parse("io=Threads;log=debug;encrypt=1");
    cr_assert_eq(o.value[OPT_IO].number, 2);
    cr_assert_str_eq(o.value[OPT_IO].text, "threads");
    cr_assert_eq(o.value[OPT_LOG].number, 4);
    cr_assert_eq(o.value[OPT_ENCRYPT].number, 1);
    options_free(&o);
}

Test(options, a_size_may_be_one_of_its_words)
{
    must_fail(-TERRACE_ECONFIG, "prefetch=some", "auto or off, or a size");
    must_parse("prefetch=off");
    cr_assert_str_eq(options_text(&o, "PREFETCH"), "off");
    options_free(&o);
    must_parse("prefetch=256M");
    cr_assert_eq(o.value[OPT_PREFETCH].number, 256u << 20);
    options_free(&o);
}

Test(options, what_this_build_lacks_is_refused_when_set)
{
    for (int i = 0; i < OPT_COUNT; i++) {
        if (rows[i].status == HERE)
            continue;
        setenv(variable(rows[i].name), rows[i].example, 1);
        must_fail(-TERRACE_ENOTSUP, NULL, variable(rows[i].name));
        must_fail(-TERRACE_ENOTSUP, NULL, "not supported by this build");
        setenv(variable(rows[i].name), "", 1);
        must_parse(NULL);
        options_free(&o);
    }
}

Test(options, an_empty_value_means_unset)
{
    setenv("TERRACE_IO", "threads", 1);
    setenv("TERRACE_LIMIT_NUMA", "1G", 1);
    must_parse("io=; limit_numa=\"\"");
    cr_assert_str_eq(options_text(&o, "IO"), "auto");
    cr_assert_not(o.value[OPT_IO].set);
    cr_assert_eq(o.limits, 0);
    options_free(&o);
}

Test(options, text_of_an_unknown_name_is_null)
{
    must_parse(NULL);
    cr_assert_null(options_text(&o, "NONSENSE"));
    cr_assert_null(options_text(&o, "io"));
    options_free(&o);
}

Test(options, the_table_itself_is_complete)
{
    for (int i = 0; i < OPT_COUNT; i++) {
        cr_assert(rows[i].example && *rows[i].example, "%s", rows[i].name);
        cr_assert(rows[i].meaning && *rows[i].meaning, "%s", rows[i].name);
        cr_assert_eq(rows[i].kind == CHOICE, rows[i].kind != SIZE && rows[i].choices != NULL);
        cr_assert_lt(strlen(rows[i].name), 32);
    }
}

/* ---- limits -------------------------------------------------------------- */

Test(options, the_most_specific_limit_wins)
{
    struct option_limit limit;
    setenv("TERRACE_LIMIT_NUMA", "8G", 1);
    setenv("TERRACE_LIMIT_NUMA_1", "512MiB", 1);
    must_parse("limit_host=37.5%");
    cr_assert(options_limit(&o, "numa", 0, &limit));
    cr_assert_eq(limit.bytes, 8ull << 30);
    cr_assert(options_limit(&o, "numa", 1, &limit));
    cr_assert_eq(limit.bytes, 512ull << 20);
    cr_assert(options_limit(&o, "numa", -1, &limit));
    cr_assert_eq(limit.bytes, 8ull << 30);
    cr_assert(options_limit(&o, "host", -1, &limit));
    cr_assert_eq(limit.bytes, 0);
    cr_assert_float_eq(limit.percent, 37.5, 1e-9);
    cr_assert_not(options_limit(&o, "nvme", 0, &limit));
    cr_assert_not(options_limit(&o, "num", 0, &limit));
    options_free(&o);
}

Test(options, a_limit_of_one_unit_is_none_for_the_kind)
{
    struct option_limit limit;
    must_parse("limit_nvme_2=1G");
    cr_assert(options_limit(&o, "nvme", 2, &limit));
    cr_assert_not(options_limit(&o, "nvme", 1, &limit));
    cr_assert_not(options_limit(&o, "nvme", -1, &limit));
    options_free(&o);
}

Test(options, conf_replaces_a_limit_of_the_environment)
{
    struct option_limit limit;
    setenv("TERRACE_LIMIT_NUMA", "8G", 1);
    must_parse("limit_numa=50%; limit_numa=25%");
    cr_assert_eq(o.limits, 1);
    cr_assert(options_limit(&o, "numa", 0, &limit));
    cr_assert_eq(limit.bytes, 0);
    cr_assert_float_eq(limit.percent, 25, 1e-9);
    options_free(&o);
}

Test(options, bad_limits_say_what_is_accepted)
{
    static const char *const values[] = {"0", "0%", "101%", "-5%", "8 apples", "%", "50%%", "1..5G"};
    for (size_t i = 0; i < sizeof values / sizeof *values; i++) {
        char shown[64];
        snprintf(shown, sizeof shown, "TERRACE_LIMIT_NUMA_0=%s ", values[i]);
        setenv("TERRACE_LIMIT_NUMA_0", values[i], 1);
        must_fail(-TERRACE_ECONFIG, NULL, shown);
        must_fail(-TERRACE_ECONFIG, NULL, "such as 50%");
    }
}

Test(options, limits_have_a_number_limit_of_their_own)
{
    char conf[2000] = "";
    for (int i = 0; i <= OPTIONS_MAX_LIMITS; i++)
        sprintf(conf + strlen(conf), "limit_numa_%d=1G;", i);
    must_fail(-TERRACE_ECONFIG, conf, "at most 32");
    must_fail(-TERRACE_ECONFIG, "limit_aaaaaaaaaabbbbbbbbbbccccccccccdddd=1G", "short names");
}

/* ---- names that are not known -------------------------------------------- */

Test(options, an_unknown_variable_is_warned_about_with_the_nearest)
{
    setenv("TERRACE_LIMT_NUMA", "8G", 1);
    must_parse(NULL);
    cr_assert_eq(o.unknowns, 1);
    cr_assert_str_eq(o.unknown[0],
                     "TERRACE_LIMT_NUMA is not known; did you mean TERRACE_LIMIT_NUMA?");
    options_free(&o);
}

Test(options, slips_of_the_pen_find_their_word)
{
    static const char *const slips[][2] = {
        {"NVME_PAHT", "NVME_PATH"}, {"NVMEPATH", "NVME_PATH"}, {"POLCIY", "POLICY"},
        {"LOGFILE", "LOG_FILE"},    {"OI", "IO"},              {"ENCRYPTION", "ENCRYPT"},
        {"PREFECTH", "PREFETCH"},   {"LIMIT_HSOT", "LIMIT_HOST"},
    };
    for (size_t i = 0; i < sizeof slips / sizeof *slips; i++) {
        char wanted[128];
        setenv(variable(slips[i][0]), "1", 1);
        must_parse(NULL);
        unsetenv(variable(slips[i][0]));
        snprintf(wanted, sizeof wanted, "did you mean %s?", variable(slips[i][1]));
        cr_assert_eq(o.unknowns, 1, "%s", slips[i][0]);
        cr_assert(strstr(o.unknown[0], wanted), "%s: %s", slips[i][0], o.unknown[0]);
        options_free(&o);
    }
}

Test(options, a_name_like_no_other_gets_no_guess)
{
    setenv("TERRACE_ABSOLUTELY_UNHEARD_OF", "1", 1);
    must_parse(NULL);
    cr_assert_eq(o.unknowns, 1);
    cr_assert(strstr(o.unknown[0], "TERRACE_ABSOLUTELY_UNHEARD_OF is not known"));
    cr_assert_not(strstr(o.unknown[0], "did you mean"));
    options_free(&o);
}

Test(options, an_endless_unknown_name_does_no_harm)
{
    char name[5000];
    memset(name, 'A', sizeof name);
    memcpy(name, "TERRACE_", 8);
    name[sizeof name - 1] = 0;
    setenv(name, "1", 1);
    must_parse(NULL);
    cr_assert_eq(o.unknowns, 1);
    options_free(&o);
}

Test(options, many_unknown_names_are_not_all_told)
{
    for (int i = 0; i < 100; i++) {
        char name[32];
        snprintf(name, sizeof name, "TERRACE_ZZZ_%d", i);
        setenv(name, "1", 1);
    }
    must_parse(NULL);
    cr_assert_eq(o.unknowns, sizeof o.unknown / sizeof *o.unknown);
    options_free(&o);
}

Test(options, an_unknown_key_in_conf_is_an_error)
{
    must_fail(-TERRACE_ECONFIG, "limt_numa=8G", "limt_numa is not known; did you mean limit_numa?");
    must_fail(-TERRACE_ECONFIG, "limit_=8G", "limit_ is not known");
    must_fail(-TERRACE_ECONFIG, "limit_numa_x=8G", "limit_numa_x is not known");
    must_fail(-TERRACE_ECONFIG, "zzzz=8G", "zzzz is not known");
}

Test(options, limits_for_kinds_from_outside_are_kept)
{
    struct option_limit limit;
    must_parse("limit_holographic_3=8G");
    cr_assert_eq(o.unknowns, 0);
    cr_assert(options_limit(&o, "holographic", 3, &limit));
    options_free(&o);
}

/* ---- the conf string ----------------------------------------------------- */

Test(options, entries_are_separated_by_newlines_and_semicolons)
{
    must_parse("\n;; io=threads ;\r\n\tpolicy = lru\n\nlog=info");
    cr_assert_str_eq(options_text(&o, "IO"), "threads");
    cr_assert_str_eq(options_text(&o, "POLICY"), "lru");
    cr_assert_str_eq(options_text(&o, "LOG"), "info");
    options_free(&o);
}

Test(options, quoted_values_keep_what_would_end_them)
{
    must_parse("nvme_path = \" a;b\\\"c\\\\d \" ; io=threads");
    cr_assert_str_eq(options_text(&o, "NVME_PATH"), " a;b\"c\\d ");
    cr_assert_str_eq(options_text(&o, "IO"), "threads");
    options_free(&o);
}

Test(options, bare_values_take_everything_else)
{
    must_parse("nvme_path=/a b/\"c\"\\=:/d  ;io=threads");
    cr_assert_str_eq(options_text(&o, "NVME_PATH"), "/a b/\"c\"\\=:/d");
    options_free(&o);
}

Test(options, malformed_conf_strings_are_explained)
{
    static const char *const malformed[][2] = {
        {"io", "key=value entry is missing"},
        {"=x", "key=value entry is missing"},
        {"io threads", "key=value entry is missing"},
        {"io-x=1", "key=value entry is missing"},
        {"io=\"threads", "does not end"},
        {"io=\"thr\\n\"", "another escape"},
        {"io=\"threads\\", "another escape"},
        {"io=\"threads\" x", "behind the closing quote"},
        {"io=threads;\"", "key=value entry is missing"},
    };
    for (size_t i = 0; i < sizeof malformed / sizeof *malformed; i++)
        must_fail(-TERRACE_ECONFIG, malformed[i][0], malformed[i][1]);
}

/* ---- sizes --------------------------------------------------------------- */

Test(options, sizes)
{
    static const struct {
        const char *text;
        uint64_t bytes;
    } sizes[] = {
        {"0", 0},
        {"4096", 4096},
        {"8G", 8ull << 30},
        {"512MiB", 512ull << 20},
        {"512mb", 512ull << 20},
        {"1.5g", 3ull << 29},
        {"2 TiB", 2ull << 40},
        {" 1k ", 1024},
        {"7b", 7},
        {"1.25KiB", 1280},
        {"15EiB", 15ull << 60},
        {"18446744073709551615", UINT64_MAX},
        {"9007199254740993", 9007199254740993ull},
    };
    uint64_t bytes;
    for (size_t i = 0; i < sizeof sizes / sizeof *sizes; i++) {
        cr_assert(options_parse_size(sizes[i].text, &bytes), "%s", sizes[i].text);
        cr_assert_eq(bytes, sizes[i].bytes, "%s", sizes[i].text);
    }
}

Test(options, what_is_not_a_size)
{
    static const char *const texts[] = {
        "",      " ",   "-1",  "+1",     "G",    "1.",  ".5",   "1.5.5",  "1GG",
        "1iB",   "0x1", "1e3", "inf",    "nan",  "1 G B", "16EiB", "18446744073709551616",
        "1000P1", "8,5G",
    };
    for (size_t i = 0; i < sizeof texts / sizeof *texts; i++) {
        uint64_t bytes = 42;
        cr_assert_not(options_parse_size(texts[i], &bytes), "%s", texts[i]);
        cr_assert_eq(bytes, 42, "%s was written", texts[i]);
    }
}
