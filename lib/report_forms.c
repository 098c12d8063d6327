/* report_forms.c - the report for programs: as JSON, and as text that Prometheus reads.
 *
 * Both are made from the same tables: a figure's name is its field's, and that it is
 * a counter or what its unit is only Prometheus wants to know.
 *
 * May call: json.h, report.h. */
#include <inttypes.h>
#include <string.h>
#include <unistd.h>

#include "json.h"
#include "report.h"

enum kind { GAUGE, COUNTER, TIME /* a counter in nanoseconds, for Prometheus in seconds */ };

struct figure {
    const char *name, *metric; /* in JSON; for Prometheus, after "terrace_" */
    size_t at;
    enum kind kind;
    const char *help;
};

#define FIGURE(struct_name, field, metric, kind, help) {#field, metric, offsetof(struct_name, field), kind, help}
#define COUNTS(field, metric, kind, help) FIGURE(terrace_statistics, field, metric, kind, help)
#define TIER(field, metric, kind, help) FIGURE(terrace_tier_statistics, field, "tier_" metric, kind, help)

static const struct figure counts[] = {
    COUNTS(tensors, "tensors", GAUGE, "Tensors there are."),
    COUNTS(tensor_bytes, "tensor_bytes", GAUGE, "Their bytes as asked for."),
    COUNTS(steps, "steps_total", COUNTER, "Training steps."),
    COUNTS(acquires, "acquires_total", COUNTER, "Successful acquires."),
    COUNTS(hits, "hits_total", COUNTER, "Acquires that waited for nothing."),
    COUNTS(stalls, "stalls_total", COUNTER, "How often somebody waited for bytes or room."),
    COUNTS(stream_waits, "stream_waits_total", COUNTER, "How often a stream waited for bytes in the host's place."),
    COUNTS(stall_ns, "stall_seconds_total", TIME, "Time that somebody waited for bytes or room."),
    COUNTS(prefetches, "prefetches_total", COUNTER, "Migrations started ahead of use."),
    COUNTS(prefetch_hits, "prefetch_hits_total", COUNTER, "Those that had ended when they were used."),
    COUNTS(evictions, "evictions_total", COUNTER, "Copies dropped to make room."),
    COUNTS(clean_evictions, "clean_evictions_total", COUNTER, "Those that needed no write."),
    COUNTS(writeback_bytes, "writeback_bytes_total", COUNTER, "Bytes written to lower tiers."),
    COUNTS(fill_bytes, "fill_bytes_total", COUNTER, "Bytes read from lower tiers."),
    COUNTS(file_bytes, "file_bytes_total", COUNTER, "Those read from users' files."),
    COUNTS(cpu_copy_bytes, "cpu_copy_bytes_total", COUNTER, "Bytes that needed a copy by the CPU."),
    COUNTS(wasted_bytes, "wasted_bytes_total", COUNTER, "Bytes written back, then changed before they were dropped."),
    COUNTS(io_errors, "io_errors_total", COUNTER, "Migrations that failed."),
    COUNTS(corrupt, "corrupt_total", COUNTER, "Those with other bytes than were written."),
    COUNTS(faults, "faults_total", COUNTER, "Touches of stable memory that was not at its place."),
};

static const struct figure of_tier[] = {
    TIER(limit, "limit_bytes", GAUGE, "The budget."),
    TIER(used, "used_bytes", GAUGE, "Bytes held, caches and staging included."),
    TIER(peak, "peak_bytes", GAUGE, "Most bytes ever held."),
    TIER(pinned, "pinned_bytes", GAUGE, "Bytes of tensors that are acquired."),
    TIER(dirty, "dirty_bytes", GAUGE, "Bytes whose only valid copy is here."),
    TIER(cached, "cached_bytes", GAUGE, "Bytes held that are free."),
    TIER(staging, "staging_bytes", GAUGE, "Bytes held that others pass through."),
    TIER(registered, "registered_bytes", GAUGE, "Bytes held that drivers copy at full speed."),
    TIER(tensors, "tensors", GAUGE, "Tensors with a valid copy here."),
    TIER(in_bytes, "in_bytes_total", COUNTER, "Bytes moved into the tier."),
    TIER(out_bytes, "out_bytes_total", COUNTER, "Bytes moved out of the tier."),
    TIER(byte_seconds, "byte_seconds_total", COUNTER, "Bytes held, times the seconds they were."),
};

