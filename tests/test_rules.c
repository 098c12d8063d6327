/* test_rules.c - placement rules: the language, its errors, and what rules say of tensors. */
#include <fcntl.h>
#include <fnmatch.h>
#include <sys/stat.h>
#include <time.h>

#include "ruled.h"
#include "rules.h"

static const char *const kinds[] = {"deva", "devb", "hosta", "hostb", "diska", "diskb", NULL};
static const char *const vendors[] = {"avendor", "bvendor", NULL};
static const struct rules_names names = {kinds, vendors};

static terrace *open_ruled(const char *more)
{
    char conf[600];
    terrace *m;
    snprintf(conf, sizeof conf, "tiers=" RULED_ALL ";log=off;limit_device=2M;limit_host=4M;limit_disk=8M;%s", more);
    assert_ok(terrace_open(&m, conf));
    return m;
}

/* ---- what is accepted -------------------------------------------------------- */

static const struct {
    const char *text;
    unsigned rules;
} good[] = {
    {"", 0},
    {" \n# nothing\n,,\n", 0},
    {"role=optimizer:!deva, label=restricted/*:host", 2},
    {"role=weight:deva>host", 1},
    {"size>=64M & label=kv/*: devb>host", 1},
    {"rank=0: !diska\nrank!=0-3: diskb", 2},
    {"keep 30% of device on avendor,devb", 1},
    {"keep 30% of device on avendor , devb, role=weight:host", 2},
    {"keep 12.5 % of device on avendor|bvendor\nkeep 1% of device on deva", 2},
    {"*:!disk", 1},
    {"label=a|b*|[c-e]? & role=weight|gradient & size<1.5GiB & size!=4096 & rank>=2: deva:0|hostb !diska !diskb:3", 3},
    {"label=\"a, b:c|d\"|'it\"s': host", 1},
    {"label=\"q\\\"\\\\\" : host # the rest of the line, is : no rule", 1},
    {"\tlabel = x & size <= 1k :host|device>disk", 0},
    {"*:deva>*", 1},
    {"*:hosta>hostb|deva", 0},
    {"label!=public/* : !device", 1},
    {"role!=other|kvcache:hosta\r\nrole=other:hostb\r\n", 2},
};

Test(rules, accepted_forms)
{
    for (size_t i = 0; i < sizeof good / sizeof good[0]; i++) {
        struct rules *r;
        int e = rules_parse(good[i].text, "T", &names, &r);
        if (good[i].rules == 0 && strchr(good[i].text, ':')) { /* two joints in one list */
            cr_assert_eq(e, -TERRACE_ECONFIG, "%s", good[i].text);
            continue;
        }
        cr_assert_eq(e, 0, "%s: %s", good[i].text, terrace_last_error());
        cr_assert_eq(r->rules, good[i].rules, "%s: %u", good[i].text, r->rules);
        rules_free(r);
    }
}

/* ---- errors ------------------------------------------------------------------ */

