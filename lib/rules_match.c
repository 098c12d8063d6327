/* rules_match.c - what placement rules mean on the tiers of a manager.
 *
 * A tensor's placement is worked out once, when it is created: a bit per tier that it
 * may not be on, which rule says so, and the order of tiers for a choice. Tensors for
 * which the rules say the same share one placement, counted; one of rules that have
 * been replaced goes with its last tensor, and the rules go with their last placement.
 *
 * May call: rules.h, libc. */
#include <fnmatch.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "rules.h"

/* ---- tiers ------------------------------------------------------------- */

static bool place_is(const char *name, const struct tier *tier)
{
    return strcmp(name, "*") == 0 || strcmp(name, tier->name) == 0 || strcmp(name, tier->backend->name) == 0 ||
           strcmp(name, tier_class_name(tier)) == 0 || strcmp(name, tier->info.vendor) == 0;
}

void rules_bind(struct rules *r, const struct terrace *m)
{
    for (unsigned i = 0; i < r->rules; i++) {
        struct rule *rule = &r->rule[i];
        rule->tiers = 0;
        for (struct place *p = &r->place[rule->place]; p < &r->place[rule->place + rule->places]; p++) {
            p->tiers = 0;
            for (unsigned t = 0; t < m->tiers; t++)
                if (place_is(p->name, &m->tier[t]))
                    p->tiers |= (uint16_t)(1u << t);
            rule->tiers |= p->tiers;
        }
    }
}

static uint16_t all_tiers(const struct terrace *m)
{
    return (uint16_t)((1u << m->tiers) - 1);
}

uint16_t rule_denies(const struct rule *rule, const struct terrace *m)
{
    return rule->kind == RULE_DENY    ? rule->tiers
           : rule->kind == RULE_ALLOW ? (uint16_t)(all_tiers(m) & ~rule->tiers)
                                      : 0;
}

/* ---- selectors --------------------------------------------------------- */

static bool compares(enum selector_relation relation, uint64_t value, uint64_t low, uint64_t high)
{
    switch (relation) {
    case IS:
        return low <= value && value <= high;
    case IS_NOT:
        return value < low || high < value;
    case LESS:
        return value < low;
    case AT_MOST:
        return value <= low;
    case MORE:
        return value > low;
    case AT_LEAST:
        return value >= low;
    }
    return false;
}

static bool label_is(const struct rules *r, const struct selector *s, const char *label)
{
    for (unsigned i = 0; i < s->words; i++)
        if (fnmatch(r->word[s->first + i], label, 0) == 0)
            return true;
    return false;
}

static bool selector_matches(const struct rules *r, const struct selector *s, const struct subject *x)
{
    switch (s->kind) {
    case SELECT_LABEL:
        return label_is(r, s, x->label ? x->label : "") == (s->relation == IS);
    case SELECT_ROLE:
        return (s->roles >> x->role & 1) == (s->relation == IS);
    case SELECT_SIZE:
        return compares(s->relation, x->bytes, s->low, s->high);
    case SELECT_RANK:
        return compares(s->relation, (uint64_t)(x->rank < 0 ? r->rank : x->rank), s->low, s->high);
    }
    return false;
}

bool rule_matches(const struct rules *r, const struct rule *rule, const struct subject *s)
{
    for (unsigned i = 0; i < rule->selectors; i++)
        if (!selector_matches(r, &r->selector[rule->selector + i], s))
            return false;
    return true;
}

/* ---- placements -------------------------------------------------------- */

bool placement_nowhere(const struct terrace *m, const struct placement *p)
{
    for (unsigned i = 0; i < m->tiers; i++)
        if (tier_is_memory(&m->tier[i]) && !(p->denied >> i & 1))
            return false;
    return true;
}

/* The tiers that the rule's places name come first, in that order. */
static void order_by(struct placement *p, const struct terrace *m, const struct rules *r, const struct rule *rule)
{
    uint16_t taken = 0;
    unsigned n = 0;
    for (unsigned k = 0; rule && k < rule->places; k++)
        for (unsigned i = 0; i < m->tiers; i++)
            if ((r->place[rule->place + k].tiers & ~taken) >> i & 1) {
                p->order[n++] = (unsigned char)i;
                taken |= (uint16_t)(1u << i);
            }
    for (unsigned i = 0; i < m->tiers; i++)
        if (!(taken >> i & 1))
            p->order[n++] = (unsigned char)i;
}

static void deny(struct placement *p, const struct terrace *m, uint16_t tiers, unsigned rule)
{
    for (unsigned i = 0; i < m->tiers; i++)
        if ((tiers & ~p->denied) >> i & 1)
            p->by[i] = (uint16_t)rule;
    p->denied |= tiers;
}