/* What a vendor's tiers sum up to. */
static const struct figure of_vendor[] = {
    FIGURE(terrace_tier_statistics, in_bytes, "vendor_in_bytes_total", COUNTER, "Bytes moved into tiers of the vendor."),
    FIGURE(terrace_tier_statistics, out_bytes, "vendor_out_bytes_total", COUNTER, "Bytes moved out of these."),
    FIGURE(terrace_tier_statistics, byte_seconds, "vendor_byte_seconds_total", COUNTER,
           "Bytes held by these, times the seconds they were."),
};

#define LENGTH(table) (sizeof(table) / sizeof *(table))

static uint64_t value_of(const void *from, const struct figure *figure)
{
    uint64_t value;
    memcpy(&value, (const char *)from + figure->at, sizeof value);
    return value;
}

/* The number of the first tier of the same vendor. */
static unsigned first_of_vendor(const struct report *r, unsigned tier)
{
    unsigned i = 0;
    while (strcmp(r->tier[i].vendor, r->tier[tier].vendor) != 0)
        i++;
    return i;
}

static uint64_t vendor_sum(const struct report *r, unsigned tier, const struct figure *figure)
{
    uint64_t sum = 0;
    for (unsigned i = tier; i < r->tiers; i++)
        if (first_of_vendor(r, i) == tier)
            sum += value_of(&r->tier[i], figure);
    return sum;
}

/* ---- JSON ---------------------------------------------------------------- */

static void json_text(FILE *f, const char *key, const char *text)
{
    json_member(key, text, f);
    fputc(',', f);
}

static void json_figures(FILE *f, const void *from, const struct figure *figure, size_t n)
{
    for (size_t i = 0; i < n; i++)
        fprintf(f, "%s\"%s\":%" PRIu64, i ? "," : "", figure[i].name, value_of(from, &figure[i]));
}

static void json_tiers(FILE *f, const struct report *r)
{
    for (unsigned i = 0; i < r->tiers; i++) {
        const terrace_tier_statistics *s = &r->tier[i];
        fputs(i ? ",\n{" : "\n{", f);
        json_text(f, "name", s->name);
        json_text(f, "kind", s->kind);
        json_text(f, "vendor", s->vendor);
        json_text(f, "class", s->tier_class);
        json_text(f, "location", s->location);
        json_text(f, "engine", s->engine);
        json_text(f, "engine_reason", s->engine_reason);
        json_text(f, "limit_reason", s->limit_reason);
        if (s->stable_engine)
            json_text(f, "stable_engine", s->stable_engine);
        json_figures(f, s, of_tier, LENGTH(of_tier));
        fputc('}', f);
    }
}

static void json_vendors(FILE *f, const struct report *r)
{
    const char *separator = "";
    for (unsigned i = 0; i < r->tiers; i++) {
        if (first_of_vendor(r, i) != i)
            continue;
        fprintf(f, "%s\n{\"name\":", separator);
        json_put(r->tier[i].vendor, f);
        for (size_t k = 0; k < LENGTH(of_vendor); k++)
            fprintf(f, ",\"%s\":%" PRIu64, of_vendor[k].name, vendor_sum(r, i, &of_vendor[k]));
        fputc('}', f);
        separator = ",";
    }
}

static void json_routes(FILE *f, const struct report *r)
{
    const char *separator = "";
    for (unsigned from = 0; from < r->tiers; from++)
        for (unsigned to = 0; to < r->tiers; to++) {
            const struct route *way = &r->route[from][to];
            if (!way->moves)
                continue;
            fprintf(f, "%s\n{\"from\":\"%s\",\"to\":\"%s\",\"bytes\":%" PRIu64 ",\"migrations\":%" PRIu64 "}", separator,
                    r->tier[from].name, r->tier[to].name, way->bytes, way->moves);
            separator = ",";
        }
}

void report_as_json(const struct report *r, FILE *f)
{
    fputc('{', f);
    json_text(f, "version", terrace_version());
    fprintf(f, "\"process\":%ld,\"nanoseconds\":%" PRIu64 ",", (long)getpid(), r->ns);
    json_figures(f, &r->stats, counts, LENGTH(counts));
    fprintf(f, ",\"trace_events\":%" PRIu64 ",\"trace_lost\":%" PRIu64 ",\"tiers\":[", r->trace_written, r->trace_lost);
    json_tiers(f, r);
    fputs("],\"vendors\":[", f);
    json_vendors(f, r);
    fputs("],\"routes\":[", f);
    json_routes(f, r);
    fputs("]}\n", f);
}

/* ---- Prometheus ---------------------------------------------------------- */

