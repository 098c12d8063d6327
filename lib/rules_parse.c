/* rules_parse.c - the text of placement rules is taken apart, and errors in it are
 * told by line and column.
 *
 * One pass, with one character of look-ahead but for the list of `keep`, whose
 * commas are told from those between entries by what follows the name. Words are
 * copied to a pool. What is parsed here is only text:
 * which tiers a place stands for, rules_bind() finds out.
 *
 * May call: rules.h, options.h, nearest.h, libc. */
#include <ctype.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <strings.h>

#include "nearest.h"
#include "rules.h"

enum { WORD_SHOWN = 40 };

struct parser {
    struct rules *r;
    const struct rules_names *names;
    const char *at;   /* in r->text */
    char *pool;       /* first free byte of r->pool */
    unsigned room_words, room_selectors, room_places, room_rules;
    int error;
};

static const char *const roles[] = {"other", "weight", "gradient", "optimizer", "activation", "kvcache"};
enum { ROLES = sizeof roles / sizeof roles[0] };

/* ---- errors ------------------------------------------------------------ */

/* Columns count characters, not bytes, and from 1. */
static void whereabouts(const struct parser *p, const char *at, unsigned *line, unsigned *column)
{
    *line = *column = 1;
    for (const char *c = p->r->text; c < at; c++) {
        if (*c == '\n') {
            ++*line;
            *column = 1;
        } else if (((unsigned char)*c & 0xc0) != 0x80) {
            ++*column;
        }
    }
}

__attribute__((format(printf, 3, 4))) static bool wrong(struct parser *p, const char *at, const char *format, ...)
{
    char why[ERROR_TEXT - RULES_SOURCE];
    unsigned line, column;
    va_list args;
    if (p->error)
        return false;
    va_start(args, format);
    vsnprintf(why, sizeof why, format, args);
    va_end(args);
    whereabouts(p, at, &line, &column);
    p->error = error_set(-TERRACE_ECONFIG, "%s, line %u, column %u: %s", p->r->source, line, column, why);
    return false;
}

static bool no_memory_for_rules(struct parser *p)
{
    if (!p->error)
        p->error = error_set(-TERRACE_ENOMEM, "no host memory for placement rules");
    return false;
}

/* What stands at a place, for a sentence. */
static const char *found(const char *at, char buf[WORD_SHOWN + 8])
{
    size_t n = strcspn(at, " \t\r\n,&:|>");
    if (!*at)
        return "the end";
    if (*at == '\n')
        return "the end of the line";
    snprintf(buf, WORD_SHOWN + 8, "'%.*s'", (int)(n == 0 ? 1 : n < WORD_SHOWN ? n : WORD_SHOWN), at);
    for (char *c = buf; *c; c++)
        if (iscntrl((unsigned char)*c))
            *c = '?';
    return buf;
}

/* ---- blanks and words -------------------------------------------------- */

/* Within an entry; a comment ends with its line. */
static void blanks(struct parser *p)
{
    p->at += strspn(p->at, " \t\r");
    if (*p->at == '#')
        p->at += strcspn(p->at, "\n");
}

static void lines(struct parser *p)
{
    for (blanks(p); *p->at == '\n' || *p->at == ','; blanks(p))
        p->at++;
}

static bool takes(struct parser *p, char c)
{
    blanks(p);
    bool there = *p->at == c;
    p->at += there;
    return there;
}

static const char *pooled(struct parser *p, const char *from, size_t n)
{
    char *word = p->pool;
    memcpy(word, from, n);
    word[n] = '\0';
    p->pool += n + 1;
    return word;
}

/* Room for one more in an array that doubles. */
static bool more(struct parser *p, void *array, unsigned n, unsigned *room, size_t each)
{
    void **list = array;
    if (n < *room)
        return true;
    unsigned want = *room ? 2 * *room : 16;
    void *larger = realloc(*list, want * each);
    if (!larger)
        return no_memory_for_rules(p);
    *list = larger;
    *room = want;
    return true;
}

