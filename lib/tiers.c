/* tiers.c - finding the tiers, opening them, and their names and budgets.
 *
 * Built-in backends lie in the linker section terrace_backends, put there by
 * their own files; the core knows none of them by name. Each table is checked
 * and copied, so that an older or shorter one reads as if its missing optional
 * functions were NULL.
 *
 * May call: core.h, mover.h, budget.h, plugin.h, process.h, registered.h, relay.h, route.h,
 * share.h, the backends' tables. */
#include <assert.h>
#include <ctype.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "budget.h"
#include "mover.h"
#include "plugin.h"
#include "process.h"
#include "registered.h"
#include "relay.h"
#include "route.h"
#include "share.h"
#include "staging.h"
#include "view.h"

extern const terrace_backend *const __start_terrace_backends[] __attribute__((visibility("hidden")));
extern const terrace_backend *const __stop_terrace_backends[] __attribute__((visibility("hidden")));

static const char *const class_names[] = {
    [TERRACE_CLASS_DEVICE] = "device", [TERRACE_CLASS_HOST] = "host", [TERRACE_CLASS_DISK] = "disk"};
enum { CLASSES = sizeof class_names / sizeof class_names[0] };

const char *tier_class_name(const struct tier *tier)
{
    return class_names[tier->backend->tier_class];
}

void tier_limit_name(const struct tier *tier, char name[NAME_TEXT])
{
    snprintf(name, NAME_TEXT, "TERRACE_LIMIT_%.20s", tier->backend->name);
    for (char *c = name; *c; c++)
        *c = (char)toupper((unsigned char)*c);
}

void tier_own_limit_name(const struct tier *tier, char name[NAME_TEXT])
{
    char kind[NAME_TEXT];
    tier_limit_name(tier, kind);
    snprintf(name, NAME_TEXT, "%.34s_%.4s", kind, strchr(tier->name, ':') + 1);
}

/* ---- names ------------------------------------------------------------- */

bool tier_matches(const struct terrace *m, int index, terrace_tier which)
{
    const struct tier *tier = &m->tier[index];
    if (which >= TIER_CLASS)
        return tier->backend->tier_class == which - TIER_CLASS;
    if (which >= TIER_KIND)
        return (unsigned)(which - TIER_KIND) < m->tiers &&
               strcmp(tier->backend->name, m->tier[which - TIER_KIND].backend->name) == 0;
    return index == which;
}

int tier_check(const struct terrace *m, terrace_tier which)
{
    for (unsigned i = 0; i < m->tiers; i++)
        if (tier_matches(m, (int)i, which))
            return 0;
    return error_set(-TERRACE_EINVAL, "%d is not a tier of this manager; terrace_tier_find() gives "
                     "them", which);
}

static void list_tiers(const struct terrace *m, char *buf, size_t len)
{
    buf[0] = '\0';
    for (unsigned i = 0; i < m->tiers; i++) {
        size_t used = strlen(buf);
        snprintf(buf + used, len - used, "%s%s", i ? ", " : "", m->tier[i].name);
    }
}

int terrace_tier_find(terrace *m, const char *name, terrace_tier *out)
{
    int r = manager_check(m);
    if (r)
        return r;
    if (!name || !out)
        return error_set(-TERRACE_EINVAL, "terrace_tier_find: name or out is NULL");
    for (unsigned i = 0; i < m->tiers; i++)
        if (strcmp(m->tier[i].name, name) == 0) {
            *out = (terrace_tier)i;
            return 0;
        }
    for (unsigned i = 0; i < m->tiers; i++) {
        bool kind = strcmp(m->tier[i].backend->name, name) == 0;
        if (kind || strcmp(tier_class_name(&m->tier[i]), name) == 0) {
            *out = kind ? TIER_KIND + (terrace_tier)i : TIER_CLASS + m->tier[i].backend->tier_class;
            return 0;
        }
    }
    char all[256];
    list_tiers(m, all, sizeof all);
    return error_set(-TERRACE_ENOENT, "there is no tier, kind or class '%.40s'; there are %s, and the "
                     "classes device, host and disk where they have a tier", name, all);
}