static const struct {
    const char *text;
    unsigned line, column;
    const char *says;
} bad[] = {
    {"rôle=weight:host", 1, 1, "is no selector"},
    {"label=a:host\n  roel=weight:host", 2, 3, "'roel=weight' is no selector"},
    {"label=é:!hots", 1, 10, "'hots' is no tier, kind, vendor or class; did you mean 'host'?"},
    {"*:!gpu", 1, 4, "there are device, host and disk"},
    {"*:deva:", 1, 7, "a place is missing"},
    {"*:host:0", 1, 3, "a number goes with a kind"},
    {"*:deva:1x", 1, 3, "a number goes with a kind"},
    {"*:", 1, 3, "before the end"},
    {"*:!", 1, 4, "before the end"},
    {"*: host|\n", 1, 9, "before the end of the line"},
    {"role=wieght:host", 1, 6, "there are other, weight, gradient"},
    {"role<weight:host", 1, 5, "'<' is for size and rank"},
    {"role:host", 1, 5, "= or != is missing before ':'"},
    {"size>=64Q:host", 1, 7, "'64Q' is no size"},
    {"size>=:host", 1, 7, "is no size"},
    {"size 64:host", 1, 6, "one of = != < <= > >="},
    {"rank=x:host", 1, 6, "is no rank"},
    {"rank=3-1:host", 1, 7, "from the lower to the higher"},
    {"rank=9999999999:host", 1, 6, "is no rank"},
    {"label=:host", 1, 7, "a pattern for labels is missing"},
    {"label=\"a:host\nlabel=b:host", 1, 7, "no end on its line"},
    {"label=a host", 1, 9, "':' or '&' is missing before 'host'"},
    {"label=a & :host", 1, 11, "is no selector"},
    {"*:!deva>host", 1, 8, "what is denied has no order"},
    {"*:deva>host|disk", 1, 12, "either |"},
    {"keep 0% of device on deva", 1, 6, "more than 0 and at most 100"},
    {"keep 101% of device on deva", 1, 6, "more than 0"},
    {"keep 0x1% of device on deva", 1, 6, "'0x1%' is no share"},
    {"keep 30 of device on deva", 1, 9, "% is missing before 'of'"},
    {"keep 30% of host on deva", 1, 13, "'of device on' is expected instead of 'host'"},
    {"keep 30% of device on", 1, 22, "a place is missing"},
    {"keep 30% of device on deva host", 1, 28, "a comma or a new line is missing before 'host'"},
    {"*:deva\x01", 1, 7, "control character (0x01)"},
    {"*:deva]", 1, 7, "a place is missing before ']'"},
};

Test(rules, errors_tell_line_and_column)
{
    for (size_t i = 0; i < sizeof bad / sizeof bad[0]; i++) {
        struct rules *r = NULL;
        char where[60];
        cr_assert_eq(rules_parse(bad[i].text, "T", &names, &r), -TERRACE_ECONFIG, "%s", bad[i].text);
        cr_assert_null(r);
        snprintf(where, sizeof where, "T, line %u, column %u: ", bad[i].line, bad[i].column);
        cr_expect(strstr(terrace_last_error(), where) == terrace_last_error(), "%s: %s, wanted %s", bad[i].text,
                  terrace_last_error(), where);
        cr_expect(strstr(terrace_last_error(), bad[i].says), "%s: %s, wanted %s", bad[i].text, terrace_last_error(),
                  bad[i].says);
    }
}

Test(rules, too_many_or_too_long_are_refused)
{
    struct rules *r;
    size_t n = RULES_MOST + 1, each = strlen("*:host\n");
    char *text = malloc(2 * RULES_BYTES);
    for (size_t i = 0; i < n; i++)
        memcpy(text + i * each, "*:host\n", each + 1);
    cr_assert_eq(rules_parse(text, "T", &names, &r), -TERRACE_ECONFIG);
    cr_assert(strstr(terrace_last_error(), "line 4097, column 1: there are more than 4096 rules"), "%s",
              terrace_last_error());
    memset(text, '\n', RULES_BYTES + 1);
    text[RULES_BYTES + 1] = '\0';
    cr_assert_eq(rules_parse(text, "T", &names, &r), -TERRACE_ECONFIG);
    cr_assert(strstr(terrace_last_error(), "longer than 1024 KiB"), "%s", terrace_last_error());
    free(text);
}

/* ---- random texts ------------------------------------------------------------ */

static uint64_t state;

static unsigned draw(unsigned below)
{
    state ^= state << 13;
    state ^= state >> 7;
    state ^= state << 17;
    return (unsigned)((state >> 16) % below);
}

/* Words of the language, or letters, joined at random; now and then a good text with
 * some characters changed. */
