/* report.c - what happened: statistics, and the report at close.
 *
 * May call: core.h, lease.h, mover.h, seal.h, small.h, staging.h. */
#include "report.h"

#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <string.h>
#include <unistd.h>

#include "lease.h"
#include "mover.h"
#include "seal.h"
#include "small.h"
#include "staging.h"

/* Copies a sized struct to a caller who may know a shorter one. */
static int hand_over(void *out, size_t out_size, const void *from, size_t size, const char *what)
{
    if (!out || out_size < 2 * sizeof(size_t))
        return error_set(-TERRACE_EINVAL, "%s: out is NULL or its size is not set", what);
    size_t n = out_size < size ? out_size : size;
    memcpy((char *)out + sizeof(size_t), (const char *)from + sizeof(size_t), n - sizeof(size_t));
    return 0;
}

int terrace_stats(terrace *m, terrace_statistics *out)
{
    int r = manager_check(m);
    if (r)
        return r;
    manager_lock(m);
    leases_drain_locked(m);
    terrace_statistics now = m->stats;
    manager_unlock(m);
    now.absent = m->kinds_absent;
    return hand_over(out, out ? out->size : 0, &now, sizeof now, "terrace_stats");
}

/* Figures and texts of a tier. Without the lock. */
static void tier_snapshot(struct tier *tier, terrace_tier_statistics *out)
{
    struct terrace *m = tier->manager;
    struct arena_stats arena;
    uint64_t slices = 0, groups = 0;
    if (tier_is_memory(tier))
        smalls_stats(m, &slices, &groups);
    manager_lock(m);
    arena_describe(&tier->arena, &arena);
    *out = (terrace_tier_statistics){
        .name = tier->name,
        .kind = tier->backend->name,
        .tier_class = tier_class_name(tier),
        .location = tier->info.location,
        .engine = tier->info.engine,
        .engine_reason = tier->info.engine_reason,
        .limit = tier->arena.limit,
        .limit_reason = tier->limit_reason,
        .used = tier->arena.committed,
        .peak = tier->arena.peak,
        .tensors = tier->tensors,
        .in_bytes = tier->in_bytes,
        .out_bytes = tier->out_bytes,
        .io_chunk = tier->info.io_chunk,
        .io_depth = tier->lane ? tier->lane->depth.settled : tier->info.io_depth,
        .small_engine = tier_is_memory(tier) ? m->small_engine : NULL,
        .distances = tier->info.distances,
        .node = tier->info.node,
        .stable_engine = tier->backend->caps & TERRACE_CAP_CPU ? m->stable_engine : NULL,
        .cached = arena.cached,
        .cached_pieces = arena.pieces,
        .largest_cached = arena.largest,
        .extents = arena.extents,
        .small_bytes = slices,
        .group_bytes = groups,
        .staging = tier->staging,
        .staging_state = staging_state_locked(tier),
    };
    out->dirty = policy_dirty_bytes(&tier->policy) + tier->open_bytes[1] + tier->draining;
    out->pinned = lease_pinned_bytes_locked(tier);
    struct copy *c;
    TAILQ_FOREACH(c, &tier->pinned, held) {
        if (!c->extent)
            continue;
        out->pinned += c->extent->bytes;
        out->dirty += copy_dirty_locked(c) && !c->tensor->transfer ? c->extent->bytes : 0;
    }
    manager_unlock(m);
}

int terrace_tier_stats(terrace *m, terrace_tier tier, terrace_tier_statistics *out)
{
    int r = manager_check(m);
    if (r)
        return r;
    if (tier < 0 || (unsigned)tier >= m->tiers)
        return error_set(-TERRACE_EINVAL, "%d is not the number of a tier; there are %u", tier,
                         m->tiers);
    terrace_tier_statistics now;
    tier_snapshot(&m->tier[tier], &now);
    return hand_over(out, out ? out->size : 0, &now, sizeof now, "terrace_tier_stats");
}

/* ---- the report -------------------------------------------------------- */