int terrace_tier_name(terrace *m, terrace_tier tier, char *buf, size_t len)
{
    int r = manager_check(m);
    if (r == 0)
        r = tier_check(m, tier);
    if (r)
        return r;
    const char *name = m->tier[tier < TIER_KIND ? tier : 0].name;
    if (tier >= TIER_CLASS)
        name = class_names[tier - TIER_CLASS];
    else if (tier >= TIER_KIND)
        name = m->tier[tier - TIER_KIND].backend->name;
    if (!buf || strlen(name) >= len)
        return error_set(-TERRACE_EINVAL, "terrace_tier_name: the buffer has no room for '%s'", name);
    memcpy(buf, name, strlen(name) + 1);
    return 0;
}

/* ---- backends ---------------------------------------------------------- */

int backend_copy(const terrace_backend *from, terrace_backend *to)
{
    size_t required = offsetof(terrace_backend, attach);
    memset(to, 0, sizeof *to);
    if (from->abi != TERRACE_BACKEND_ABI || from->size < required)
        return error_set(-TERRACE_EINVAL, "a backend was built for ABI %u with a table of %zu bytes; "
                         "this build takes ABI %u with at least %zu", from->abi, from->size,
                         TERRACE_BACKEND_ABI, required);
    memcpy(to, from, from->size < sizeof *to ? from->size : sizeof *to);
    to->size = sizeof *to;
    bool named = to->name && *to->name && !to->name[strspn(to->name, "abcdefghijklmnopqrstuvwxyz0123456789")];
    bool complete = named && strlen(to->name) < NAME_TEXT / 2 && to->count && to->open && to->close && to->reserve && to->release &&
                    to->commit && to->decommit && to->submit && to->wait && to->wake && to->explain;
    bool streams = to->record && to->passed && to->follow && to->forget;
    if (!streams)
        to->record = NULL;
    if (!to->unview)
        to->view = NULL;
    if (!to->record || !to->gate_follow || !to->gate_open || !to->gate_forget)
        to->gate = NULL;
    if (!complete || to->tier_class <= 0 || to->tier_class >= CLASSES)
        return error_set(-TERRACE_EINVAL, "backend '%.40s' lacks a required function, has no class, or a name that is "
                         "not of lower-case letters and digits", to->name ? to->name : "(unnamed)");
    return 0;
}

/* ---- budgets ----------------------------------------------------------- */

static uint64_t limit_of(const struct option_limit *l, uint64_t base)
{
    return l->percent > 0 ? (uint64_t)((double)base * l->percent / 100) : l->bytes;
}

/* Budgets of all tiers, from what there is to what the user allows. */
struct budgets {
    int index[MAX_TIERS];      /* of the tier's unit */
    uint64_t base[MAX_TIERS];  /* without any limit of the user's */
    uint64_t limit[MAX_TIERS];
    bool own[MAX_TIERS];       /* the user said it for the tier or its kind */
    bool shared[MAX_TIERS];    /* it comes from the limit of a class */
};

/* Divides a sum among the tiers of a class, and tells which of them it changed. */
static void divide(const struct terrace *m, int class, uint64_t *budget, const bool *fixed, uint64_t sum,
                   bool *changed)
{
    uint64_t part[MAX_TIERS];
    bool keep[MAX_TIERS];
    size_t n = 0, i = 0;
    for (unsigned t = 0; t < m->tiers; t++)
        if (m->tier[t].backend->tier_class == class) {
            part[n] = budget[t];
            keep[n++] = fixed && fixed[t];
        }
    budget_divide(part, keep, n, sum);
    for (unsigned t = 0; t < m->tiers; t++)
        if (m->tier[t].backend->tier_class == class) {
            changed[t] = !keep[i] || budget[t] != part[i];
            budget[t] = part[i++];
        }
}

static uint64_t total(const struct terrace *m, int class, const uint64_t *budget)
{
    uint64_t sum = 0;
    for (unsigned t = 0; t < m->tiers; t++)
        if (m->tier[t].backend->tier_class == class)
            sum += budget[t];
    return sum;
}

