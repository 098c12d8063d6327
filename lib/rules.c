/* rules.c - the placement rules in force: read, put in force, and asked.
 *
 * Rules hold for every tensor there is, not just for those to come: putting others in
 * force works out all placements anew. Copies that would be where they may not be any
 * more are dropped where the bytes are elsewhere, too; where they are not, or somebody
 * uses them, the new rules are refused and those before stay.
 *
 * Small tensors that share a group obey whatever any of them has to.
 *
 * May call: rules.h, device_stable.h, lease.h, mapped.h, mover.h, region.h, small_inside.h, staging.h, stable.h. */
#include "rules.h"

#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "device_stable.h"
#include "lease.h"
#include "mapped.h"
#include "mover.h"
#include "region.h"
#include "small_inside.h"
#include "stable.h"

/* ---- reading ----------------------------------------------------------- */

static int unreadable(const char *path, const char *why)
{
    return error_set(-TERRACE_ECONFIG, "the file of placement rules %.200s cannot be read: %s", path, why);
}

/* A file's text, to be freed. */
static int file_text(const char *path, char **out)
{
    struct stat is;
    int fd = open(path, O_RDONLY | O_CLOEXEC | O_NONBLOCK);
    if (fd < 0)
        return unreadable(path, strerror(errno));
    size_t n = 0;
    ssize_t got = 1;
    char *text = malloc(RULES_BYTES + 2);
    int r = text ? 0 : error_set(-TERRACE_ENOMEM, "no host memory to read placement rules");
    if (r == 0 && (fstat(fd, &is) || !S_ISREG(is.st_mode)))
        r = unreadable(path, "it is not a file");
    while (text && r == 0 && got > 0 && n <= RULES_BYTES) {
        got = read(fd, text + n, RULES_BYTES + 1 - n);
        if (got < 0)
            r = unreadable(path, strerror(errno));
        n += got > 0 ? (size_t)got : 0;
    }
    close(fd);
    if (text && r == 0)
        text[n] = '\0';
    if (text && r == 0 && strlen(text) < n)
        r = unreadable(path, "it is no text: there is a zero byte");
    if (r)
        free(text);
    else
        *out = text;
    return r;
}

/* The process's place in its job, as launchers tell it; 0 where none does. */
static long rank_here(void)
{
    static const char *const names[] = {"RANK", "OMPI_COMM_WORLD_RANK", "PMIX_RANK", "PMI_RANK", "SLURM_PROCID",
                                        "LOCAL_RANK"};
    for (size_t i = 0; i < sizeof names / sizeof names[0]; i++) {
        const char *text = getenv(names[i]);
        char *end;
        long rank = text && *text ? strtol(text, &end, 10) : -1;
        if (rank >= 0 && !*end)
            return rank;
    }
    return 0;
}

static const char *const kinds[] = {
#define KIND(name, upper) name,
#include "kinds.def"
};
static const char *const vendors[] = {
#define VENDOR(name) name,
#include "kinds.def"
};
enum { KINDS = sizeof kinds / sizeof kinds[0], VENDORS = sizeof vendors / sizeof vendors[0] };

/* Takes apart what was given, a text or the name of a file. */
static int load(struct terrace *m, const char *text, const char *source, struct rules **out)
{
    const char *kind[KINDS + MAX_TIERS + 1], *vendor[VENDORS + MAX_TIERS + 1];
    size_t n = VENDORS;
    char *read = NULL;
    memcpy(kind, kinds, sizeof kinds);
    memcpy(vendor, vendors, sizeof vendors);
    for (unsigned i = 0; i < m->tiers; i++) {
        kind[KINDS + i] = m->tier[i].backend->name;
        if (*m->tier[i].info.vendor)
            vendor[n++] = m->tier[i].info.vendor;
    }
    kind[KINDS + m->tiers] = vendor[n] = NULL;
    if (*text == '@') {
        source = text + 1;
        int r = file_text(source, &read);
        if (r)
            return r;
    }
    int r = rules_parse(read ? read : text, source, &(struct rules_names){kind, vendor}, out);
    free(read);
    if (r)
        return r;
    (*out)->rank = rank_here();
    rules_bind(*out, m);
    return 0;
}