static void random_text(char *buf, size_t len)
{
    static const char *const words[] = {
        "label=", "role=", "size", "rank", "keep 30% of device on ", "*", ":", "!", "|", ">", "&", ",", "\n", " ", "=",
        "!=", "<", ">=", "deva", "devb:0", "hosta", "host", "device", "disk", "avendor", "weight", "optimizer", "64M",
        "0-3", "7", "restricted/*", "\"a b\"", "'", "\"", "\\", "#", "[", "é", "%", "of", "on", "\t", "\x7f", "é\xff"};
    size_t used = 0;
    *buf = '\0';
    if (draw(3) == 0) {
        snprintf(buf, len, "%s", good[draw(sizeof good / sizeof good[0])].text);
        for (unsigned i = draw(4); i && *buf; i--)
            buf[draw((unsigned)strlen(buf))] = draw(2) ? " ,:&|>!=*\n\"#'"[draw(13)] : (char)(1 + draw(255));
        return;
    }
    for (unsigned n = draw(40); n && used + 20 < len; n--) {
        if (draw(4)) /* mostly as it should be: a selector, a colon, a verdict */
            used += (size_t)snprintf(buf + used, len - used, "%s", words[draw(sizeof words / sizeof words[0])]);
        else
            used += (size_t)snprintf(buf + used, len - used, "label=%c*%s:%s%s\n", 'a' + (int)draw(26),
                                     draw(2) ? " & size>4K" : "", draw(2) ? "!" : "", words[18 + draw(7)]);
    }
}

static void expect_place(const char *text)
{
    unsigned line = 0, column = 0, lines = 1;
    const char *at = terrace_last_error();
    cr_assert_eq(sscanf(at, "rules, line %u, column %u: ", &line, &column), 2, "\"%s\": %s", text, at);
    const char *begin = text;
    for (const char *c = text; *c; c++)
        if (*c == '\n' && lines < line) {
            lines++;
            begin = c + 1;
        }
    cr_assert(line == lines && column >= 1 && column <= strcspn(begin, "\n") + 1, "\"%s\": %s", text, at);
}

/* TERRACE_TEST_SEED repeats it. */
Test(rules, ten_thousand_random_texts, .timeout = 120)
{
    const char *seed = getenv("TERRACE_TEST_SEED");
    unsigned long first = seed ? strtoul(seed, NULL, 0) : (unsigned long)time(NULL);
    terrace *m = open_ruled("");
    terrace_tensor *t = tensor_of(m, 8192, "a thing"), *s = tensor_of(m, 100, "b");
    unsigned taken = 0, refused = 0;
    state = (first + 1) * 0x9e3779b97f4a7c15u;
    fprintf(stderr, "TERRACE_TEST_SEED=%lu\n", first);
    write_pattern(t, host_of(m), 8192, 1);
    for (unsigned i = 0; i < 10000; i++) {
        char text[600], told[4096];
        random_text(text, sizeof text);
        if (*text == '@')
            continue;
        int r = terrace_rules_set(m, text);
        cr_assert(r == 0 || r == -TERRACE_ECONFIG || r == -TERRACE_ERULE, "\"%s\": %d", text, r);
        if (r == -TERRACE_ECONFIG)
            expect_place(text);
        taken += r == 0;
        refused += r == -TERRACE_ERULE;
        terrace_tensor_attr attr = {.size = sizeof attr, .label = "b/7", .role = (int)draw(6)};
        assert_ok(terrace_rules_explain(m, draw(1 << 20), &attr, (int)draw(9) - 1, told, 1 + draw(sizeof told)));
    }
    cr_expect(taken > 500 && taken < 9500, "%u taken, %u refused", taken, refused);
    assert_ok(terrace_rules_set(m, ""));
    expect_pattern(t, host_of(m), 8192, 1);
    terrace_tensor_destroy(t);
    terrace_tensor_destroy(s);
    terrace_close(m);
}

/* ---- what rules say ---------------------------------------------------------- */

