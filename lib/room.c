/* room.c - room in a memory tier: eviction and its limits.
 *
 * Whoever needs room takes free memory; failing that the policy names victims
 * one by one. A clean one is dropped at once. A dirty one is written down
 * first, and stays listed as being drained until the disk has it; enough of
 * them are started at the same time for all who wait. Every byte of room that
 * had to be made earns two bytes of credit for writing back ahead of need, up
 * to a quarter of the tier: so write-back runs ahead exactly while memory is
 * short, and a job that fits writes nothing.
 *
 * What rules keep from going anywhere else is no victim. Where devices have to have a
 * share of the bytes, the others are as full as it allows them to be.
 *
 * May call: core.h, lease.h, mapped.h, mover.h, rules.h, small.h, stable.h, stream.h. */
#include <stdio.h>
#include <string.h>

#include "lease.h"
#include "mapped.h"
#include "mover.h"
#include "rules.h"
#include "small.h"
#include "stable.h"
#include "stream.h"

static const uint64_t RECOVERY_NS = 1000000000; /* until more is asked for again, at least */
enum { PATIENCE = 20 };                          /* and this many times what the failure took */

static void evict_locked(struct tier *tier, struct copy *c)
{
    terrace_statistics *stats = &tier->manager->stats;
    stats->evictions++;
    stats->clean_evictions += !c->wrote;
    policy_remove(&tier->policy, &c->node);
    policy_evicted(&tier->policy, &c->node);
    copy_drop_locked(c);
}

static void earn_credit(struct tier *tier, uint64_t bytes)
{
    if (tier_below(tier))
        return; /* memory is fast enough to copy to on demand */
    tier->credit += 2 * bytes;
    if (tier->credit > tier->arena.limit / 4)
        tier->credit = tier->arena.limit / 4;
}

/* Of a group, one tensor's, and how many more move with it. */
static const char *holder_name_locked(const struct terrace_tensor *t, char *others, size_t len)
{
    unsigned n;
    if (!t->group)
        return tensor_name(t);
    const char *name = group_example_locked(t, &n);
    if (n)
        snprintf(others, len, " and %u more in its group", n);
    return name;
}

/* Bytes that rules keep in the tier: they may leave it for no other. `text` then says
 * how many these are, and which rule keeps one of them. */
static uint64_t kept_locked(const struct tier *tier, char *text, size_t len)
{
    const struct terrace *m = tier->manager;
    const struct copy *one = NULL;
    const struct terrace_tensor *t;
    uint64_t sum = 0;
    *text = '\0';
    if (!m->rules)
        return 0;
    LIST_FOREACH(t, &m->all, all) {
        const struct copy *c = &t->copy[tier - m->tier];
        bool kept = t->placement && c->state == COPY_VALID && !c->pins && copy_dirty_locked(c) &&
                    !placement_may_leave(tier, t->placement);
        sum += kept ? c->extent->bytes : 0;
        one = kept ? c : one;
    }
    if (!one)
        return 0;
    char size[BYTES_TEXT], rule[RULE_TEXT], others[40];
    const struct placement *p = one->tensor->placement;
    unsigned i = (unsigned)(tier - m->tier) + 1;
    while (i < m->tiers - 1 && !(p->denied >> i & 1))
        i++;
    snprintf(text, len, "%s that rules keep there, as '%.40s' by %s", bytes_text(sum, size),
             holder_name_locked(one->tensor, others, sizeof others),
             rule_text(p->rules, &p->rules->rule[p->by[i]], rule));
    return sum;
}

