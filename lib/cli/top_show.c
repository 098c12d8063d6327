/* top_show.c - what `terrace top` shows: a line for each process, or all about one.
 *
 * Rates are those between the last two states that differ; where there is only one, as
 * with --once, since the manager was opened.
 *
 * May call: top.h, json.h, libc. */
#include <inttypes.h>
#include <stdlib.h>
#include <string.h>

#include "json.h"
#include "top.h"

enum { SIZE = 24 };

const char *const top_sorts[SORTS] = {"traffic", "used", "hits", "stalls", "pid"};

/* ---- figures -------------------------------------------------------------- */

/* What has happened in a while. */
struct rates {
    double seconds, in, out, steps, stalled; /* per second; the last: seconds waited */
    double faults;
    uint64_t acquires;
    double hits, in_time;                    /* shares of the acquires and prefetches */
};

static double share(uint64_t part, uint64_t of)
{
    return of ? (double)part / (double)of : 1;
}

static double per_second(uint64_t now, uint64_t before, double seconds)
{
    return seconds > 0 && now > before ? (double)(now - before) / seconds : 0;
}

static struct rates rates_of(const struct top_manager *m)
{
    static const struct live_page nothing;
    const struct live_page *p = &m->page, *b = m->known ? &m->before : &nothing;
    uint64_t since = m->known ? b->updated : p->opened;
    double s = p->updated > since ? (double)(p->updated - since) * 1e-9 : 0;
    return (struct rates){
        .seconds = s,
        .in = per_second(p->fill_bytes, b->fill_bytes, s),
        .out = per_second(p->writeback_bytes, b->writeback_bytes, s),
        .steps = per_second(p->steps, b->steps, s),
        .stalled = per_second(p->stall_ns, b->stall_ns, s) * 1e-9,
        .faults = per_second(p->faults, b->faults, s),
        .acquires = p->acquires - b->acquires,
        .hits = share(p->hits - b->hits, p->acquires - b->acquires),
        .in_time = share(p->prefetch_hits - b->prefetch_hits, p->prefetches - b->prefetches),
    };
}

static bool is_memory(const struct live_tier *t)
{
    return strcmp(t->tier_class, "disk") != 0;
}

static uint64_t held(const struct live_page *p, bool memory)
{
    uint64_t sum = 0;
    for (uint32_t i = 0; i < p->tiers; i++)
        sum += is_memory(&p->tier[i]) == memory ? p->tier[i].used : 0;
    return sum;
}

static uint64_t budget(const struct live_page *p)
{
    uint64_t sum = 0;
    for (uint32_t i = 0; i < p->tiers; i++)
        sum += is_memory(&p->tier[i]) ? p->tier[i].limit : 0;
    return sum;
}

static const char *size_of(double bytes, char buf[SIZE])
{
    size_text(bytes < 0 ? 0 : (uint64_t)bytes, buf, SIZE);
    return buf;
}

static const char *hits_of(const struct rates *r, char buf[SIZE])
{
    if (r->acquires)
        snprintf(buf, SIZE, "%.1f %%", 100 * r->hits);
    else
        snprintf(buf, SIZE, "-");
    return buf;
}

/* ---- a line for each ------------------------------------------------------- */

static double key_of(const struct top_manager *m, enum top_sort by)
{
    struct rates r = rates_of(m);
    switch (by) {
    case SORT_USED:
        return (double)held(&m->page, true);
    case SORT_HITS:
        return -r.hits;
    case SORT_STALLS:
        return r.stalled;
    case SORT_PID:
        return -(double)m->process;
    default:
        return r.in + r.out;
    }
}

static enum top_sort sorted_by;

static int compare(const void *a, const void *b)
{
    const struct top_manager *x = *(struct top_manager *const *)a, *y = *(struct top_manager *const *)b;
    double kx = key_of(x, sorted_by), ky = key_of(y, sorted_by);
    if (kx != ky)
        return kx < ky ? 1 : -1;
    return x->process != y->process ? x->process - y->process : (int)x->page.manager - (int)y->page.manager;
}