/* What is there. Host memory is shared by all host tiers: what the process may
 * take of it is divided as their capacities are. */
static void budgets_base(struct terrace *m, struct budgets *b)
{
    char reason[200] = "";
    uint64_t available = 0;
    bool shrunk[MAX_TIERS] = {0};
    for (unsigned t = 0; t < m->tiers; t++) {
        struct tier *tier = &m->tier[t];
        bool host = tier->backend->tier_class == TERRACE_CLASS_HOST;
        b->base[t] = tier->info.capacity;
        if (host && !available)
            available = budget_host_available(&(struct budget_root){""}, reason, sizeof reason);
        if (host && !b->base[t])
            b->base[t] = available;
        snprintf(tier->limit_reason, sizeof tier->limit_reason, "%s",
                 host && !tier->info.capacity ? reason : tier->info.capacity_reason);
    }
    if (total(m, TERRACE_CLASS_HOST, b->base) > available)
        divide(m, TERRACE_CLASS_HOST, b->base, NULL, available, shrunk);
    for (unsigned t = 0; t < m->tiers; t++)
        if (shrunk[t]) {
            size_t used = strlen(m->tier[t].limit_reason);
            snprintf(m->tier[t].limit_reason + used, sizeof m->tier[t].limit_reason - used,
                     "; its share of %s", reason);
        }
}

static void limited_by(struct tier *tier, const char *share, const struct option_limit *l, uint64_t base)
{
    char bytes[BYTES_TEXT], reason[200];
    snprintf(reason, sizeof reason, "%.199s", tier->limit_reason);
    snprintf(tier->limit_reason, sizeof tier->limit_reason, "%.16sTERRACE_LIMIT_%.31s (default: %s; %s)",
             share, l->name, bytes_text(base, bytes), reason);
}

/* A limit of a class is one of the sum; limits of its tiers are kept as far as
 * that allows. */
static void budgets_of_class(struct terrace *m, struct budgets *b, int class)
{
    struct option_limit sum;
    unsigned n = 0;
    if (!options_limit(&m->options, class_names[class], -1, &sum))
        return;
    divide(m, class, b->limit, b->own, limit_of(&sum, total(m, class, b->base)), b->shared);
    for (unsigned t = 0; t < m->tiers; t++)
        n += m->tier[t].backend->tier_class == class;
    for (unsigned t = 0; t < m->tiers; t++)
        if (b->shared[t] && m->tier[t].backend->tier_class == class)
            limited_by(&m->tier[t], n > 1 ? "its share of " : "", &sum, b->base[t]);
}

static void budgets_find(struct terrace *m, struct budgets *b)
{
    struct option_limit own[MAX_TIERS];
    budgets_base(m, b);
    for (unsigned t = 0; t < m->tiers; t++) {
        b->own[t] = options_limit(&m->options, m->tier[t].backend->name, b->index[t], &own[t]);
        b->limit[t] = b->own[t] ? limit_of(&own[t], b->base[t]) : b->base[t];
    }
    for (int class = TERRACE_CLASS_DEVICE; class < CLASSES; class++)
        budgets_of_class(m, b, class);
    for (unsigned t = 0; t < m->tiers; t++)
        if (b->own[t] && !b->shared[t])
            limited_by(&m->tier[t], "", &own[t], b->base[t]);
}

/* ---- opening ----------------------------------------------------------- */

/* Whether TERRACE_TIERS wants this one, and at which place. -1: it does not. */
static int place_of(const struct terrace *m, const char *kind, int index)
{
    const char *list = options_text(&m->options, "TIERS");
    char name[NAME_TEXT];
    if (!list)
        return 0;
    snprintf(name, sizeof name, "%s:%d", kind, index);
    int place = 0;
    for (const char *p = list; *p;) {
        size_t n = strcspn(p, ", ");
        if ((n == strlen(name) && strncmp(p, name, n) == 0) ||
            (n == strlen(kind) && strncmp(p, kind, n) == 0))
            return place;
        place += n > 0;
        p += n + (p[n] != '\0');
    }
    return -1;
}

