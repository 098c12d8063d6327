/* report_text.c - the report for people.
 *
 * May call: error.h, report.h, seal.h. */
#include <unistd.h>

#include "report.h"
#include "seal.h"

typedef unsigned long long ull;

static void write_tier(FILE *f, const struct report *r, const terrace_tier_statistics *s)
{
    char a[BYTES_TEXT], b[BYTES_TEXT], c[BYTES_TEXT], d[BYTES_TEXT];
    double seconds = (double)r->ns * 1e-9;
    fprintf(f, "  %-8s %s; budget %s (%s); peak %s; in %s, out %s\n", s->name, s->location,
            bytes_text(s->limit, a), s->limit_reason, bytes_text(s->peak, b), bytes_text(s->in_bytes, c),
            bytes_text(s->out_bytes, d));
    if (s->byte_seconds && seconds > 0)
        fprintf(f, "  %-8s held on average %s, in all %s times seconds\n", "",
                bytes_text((ull)((double)s->byte_seconds / seconds), a), bytes_text(s->byte_seconds, b));
    if (s->extents || s->cached)
        fprintf(f, "  %-8s %llu extents in use; free but kept %s in %llu, the largest %s\n", "",
                (ull)s->extents, bytes_text(s->cached, a), (ull)s->cached_pieces,
                bytes_text(s->largest_cached, b));
    if (s->staging_state)
        fprintf(f, "  %-8s staging %s: %s\n", "", bytes_text(s->staging, a), s->staging_state);
    if (s->registered || s->registered_refused)
        fprintf(f, "  %-8s registered %s%s%s\n", "", bytes_text(s->registered, a), s->registered_refused ? "; refused: " : "",
                s->registered_refused ? s->registered_refused : "");
    if (s->small_engine)
        fprintf(f, "  %-8s small tensors: %s; %s of them in groups of %s\n", "", s->small_engine,
                bytes_text(s->small_bytes, a), bytes_text(s->group_bytes, b));
    if (s->stable_engine)
        fprintf(f, "  %-8s stable memory: %s\n", "", s->stable_engine);
    if (!s->small_engine)
        fprintf(f, "  %-8s engine %s: %s\n", "", s->engine, s->engine_reason);
}

static void write_routes(FILE *f, const struct report *r)
{
    char bytes[BYTES_TEXT];
    for (unsigned from = 0; from < r->tiers; from++)
        for (unsigned to = 0; to < r->tiers; to++) {
            const struct route *way = &r->route[from][to];
            if (way->moves)
                fprintf(f, "  %-8s from %s to %s: %s in %llu migrations\n", "route", r->tier[from].name,
                        r->tier[to].name, bytes_text(way->bytes, bytes), (ull)way->moves);
        }
}

static void write_counters(FILE *f, const terrace_statistics *s)
{
    char a[BYTES_TEXT], b[BYTES_TEXT], c[BYTES_TEXT], d[BYTES_TEXT], e[BYTES_TEXT];
    double hits = s->acquires ? 100.0 * (double)s->hits / (double)s->acquires : 100;
    fprintf(f, "  acquires %llu, hits %.1f %%, misses %llu; waited %llu times, stalled %.3f s; steps %llu\n",
            (ull)s->acquires, hits, (ull)(s->acquires - s->hits), (ull)s->stalls, (double)s->stall_ns * 1e-9,
            (ull)s->steps);
    fprintf(f, "  read back %s (%s of it from users' files), written back %s (%s of it in vain), "
               "copied by the CPU %s\n",
            bytes_text(s->fill_bytes, a), bytes_text(s->file_bytes, b),
            bytes_text(s->writeback_bytes, c), bytes_text(s->wasted_bytes, d),
            bytes_text(s->cpu_copy_bytes, e));
    fprintf(f, "  prefetches %llu, in time %llu; evictions %llu, of these clean %llu; failed "
               "migrations %llu, of these corrupt %llu\n",
            (ull)s->prefetches, (ull)s->prefetch_hits, (ull)s->evictions, (ull)s->clean_evictions,
            (ull)s->io_errors, (ull)s->corrupt);
    if (s->faults)
        fprintf(f, "  stable memory: %llu faults\n", (ull)s->faults);
}

void report_as_text(const struct report *r, FILE *f)
{
    fprintf(f, "terrace %s report, process %ld, after %.1f s\n", terrace_version(), (long)getpid(),
            (double)r->ns * 1e-9);
    for (unsigned i = 0; i < r->tiers; i++)
        write_tier(f, r, &r->tier[i]);
    write_routes(f, r);
    write_counters(f, &r->stats);
    if (r->m->sealer)
        fprintf(f, "  spill: checked when read back, cipher %s\n", sealer_cipher(r->m->sealer));
    if (r->trace_written || r->trace_lost)
        fprintf(f, "  timeline: %llu events written, %llu missing\n", (ull)r->trace_written, (ull)r->trace_lost);
}