void top_show_list(struct top_list *list, enum top_sort by, FILE *out)
{
    sorted_by = by;
    if (list->n)
        qsort(list->manager, list->n, sizeof(struct top_manager *), compare);
    fprintf(out, "%7s  %-15s %10s %10s %10s %10s %10s %7s %9s %8s %8s\n", "PID", "PROGRAM", "MEMORY", "BUDGET", "SPILLED",
            "IN/s", "OUT/s", "HITS", "FAULTS/s", "STALLED", "STEPS/s");
    for (size_t i = 0; i < list->n; i++) {
        const struct top_manager *m = list->manager[i];
        struct rates r = rates_of(m);
        char a[SIZE], b[SIZE], c[SIZE], d[SIZE], e[SIZE], hits[SIZE];
        fprintf(out, "%7d  %-15.15s %10s %10s %10s %10s %10s %7s %9.0f %6.1f %% %8.2f\n", (int)m->process, m->name,
                size_of((double)held(&m->page, true), a), size_of((double)budget(&m->page), b),
                size_of((double)held(&m->page, false), c), size_of(r.in, d), size_of(r.out, e), hits_of(&r, hits),
                r.faults, 100 * r.stalled, r.steps);
    }
    if (!list->n)
        fputs("no process that you may look into uses terrace now\n", out);
}

/* ---- all about one --------------------------------------------------------- */

static void show_summary(const struct top_manager *m, FILE *out)
{
    const struct live_page *p = &m->page;
    struct rates r = rates_of(m);
    char a[SIZE], b[SIZE], c[SIZE], hits[SIZE];
    double open = p->updated > p->opened ? (double)(p->updated - p->opened) * 1e-9 : 0;
    double age = m->read_at > p->updated ? (double)(m->read_at - p->updated) * 1e-9 : 0;
    fprintf(out, "%d %s: manager %u of terrace %s, open for %.1f s, as of %.1f s ago%s\n", (int)m->process, m->name,
            p->manager, p->library, open, age, m->known ? "" : "; rates are averages");
    fprintf(out, "  acquires %.1f/s, hits %s, stalled %.1f %% of the time (%" PRIu64 " times, %.3f s in all)\n",
            r.seconds > 0 ? (double)r.acquires / r.seconds : 0, hits_of(&r, hits), 100 * r.stalled, p->stalls,
            (double)p->stall_ns * 1e-9);
    fprintf(out, "  read back %s/s, written back %s/s; prefetches in time %.1f %%; faults %.0f/s; "
            "failed migrations %" PRIu64 "\n", size_of(r.in, a), size_of(r.out, b), 100 * r.in_time, r.faults, p->io_errors);
    fprintf(out, "  tensors %" PRIu64 " of %s; steps %" PRIu64 " (%.2f/s)\n", p->tensors,
            size_of((double)p->tensor_bytes, c), p->steps, r.steps);
}

static void show_tiers(const struct top_manager *m, FILE *out)
{
    static const struct live_tier nothing;
    struct rates r = rates_of(m);
    fprintf(out, "\n  %-10s %10s %10s %6s %10s %10s %10s %10s %10s  %s\n", "TIER", "USED", "BUDGET", "", "PEAK", "DIRTY",
            "IN/s", "OUT/s", "AVERAGE", "ENGINE");
    for (uint32_t i = 0; i < m->page.tiers; i++) {
        const struct live_tier *t = &m->page.tier[i], *b = m->known ? &m->before.tier[i] : &nothing;
        char used[SIZE], limit[SIZE], peak[SIZE], dirty[SIZE], in[SIZE], away[SIZE], average[SIZE];
        double open = (double)(m->page.updated - m->page.opened) * 1e-9;
        fprintf(out, "  %-10.10s %10s %10s %4.0f %% %10s %10s %10s %10s %10s  %s\n", t->name,
                size_of((double)t->used, used), size_of((double)t->limit, limit), 100 * share(t->used, t->limit),
                size_of((double)t->peak, peak), size_of((double)t->dirty, dirty),
                size_of(per_second(t->in_bytes, b->in_bytes, r.seconds), in),
                size_of(per_second(t->out_bytes, b->out_bytes, r.seconds), away),
                size_of(open > 0 ? (double)t->byte_seconds / open : 0, average), t->engine);
    }
}