/* ---- what is where ----------------------------------------------------- */

static bool denied(const struct placement *p, unsigned tier)
{
    return p && p->denied >> tier & 1;
}

/* The bytes are elsewhere, where they may be. */
static bool spare_locked(const struct copy *c, const struct placement *p)
{
    const struct terrace_tensor *t = c->tensor;
    bool elsewhere = c->state == COPY_STALE || t->blank || t->file_valid;
    for (unsigned i = 0; i < t->manager->tiers; i++)
        elsewhere |= i != c->tier && t->copy[i].state == COPY_VALID && !denied(p, i);
    return elsewhere && c->state != COPY_FILLING && !c->pins && !c->uses && !c->promised && !t->transfer &&
           !t->raws && !t->fine && !t->leaving && !t->busy && (!tier_is_memory(copy_tier(c)) || !stable_is_out(t));
}

static bool is_there(const struct copy *c)
{
    return c->extent || c->state != COPY_ABSENT;
}

static const char *name_of(const struct terrace_tensor *t)
{
    unsigned others;
    return t->group && t->live ? group_example_locked(t, &others) : tensor_name(t);
}

/* Where small tensors of a group without bytes in memory could be used instead. */
static int home_for(const struct terrace_tensor *g, const struct placement *p)
{
    for (unsigned k = 0; k < g->manager->tiers; k++) {
        unsigned i = p->order[k];
        if (home_possible(&g->manager->tier[i]) && !denied(p, i))
            return (int)i;
    }
    return -1;
}

/* A disk that is forbidden, or NULL. */
static const struct tier *denied_disk(const struct placement *p, const struct terrace *m)
{
    for (unsigned i = 0; i < m->tiers; i++)
        if (denied(p, i) && !tier_is_memory(&m->tier[i]))
            return &m->tier[i];
    return NULL;
}

static bool in_use(const struct terrace_tensor *t)
{
    bool used = t->busy || t->transfer;
    for (unsigned i = 0; i < t->manager->tiers; i++)
        used |= t->copy[i].pins || t->copy[i].uses;
    return used;
}

/* Whether a tensor could have the placement, as it is now. */
static int fits_locked(const struct terrace_tensor *t, const struct placement *p)
{
    const struct terrace *m = t->manager;
    const char *why = t->transfer ? "but is moving to or from there; wait for it with terrace_wait(), then set the rules"
                                  : "but is there, and nowhere else or in use; release it, move it away with "
                                    "terrace_demote() or destroy it, then set the rules";
    for (unsigned i = 0; p && i < m->tiers; i++)
        if (denied(p, i) && is_there(&t->copy[i]) && !spare_locked(&t->copy[i], p))
            return rules_forbid(p, name_of(t), why, &m->tier[i]);
    if (p && placement_nowhere(m, p))
        return error_set(-TERRACE_ERULE, "'%.60s' and small tensors in its group could together be on no tier in "
                         "memory; set the rules before they are created", name_of(t));
    if (p && t->fine && denied_disk(p, m))
        return rules_forbid(p, name_of(t), "where single pages of it are; set the rules before it is used",
                            denied_disk(p, m));
    if (p && t->region && denied(p, (unsigned)(t->region->tier - m->tier)))
        return rules_forbid(p, name_of(t), "but is memory of that tier, which does not change", t->region->tier);
    if (p && t->group && !t->alone && denied(p, t->home) && (in_use(t) || home_for(t, p) < 0))
        return rules_forbid(p, name_of(t), "where its group of small tensors is used", &m->tier[t->home]);
    return 0;
}

/* ---- putting in force -------------------------------------------------- */