static void write_tier(FILE *f, struct tier *tier)
{
    char a[BYTES_TEXT], b[BYTES_TEXT], c[BYTES_TEXT], d[BYTES_TEXT];
    terrace_tier_statistics s;
    tier_snapshot(tier, &s);
    fprintf(f, "  %-8s %s; budget %s (%s); peak %s; in %s, out %s\n", s.name, s.location,
            bytes_text(s.limit, a), s.limit_reason, bytes_text(s.peak, b), bytes_text(s.in_bytes, c),
            bytes_text(s.out_bytes, d));
    if (s.extents || s.cached)
        fprintf(f, "  %-8s %llu extents in use; free but kept %s in %llu, the largest %s\n", "",
                (unsigned long long)s.extents, bytes_text(s.cached, a), (unsigned long long)s.cached_pieces,
                bytes_text(s.largest_cached, b));
    if (s.staging_state)
        fprintf(f, "  %-8s staging %s: %s\n", "", bytes_text(s.staging, a), s.staging_state);
    if (s.small_engine)
        fprintf(f, "  %-8s small tensors: %s; %s of them in groups of %s\n", "", s.small_engine,
                bytes_text(s.small_bytes, a), bytes_text(s.group_bytes, b));
    if (s.stable_engine)
        fprintf(f, "  %-8s stable memory: %s\n", "", s.stable_engine);
    if (!s.small_engine)
        fprintf(f, "  %-8s engine %s: %s\n", "", s.engine, s.engine_reason);
}

static void write_counters(FILE *f, const terrace_statistics *s)
{
    char a[BYTES_TEXT], b[BYTES_TEXT], c[BYTES_TEXT], d[BYTES_TEXT], e[BYTES_TEXT];
    double hits = s->acquires ? 100.0 * (double)s->hits / (double)s->acquires : 100;
    fprintf(f, "  acquires %llu, hits %.1f %%, stalled %.3f s; steps %llu\n",
            (unsigned long long)s->acquires, hits, (double)s->stall_ns * 1e-9,
            (unsigned long long)s->steps);
    fprintf(f, "  read back %s (%s of it from users' files), written back %s (%s of it in vain), "
               "copied by the CPU %s\n",
            bytes_text(s->fill_bytes, a), bytes_text(s->file_bytes, b),
            bytes_text(s->writeback_bytes, c), bytes_text(s->wasted_bytes, d),
            bytes_text(s->cpu_copy_bytes, e));
    fprintf(f, "  prefetches %llu, in time %llu; evictions %llu, of these clean %llu; failed "
               "migrations %llu, of these corrupt %llu\n",
            (unsigned long long)s->prefetches, (unsigned long long)s->prefetch_hits,
            (unsigned long long)s->evictions, (unsigned long long)s->clean_evictions,
            (unsigned long long)s->io_errors, (unsigned long long)s->corrupt);
}

static FILE *report_open(const struct terrace *m, const char *where)
{
    int fd = strcmp(where, "1") == 0 ? dup(STDERR_FILENO)
                                     : open(where, O_WRONLY | O_CREAT | O_APPEND | O_CLOEXEC, 0600);
    FILE *f = fd < 0 ? NULL : fdopen(fd, "a");
    if (!f) {
        log_write(&m->log, TERRACE_LOG_ERROR, "TERRACE_REPORT=%s: the report cannot be written: %s",
                  where, strerror(errno));
        if (fd >= 0)
            close(fd);
    }
    return f;
}

void report_write(struct terrace *m)
{
    const char *where = options_text(&m->options, "REPORT");
    if (!where || !*where || strcmp(where, "0") == 0)
        return;
    FILE *f = report_open(m, where);
    if (!f)
        return;
    fprintf(f, "terrace %s report, process %ld\n", terrace_version(), (long)getpid());
    for (unsigned i = 0; i < m->tiers; i++)
        write_tier(f, &m->tier[i]);
    write_counters(f, &m->stats);
    if (m->sealer)
        fprintf(f, "  spill: checked when read back, cipher %s\n", sealer_cipher(m->sealer));
    if (fclose(f))
        log_write(&m->log, TERRACE_LOG_ERROR, "TERRACE_REPORT=%s: the report was cut short: %s", where,
                  strerror(errno));
}