static size_t name_length(const char *c)
{
    size_t n = 0;
    while (isalnum((unsigned char)c[n]) || c[n] == '_' || c[n] == '-' ||
           (c[n] == ':' && n && isdigit((unsigned char)c[n + 1])))
        n++;
    return n;
}

/* ---- places ------------------------------------------------------------ */

static bool in_list(const char *const *list, const char *name, size_t n)
{
    for (; *list; list++)
        if (strlen(*list) == n && strncmp(*list, name, n) == 0)
            return true;
    return false;
}

static const char *const classes[] = {"device", "host", "disk", NULL};

/* A class, a kind, a vendor, or a kind with a number. */
static bool place_known(const struct parser *p, const char *name)
{
    size_t n = strcspn(name, ":"), digits = name[n] ? strspn(name + n + 1, "0123456789") : 0;
    if (name[n])
        return digits && !name[n + 1 + digits] && in_list(p->names->kinds, name, n);
    return in_list(classes, name, n) || in_list(p->names->kinds, name, n) || in_list(p->names->vendors, name, n);
}

static const char *nearest_in(const char *const *list, const char *name, const char *best)
{
    for (; *list; list++)
        if (!best || nearest_distance(name, *list) < nearest_distance(name, best))
            best = *list;
    return best;
}

static bool place_unknown(struct parser *p, const char *at, const char *name)
{
    char base[WORD_SHOWN];
    snprintf(base, sizeof base, "%.*s", (int)strcspn(name, ":"), name);
    const char *best = nearest_in(classes, base, NULL);
    best = nearest_in(p->names->kinds, base, best);
    best = nearest_in(p->names->vendors, base, best);
    if (strcmp(base, best) == 0)
        return wrong(p, at, "'%.40s' is no tier: a number goes with a kind, as in %s:0", name, p->names->kinds[0]);
    if (nearest_is_near(base, nearest_distance(base, best)))
        return wrong(p, at, "'%.40s' is no tier, kind, vendor or class; did you mean '%s'?", name, best);
    return wrong(p, at, "'%.40s' is no tier, kind, vendor or class; there are device, host and disk, kinds such as "
                 "%s, tiers such as %s:0, vendors such as %s", name, p->names->kinds[0], p->names->kinds[0],
                 p->names->vendors[0]);
}

static bool place(struct parser *p, bool rest)
{
    struct rules *r = p->r;
    char text[WORD_SHOWN + 8];
    blanks(p);
    const char *at = p->at;
    size_t n = rest && *at == '*' ? 1 : name_length(at);
    if (n == 0)
        return wrong(p, at, "a place is missing before %s: a tier such as %s:0, a kind, a vendor, or device, host "
                     "or disk", found(at, text), p->names->kinds[0]);
    if (!more(p, &r->place, r->places, &p->room_places, sizeof *r->place))
        return false;
    const char *name = pooled(p, at, n);
    if (*at != '*' && !place_known(p, name))
        return place_unknown(p, at, name);
    r->place[r->places++] = (struct place){.name = name};
    p->at += n;
    return true;
}

/* ---- selectors --------------------------------------------------------- */

static bool relation(struct parser *p, bool order, enum selector_relation *out)
{
    static const struct {
        char text[3];
        enum selector_relation is;
    } known[] = {{"!=", IS_NOT}, {"<=", AT_MOST}, {">=", AT_LEAST}, {"=", IS}, {"<", LESS}, {">", MORE}};
    char text[WORD_SHOWN + 8];
    blanks(p);
    for (size_t i = 0; i < sizeof known / sizeof known[0]; i++) {
        size_t n = strlen(known[i].text);
        if (strncmp(p->at, known[i].text, n) != 0)
            continue;
        if (!order && known[i].is > IS_NOT)
            return wrong(p, p->at, "'%s' is for size and rank; here it is = or !=", known[i].text);
        p->at += n;
        *out = known[i].is;
        return true;
    }
    return wrong(p, p->at, "%s is missing before %s", order ? "one of = != < <= > >=" : "= or !=", found(p->at, text));
}