/* The placement of a group: all that its tensors have to obey. */
static int group_find_locked(const struct terrace_tensor *g, struct rules *r, struct placement **out)
{
    const struct small *s;
    int e = 0;
    *out = NULL;
    LIST_FOREACH(s, &g->smalls, of_group) {
        struct placement *p;
        e = e ? e : placement_find_locked(g->manager, r, &(struct subject){s->label, s->role, s->bytes, -1},
                                          small_name(s), &p);
        if (e == 0 && (*out || p))
            e = placement_join_locked(g->manager, r, *out ? *out : p, p, out);
    }
    return e;
}

static int find_locked(const struct terrace_tensor *t, struct rules *r, struct placement **out)
{
    *out = NULL;
    if (t->slab)
        return 0; /* pages of blocks, in their tier */
    if (t->group)
        return group_find_locked(t, r, out);
    struct subject s = {t->label, t->role, t->bytes, -1};
    if (t->region)
        s = (struct subject){t->region->label, t->region->role, t->region->bytes, -1};
    return placement_find_locked(t->manager, r, &s, tensor_name(t), out);
}

/* Gives the tensor its new placement; what it says has been found possible. */
static void adopt_locked(struct terrace_tensor *t, struct placement *p)
{
    placement_keep(p);
    placement_drop_locked(t->placement);
    t->placement = p;
    if (p && t->group && !t->alone && denied(p, t->home))
        t->home = (unsigned char)home_for(t, p);
    for (unsigned i = 0; p && i < t->manager->tiers; i++)
        if (denied(p, i) && is_there(&t->copy[i]))
            copy_drop_locked(&t->copy[i]);
    copies_settle_locked(t);
}

static int every_fits_locked(struct terrace *m, struct rules *r)
{
    struct terrace_tensor *t;
    struct placement *p;
    int e = stable_rules_fit_locked(m, r);
    e = e ? e : mapped_rules_fit_locked(m, r);
    e = e ? e : device_rules_fit_locked(m, r);
    LIST_FOREACH(t, &m->all, all) {
        e = e ? e : find_locked(t, r, &p);
        e = e ? e : fits_locked(t, p);
    }
    return e;
}

static void retire_locked(struct rules *r)
{
    struct placement *p, *next;
    if (!r)
        return;
    r->current = false;
    for (p = LIST_FIRST(&r->placements); p; p = next) {
        next = LIST_NEXT(p, all);
        if (p->users == 0) {
            LIST_REMOVE(p, all);
            free(p);
        }
    }
    if (LIST_EMPTY(&r->placements))
        rules_free(r);
}

/* Memory and blocks that are free go back to the system, whenever they were freed, as
 * nothing is to be left of what was in them. Gives up the lock. */
static void purge_locked(struct terrace *m)
{
    for (unsigned i = 0; i < m->tiers; i++)
        tier_purge_locked(&m->tier[i]);
}

/* All or nothing. The rules are the manager's, or freed. */
static int replace_locked(struct terrace *m, struct rules *r)
{
    struct terrace_tensor *t;
    struct rules *old = m->rules;
    r->current = true;
    for (unsigned i = 0; i < m->tiers; i++)
        leases_close_locked(&m->tier[i]);
    int e = every_fits_locked(m, r);
    if (e) {
        retire_locked(r);
        return e;
    }
    LIST_FOREACH(t, &m->all, all) {
        struct placement *p;
        if (find_locked(t, r, &p) == 0) /* it is there by now */
            adopt_locked(t, p);
    }
    stable_rules_adopt_locked(m, r);
    device_rules_adopt_locked(m, r);
    smalls_replaced_locked(m);
    for (unsigned i = 0; i < m->tiers; i++) /* under the rules before, nobody has told what is left where */
        m->tier[i].tainted = m->tier[i].arena.peak ? UINT16_MAX : 0;
    m->rules = r->rules ? r : NULL;
    m->rule_changes++;
    retire_locked(old);
    if (!r->rules)
        retire_locked(r);
    manager_changed_locked(m);
    lanes_poke_locked(m);
    purge_locked(m);
    return 0;
}