/* Bit per tier where such a tensor may not be; -1: it could not be created. */
static int denied(terrace *m, const char *rules, const char *label, int role, size_t bytes)
{
    terrace_tensor_attr attr = {.size = sizeof attr, .label = label, .role = role};
    terrace_tensor *t;
    cr_assert_eq(terrace_rules_set(m, rules), 0, "%s: %s", rules, terrace_last_error());
    int r = terrace_tensor_create(m, bytes, &attr, &t);
    if (r) {
        cr_assert_eq(r, -TERRACE_ERULE);
        return -1;
    }
    int mask = t->placement ? t->placement->denied : 0;
    terrace_tensor_destroy(t);
    return mask;
}

enum { A = 1 << DEVA, B = 1 << DEVB, HA = 1 << HOSTA, HB = 1 << HOSTB, DA = 1 << DISKA, DB = 1 << DISKB };
enum { BIG = 1 << 20 };

Test(rules, selectors)
{
    terrace *m = open_ruled("");
    int w = TERRACE_ROLE_WEIGHT, o = TERRACE_ROLE_OPTIMIZER;
    cr_expect_eq(denied(m, "label=a/*:!deva", "a/b/c", 0, BIG), A);
    cr_expect_eq(denied(m, "label=a/*:!deva", "b/a/c", 0, BIG), 0);
    cr_expect_eq(denied(m, "label=a/*|b/?:!deva", "b/1", 0, BIG), A);
    cr_expect_eq(denied(m, "label!=a/*|b/?:!deva", "b/1", 0, BIG), 0);
    cr_expect_eq(denied(m, "label!=a/*:!deva", NULL, 0, BIG), A);
    cr_expect_eq(denied(m, "label=*:!deva", NULL, 0, BIG), A);
    cr_expect_eq(denied(m, "label='a b:c,d':!deva", "a b:c,d", 0, BIG), A);
    cr_expect_eq(denied(m, "role=weight|optimizer:!deva", NULL, o, BIG), A);
    cr_expect_eq(denied(m, "role=weight|optimizer:!deva", NULL, 0, BIG), 0);
    cr_expect_eq(denied(m, "role!=weight:!deva", NULL, w, BIG), 0);
    cr_expect_eq(denied(m, "size>=1M:!deva", NULL, w, BIG), A);
    cr_expect_eq(denied(m, "size>1M:!deva", NULL, w, BIG), 0);
    cr_expect_eq(denied(m, "size<=1M & size!=1048577:!deva", NULL, w, BIG), A);
    cr_expect_eq(denied(m, "size<1M:!deva", NULL, w, BIG), 0);
    cr_expect_eq(denied(m, "size=1M & role=weight & label=x:!deva", "x", w, BIG), A);
    cr_expect_eq(denied(m, "size=1M & role=weight & label=x:!deva", "y", w, BIG), 0);
    terrace_close(m);
}

Test(rules, places_and_verdicts)
{
    terrace *m = open_ruled("");
    cr_expect_eq(denied(m, "*:!bvendor", NULL, 0, BIG), B);
    cr_expect_eq(denied(m, "*:!host", NULL, 0, BIG), HA | HB);
    cr_expect_eq(denied(m, "*:!diskb:0|deva:0", NULL, 0, BIG), DB | A);
    cr_expect_eq(denied(m, "*:!deva:1", NULL, 0, BIG), 0);
    cr_expect_eq(denied(m, "*:host", NULL, 0, BIG), A | B | DA | DB);
    cr_expect_eq(denied(m, "*:host|diska !hosta", NULL, 0, BIG), A | B | DB | HA);
    cr_expect_eq(denied(m, "*:devb>host", NULL, 0, BIG), 0);
    /* Every rule that matches holds, in whatever order. */
    cr_expect_eq(denied(m, "role=other:!deva, label=x:!disk", "x", 0, BIG), A | DA | DB);
    cr_expect_eq(denied(m, "label=x:host|disk, role=other:device|host", "x", 0, BIG), A | B | DA | DB);
    cr_expect_eq(denied(m, "*:disk", NULL, 0, BIG), -1);
    cr_expect_eq(denied(m, "*:host, label=x:device", "x", 0, BIG), -1);
    cr_expect(strstr(terrace_last_error(), "\"*:host\" (rules, line 1)") &&
              strstr(terrace_last_error(), "\"label=x:device\" (rules, line 1)"), "%s", terrace_last_error());
    cr_expect_eq(denied(m, "*:host, label=x:device", "y", 0, 100), A | B | DA | DB);
    terrace_close(m);
}