/* Text in quotes, "..." with \" and \\ or '...' as it is. */
static bool quoted(struct parser *p, const char **out)
{
    const char *at = p->at, *c = at + 1;
    char *to = p->pool;
    for (; *c && *c != *at && *c != '\n'; c++) {
        if (*at == '"' && *c == '\\' && (c[1] == '"' || c[1] == '\\'))
            c++;
        *to++ = *c;
    }
    if (*c != *at)
        return wrong(p, at, "the text in quotes has no end on its line");
    *to++ = '\0';
    *out = p->pool;
    p->pool = to;
    p->at = c + 1;
    return true;
}

/* One pattern for labels. */
static bool glob(struct parser *p)
{
    struct rules *r = p->r;
    const char *word = NULL;
    char text[WORD_SHOWN + 8];
    blanks(p);
    if (*p->at == '"' || *p->at == '\'') {
        if (!quoted(p, &word))
            return false;
    } else {
        size_t n = strcspn(p->at, " \t\r\n,&:|#\"'");
        if (n == 0)
            return wrong(p, p->at, "a pattern for labels is missing before %s: as in weights/*, or in quotes",
                         found(p->at, text));
        word = pooled(p, p->at, n);
        p->at += n;
    }
    if (!more(p, &r->word, r->words, &p->room_words, sizeof *r->word))
        return false;
    r->word[r->words++] = word;
    return true;
}

static bool role(struct parser *p, struct selector *s)
{
    char text[WORD_SHOWN + 8];
    blanks(p);
    size_t n = name_length(p->at);
    for (unsigned i = 0; i < ROLES; i++)
        if (strlen(roles[i]) == n && strncmp(roles[i], p->at, n) == 0) {
            s->roles |= 1u << i;
            p->at += n;
            return true;
        }
    return wrong(p, p->at, "%s is no role; there are other, weight, gradient, optimizer, activation and kvcache",
                 found(p->at, text));
}

static bool size(struct parser *p, uint64_t *out)
{
    char word[WORD_SHOWN], text[WORD_SHOWN + 8];
    blanks(p);
    size_t n = strcspn(p->at, " \t\r\n,&:|#");
    snprintf(word, sizeof word, "%.*s", (int)(n < sizeof word ? n : sizeof word - 1), p->at);
    if (n >= sizeof word || !options_parse_size(word, out))
        return wrong(p, p->at, "%s is no size; accepted are bytes such as 4096, 512M or 1.5GiB", found(p->at, text));
    p->at += n;
    return true;
}

static bool number(struct parser *p, uint64_t *out)
{
    char text[WORD_SHOWN + 8];
    blanks(p);
    size_t n = strspn(p->at, "0123456789");
    if (n == 0 || n > 9)
        return wrong(p, p->at, "%s is no rank; accepted is a number such as 0, or a range such as 0-3",
                     found(p->at, text));
    *out = strtoull(p->at, NULL, 10);
    p->at += n;
    return true;
}

static bool ranks(struct parser *p, struct selector *s)
{
    if (!number(p, &s->low))
        return false;
    s->high = s->low;
    blanks(p);
    const char *at = p->at;
    if (s->relation > IS_NOT || !takes(p, '-'))
        return true;
    if (!number(p, &s->high))
        return false;
    return s->low <= s->high || wrong(p, at, "a range of ranks goes from the lower to the higher");
}

/* Values separated by "|". */
static bool values(struct parser *p, struct selector *s)
{
    s->first = p->r->words;
    do {
        if (s->kind == SELECT_LABEL ? !glob(p) : !role(p, s))
            return false;
    } while (takes(p, '|'));
    s->words = p->r->words - s->first;
    return true;
}