static void metric(FILE *f, const struct figure *figure)
{
    fprintf(f, "# HELP terrace_%s %s\n# TYPE terrace_%s %s\n", figure->metric, figure->help, figure->metric,
            figure->kind == GAUGE ? "gauge" : "counter");
}

static void metric_value(FILE *f, const struct figure *figure, uint64_t value)
{
    const uint64_t second = 1000000000;
    if (figure->kind == TIME) /* from integers: the decimal point is the locale's */
        fprintf(f, " %" PRIu64 ".%09" PRIu64 "\n", value / second, value % second);
    else
        fprintf(f, " %" PRIu64 "\n", value);
}

/* A label's value: backslash, quote and end of line are escaped. */
static void label(FILE *f, const char *before, const char *name, const char *value)
{
    fprintf(f, "%s%s=\"", before, name);
    for (const char *c = value; *c; c++) {
        if (*c == '\\' || *c == '"')
            fputc('\\', f);
        fputs(*c == '\n' ? "\\n" : (char[]){*c, 0}, f);
    }
    fputc('"', f);
}

static void tier_labels(FILE *f, const terrace_tier_statistics *s)
{
    label(f, "{", "tier", s->name);
    label(f, ",", "kind", s->kind);
    label(f, ",", "class", s->tier_class);
    label(f, ",", "vendor", s->vendor);
}

static void prometheus_tiers(FILE *f, const struct report *r)
{
    static const struct figure engine = {.metric = "tier_engine", .help = "How the tier's bytes move, and why so."};
    for (size_t k = 0; k < LENGTH(of_tier); k++) {
        metric(f, &of_tier[k]);
        for (unsigned i = 0; i < r->tiers; i++) {
            fprintf(f, "terrace_%s", of_tier[k].metric);
            tier_labels(f, &r->tier[i]);
            fprintf(f, "} %" PRIu64 "\n", value_of(&r->tier[i], &of_tier[k]));
        }
    }
    metric(f, &engine);
    for (unsigned i = 0; i < r->tiers; i++) {
        fprintf(f, "terrace_%s", engine.metric);
        tier_labels(f, &r->tier[i]);
        label(f, ",", "engine", r->tier[i].engine);
        label(f, ",", "reason", r->tier[i].engine_reason);
        fputs("} 1\n", f);
    }
}

static void prometheus_vendors(FILE *f, const struct report *r)
{
    for (size_t k = 0; k < LENGTH(of_vendor); k++) {
        metric(f, &of_vendor[k]);
        for (unsigned i = 0; i < r->tiers; i++) {
            if (first_of_vendor(r, i) != i)
                continue;
            fprintf(f, "terrace_%s", of_vendor[k].metric);
            label(f, "{", "vendor", r->tier[i].vendor);
            fprintf(f, "} %" PRIu64 "\n", vendor_sum(r, i, &of_vendor[k]));
        }
    }
}

static void prometheus_routes(FILE *f, const struct report *r)
{
    static const struct figure route[] = {
        {"bytes", "route_bytes_total", offsetof(struct route, bytes), COUNTER, "Bytes moved between two tiers."},
        {"moves", "route_migrations_total", offsetof(struct route, moves), COUNTER, "Migrations between two tiers."},
    };
    for (size_t k = 0; k < LENGTH(route); k++) {
        metric(f, &route[k]);
        for (unsigned from = 0; from < r->tiers; from++)
            for (unsigned to = 0; to < r->tiers; to++) {
                if (!r->route[from][to].moves)
                    continue;
                fprintf(f, "terrace_%s", route[k].metric);
                label(f, "{", "from", r->tier[from].name);
                label(f, ",", "to", r->tier[to].name);
                fprintf(f, "} %" PRIu64 "\n", value_of(&r->route[from][to], &route[k]));
            }
    }
}

void report_as_prometheus(const struct report *r, FILE *f)
{
    static const struct figure open_ns = {"ns", "open_seconds_total", 0, TIME, "Time since the manager was opened."};
    for (size_t k = 0; k < LENGTH(counts); k++) {
        metric(f, &counts[k]);
        fprintf(f, "terrace_%s", counts[k].metric);
        metric_value(f, &counts[k], value_of(&r->stats, &counts[k]));
    }
    metric(f, &open_ns);
    fprintf(f, "terrace_%s", open_ns.metric);
    metric_value(f, &open_ns, r->ns);
    prometheus_tiers(f, r);
    prometheus_vendors(f, r);
    prometheus_routes(f, r);
}