static struct placement placement_of(const struct terrace *m, struct rules *r, const struct subject *s)
{
    struct placement p = {.rules = r};
    const struct rule *order = NULL;
    for (unsigned i = 0; i < r->rules; i++) {
        const struct rule *rule = &r->rule[i];
        if (rule->kind == RULE_KEEP || !rule_matches(r, rule, s))
            continue;
        deny(&p, m, rule_denies(rule, m), i);
        if (rule->kind == RULE_PREFER && !order)
            order = rule;
    }
    order_by(&p, m, r, order);
    return p;
}

/* Whether it says anything. */
static bool says_nothing(const struct terrace *m, const struct placement *p)
{
    bool nothing = !p->denied;
    for (unsigned i = 0; i < m->tiers; i++)
        nothing &= p->order[i] == i;
    return nothing;
}

bool placement_same(const struct placement *a, const struct placement *b)
{
    return a == b || (a && b && a->denied == b->denied && memcmp(a->order, b->order, sizeof a->order) == 0);
}

/* The one of the rules that is equal, made where there is none. */
static int shared_locked(const struct terrace *m, struct rules *r, const struct placement *like,
                         struct placement **out)
{
    struct placement *p;
    *out = NULL;
    if (says_nothing(m, like))
        return 0;
    LIST_FOREACH(p, &r->placements, all)
        if (placement_same(p, like) && memcmp(p->by, like->by, sizeof p->by) == 0) {
            *out = p;
            return 0;
        }
    p = malloc(sizeof *p);
    if (!p)
        return error_set(-TERRACE_ENOMEM, "no host memory for what the placement rules say");
    *p = *like;
    LIST_INSERT_HEAD(&r->placements, p, all);
    *out = p;
    return 0;
}

/* Names the rules that leave no tier in memory, two at most. */
static int nowhere(const struct terrace *m, const struct placement *p, const char *name)
{
    char first[RULE_TEXT] = "", second[RULE_TEXT + 8] = " and ";
    unsigned one = 0, n = 0;
    for (unsigned i = 0; i < m->tiers; i++) {
        if (!tier_is_memory(&m->tier[i]) || n > 1 || (n == 1 && p->by[i] == one))
            continue;
        rule_text(p->rules, &p->rules->rule[p->by[i]], n++ ? second + strlen(" and ") : first);
        one = p->by[i];
    }
    return error_set(-TERRACE_ERULE, "'%.60s' could be on no tier in memory that there is: %s%s", name, first,
                     n > 1 ? second : "");
}

int placement_find_locked(struct terrace *m, struct rules *r, const struct subject *s, const char *name,
                          struct placement **out)
{
    struct placement p = placement_of(m, r, s);
    if (placement_nowhere(m, &p))
        return nowhere(m, &p, name);
    return shared_locked(m, r, &p, out);
}

int placement_join_locked(struct terrace *m, struct rules *r, const struct placement *a, const struct placement *b,
                          struct placement **out)
{
    struct placement p = {.rules = r};
    order_by(&p, m, r, NULL);
    if (a)
        memcpy(p.order, a->order, sizeof p.order);
    for (unsigned i = 0; i < m->tiers; i++) {
        if (a && a->denied >> i & 1)
            deny(&p, m, (uint16_t)(1u << i), a->by[i]);
        if (b && b->denied >> i & 1)
            deny(&p, m, (uint16_t)(1u << i), b->by[i]);
    }
    return shared_locked(m, r, &p, out);
}

struct placement *placement_keep(struct placement *p)
{
    if (p)
        p->users++;
    return p;
}

void placement_drop_locked(struct placement *p)
{
    if (!p || --p->users || p->rules->current)
        return;
    struct rules *r = p->rules;
    LIST_REMOVE(p, all);
    free(p);
    if (LIST_EMPTY(&r->placements))
        rules_free(r);
}

void placement_put(struct terrace *m, struct placement *p)
{
    if (!p)
        return;
    manager_lock(m);
    placement_drop_locked(p);
    manager_unlock(m);
}

/* ---- for people -------------------------------------------------------- */

const char *rule_text(const struct rules *r, const struct rule *rule, char buf[RULE_TEXT])
{
    enum { SHOWN = 80 };
    bool cut = rule->length > SHOWN;
    snprintf(buf, RULE_TEXT, "\"%.*s%s\" (%.60s, line %u)", cut ? SHOWN : (int)rule->length, r->text + rule->text,
             cut ? "..." : "", r->source, rule->line);
    return buf;
}

int rules_forbid(const struct placement *p, const char *name, const char *what, const struct tier *tier)
{
    char text[RULE_TEXT];
    unsigned i = (unsigned)(tier - tier->manager->tier);
    rule_text(p->rules, &p->rules->rule[p->by[i]], text);
    return error_set(-TERRACE_ERULE, "'%.60s' may not be on %s%s%s: %s", name, tier->name, what ? ", " : "",
                     what ? what : "", text);
}
