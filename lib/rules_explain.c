/* rules_explain.c - placement rules told to people: what they say of a tensor, and why.
 *
 * May call: rules.h, mover.h. */
#include <stdarg.h>
#include <stdio.h>
#include <string.h>

#include "mover.h"
#include "rules.h"

struct page {
    char *buf;
    size_t len, used;
};

__attribute__((format(printf, 2, 3))) static void say(struct page *page, const char *format, ...)
{
    va_list args;
    va_start(args, format);
    if (page->used < page->len) {
        int n = vsnprintf(page->buf + page->used, page->len - page->used, format, args);
        page->used += n > 0 ? (size_t)n : 0;
    }
    va_end(args);
}

static void say_rule(struct page *page, const struct rules *r, const struct rule *rule)
{
    char text[RULE_TEXT];
    say(page, "%s", rule_text(r, rule, text));
}

/* The names of tiers, separated by blanks. */
static void say_tiers(struct page *page, const struct terrace *m, uint16_t tiers)
{
    for (unsigned i = 0; i < m->tiers; i++)
        if (tiers >> i & 1)
            say(page, " %s", m->tier[i].name);
    if (!tiers)
        say(page, " them, of which none is here");
}

/* The first rule that forbids the tier; NULL: none does. */
static const struct rule *forbids(const struct terrace *m, const struct rules *r, unsigned tier,
                                  const struct subject *s)
{
    for (const struct rule *rule = r->rule; rule < r->rule + r->rules; rule++)
        if (rule_denies(rule, m) >> tier & 1 && rule_matches(r, rule, s))
            return rule;
    return NULL;
}

static void say_tier(struct page *page, const struct terrace *m, const struct rules *r, unsigned i,
                     const struct subject *s, struct placement *p)
{
    const struct rule *rule = forbids(m, r, i, s);
    say(page, "  %-12s ", m->tier[i].name);
    if (rule) {
        say(page, "never: ");
        say_rule(page, r, rule);
        p->denied |= (uint16_t)(1u << i);
        say(page, "\n");
    } else {
        say(page, "allowed\n");
    }
}

/* What follows from the tiers taken together. */
static void say_ways(struct page *page, struct terrace *m, const struct placement *p)
{
    if (placement_nowhere(m, p))
        say(page, "No tier in memory is left: it could not be created.\n");
    for (unsigned i = 0; p->denied && i < m->tiers; i++)
        if (tier_is_memory(&m->tier[i]) && placement_allows(p, &m->tier[i]) &&
            !placement_may_leave(&m->tier[i], p))
            say(page, "What is written on %s stays there: no way leads to another tier that is allowed.\n",
                m->tier[i].name);
}

static void say_preference(struct page *page, const struct rules *r, const struct subject *s)
{
    for (const struct rule *rule = r->rule; rule < r->rule + r->rules; rule++) {
        if (rule->kind != RULE_PREFER || !rule_matches(r, rule, s))
            continue;
        say(page, "Where there is a choice:");
        for (unsigned k = 0; k < rule->places; k++)
            say(page, "%s %s", k ? "," : "", r->place[rule->place + k].name);
        say(page, ", then others by speed: ");
        say_rule(page, r, rule);
        say(page, "\n");
        return;
    }
}

static void say_keep(struct page *page, const struct terrace *m, const struct rules *r, const struct rule *rule)
{
    say(page, "At least %g %% of the bytes on devices are to be on", rule->percent);
    say_tiers(page, m, rule->tiers);
    say(page, ": ");
    say_rule(page, r, rule);
    say(page, "\n");
}

static void explain_tensor(struct page *page, struct terrace *m, struct rules *r, const struct subject *s)
{
    struct placement p = {.rules = r};
    for (unsigned i = 0; i < m->tiers; i++)
        p.order[i] = (unsigned char)i;
    for (unsigned i = 0; i < m->tiers; i++)
        say_tier(page, m, r, i, s, &p);
    say_ways(page, m, &p);
    say_preference(page, r, s);
    for (const struct rule *rule = r->rule; rule < r->rule + r->rules; rule++)
        if (rule->kind == RULE_KEEP)
            say_keep(page, m, r, rule);
}

static void explain_rules(struct page *page, const struct terrace *m, const struct rules *r)
{
    static const char *const does[] = {"only on", "never on", "preferably on", NULL};
    for (const struct rule *rule = r->rule; rule < r->rule + r->rules; rule++) {
        if (rule->kind == RULE_KEEP) {
            say_keep(page, m, r, rule);
            continue;
        }
        say_rule(page, r, rule);
        say(page, ": %s", does[rule->kind]);
        say_tiers(page, m, rule->tiers);
        say(page, "\n");
    }
}

int terrace_rules_explain(terrace *m, size_t bytes, const terrace_tensor_attr *attr, int rank, char *buf, size_t len)
{
    int e = manager_check(m);
    if (e == 0)
        e = tensor_attr_check(attr);
    if (e)
        return e;
    if (!buf || !len || rank < -1)
        return error_set(-TERRACE_EINVAL, "terrace_rules_explain: there is no buffer, or %d is no rank", rank);
    struct page page = {.buf = buf, .len = len};
    struct subject s = {attr ? attr->label : NULL, attr ? attr->role : 0, bytes, rank};
    *buf = '\0';
    manager_lock(m);
    struct rules *r = m->rules;
    if (!r)
        say(&page, "No rules are in force: every tensor may be everywhere.\n");
    else if (bytes == 0)
        explain_rules(&page, m, r);
    else
        explain_tensor(&page, m, r, &s);
    manager_unlock(m);
    return 0;
}
