/* info.c - `terrace info`: the tiers a manager has here.
 *
 * First everything is found out, then it is shown, as text or as JSON. */
#include <inttypes.h>
#include <stdlib.h>
#include <string.h>

#include "cli.h"
#include "json.h"

enum { MAX_TIERS = 64 };

struct tier_info {
    terrace_tier_statistics stats;
    struct bandwidth bandwidth;
    struct bandwidth *copy; /* host tiers, if there are others: to each tier; 0: not one of them */
};

/* ---- finding out --------------------------------------------------------- */

static int count_tiers(terrace *m, struct tier_info *tiers)
{
    int n = 0;
    for (; n < MAX_TIERS; n++) {
        tiers[n].stats.size = sizeof tiers[n].stats;
        if (terrace_tier_stats(m, n, &tiers[n].stats))
            break;
    }
    return n;
}

static bool is_host(const struct tier_info *tier)
{
    return !strcmp(tier->stats.tier_class, "host");
}

static int measure_copies(terrace *m, struct tier_info *tiers, int n, int from)
{
    for (int to = 0; to < n; to++) {
        if (to == from || !is_host(&tiers[to]))
            continue;
        struct bandwidth *copy = tiers[from].copy;
        copy = tiers[from].copy = copy ? copy : calloc((size_t)n, sizeof *copy);
        if (!copy) {
            fputs("terrace: the host is out of memory\n", stderr);
            return EXIT_FAILED;
        }
        if (measure_copy(m, from, to, &copy[to]))
            return cli_failed("measuring");
    }
    return EXIT_OK;
}

static int measure_all(terrace *m, struct tier_info *tiers, int n)
{
    int status = EXIT_OK;
    for (int i = 0; i < n && status == EXIT_OK; i++) {
        if (measure_tier(m, i, &tiers[i].bandwidth))
            return cli_failed("measuring");
        if (is_host(&tiers[i]))
            status = measure_copies(m, tiers, n, i);
    }
    return status;
}

/* ---- as text ------------------------------------------------------------- */

void size_text(uint64_t bytes, char *buf, size_t len)
{
    static const char *const unit[] = {"B", "KiB", "MiB", "GiB", "TiB", "PiB", "EiB"};
    double value = (double)bytes;
    int u = 0;
    for (; value >= 1024 && u < 6; u++)
        value /= 1024;
    snprintf(buf, len, "%.*f %s", u ? 1 : 0, value, unit[u]);
}

/* A figure and the reason for it, where there is one. */
static void line(const char *key, const char *value, const char *why)
{
    bool has_reason = why && *why;
    printf("    %-10s %s%s%s%s\n", key, value, has_reason ? " (" : "", has_reason ? why : "",
           has_reason ? ")" : "");
}

static void show_bandwidth(const struct bandwidth *b)
{
    char text[80];
    if (b->why_not) {
        line("bandwidth", "not measured", b->why_not);
        return;
    }
    snprintf(text, sizeof text, "write %.2f GB/s, read %.2f GB/s", b->write / 1e9, b->read / 1e9);
    line("bandwidth", text, NULL);
}

static void show_copies(const struct tier_info *tiers, int n, const struct bandwidth *copy)
{
    char text[80];
    for (int to = 0; to < n; to++)
        if (copy[to].write > 0) {
            snprintf(text, sizeof text, "to %s %.2f GB/s", tiers[to].stats.name, copy[to].write / 1e9);
            line("copy", text, NULL);
        }
}

/* Kinds of tiers that are not here, and why. */
static void show_absent(const char *absent)
{
    for (const char *p = absent; *p;) {
        int kind = (int)strcspn(p, ":"), all = (int)strcspn(p, "\n");
        printf("\n%.*s\n", kind, p);
        if (all > kind + 2)
            printf("    %-10s %.*s\n", "absent", all - kind - 2, p + kind + 2);
        p += all + (p[all] != '\0');
    }
}

static void show_text(const struct tier_info *tiers, int n, const char *absent, bool measured)
{
    printf("terrace %s\n", terrace_version());
    for (int i = 0; i < n; i++) {
        const terrace_tier_statistics *t = &tiers[i].stats;
        char limit[32], pieces[80];
        size_text(t->limit, limit, sizeof limit);
        printf("\n%s\n", t->name);
        line("class", t->tier_class, NULL);
        line("location", t->location, NULL);
        if (*t->distances)
            line("distance", t->distances, NULL);
        line("budget", limit, t->limit_reason);
        line("engine", t->engine, t->engine_reason);
        size_text(t->io_chunk, limit, sizeof limit);
        snprintf(pieces, sizeof pieces, "%s, up to %" PRIu64 " in flight", limit, t->io_depth);
        line("pieces", pieces, NULL);
        if (t->small_engine)
            line("small", t->small_engine, NULL);
        if (t->stable_engine)
            line("stable", t->stable_engine, NULL);
        if (t->staging_state) {
            size_text(t->staging, limit, sizeof limit);
            line("staging", limit, t->staging_state);
        }
        if (t->registered || t->registered_refused) {
            size_text(t->registered, limit, sizeof limit);
            line("registered", limit, t->registered_refused);
        }
        if (measured)
            show_bandwidth(&tiers[i].bandwidth);
        if (tiers[i].copy)
            show_copies(tiers, n, tiers[i].copy);
    }
    show_absent(absent);
}