static void info_defaults(terrace_unit_info *info)
{
    if (info->page == 0)
        info->page = 4096;
    if (info->granule < info->page)
        info->granule = 2u << 20;
    if (info->io_chunk < info->page)
        info->io_chunk = 1u << 20;
    if (info->io_depth == 0)
        info->io_depth = 1;
    if (info->io_depth_most < info->io_depth)
        info->io_depth_most = info->io_depth;
}

/* A device of which a program that is preloaded into would get nothing any more. */
static bool is_taken_whole(const struct tier *tier)
{
    return process_is_opening() && tier->info.flags & TERRACE_UNIT_WHOLE &&
           tier->backend->tier_class == TERRACE_CLASS_DEVICE && !options_text(&tier->manager->options, "TIERS");
}

static int tier_open(struct terrace *m, const terrace_backend *backend, int index)
{
    struct tier *tier = &m->tier[m->tiers];
    *tier = (struct tier){.manager = m, .backend = backend, .info.size = sizeof tier->info,
                          .info.node = -1, .memory = backend->tier_class != TERRACE_CLASS_DISK};
    snprintf(tier->name, sizeof tier->name, "%s:%d", backend->name, index);
    TAILQ_INIT(&tier->pinned);
    TAILQ_INIT(&tier->open);
    TAILQ_INIT(&tier->uses);
    int r = backend->open(&m->host, index, &tier->info, &tier->unit);
    if (r)
        return r;
    if (is_taken_whole(tier)) {
        backend->close(tier->unit);
        return error_set(-TERRACE_ENOTSUP, "its memory can only be taken as a whole, and this program, which knows "
                         "nothing of terrace, wants some; TERRACE_TIERS can name it all the same");
    }
    m->tiers++;
    info_defaults(&tier->info);
    if (tier->info.io_boundary % tier->info.io_chunk)
        return error_set(-TERRACE_EINVAL, "%s: its io_boundary is not a multiple of its io_chunk",
                         tier->name);
    return 0;
}

/* Address space for its budget. */
static int tier_fit_out(struct tier *tier, uint64_t limit)
{
    int r = arena_open(&tier->arena, tier->backend, tier->unit, &tier->info, limit);
    if (r) {
        char variable[NAME_TEXT];
        tier_limit_name(tier, variable);
        return error_set(r, "%s: no address space for a budget of %llu bytes; lower %s, or raise the "
                         "limit of virtual memory (ulimit -v)",
                         tier->name, (unsigned long long)limit, variable);
    }
    tier->arena.step = tier_is_memory(tier) ? 0 : 64ull << 20;
    policy_init(&tier->policy, (enum policy_kind)tier->manager->options.value[OPT_POLICY].number,
                tier->arena.limit);
    return 0;
}

struct found {
    const terrace_backend *backend;
    int index, place;
};

/* Fastest first: by the user's order, else by class. */
static int found_compare(const void *a, const void *b)
{
    const struct found *x = a, *y = b;
    if (x->place != y->place)
        return x->place - y->place;
    if (x->backend->tier_class != y->backend->tier_class)
        return x->backend->tier_class - y->backend->tier_class;
    return x->index - y->index;
}

/* The reason why the kind of a tier is not here, as the end of a sentence; or "". */
static const char *why_absent(const struct terrace *m, const char *tier, char buf[ERROR_TEXT])
{
    size_t n = strcspn(tier, ":, ");
    buf[0] = '\0';
    for (const char *p = m->kinds_absent; *p && !*buf; p += strcspn(p, "\n") + 1)
        if (strncmp(p, tier, n) == 0 && p[n] == ':')
            snprintf(buf, ERROR_TEXT, "; %.*s", (int)strcspn(p, "\n"), p);
    return buf;
}

