/* rules.h - placement rules: which tensors may be on which tiers.
 *
 *     rules    = entry { ("," | newline) entry }         "#" begins a comment
 *     entry    = selector { "&" selector } ":" verdict { verdict }
 *              | "keep" N "%" "of" "device" "on" place { ("|" | ",") place }
 *     selector = "*"                                      any tensor
 *              | "label" ("=" | "!=") glob { "|" glob }   fnmatch(3), or text in quotes
 *              | "role" ("=" | "!=") role { "|" role }
 *              | "size" ("=" | "!=" | "<" | "<=" | ">" | ">=") size
 *              | "rank" ("=" | "!=" | "<" | "<=" | ">" | ">=") n [ "-" n ]
 *     verdict  = place { "|" place }                      nowhere else
 *              | "!" place { "|" place }                  never there
 *              | place ">" place { ">" place }            in that order, where there is a choice
 *     place    = tier "cuda:0" | kind "cuda" | vendor "nvidia" | class "device" "host" "disk"
 *
 * Every rule that matches a tensor holds; the order of rules matters for ">" alone,
 * where the first that matches decides. So no rule is undone by another.
 *
 * May call: core.h, options.h. */
#ifndef TERRACE_LIB_RULES_H
#define TERRACE_LIB_RULES_H

#include "core.h"

enum { RULES_MOST = 4096, RULES_BYTES = 1 << 20, RULES_SOURCE = 200 };

/* ---- what the text says (rules_parse.c) -------------------------------- */

enum selector_kind { SELECT_LABEL, SELECT_ROLE, SELECT_SIZE, SELECT_RANK };
enum selector_relation { IS, IS_NOT, LESS, AT_MOST, MORE, AT_LEAST };

struct selector {
    enum selector_kind kind;
    enum selector_relation relation;
    unsigned first, words; /* label: in rules.word */
    unsigned roles;        /* bit per role */
    uint64_t low, high;    /* size; ranks, both included */
};

enum rule_kind { RULE_ALLOW, RULE_DENY, RULE_PREFER, RULE_KEEP };

struct place {
    const char *name;
    uint16_t tiers; /* bit per tier that it names; rules_bind() */
};

struct rule {
    enum rule_kind kind;
    unsigned selector, selectors; /* in rules.selector; all of them are to match */
    unsigned place, places;       /* in rules.place */
    uint16_t tiers;               /* that these name together */
    double percent;               /* RULE_KEEP */
    unsigned line;
    unsigned text, length;        /* of its entry in rules.text */
};

struct rules {
    char source[RULES_SOURCE]; /* "TERRACE_RULES", "rules", or a file */
    char *text, *pool;         /* as given; the words of it, each ended by a NUL */
    const char **word;         /* globs */
    struct selector *selector;
    struct place *place;
    struct rule *rule;
    unsigned words, selectors, places, rules;
    unsigned keeps;            /* rules of kind RULE_KEEP */
    long rank;
    /* Under manager.lock. */
    bool current;              /* those in force */
    LIST_HEAD(, placement) placements;
};

/* Kinds and vendors that a place may name; each list ends with a NULL. */
struct rules_names {
    const char *const *kinds, *const *vendors;
};

/* Checks and takes apart a text. Errors: ECONFIG (the sentence begins with source,
 * line and column), ENOMEM. */
int rules_parse(const char *text, const char *source, const struct rules_names *names, struct rules **out);
void rules_free(struct rules *r);

/* ---- what that means here (rules_match.c) ------------------------------ */

struct subject {
    const char *label; /* NULL: none, which is as "" */
    int role;
    uint64_t bytes;
    long rank;         /* -1: this process's */
};

/* Finds the tiers of all places. */
void rules_bind(struct rules *r, const struct terrace *m);
/* Whether all selectors of the rule match. */
bool rule_matches(const struct rules *r, const struct rule *rule, const struct subject *s);
/* The tiers where the rule forbids that tensors be which it matches. */
uint16_t rule_denies(const struct rule *rule, const struct terrace *m);

/* The placement of such a tensor, NULL: the rules say nothing of it. Its users are
 * counted by placement_keep(). Errors: ERULE (no tier in memory is left to it), ENOMEM. */
int placement_find_locked(struct terrace *m, struct rules *r, const struct subject *s, const char *name,
                          struct placement **out);
/* One that forbids what any of two does. Errors: ENOMEM. */
int placement_join_locked(struct terrace *m, struct rules *r, const struct placement *a, const struct placement *b,
                          struct placement **out);
/* Whether two say the same, whichever rule it is from. */
bool placement_same(const struct placement *a, const struct placement *b);
/* A use more, and one less, of it; NULL is allowed. */
struct placement *placement_keep(struct placement *p);
void placement_drop_locked(struct placement *p);
void placement_put(struct terrace *m, struct placement *p); /* the same without the lock */
/* No tier in memory is left. */
bool placement_nowhere(const struct terrace *m, const struct placement *p);

/* Records that `name` may not be on the tier, which rule says so, and what to do;
 * `what` is how it would come there: "", or "to get to cuda:0 it would pass through ". */
int rules_forbid(const struct placement *p, const char *name, const char *what, const struct tier *tier);
/* For people: "role=optimizer:!cuda" (rules.txt, line 3). */
enum { RULE_TEXT = 180 };
const char *rule_text(const struct rules *r, const struct rule *rule, char buf[RULE_TEXT]);

/* ---- in force (rules.c) ------------------------------------------------ */

/* Puts TERRACE_RULES in force; the tiers are open. */
int rules_open(struct terrace *m);
void rules_close(struct terrace *m);
/* Where a tensor that is being created may be; gives it the placement. Errors: as
 * placement_find_locked. */
int rules_place_locked(struct terrace_tensor *t);
/* Where a tensor that is to be created may be, for the caller to drop; and how many
 * changes of the rules there were by then. */
int placement_for_new(struct terrace *m, const terrace_tensor_attr *attr, size_t bytes, struct placement **out,
                      uint64_t *changes);
/* Whether so many bytes more in this tier would leave less than their share to the
 * devices that a rule names: the rule, or NULL. */
const struct rule *rules_keep_locked(const struct tier *tier, uint64_t bytes);
/* The same, whatever else of its kind leaves. */
bool rules_keep_never_locked(const struct tier *tier, uint64_t bytes);
int rules_keep_forbid_locked(const struct tier *tier, const char *name, const struct rule *rule);

#endif