static bool selector(struct parser *p)
{
    static const char *const kinds[] = {"label", "role", "size", "rank"};
    struct rules *r = p->r;
    struct selector s = {0};
    char text[WORD_SHOWN + 8];
    if (takes(p, '*'))
        return true; /* any tensor */
    size_t n = name_length(p->at);
    unsigned k = 0;
    while (k < 4 && (strlen(kinds[k]) != n || strncmp(kinds[k], p->at, n) != 0))
        k++;
    if (k == 4)
        return wrong(p, p->at, "%s is no selector; an entry begins with label=, role=, size, rank, *, or keep",
                     found(p->at, text));
    p->at += n;
    s.kind = (enum selector_kind)k;
    if (!relation(p, s.kind >= SELECT_SIZE, &s.relation))
        return false;
    if (s.kind == SELECT_SIZE ? !size(p, &s.low) : s.kind == SELECT_RANK ? !ranks(p, &s) : !values(p, &s))
        return false;
    if (s.kind == SELECT_SIZE)
        s.high = s.low;
    if (!more(p, &r->selector, r->selectors, &p->room_selectors, sizeof *r->selector))
        return false;
    r->selector[r->selectors++] = s;
    return true;
}

/* ---- verdicts ---------------------------------------------------------- */

static bool ends(const struct parser *p)
{
    return !*p->at || *p->at == '\n' || *p->at == ',';
}

static bool rule_add(struct parser *p, struct rule rule)
{
    struct rules *r = p->r;
    if (!more(p, &r->rule, r->rules, &p->room_rules, sizeof *r->rule))
        return false;
    rule.places = r->places - rule.place;
    r->rule[r->rules++] = rule;
    r->keeps += rule.kind == RULE_KEEP;
    return true;
}

/* The rest of a list of places, after the first. */
static bool list(struct parser *p, struct rule *rule)
{
    char joint = '\0';
    for (;;) {
        blanks(p);
        const char *at = p->at;
        if (*at != '|' && *at != '>')
            return true;
        if (joint && *at != joint)
            return wrong(p, at, "one list has either | (any of these) or > (in this order)");
        if (*at == '>' && rule->kind == RULE_DENY)
            return wrong(p, at, "what is denied has no order; places are separated by |");
        joint = *at;
        p->at++;
        if (joint == '>')
            rule->kind = RULE_PREFER;
        if (!place(p, joint == '>'))
            return false;
        if (*p->r->place[p->r->places - 1].name == '*')
            return true;
    }
}

static bool verdict(struct parser *p, struct rule rule)
{
    rule.place = p->r->places;
    if (takes(p, '!'))
        rule.kind = RULE_DENY;
    return place(p, false) && list(p, &rule) && rule_add(p, rule);
}

/* ---- entries ----------------------------------------------------------- */

/* Marks how far the entry's text goes, for all its rules. */
static void text_ends(const struct parser *p, unsigned first_rule, const char *begin)
{
    const char *end = p->at;
    while (end > begin && strchr(" \t\r\n", end[-1]))
        end--;
    for (const char *c = begin; c < end; c++)
        if (*c == '#' && strchr(" \t", c[-1])) /* a comment behind it */
            for (end = c; end > begin && strchr(" \t", end[-1]);)
                end--;
    for (unsigned i = first_rule; i < p->r->rules; i++) {
        p->r->rule[i].text = (unsigned)(begin - p->r->text);
        p->r->rule[i].length = (unsigned)(end - begin);
    }
}

static bool word_is(struct parser *p, const char *word)
{
    blanks(p);
    size_t n = name_length(p->at);
    if (strlen(word) != n || strncmp(p->at, word, n) != 0)
        return false;
    p->at += n;
    return true;
}

/* Whether the comma is within the list: the next entry begins with a selector. */
static bool list_goes_on(const struct parser *p)
{
    const char *c = p->at + 1;
    c += strspn(c, " \t\r");
    size_t n = name_length(c);
    bool begins = n == 4 && strncmp(c, "keep", n) == 0;
    c += n;
    c += strspn(c, " \t\r");
    return n && !begins && !strchr("=!<>&", *c ? *c : ' ');
}