/* Every entry of TERRACE_TIERS must be there. */
static int wanted_check(const struct terrace *m)
{
    const char *list = options_text(&m->options, "TIERS");
    for (const char *p = list ? list : ""; *p;) {
        size_t n = strcspn(p, ", ");
        bool there = n == 0;
        for (unsigned i = 0; i < m->tiers; i++)
            there |= (strlen(m->tier[i].name) == n && strncmp(m->tier[i].name, p, n) == 0) ||
                     (strlen(m->tier[i].backend->name) == n &&
                      strncmp(m->tier[i].backend->name, p, n) == 0);
        if (!there) {
            char all[256], why[ERROR_TEXT];
            list_tiers(m, all, sizeof all);
            return error_set(-TERRACE_ENOENT, "TERRACE_TIERS=%s: there is no tier '%.*s' here%s%s%s", list,
                             (int)n, p, *all ? "; of those named there are " : "", all, why_absent(m, p, why));
        }
        p += n + (p[n] != '\0');
    }
    if (list && m->tiers == 0)
        return error_set(-TERRACE_ENOENT, "TERRACE_TIERS=%s names no tier", list);
    return 0;
}

/* The thread's last failure becomes the reason why tiers of a kind are not here. */
static void note_absent(struct terrace *m, const terrace_backend *backend)
{
    size_t used = strlen(m->kinds_absent);
    snprintf(m->kinds_absent + used, sizeof m->kinds_absent - used, "%s: %s\n", backend->name, terrace_last_error());
}

/* Whether a setting says that the program's devices of a kind, or all, are to be used. */
static bool is_asked_for(const struct terrace *m, const terrace_backend *backend)
{
    const struct options *o = &m->options;
    size_t n = strlen(backend->name);
    bool asked = options_text(o, "TIERS") != NULL;
    for (unsigned i = 0; i < o->limits; i++) {
        const char *name = o->limit[i].name;
        asked |= !strcasecmp(name, class_names[backend->tier_class]);
        asked |= !strncasecmp(name, backend->name, n) && (name[n] == '\0' || name[n] == '_');
    }
    return asked;
}

/* How many units a backend has that may be wanted: it is not even asked where
 * TERRACE_TIERS names others only. Notes why there are none. What the thread's last
 * failure was stays so. */
static int units_of(struct terrace *m, const terrace_backend *backend)
{
    char before[ERROR_TEXT];
    bool wanted = false;
    assert(backend->name); /* it has been checked */
    for (int i = 0; i < MAX_TIERS && !wanted; i++)
        wanted = place_of(m, backend->name, i) >= 0;
    if (!wanted)
        return 0;
    snprintf(before, sizeof before, "%s", terrace_last_error());
    error_record("%s", "");
    int n = 0;
    if (backend->tier_class == TERRACE_CLASS_DEVICE && process_opens_hosts() && !is_asked_for(m, backend))
        error_set(-TERRACE_ENOTSUP, "this program knows nothing of terrace, and began with memory of the host; "
                  "TERRACE_LIMIT_DEVICE or TERRACE_TIERS ask for its devices, too");
    else
        n = backend->count(&m->host);
    if (n == 0 && *terrace_last_error())
        note_absent(m, backend);
    error_record("%s", before);
    return n;
}

/* Opens what was found. A device that cannot be opened, and that nobody has named, is
 * left out. */
static int found_open(struct terrace *m, const struct found *found, size_t n, struct budgets *budgets)
{
    for (size_t i = 0; i < n; i++) {
        const terrace_backend *backend = found[i].backend;
        bool named = options_text(&m->options, "TIERS") != NULL;
        budgets->index[m->tiers] = found[i].index;
        unsigned before = m->tiers;
        int r = tier_open(m, backend, found[i].index);
        if (r == 0)
            continue;
        if (named || backend->tier_class != TERRACE_CLASS_DEVICE || m->tiers > before)
            return r;
        note_absent(m, backend);
        log_write(&m->log, process_is_opening() ? TERRACE_LOG_INFO : TERRACE_LOG_WARN, "%s:%d is left out: %s", backend->name, found[i].index,
                  terrace_last_error());
    }
    return 0;
}