/* The sentence for EBUDGET: the need, the budget, the largest holders. */
static int no_room_locked(struct tier *tier, const struct room *want)
{
    enum { NAMED = 3 };
    char need[BYTES_TEXT], limit[BYTES_TEXT], held[BYTES_TEXT], holders[256] = "";
    uint64_t bytes = arena_round(&tier->arena, want->tensor->bytes);
    const struct copy *top[NAMED] = {NULL};
    uint64_t sum = tier->staging + tier->stable;
    struct copy *c;
    TAILQ_FOREACH(c, &tier_pinned_locked(tier)->pinned, held) {
        if (c->tensor == want->tensor || !c->extent)
            continue;
        sum += c->extent->bytes;
        const struct copy *x = c;
        for (int i = 0; i < NAMED && x; i++)
            if (!top[i] || top[i]->extent->bytes < x->extent->bytes) {
                const struct copy *next = top[i];
                top[i] = x;
                x = next;
            }
    }
    for (int i = 0; i < NAMED && top[i]; i++) {
        size_t used = strlen(holders);
        char size[BYTES_TEXT], others[40] = "";
        snprintf(holders + used, sizeof holders - used, "%s'%.60s'%s (%s)", i ? ", " : ", the largest ",
                 holder_name_locked(top[i]->tensor, others, sizeof others), others,
                 bytes_text(top[i]->extent->bytes, size));
    }
    char variable[NAME_TEXT], rules[300];
    uint64_t kept = kept_locked(tier, rules, sizeof rules);
    tier_limit_name(tier, variable);
    if (kept && bytes <= tier->arena.limit && bytes + kept + tier->staging > tier->arena.ceiling)
        return error_set(-TERRACE_ERULE, "no room for '%.60s' (%s) in %s: its budget is %s, with %s; destroy some, or "
                         "raise %s", tensor_name(want->tensor), bytes_text(bytes, need), tier->name,
                         bytes_text(tier->arena.limit, limit), rules, variable);
    if (bytes > tier->arena.limit)
        return error_set(-TERRACE_EBUDGET,
                         "'%s' (%s) alone is larger than the budget of %s, %s; raise %s",
                         tensor_name(want->tensor), bytes_text(bytes, need), tier->name,
                         bytes_text(tier->arena.limit, limit), variable);
    return error_set(-TERRACE_EBUDGET,
                     "no room for '%s' (%s) in %s: its budget is %s, of which %s are acquired%s or staging%s%s%s; "
                     "release some%s, or raise %s",
                     tensor_name(want->tensor), bytes_text(bytes, need), tier->name,
                     bytes_text(tier->arena.limit, limit), bytes_text(sum, held),
                     tier->stable ? ", of terrace_malloc()" : "", holders, kept ? ", and " : "", rules,
                     tier->stable && tier->backend->place ? ", call terrace_safepoint()" : "",
                     variable);
}

/* The sentence for memory that others have taken, although the budget has room. */
static int no_memory_locked(struct tier *tier, const struct room *want)
{
    bool device = tier->backend->tier_class == TERRACE_CLASS_DEVICE;
    char need[BYTES_TEXT], used[BYTES_TEXT], limit[BYTES_TEXT], left[BYTES_TEXT], variable[NAME_TEXT];
    uint64_t available = 0;
    if (tier->backend->available)
        tier->backend->available(tier->unit, &available);
    tier_own_limit_name(tier, variable);
    return error_set(device ? -TERRACE_EDEVMEM : -TERRACE_ENOMEM,
                     "no memory for '%s' (%s) in %s (%.40s): others leave %s of it free, and all that terrace has "
                     "there, %s of a budget of %s, is in use; release some, or lower %s",
                     tensor_name(want->tensor), bytes_text(arena_round(&tier->arena, want->tensor->bytes), need),
                     tier->name, tier->info.location, available ? bytes_text(available, left) : "too little",
                     bytes_text(tier->arena.used, used), bytes_text(tier->arena.limit, limit), variable);
}

/* Whether it is not the budget that has no room for so many bytes. */
static bool short_of_memory(const struct tier *tier, uint64_t bytes)
{
    const struct arena *a = &tier->arena;
    return a->ceiling < a->limit && a->used + bytes <= a->limit;
}

/* Nothing more can leave: because write-backs failed, or because all is in use. */
static int out_of_victims_locked(struct tier *tier, const struct room *want, uint64_t failures)
{
    struct terrace *m = tier->manager;
    if (m->failures != failures)
        return error_set(m->failure, "no room for '%s' in %s: %s", tensor_name(want->tensor),
                         tier->name, m->failure_text);
    if (tier->stable && tier->lacked < arena_round(&tier->arena, want->tensor->bytes))
        tier->lacked = arena_round(&tier->arena, want->tensor->bytes);
    if (short_of_memory(tier, arena_round(&tier->arena, want->tensor->bytes)))
        return no_memory_locked(tier, want);
    return no_room_locked(tier, want);
}