int terrace_rules_set(terrace *m, const char *text)
{
    struct rules *r;
    int e = manager_check(m);
    if (e)
        return e;
    e = load(m, text ? text : "", "rules", &r);
    if (e)
        return e;
    manager_lock(m);
    e = replace_locked(m, r);
    manager_unlock(m);
    return e;
}

int rules_open(struct terrace *m)
{
    const char *text = options_text(&m->options, "RULES");
    struct rules *r;
    if (!text || !*text)
        return 0;
    int e = load(m, text, m->options.value[OPT_RULES].from_conf ? "rules" : "TERRACE_RULES", &r);
    if (e)
        return e;
    manager_lock(m);
    e = replace_locked(m, r);
    manager_unlock(m);
    return e;
}

void rules_close(struct terrace *m)
{
    struct rules *r = m->rules;
    m->rules = NULL;
    retire_locked(r);
}

int rules_place_locked(struct terrace_tensor *t)
{
    struct rules *r = t->manager->rules;
    struct placement *p = NULL;
    int e = r ? find_locked(t, r, &p) : 0;
    if (e == 0)
        t->placement = placement_keep(p);
    return e;
}

int placement_for_new(struct terrace *m, const terrace_tensor_attr *attr, size_t bytes, struct placement **out,
                      uint64_t *changes)
{
    const char *label = attr ? attr->label : NULL;
    struct subject s = {label, attr ? attr->role : 0, bytes, -1};
    int e = 0;
    *out = NULL;
    manager_lock(m);
    *changes = m->rule_changes;
    if (m->rules)
        e = placement_find_locked(m, m->rules, &s, label ? label : "(unnamed)", out);
    placement_keep(*out);
    manager_unlock(m);
    return e;
}

/* ---- shares ------------------------------------------------------------ */

static bool is_device(const struct tier *tier)
{
    return tier->backend->tier_class == TERRACE_CLASS_DEVICE;
}

/* Whether with so many bytes, on the devices that the rule names and on others, less
 * than its share is on the former. */
static bool too_little(const struct rule *rule, uint64_t named, uint64_t others)
{
    return (double)named < rule->percent / 100 * ((double)named + (double)others);
}

static const struct rule *keep_broken_locked(const struct tier *tier, uint64_t bytes, bool alone)
{
    const struct terrace *m = tier->manager;
    const struct rules *r = m->rules;
    if (!r || !r->keeps || !is_device(tier))
        return NULL;
    for (const struct rule *rule = r->rule; rule < r->rule + r->rules; rule++) {
        uint64_t named = 0, others = bytes;
        if (rule->kind != RULE_KEEP || rule->tiers >> (tier - m->tier) & 1)
            continue;
        for (unsigned i = 0; i < m->tiers; i++)
            if (is_device(&m->tier[i]) && rule->tiers >> i & 1)
                named += m->tier[i].arena.used;
            else if (is_device(&m->tier[i]) && !alone)
                others += m->tier[i].arena.used;
        if (too_little(rule, named, others))
            return rule;
    }
    return NULL;
}

const struct rule *rules_keep_locked(const struct tier *tier, uint64_t bytes)
{
    return keep_broken_locked(tier, bytes, false);
}

bool rules_keep_never_locked(const struct tier *tier, uint64_t bytes)
{
    return keep_broken_locked(tier, bytes, true);
}

int rules_keep_forbid_locked(const struct tier *tier, const char *name, const struct rule *rule)
{
    char text[RULE_TEXT];
    return error_set(-TERRACE_ERULE, "'%.60s' may not come to %s now, as less than %g %% of the bytes on devices would "
                     "be where a rule wants them: %s; put more there first, or use another tier", name, tier->name,
                     rule->percent, rule_text(tier->manager->rules, rule, text));
}