const terrace_backend *terrace_backend_find(const char *name)
{
    for (const terrace_backend *const *b = __start_terrace_backends; b < __stop_terrace_backends; b++)
        if (strcmp((*b)->name, name) == 0)
            return *b;
    return NULL;
}

/* One more table, checked. The first of a name counts: no other may take it. */
static int backend_add(struct terrace *m, const terrace_backend *from)
{
    terrace_backend *to = &m->backend[m->backends];
    int r = backend_copy(from, to);
    for (size_t i = 0; r == 0 && i < m->backends; i++)
        if (strcmp(m->backend[i].name, to->name) == 0)
            r = error_set(-TERRACE_EINVAL, "there are two backends of the kind '%s'; name one of them in "
                          "TERRACE_BACKENDS, under another kind than those of this library", to->name);
    m->backends += r == 0;
    return r;
}

/* Those of this library, and those from outside. */
static int backends_gather(struct terrace *m)
{
    const terrace_backend *plugin[MAX_PLUGINS];
    const terrace_backend *const *from = __start_terrace_backends;
    size_t builtin = (size_t)(__stop_terrace_backends - __start_terrace_backends);
    int plugins = plugins_load(m, plugin), r = plugins < 0 ? plugins : 0;
    if (r)
        return r;
    m->backend = calloc(builtin + MAX_PLUGINS, sizeof m->backend[0]);
    if (!m->backend)
        return error_set(-TERRACE_ENOMEM, "no host memory");
    for (size_t b = 0; r == 0 && b < builtin; b++)
        r = backend_add(m, from[b]);
    for (int p = 0; r == 0 && p < plugins; p++)
        r = backend_add(m, plugin[p]);
    return r;
}

static int backends_open(struct terrace *m)
{
    struct found found[MAX_TIERS];
    size_t n = 0;
    int r = backends_gather(m);
    if (r)
        return r;
    for (size_t b = 0; b < m->backends; b++) {
        int units = units_of(m, &m->backend[b]);
        for (int i = 0; i < units && n < MAX_TIERS; i++) {
            int place = place_of(m, m->backend[b].name, i);
            if (place >= 0)
                found[n++] = (struct found){&m->backend[b], i, place};
        }
    }
    qsort(found, n, sizeof found[0], found_compare);
    struct budgets budgets = {0};
    r = found_open(m, found, n, &budgets);
    if (r)
        return r;
    budgets_find(m, &budgets);
    for (size_t i = 0; i < m->tiers; i++) {
        r = tier_fit_out(&m->tier[i], budgets.limit[i]);
        if (r)
            return r;
    }
    return 0;
}

int tiers_open(struct terrace *m)
{
    int r = backends_open(m);
    if (r == 0)
        r = wanted_check(m);
    if (r == 0)
        registered_open(m);
    if (r == 0)
        r = share_open(m);
    bool host = false; /* the first tier of plain pointers is the other end of all lanes */
    for (unsigned i = 0; r == 0 && i < m->tiers; i++) {
        bool plain = tier_is_memory(&m->tier[i]) && (m->tier[i].backend->caps & TERRACE_CAP_CPU);
        if (host || !plain)
            r = lane_open(&m->tier[i]);
        host |= plain;
    }
    if (r) {
        tiers_close(m);
        return r;
    }
    relay_open(m);
    routes_open(m);
    return 0;
}

void tiers_close(struct terrace *m)
{
    for (unsigned i = 0; i < m->tiers; i++)
        lane_stop(&m->tier[i]);
    for (unsigned i = 0; i < m->tiers; i++)
        lane_close(&m->tier[i]);
    relay_close(m);
    routes_close(m);
    staging_close(m);
    registered_close(m);
    for (unsigned i = 0; i < m->tiers; i++) {
        views_end(&m->tier[i], m->tier[i].views);
        arena_close(&m->tier[i].arena);
        m->tier[i].backend->close(m->tier[i].unit);
    }
    share_close(m);
    m->tiers = 0;
    free(m->backend);
    m->backend = NULL;
    m->backends = 0;
}