Test(rules, the_first_order_that_matches_decides)
{
    terrace *m = open_ruled("");
    terrace_tensor_attr attr = {.size = sizeof attr, .label = "x"};
    terrace_tensor *t;
    assert_ok(terrace_rules_set(m, "label=y:hosta>hostb, label=x:diskb>bvendor>hostb, *:deva>devb"));
    assert_ok(terrace_tensor_create(m, BIG, &attr, &t));
    const unsigned char wanted[] = {DISKB, DEVB, HOSTB, DEVA, HOSTA, DISKA};
    cr_assert_eq(memcmp(t->placement->order, wanted, sizeof wanted), 0);
    terrace_tensor_destroy(t);
    terrace_close(m);
}

Test(rules, ranks_come_from_the_environment_of_launchers)
{
    static const char *const names_of[] = {"RANK", "OMPI_COMM_WORLD_RANK", "PMIX_RANK", "PMI_RANK", "SLURM_PROCID",
                                           "LOCAL_RANK"};
    for (size_t i = 0; i < 6; i++)
        unsetenv(names_of[i]);
    terrace *m = open_ruled("");
    cr_expect_eq(denied(m, "rank=0:!deva", NULL, 0, BIG), A);
    for (size_t i = 6; i-- > 0;) { /* one earlier in the list wins */
        char rank[20];
        snprintf(rank, sizeof rank, "%zu", 10 + i);
        setenv(names_of[i], rank, 1);
        snprintf(rank, sizeof rank, "rank=%zu:!deva", 10 + i);
        cr_expect_eq(denied(m, rank, NULL, 0, BIG), A, "%s", names_of[i]);
    }
    cr_expect_eq(denied(m, "rank=8-12:!deva", NULL, 0, BIG), A);
    cr_expect_eq(denied(m, "rank!=8-12:!deva", NULL, 0, BIG), 0);
    cr_expect_eq(denied(m, "rank>=11:!deva", NULL, 0, BIG), 0);
    setenv("RANK", "x", 1); /* no number: the next counts */
    cr_expect_eq(denied(m, "rank=11:!deva", NULL, 0, BIG), A);
    terrace_close(m);
}

/* ---- files and settings -------------------------------------------------------- */

static const char *file_with(const char *text, size_t bytes)
{
    static char path[80];
    snprintf(path, sizeof path, "@/var/tmp/terrace-rules.%d", (int)getpid());
    int fd = open(path + 1, O_WRONLY | O_CREAT | O_TRUNC, 0600);
    cr_assert(fd >= 0 && write(fd, text, bytes) == (ssize_t)bytes);
    close(fd);
    return path;
}

Test(rules, files)
{
    terrace *m = open_ruled("");
    const char *path = file_with("# two\n*:!deva\nlabel=x:!hots\n", 28);
    char wanted[200];
    assert_fails(terrace_rules_set(m, path), TERRACE_ECONFIG);
    snprintf(wanted, sizeof wanted, "%s, line 3, column 10: 'hots'", path + 1);
    cr_assert_eq(strstr(terrace_last_error(), wanted), terrace_last_error(), "%s", terrace_last_error());
    cr_expect_eq(denied(m, file_with("# two\n*:!deva\n", 14), NULL, 0, BIG), A);
    assert_fails(terrace_rules_set(m, file_with("*:!deva\n\0x", 10)), TERRACE_ECONFIG);
    cr_assert(strstr(terrace_last_error(), "zero byte"));
    assert_fails(terrace_rules_set(m, "@/nonexistent/rules"), TERRACE_ECONFIG);
    cr_assert(strstr(terrace_last_error(), "/nonexistent/rules cannot be read: No such file"), "%s", terrace_last_error());
    assert_fails(terrace_rules_set(m, "@/var/tmp"), TERRACE_ECONFIG);
    cr_assert(strstr(terrace_last_error(), "it is not a file"), "%s", terrace_last_error());
    unlink(path + 1);
    terrace_close(m);
}