static bool keep(struct parser *p, struct rule rule)
{
    char text[WORD_SHOWN + 8], *end = p->pool;
    blanks(p);
    const char *at = p->at;
    rule.kind = RULE_KEEP;
    rule.percent = isdigit((unsigned char)*at) ? strtod(at, &end) : 0;
    if (!(rule.percent > 0 && rule.percent <= 100) || strspn(at, "0123456789.") != (size_t)(end - at))
        return wrong(p, at, "%s is no share; accepted is more than 0 and at most 100 %%, as in keep 30%% of device on "
                     "%s", found(at, text), p->names->vendors[0]);
    p->at = end;
    if (!takes(p, '%'))
        return wrong(p, p->at, "%% is missing before %s, as in keep 30%% of device on %s", found(p->at, text),
                     p->names->vendors[0]);
    if (!word_is(p, "of") || !word_is(p, "device") || !word_is(p, "on"))
        return wrong(p, p->at, "'of device on' is expected instead of %s, as in keep 30%% of device on %s",
                     found(p->at, text), p->names->vendors[0]);
    rule.place = p->r->places;
    do {
        if (!place(p, false))
            return false;
        blanks(p);
    } while ((*p->at == '|' || (*p->at == ',' && list_goes_on(p))) && p->at++);
    return rule_add(p, rule);
}

static bool entry(struct parser *p)
{
    struct rules *r = p->r;
    unsigned first = r->rules, column;
    const char *begin = p->at;
    char text[WORD_SHOWN + 8];
    struct rule rule = {.kind = RULE_ALLOW, .selector = r->selectors};
    whereabouts(p, begin, &rule.line, &column);
    if (word_is(p, "keep")) {
        if (!keep(p, rule))
            return false;
    } else {
        do
            if (!selector(p))
                return false;
        while (takes(p, '&'));
        rule.selectors = r->selectors - rule.selector;
        if (!takes(p, ':'))
            return wrong(p, p->at, "':' or '&' is missing before %s", found(p->at, text));
        do {
            if (!verdict(p, rule))
                return false;
            blanks(p);
        } while (!ends(p));
    }
    blanks(p);
    text_ends(p, first, begin);
    if (!ends(p))
        return wrong(p, p->at, "a comma or a new line is missing before %s", found(p->at, text));
    return r->rules <= RULES_MOST || wrong(p, begin, "there are more than %d rules", RULES_MOST);
}

/* ---- the interface ----------------------------------------------------- */

static bool characters(struct parser *p)
{
    for (const char *c = p->r->text; *c; c++)
        if (iscntrl((unsigned char)*c) && !strchr("\n\t\r", *c))
            return wrong(p, c, "there is a control character (0x%02x)", (unsigned char)*c);
    return true;
}

int rules_parse(const char *text, const char *source, const struct rules_names *names, struct rules **out)
{
    struct rules *r = calloc(1, sizeof *r);
    struct parser p = {.r = r, .names = names};
    if (!r)
        return error_set(-TERRACE_ENOMEM, "no host memory for placement rules");
    LIST_INIT(&r->placements);
    snprintf(r->source, sizeof r->source, "%s", source);
    r->text = strdup(text);
    r->pool = malloc(2 * strlen(text) + 2);
    if (!r->text || !r->pool) {
        no_memory_for_rules(&p);
    } else {
        p.at = r->text;
        p.pool = r->pool;
        if (strlen(text) > RULES_BYTES)
            wrong(&p, p.at, "the rules are longer than %d KiB", RULES_BYTES >> 10);
        else if (characters(&p))
            for (lines(&p); *p.at && entry(&p); lines(&p))
                ;
    }
    if (p.error) {
        rules_free(r);
        return p.error;
    }
    *out = r;
    return 0;
}

void rules_free(struct rules *r)
{
    if (!r)
        return;
    free(r->text);
    free(r->pool);
    free(r->word);
    free(r->selector);
    free(r->place);
    free(r->rule);
    free(r);
}