static void show_routes(const struct top_manager *m, FILE *out)
{
    struct rates r = rates_of(m);
    bool any = false;
    for (uint32_t from = 0; from < m->page.tiers; from++)
        for (uint32_t to = 0; to < m->page.tiers; to++) {
            uint64_t bytes = m->page.route[from][to], before = m->known ? m->before.route[from][to] : 0;
            char a[SIZE], b[SIZE];
            if (!bytes)
                continue;
            if (!any)
                fprintf(out, "\n  %-22s %12s %10s\n", "ROUTE", "PER SECOND", "IN ALL");
            any = true;
            fprintf(out, "  %-10.10s %-11.10s %12s %10s\n", m->page.tier[from].name, m->page.tier[to].name,
                    size_of(per_second(bytes, before, r.seconds), a), size_of((double)bytes, b));
        }
}

static void show_tensors(const struct top_manager *m, FILE *out)
{
    const struct live_page *p = &m->page;
    if (p->tensors_shown)
        fprintf(out, "\n  %10s %10s  %-24s %s\n", "BYTES", "IN MEMORY", "ON", "BIGGEST TENSORS");
    for (uint64_t i = 0; i < p->tensors_shown; i++) {
        const struct live_tensor *t = &p->tensor[i];
        char a[SIZE], b[SIZE], on[80] = "";
        size_t used = 0;
        for (uint32_t k = 0; k < p->tiers; k++)
            if (t->tiers >> k & 1 && used + sizeof p->tier[k].name + 1 < sizeof on)
                used += (size_t)snprintf(on + used, sizeof on - used, "%s%s", used ? " " : "", p->tier[k].name);
        fprintf(out, "  %10s %10s  %-24s %s\n", size_of((double)t->bytes, a), size_of((double)t->in_memory, b),
                *on ? on : "never written", t->label);
    }
}

void top_show_process(const struct top_list *list, FILE *out)
{
    for (size_t i = 0; i < list->n; i++) {
        if (i)
            fputc('\n', out);
        show_summary(list->manager[i], out);
        show_tiers(list->manager[i], out);
        show_routes(list->manager[i], out);
        show_tensors(list->manager[i], out);
    }
}

/* ---- for programs ----------------------------------------------------------- */

static void put_pair(const char *key, const char *text, FILE *out)
{
    json_member(key, text, out);
    fputc(',', out);
}

static void json_tiers(const struct top_manager *m, FILE *out)
{
    for (uint32_t i = 0; i < m->page.tiers; i++) {
        const struct live_tier *t = &m->page.tier[i];
        fputs(i ? ",{" : "{", out);
        put_pair("name", t->name, out);
        put_pair("kind", t->kind, out);
        put_pair("vendor", t->vendor, out);
        put_pair("class", t->tier_class, out);
        put_pair("location", t->location, out);
        put_pair("engine", t->engine, out);
        put_pair("engine_reason", t->engine_reason, out);
        put_pair("limit_reason", t->limit_reason, out);
        fprintf(out, "\"limit\":%" PRIu64 ",\"used\":%" PRIu64 ",\"peak\":%" PRIu64 ",\"dirty\":%" PRIu64
                ",\"tensors\":%" PRIu64 ",\"in_bytes\":%" PRIu64 ",\"out_bytes\":%" PRIu64 ",\"staging\":%" PRIu64
                ",\"byte_seconds\":%" PRIu64 "}", t->limit, t->used, t->peak, t->dirty, t->tensors, t->in_bytes,
                t->out_bytes, t->staging, t->byte_seconds);
    }
}