/* ---- as JSON ------------------------------------------------------------- */

static void json_pair(const char *key, const char *text)
{
    json_member(key, text, stdout);
    putchar(',');
}

static void json_bandwidth(const struct bandwidth *b)
{
    if (b->why_not) {
        putchar(',');
        json_member("not_measured", b->why_not, stdout);
    } else {
        printf(",\"write_bytes_per_second\":%.0f,\"read_bytes_per_second\":%.0f", b->write,
               b->read);
    }
}

static void json_copies(const struct tier_info *tiers, int n, const struct bandwidth *copy)
{
    const char *separator = "";
    fputs(",\"copy_bytes_per_second\":{", stdout);
    for (int to = 0; to < n; to++)
        if (copy[to].write > 0) {
            printf("%s\"%s\":%.0f", separator, tiers[to].stats.name, copy[to].write);
            separator = ",";
        }
    putchar('}');
}

static void show_json(const struct tier_info *tiers, int n, const char *absent, bool measured)
{
    putchar('{');
    json_pair("version", terrace_version());
    json_pair("absent", absent);
    fputs("\"tiers\":[", stdout);
    for (int i = 0; i < n; i++) {
        const terrace_tier_statistics *t = &tiers[i].stats;
        fputs(i ? ",\n{" : "\n{", stdout);
        json_pair("name", t->name);
        json_pair("kind", t->kind);
        json_pair("class", t->tier_class);
        json_pair("location", t->location);
        json_pair("distances", t->distances);
        json_pair("engine", t->engine);
        json_pair("engine_reason", t->engine_reason);
        json_pair("limit_reason", t->limit_reason);
        if (t->small_engine)
            json_pair("small_engine", t->small_engine);
        if (t->node >= 0)
            printf("\"node\":%d,", t->node);
        if (t->stable_engine)
            json_pair("stable_engine", t->stable_engine);
        if (t->staging_state)
            json_pair("staging_state", t->staging_state);
        printf("\"io_chunk\":%" PRIu64 ",\"io_depth\":%" PRIu64 ",\"limit\":%" PRIu64
               ",\"used\":%" PRIu64 ",\"cached\":%" PRIu64 ",\"staging\":%" PRIu64
               ",\"registered\":%" PRIu64,
               t->io_chunk, t->io_depth, t->limit, t->used, t->cached, t->staging, t->registered);
        if (measured)
            json_bandwidth(&tiers[i].bandwidth);
        if (tiers[i].copy)
            json_copies(tiers, n, tiers[i].copy);
        putchar('}');
    }
    puts("\n]}");
}

/* ---- the command --------------------------------------------------------- */

/* What serves stable memory is found out by the first use. */
static void use_stable_memory(terrace *m)
{
    terrace_tier host;
    if (terrace_tier_find(m, "host", &host) == 0)
        terrace_free(m, terrace_malloc(m, 4096, host, NULL));
    terrace_tier_statistics s = {.size = sizeof s};
    for (terrace_tier i = 0; terrace_tier_stats(m, i, &s) == 0; i++)
        if (strcmp(s.tier_class, "device") == 0)
            terrace_free(m, terrace_malloc(m, 4096, i, NULL));
}

static int show(terrace *m, bool measured, bool json)
{
    use_stable_memory(m);
    struct tier_info *tiers = calloc(MAX_TIERS, sizeof *tiers);
    if (!tiers) {
        fputs("terrace: the host is out of memory\n", stderr);
        return EXIT_FAILED;
    }
    terrace_statistics stats = {.size = sizeof stats};
    int n = count_tiers(m, tiers);
    int status = measured ? measure_all(m, tiers, n) : EXIT_OK;
    if (status == EXIT_OK && terrace_stats(m, &stats))
        status = cli_failed("info");
    if (status == EXIT_OK)
        (json ? show_json : show_text)(tiers, n, stats.absent, measured);
    for (int i = 0; i < n; i++)
        free(tiers[i].copy);
    free(tiers);
    return status;
}

int info_run(int argc, char **argv)
{
    bool measured = false, json = false, routes = false;
    for (int i = 1; i < argc; i++) {
        if (!strcmp(argv[i], "--measure")) {
            measured = true;
        } else if (!strcmp(argv[i], "--routes")) {
            routes = true;
        } else if (!strcmp(argv[i], "--json")) {
            json = true;
        } else {
            fprintf(stderr, "terrace: info has no argument '%s'; `terrace help info`\n", argv[i]);
            return EXIT_USAGE;
        }
    }
    terrace *m;
    if (terrace_open(&m, NULL))
        return cli_failed("info");
    int status = routes ? routes_show(m, measured, json) : show(m, measured, json);
    terrace_close(m);
    return status;
}