/* Has the arena grant room below its ceiling. May give up the lock while it waits. */
static int make_locked(struct tier *tier, struct room *want, struct grant *grant)
{
    struct terrace *m = tier->manager;
    uint64_t bytes = arena_round(&tier->arena, want->tensor->bytes);
    uint64_t failures = want->failures ? *want->failures : m->failures;
    bool clean_only = false, no_memory = false;
    const struct rule *keep = rules_keep_locked(tier, bytes);
    int r;
    if (keep && rules_keep_never_locked(tier, bytes))
        return rules_keep_forbid_locked(tier, tensor_name(want->tensor), keep);
    tier->wanted += bytes;
    for (;;) {
        if (want->ahead && tier->wanted > bytes) { /* what leaves is for those who wait */
            r = -TERRACE_EAGAIN;
            break;
        }
        keep = rules_keep_locked(tier, bytes);
        r = keep ? -TERRACE_EBUDGET : arena_take(&tier->arena, bytes, want->tensor->alignment, grant);
        if (r == -TERRACE_EAGAIN && want->wait) {
            manager_wait(m);
            continue;
        }
        if (r != -TERRACE_EBUDGET)
            break;
        if (want->once && !keep && short_of_memory(tier, bytes)) {
            r = -TERRACE_ENOMEM;
            break;
        }
        if (!keep && mapped_yield_locked(tier, bytes))
            continue;
        if (!keep && arena_scattered(&tier->arena, bytes)) {
            tier_purge_locked(tier); /* what is cached joins what is empty */
            continue;
        }
        tier->sought++;
        struct policy *policy = tier_policy_locked(tier);
        struct policy_node *n = want->when ? policy_victim_for(policy, clean_only, want->when)
                                           : policy_victim(policy, clean_only);
        if (want->ahead && (n ? n->ahead : want->when != 0)) {
            r = -TERRACE_EAGAIN;
            break;
        }
        bool mapped = n && stable_is_out(copy_of(n)->tensor);
        if (mapped && n->dirty && copy_of(n)->tensor->failed_at > failures) {
            clean_only = true; /* every one that cannot be written down has been tried */
            continue;
        }
        if (mapped && tier->draining < tier->wanted) {
            earn_credit(tier, n->bytes);
            stable_recall_locked(copy_of(n)); /* then it is a victim like others */
            continue;
        }
        if (n && !mapped && !n->dirty) {
            earn_credit(tier, n->bytes);
            evict_locked(tier, copy_of(n));
            continue;
        }
        if (n && !mapped && tier->draining < tier->wanted) { /* no room yet for all who wait */
            struct copy *victim = copy_of(n);
            if (victim->tensor->failed_at > failures || (want->ahead && victim->tensor->failed_at)) {
                clean_only = true; /* every dirty one has been tried; for what comes ahead, once is enough */
                continue;
            }
            int begun = transfer_writeback_locked(victim, NULL, PRIORITY_DEMAND, false);
            if (begun == -TERRACE_EAGAIN && want->wait && !m->awaited) { /* one only: two could wait for each other */
                m->awaited = true;
                manager_wait(m);
                m->awaited = false;
                continue;
            }
            earn_credit(tier, victim->node.bytes);
            if (begun > 0)
                evict_locked(tier, victim);
            clean_only |= begun < 0; /* nowhere to write to */
            no_memory |= begun == -TERRACE_ENOMEM;
            continue;
        }
        if (tier->draining == 0 && tier->moving == 0 && TAILQ_EMPTY(&tier->uses)) {
            r = keep ? rules_keep_forbid_locked(tier, tensor_name(want->tensor), keep)
                : no_memory ? error_set(-TERRACE_ENOMEM, "no host memory to write down what would make "
                                      "room for '%s' in %s", tensor_name(want->tensor), tier->name)
                          : out_of_victims_locked(tier, want, failures);
            break;
        }
        if (!want->wait) {
            r = -TERRACE_EAGAIN;
            break;
        }
        want->waited = true;
        writebacks_hurry_locked(m);
        stream_hurry_locked(tier);
        manager_wait(m);
    }
    tier->wanted -= bytes;
    return r;
}

/* ---- memory that is not to be had --------------------------------------- */