static void json_routes(const struct top_manager *m, FILE *out)
{
    const char *separator = "";
    for (uint32_t from = 0; from < m->page.tiers; from++)
        for (uint32_t to = 0; to < m->page.tiers; to++) {
            if (!m->page.route[from][to])
                continue;
            fprintf(out, "%s{", separator);
            put_pair("from", m->page.tier[from].name, out);
            put_pair("to", m->page.tier[to].name, out);
            fprintf(out, "\"bytes\":%" PRIu64 "}", m->page.route[from][to]);
            separator = ",";
        }
}

static void json_tensors(const struct top_manager *m, FILE *out)
{
    const struct live_page *p = &m->page;
    for (uint64_t i = 0; i < p->tensors_shown; i++) {
        const struct live_tensor *t = &p->tensor[i];
        const char *separator = "";
        fputs(i ? ",{" : "{", out);
        put_pair("label", t->label, out);
        fprintf(out, "\"bytes\":%" PRIu64 ",\"in_memory\":%" PRIu64 ",\"stable\":%s,\"tiers\":[", t->bytes, t->in_memory,
                t->stable ? "true" : "false");
        for (uint32_t k = 0; k < p->tiers; k++)
            if (t->tiers >> k & 1) {
                fputs(separator, out);
                json_put(p->tier[k].name, out);
                separator = ",";
            }
        fputs("]}", out);
    }
}

static void json_counters(const struct live_page *p, FILE *out)
{
    const struct {
        const char *name;
        uint64_t value;
    } counter[] = {
        {"tensors", p->tensors}, {"tensor_bytes", p->tensor_bytes}, {"steps", p->steps}, {"acquires", p->acquires},
        {"hits", p->hits}, {"stalls", p->stalls}, {"stall_ns", p->stall_ns}, {"prefetches", p->prefetches},
        {"prefetch_hits", p->prefetch_hits}, {"evictions", p->evictions}, {"clean_evictions", p->clean_evictions},
        {"writeback_bytes", p->writeback_bytes}, {"fill_bytes", p->fill_bytes}, {"file_bytes", p->file_bytes},
        {"cpu_copy_bytes", p->cpu_copy_bytes}, {"wasted_bytes", p->wasted_bytes}, {"io_errors", p->io_errors},
        {"corrupt", p->corrupt}, {"faults", p->faults},
    };
    for (size_t i = 0; i < sizeof counter / sizeof *counter; i++)
        fprintf(out, "\"%s\":%" PRIu64 ",", counter[i].name, counter[i].value);
}

void top_show_json(const struct top_list *list, FILE *out)
{
    fputs("{\"managers\":[", out);
    for (size_t i = 0; i < list->n; i++) {
        const struct top_manager *m = list->manager[i];
        const struct live_page *p = &m->page;
        struct rates r = rates_of(m);
        fputs(i ? ",{" : "{", out);
        put_pair("program", m->name, out);
        put_pair("version", p->library, out);
        fprintf(out, "\"pid\":%d,\"manager\":%u,\"open_ns\":%" PRIu64 ",\"age_ns\":%" PRIu64
                ",\"fill_bytes_per_second\":%.0f,\"writeback_bytes_per_second\":%.0f,\"hit_rate\":%.6f,"
                "\"stalled\":%.6f,", (int)m->process, p->manager, p->updated > p->opened ? p->updated - p->opened : 0,
                m->read_at > p->updated ? m->read_at - p->updated : 0, r.in, r.out, r.hits, r.stalled);
        json_counters(p, out);
        fputs("\"tiers\":[", out);
        json_tiers(m, out);
        fputs("],\"routes\":[", out);
        json_routes(m, out);
        fputs("],\"biggest\":[", out);
        json_tensors(m, out);
        fputs("]}", out);
    }
    fputs("]}\n", out);
}
