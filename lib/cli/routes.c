/* routes.c - `terrace info --routes`: by which way bytes get from each tier to each
 * other, and how fast.
 *
 * May call: cli.h, terrace.h. */
#include <stdlib.h>
#include <string.h>

#include "cli.h"

enum { MOST = 16, CELL = 20 };

struct route {
    char how[80];        /* "": there is none */
    struct bandwidth is; /* where that was measured */
};

struct routes {
    int n;
    terrace_tier_statistics tier[MOST];
    struct route route[MOST][MOST];
};

static int find(terrace *m, struct routes *r, bool measured)
{
    for (r->n = 0; r->n < MOST; r->n++) {
        r->tier[r->n].size = sizeof r->tier[0];
        if (terrace_tier_stats(m, r->n, &r->tier[r->n]))
            break;
    }
    for (int from = 0; from < r->n; from++)
        for (int to = 0; to < r->n; to++) {
            struct route *x = &r->route[from][to];
            if (from == to || terrace_route(m, from, to, x->how, sizeof x->how))
                continue;
            if (measured && measure_route(m, from, to, &x->is))
                return cli_failed("measuring");
        }
    return EXIT_OK;
}

/* The way in a word, and the rate. */
static void cell(const struct route *x, char buf[CELL + 8])
{
    const char *how = strncmp(x->how, "through", 7) == 0   ? "staged"
                      : strncmp(x->how, "by way", 6) == 0  ? "via host"
                      : strncmp(x->how, "direct,", 7) == 0 ? "peer"
                                                           : x->how;
    if (x->is.write > 0)
        snprintf(buf, CELL + 8, "%s %.2f", how, x->is.write / 1e9);
    else
        snprintf(buf, CELL + 8, "%s%s", how, x->is.why_not ? " ?" : "");
}

static void show_text(const struct routes *r, bool measured)
{
    char text[CELL + 8];
    printf("%-16s", "from \\ to");
    for (int to = 0; to < r->n; to++)
        printf("%-*s", CELL, r->tier[to].name);
    putchar('\n');
    for (int from = 0; from < r->n; from++) {
        printf("%-16s", r->tier[from].name);
        for (int to = 0; to < r->n; to++) {
            cell(&r->route[from][to], text);
            printf("%-*s", CELL, from == to ? "-" : *text ? text : "none");
        }
        putchar('\n');
    }
    puts("\ndirect: one copy; peer: the same, from one device to another of its make; staged: piece by\n"
         "piece through pinned memory, both sides at once; via host: whole tensors through a host tier");
    if (measured)
        puts("GB/s (10^9) of tensors of 8 MiB, bookkeeping included; ?: too little room to measure");
}

static void show_json(const struct routes *r)
{
    const char *comma = "";
    printf("{\"routes\":[");
    for (int from = 0; from < r->n; from++)
        for (int to = 0; to < r->n; to++) {
            const struct route *x = &r->route[from][to];
            if (from == to)
                continue;
            printf("%s\n{\"from\":\"%s\",\"to\":\"%s\",\"way\":\"%s\"", comma, r->tier[from].name, r->tier[to].name,
                   x->how);
            if (x->is.write > 0)
                printf(",\"bandwidth\":%.0f", x->is.write);
            putchar('}');
            comma = ",";
        }
    puts("\n]}");
}

int routes_show(terrace *m, bool measured, bool json)
{
    struct routes *r = calloc(1, sizeof *r);
    if (!r) {
        fputs("terrace: the host is out of memory\n", stderr);
        return EXIT_FAILED;
    }
    int status = find(m, r, measured);
    if (status == EXIT_OK && json)
        show_json(r);
    else if (status == EXIT_OK)
        show_text(r, measured);
    free(r);
    return status;
}