bool tier_full_locked(struct tier *tier)
{
    struct arena *a = &tier->arena;
    if (a->ceiling < a->limit && clock_ns() >= tier->full_until)
        a->ceiling = a->limit;
    return a->ceiling < a->limit;
}

void tier_filled_locked(struct tier *tier, uint64_t began)
{
    struct arena *a = &tier->arena;
    uint64_t now = clock_ns(), rest = (now - began) * PATIENCE;
    if (a->committed < a->ceiling)
        a->ceiling = a->committed;
    tier->full_until = now + (rest > RECOVERY_NS ? rest : RECOVERY_NS);
    if (!tier->full_said) {
        char variable[NAME_TEXT], used[BYTES_TEXT], limit[BYTES_TEXT];
        tier_own_limit_name(tier, variable);
        log_write(&tier->manager->log, TERRACE_LOG_WARN, "%s (%.60s) has no memory left at %s of its budget of %s: "
                  "others use it; lower %s", tier->name, tier->info.location, bytes_text(a->committed, used),
                  bytes_text(a->limit, limit), variable);
    }
    tier->full_said = true;
}

/* A commit that fails lowers the ceiling to what there is: from then on something
 * of ours has to leave, whose memory is taken over. Each further failure lowers it
 * again, so this ends. Before it is an error, more is asked for after all. Bytes that
 * come ahead of use are not worth any of that. */
int room_take_locked(struct tier *tier, struct room *want, struct extent **out)
{
    bool patient = !want->once && !want->ahead, last = false;
    struct grant grant;
    int r;
    if (!tensor_may(want->tensor, tier))
        return rules_forbid(want->tensor->placement, tensor_name(want->tensor), NULL, tier);
    tier_full_locked(tier);
    do {
        r = make_locked(tier, want, &grant);
        if (no_memory(r) && patient && !last) {
            last = true;
            tier->arena.ceiling = tier->arena.limit;
            r = make_locked(tier, want, &grant);
        }
        if (r)
            break;
        r = grant_fulfil_locked(tier, &grant, out);
    } while (no_memory(r) && patient);
    return no_memory(r) && want->ahead ? -TERRACE_EAGAIN : r;
}

/* ---- memory that is not the arena's ------------------------------------- */

uint64_t room_free_locked(struct tier *tier)
{
    const struct arena *a = &tier->arena;
    tier_full_locked(tier);
    return a->used + a->pending < a->ceiling ? a->ceiling - a->used - a->pending : 0;
}

bool room_charge_free_locked(struct tier *tier, uint64_t bytes)
{
    struct arena *a = &tier->arena;
    if (bytes > room_free_locked(tier) || rules_keep_locked(tier, bytes))
        return false;
    if (a->committed > a->ceiling - bytes)
        tier_purge_locked(tier); /* what is cached is in the way */
    if (bytes > a->ceiling || a->committed > a->ceiling - bytes || !arena_charge(a, bytes))
        return false;
    tier->stable += bytes;
    return true;
}

/* Ends a grant that is not wanted any more. Gives up the lock. */
static void return_locked(struct tier *tier, struct grant *grant)
{
    bool commit = grant->commit;
    if (grant->give) {
        grant->commit = false; /* but what it has given up goes */
        manager_unlock(tier->manager);
        arena_fulfil(&tier->arena, grant);
        manager_lock(tier->manager);
        grant->commit = commit;
    }
    arena_settle(&tier->arena, grant, -TERRACE_EBUDGET);
}

int room_charge_locked(struct tier *tier, struct room *want)
{
    enum { ATTEMPTS = 100 }; /* others may be faster */
    uint64_t bytes = want->tensor->bytes;
    struct grant grant = {0};
    for (int i = 0; i < ATTEMPTS; i++) {
        if (room_charge_free_locked(tier, bytes))
            return 0;
        int r = make_locked(tier, want, &grant);
        if (r)
            return r;
        return_locked(tier, &grant);
    }
    return no_room_locked(tier, want);
}

void room_uncharge_locked(struct tier *tier, uint64_t bytes)
{
    struct terrace *m = tier->manager;
    tier->stable -= bytes;
    arena_uncharge(&tier->arena, bytes);
    m->releases++;
    manager_changed_locked(m);
    lanes_poke_locked(m);
}