Test(rules, the_setting_puts_them_in_force)
{
    terrace *m = NULL;
    terrace_tensor_attr attr = {.size = sizeof attr, .label = "x"};
    terrace_tensor *t;
    void *p;
    assert_fails(terrace_open(&m, "tiers=" RULED_ALL ";rules=label=x:!hots"), TERRACE_ECONFIG);
    cr_assert(strstr(terrace_last_error(), "rules, line 1, column 10: 'hots'"), "%s", terrace_last_error());
    setenv("TERRACE_RULES", "*:!gpu", 1);
    assert_fails(terrace_open(&m, "tiers=" RULED_ALL), TERRACE_ECONFIG);
    cr_assert(strstr(terrace_last_error(), "TERRACE_RULES, line 1, column 4"), "%s", terrace_last_error());
    m = open_ruled("rules=\"label=x: !deva\"");
    assert_ok(terrace_tensor_create(m, BIG, &attr, &t));
    assert_fails(terrace_acquire(t, DEVA, TERRACE_OVERWRITE, TERRACE_HOST_SYNC, &p, NULL), TERRACE_ERULE);
    cr_assert(strstr(terrace_last_error(), "'x' may not be on deva:0: \"label=x: !deva\" (rules, line 1)"), "%s",
              terrace_last_error());
    terrace_tensor_destroy(t);
    terrace_close(m);
}

/* ---- explained ------------------------------------------------------------------ */

Test(rules, explained_tier_by_tier)
{
    terrace *m = open_ruled("");
    terrace_tensor_attr attr = {.size = sizeof attr, .label = "restricted/w", .role = TERRACE_ROLE_WEIGHT};
    char text[4096];
    assert_ok(terrace_rules_explain(m, BIG, &attr, -1, text, sizeof text));
    cr_assert(strstr(text, "No rules are in force"), "%s", text);
    assert_ok(terrace_rules_set(m, "# house\nlabel=restricted/*:hosta|deva\nrank=3:!deva\nrole=weight:deva>hosta\n"
                                "keep 30% of device on bvendor"));
    assert_ok(terrace_rules_explain(m, BIG, &attr, -1, text, sizeof text));
    cr_expect(strstr(text, "deva:0       allowed"), "%s", text);
    cr_expect(strstr(text, "devb:0       never: \"label=restricted/*:hosta|deva\" (rules, line 2)"), "%s", text);
    cr_expect(strstr(text, "Where there is a choice: deva, hosta, then others by speed: "
                           "\"role=weight:deva>hosta\" (rules, line 4)"), "%s", text);
    cr_expect(strstr(text, "At least 30 % of the bytes on devices are to be on devb:0"), "%s", text);
    cr_expect(strstr(text, "What is written on hosta:0 stays there"), "%s", text);
    assert_ok(terrace_rules_explain(m, BIG, &attr, 3, text, sizeof text));
    cr_expect(strstr(text, "deva:0       never: \"rank=3:!deva\" (rules, line 3)"), "%s", text);
    assert_ok(terrace_rules_explain(m, 0, NULL, -1, text, sizeof text));
    cr_expect(strstr(text, "(rules, line 2): only on deva:0 hosta:0\n"), "%s", text);
    memset(text, 'x', sizeof text);
    assert_ok(terrace_rules_explain(m, 0, NULL, -1, text, 20));
    cr_expect(strlen(text) == 19 && text[20] == 'x');
    assert_fails(terrace_rules_explain(m, 1, NULL, -2, text, sizeof text), TERRACE_EINVAL);
    assert_fails(terrace_rules_explain(m, 1, NULL, -1, NULL, 0), TERRACE_EINVAL);
    terrace_close(m);
}
