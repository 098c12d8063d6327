/* options.c - every setting, from environment and conf string to checked values.
 *
 * A setting arrives as a name without prefix in upper case, a text, and where
 * it came from; environment and conf string only differ in how such triples
 * are found. take() looks the name up in options.def or in the family of
 * limits, checks the text by its kind and keeps it. An empty text means unset,
 * so that a conf string can undo what the environment says. */
#include "options.h"

#include <ctype.h>
#include <limits.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <strings.h>
#include <unistd.h>

#include "error.h"
#include "nearest.h"

#define PREFIX "TERRACE_"
#define FAMILY "LIMIT_"

enum { NAME_MAX_LENGTH = NEAREST_LENGTH };

enum kind { CHOICE, BOOL, SIZE, TEXT, PATHS };
enum status { HERE, LATER };

static const struct option {
    const char *name;
    enum kind kind;
    const char *fallback; /* the default; NULL: none */
    const char *choices;  /* separated by '|' */
    enum status status;
} table[OPT_COUNT] = {
#define OPTION(id, name, kind, fallback, choices, example, meaning, status) \
    [OPT_##id] = {name, kind, fallback, choices, status},
#include "options.def"
#undef OPTION
};

/* What limits are usually given for: the names a misspelt one is compared
 * with. Any other kind is accepted too, as backends may come from outside. */
static const char *const limit_kinds[] = {"DEVICE", "HOST", "DISK",
#define KIND(name, upper) upper,
#include "kinds.def"
};
enum { LIMIT_KINDS = sizeof limit_kinds / sizeof *limit_kinds };

/* One setting as found. */
struct setting {
    char name[NAME_MAX_LENGTH + 1]; /* "LIMIT_NUMA" */
    const char *text;
    bool from_conf;
};

/* ---- saying what is wrong ------------------------------------------------ */

enum { SPELT = sizeof PREFIX + NAME_MAX_LENGTH, SHOWN_TEXT = 160 };

/* A name as users write it: "TERRACE_IO" in the environment, "io" in conf. */
static const char *spell(const char *name, bool conf, char buf[SPELT])
{
    snprintf(buf, SPELT, "%s%s", conf ? "" : PREFIX, name);
    for (char *c = buf; conf && *c; c++)
        *c = (char)tolower((unsigned char)*c);
    return buf;
}

/* The setting as the user wrote it: "TERRACE_IO=fast" or "io=fast". */
static const char *as_given(const struct setting *s, char buf[SHOWN_TEXT])
{
    char name[SPELT];
    snprintf(buf, SHOWN_TEXT, "%s=%.80s%s", spell(s->name, s->from_conf, name), s->text,
             strlen(s->text) > 80 ? "..." : "");
    return buf;
}

static int not_accepted(const struct setting *s, const char *accepted)
{
    char shown[SHOWN_TEXT];
    return error_set(-TERRACE_ECONFIG, "%s is not accepted; accepted is %s", as_given(s, shown),
                     accepted);
}

/* "auto|uring|threads" as "auto, uring or threads", appended to buf. */
static void list_choices(const char *choices, char *buf, size_t len)
{
    size_t at = strlen(buf);
    for (const char *c = choices; c && *c && at + 5 < len; c++) {
        if (*c != '|')
            buf[at++] = *c;
        else
            at += (size_t)snprintf(buf + at, len - at, strchr(c + 1, '|') ? ", " : " or ");
    }
    buf[at] = 0;
}

/* ---- sizes --------------------------------------------------------------- */

/* The power of two a suffix stands for: "", "k", "KB", "KiB" and so on, any
 * case; -1 where it is none. */
static int suffix_shift(const char *suffix)
{
    static const char letters[] = "kmgtpe";
    if (!*suffix || !strcasecmp(suffix, "b"))
        return 0;
    const char *letter = strchr(letters, tolower((unsigned char)*suffix));
    if (!letter)
        return -1;
    const char *rest = suffix + 1;
    if (*rest && strcasecmp(rest, "b") != 0 && strcasecmp(rest, "ib") != 0)
        return -1;
    return 10 * (int)(letter - letters + 1);
}

/* Reads digits with at most one point: no sign, exponent, hexadecimal, nor a
 * locale's own point. */
static const char *parse_decimal(const char *text, long double *out)
{
    long double value = 0, scale = 1;
    bool point = false;
    const char *c = text;
    for (; isdigit((unsigned char)*c) || (*c == '.' && !point); c++) {
        if (*c == '.')
            point = true;
        else if (point)
            value += (scale /= 10) * (*c - '0');
        else
            value = value * 10 + (*c - '0');
    }
    if (c == text || c[-1] == '.' || *text == '.')
        return NULL;
    *out = value;
    return c;
}

bool options_parse_size(const char *text, uint64_t *out)
{
    long double value;
    while (isspace((unsigned char)*text))
        text++;
    const char *end = parse_decimal(text, &value);
    if (!end)
        return false;
    while (isspace((unsigned char)*end))
        end++;
    char suffix[8];
    size_t length = strlen(end);
    while (length && isspace((unsigned char)end[length - 1]))
        length--;
    if (length >= sizeof suffix)
        return false;
    memcpy(suffix, end, length);
    suffix[length] = 0;
    int shift = suffix_shift(suffix);
    if (shift < 0)
        return false;
    value = ldexpl(value, shift);
    if (value >= 0x1p64L)
        return false;
    *out = (uint64_t)value;
    return true;
}

/* ---- values -------------------------------------------------------------- */

/* The index of a word among choices, -1 where it is none; any case. */
static int choice_index(const char *choices, const char *text)
{
    size_t length = strlen(text);
    int index = 0;
    for (const char *c = choices; c; index++) {
        const char *end = strchrnul(c, '|');
        if ((size_t)(end - c) == length && !strncasecmp(c, text, length))
            return index;
        c = *end ? end + 1 : NULL;
    }
    return -1;
}

/* Keeps a copy of the text, in the table's own spelling where it is a word. */
static int keep_text(struct option_value *v, const char *choices, int word, const char *text)
{
    const char *end = text + strlen(text);
    if (word >= 0) {
        text = choices;
        while (word--)
            text = strchr(text, '|') + 1;
        end = strchrnul(text, '|');
    }
    char *copy = strndup(text, (size_t)(end - text));
    if (!copy)
        return error_set(-TERRACE_ENOMEM, "no memory for a setting; free host memory");
    free(v->text);
    v->text = copy;
    return 0;
}

static int check_word(const struct setting *s, const char *choices, uint64_t *number, int *word)
{
    *word = choice_index(choices, s->text);
    *number = (uint64_t)*word;
    if (*word >= 0)
        return 0;
    char accepted[SHOWN_TEXT] = "";
    list_choices(choices, accepted, sizeof accepted);
    return not_accepted(s, accepted);
}

/* A word from the choices (then number is its index) or a size. */
static int check_size(const struct setting *s, const char *choices, uint64_t *number, int *word)
{
    *word = choices ? choice_index(choices, s->text) : -1;
    *number = (uint64_t)*word;
    if (*word >= 0 || options_parse_size(s->text, number))
        return 0;
    char accepted[SHOWN_TEXT] = "";
    list_choices(choices, accepted, sizeof accepted);
    snprintf(accepted + strlen(accepted), sizeof accepted - strlen(accepted),
             "%sa size in bytes such as 4096, 512M or 1.5GiB", choices ? ", or " : "");
    return not_accepted(s, accepted);
}

static int check_text(const struct setting *s, bool paths)
{
    for (const char *c = s->text; *c; c++)
        if (iscntrl((unsigned char)*c))
            return not_accepted(s, "text without control characters");
    size_t length = strlen(s->text);
    if (paths && (*s->text == ':' || s->text[length - 1] == ':' || strstr(s->text, "::")))
        return not_accepted(s, "one or more paths separated by ':', none of them empty");
    return 0;
}

static int check(const struct option *option, const struct setting *s, struct option_value *v)
{
    uint64_t number = 0;
    const char *choices = option->choices;
    int word = -1, err = 0;
    switch (option->kind) {
    case BOOL:
        choices = "0|1";
        err = check_word(s, choices, &number, &word);
        break;
    case CHOICE:
        err = check_word(s, choices, &number, &word);
        break;
    case SIZE:
        err = check_size(s, choices, &number, &word);
        break;
    case TEXT:
    case PATHS:
        err = check_text(s, option->kind == PATHS);
        break;
    }
    if (!err)
        err = keep_text(v, choices, word, s->text);
    if (!err)
        v->number = number;
    return err;
}

static void unset(struct option_value *v)
{
    free(v->text);
    *v = (struct option_value){0};
}

/* Puts the default in. The table's own values parse; a test sees to it. */
static int set_default(const struct option *option, struct option_value *v)
{
    unset(v);
    if (!option->fallback)
        return 0;
    struct setting s = {.text = option->fallback};
    snprintf(s.name, sizeof s.name, "%s", option->name);
    return check(option, &s, v);
}

static int take_option(struct options *o, enum option_id id, const struct setting *s)
{
    const struct option *option = &table[id];
    struct option_value *v = &o->value[id];
    if (!*s->text)
        return set_default(option, v);
    if (option->status == LATER) {
        char shown[SHOWN_TEXT];
        return error_set(-TERRACE_ENOTSUP, "%s is not supported by this build; accepted is to "
                                           "leave it unset", as_given(s, shown));
    }
    int err = check(option, s, v);
    v->set = !err;
    v->from_conf = s->from_conf;
    return err;
}

/* ---- limits -------------------------------------------------------------- */

/* KIND or KIND_N: letters and digits beginning with a letter, then a number.
 * Writes the length of KIND. */
static bool limit_name_valid(const char *name, size_t *kind_length)
{
    size_t n = 0;
    if (!isalpha((unsigned char)name[0]))
        return false;
    while (isalnum((unsigned char)name[n]))
        n++;
    *kind_length = n;
    if (!name[n])
        return true;
    size_t digits = strspn(name + n + 1, "0123456789");
    return name[n] == '_' && digits > 0 && !name[n + 1 + digits];
}

/* A share of the default budget, "50%". */
static bool parse_percent(const char *text, double *out)
{
    long double value;
    const char *end = parse_decimal(text, &value);
    if (!end || strcmp(end, "%") != 0 || value <= 0 || value > 100)
        return false;
    *out = (double)value;
    return true;
}

static struct option_limit *limit_find(struct options *o, const char *name)
{
    for (unsigned i = 0; i < o->limits; i++)
        if (!strcmp(o->limit[i].name, name))
            return &o->limit[i];
    return NULL;
}

static int take_limit(struct options *o, const struct setting *s)
{
    const char *name = s->name + strlen(FAMILY);
    struct option_limit value = {0}, *slot = limit_find(o, name);
    if (!*s->text) {
        if (slot)
            *slot = o->limit[--o->limits];
        return 0;
    }
    if (!parse_percent(s->text, &value.percent) &&
        (!options_parse_size(s->text, &value.bytes) || !value.bytes))
        return not_accepted(s, "a size above 0 such as 8G or 512M, or a share of the default "
                               "budget such as 50%");
    if (!slot && (o->limits == OPTIONS_MAX_LIMITS || strlen(name) >= sizeof value.name))
        return not_accepted(s, "at most 32 limits, for tiers with short names");
    snprintf(value.name, sizeof value.name, "%s", name);
    *(slot ? slot : &o->limit[o->limits++]) = value;
    return 0;
}

/* ---- names that are not known -------------------------------------------- */

/* The known name nearest to `name`, or false if none is near. */
static bool nearest(const char *name, char best[NAME_MAX_LENGTH + 1])
{
    unsigned least = UINT_MAX;
    for (int i = 0; i < OPT_COUNT + LIMIT_KINDS; i++) {
        char known[NAME_MAX_LENGTH + 1];
        if (i < OPT_COUNT)
            snprintf(known, sizeof known, "%s", table[i].name);
        else
            snprintf(known, sizeof known, FAMILY "%s", limit_kinds[i - OPT_COUNT]);
        unsigned distance = nearest_distance(name, known);
        if (distance < least) {
            least = distance;
            memcpy(best, known, sizeof known);
        }
    }
    return nearest_is_near(name, least);
}

/* "TERRACE_LIMT_NUMA is not known; did you mean TERRACE_LIMIT_NUMA?" */
static void describe_unknown(const struct setting *s, char *buf, size_t len)
{
    char best[NAME_MAX_LENGTH + 1], given[SPELT], known[SPELT];
    spell(s->name, s->from_conf, given);
    if (nearest(s->name, best))
        snprintf(buf, len, "%s is not known; did you mean %s?", given,
                 spell(best, s->from_conf, known));
    else
        snprintf(buf, len, "%s is not known; `terrace help env` lists the settings", given);
}

static int warn_unknown(struct options *o, const struct setting *s)
{
    char text[256];
    describe_unknown(s, text, sizeof text);
    if (o->unknowns == sizeof o->unknown / sizeof *o->unknown)
        return 0;
    o->unknown[o->unknowns] = strdup(text);
    if (!o->unknown[o->unknowns])
        return error_set(-TERRACE_ENOMEM, "no memory for a warning; free host memory");
    o->unknowns++;
    return 0;
}

/* A limit for a kind nobody has heard of may be for a backend from outside;
 * one that looks like a slip of the pen gets a warning as well. */
static int warn_limit_kind(struct options *o, const struct setting *s, size_t kind_length)
{
    struct setting kind = *s;
    size_t length = strlen(FAMILY) + kind_length;
    kind.name[length] = 0;
    for (int i = 0; i < LIMIT_KINDS; i++)
        if (!strcmp(kind.name + strlen(FAMILY), limit_kinds[i]))
            return 0;
    char best[NAME_MAX_LENGTH + 1];
    if (!nearest(kind.name, best) || nearest_distance(kind.name, best) > 1)
        return 0;
    return warn_unknown(o, &kind);
}

/* ---- where settings are found -------------------------------------------- */

static int take(struct options *o, const struct setting *s)
{
    for (int id = 0; id < OPT_COUNT; id++)
        if (!strcmp(table[id].name, s->name))
            return take_option(o, (enum option_id)id, s);
    size_t kind_length;
    if (!strncmp(s->name, FAMILY, strlen(FAMILY)) &&
        limit_name_valid(s->name + strlen(FAMILY), &kind_length)) {
        int err = take_limit(o, s);
        return err ? err : warn_limit_kind(o, s, kind_length);
    }
    if (!s->from_conf)
        return warn_unknown(o, s);
    char text[256];
    describe_unknown(s, text, sizeof text);
    return error_set(-TERRACE_ECONFIG, "%s", text);
}

/* Sets the name from `length` letters, in upper case, cut where too long to
 * be known. */
static void set_name(struct setting *s, const char *name, size_t length)
{
    length = length < NAME_MAX_LENGTH ? length : NAME_MAX_LENGTH;
    for (size_t i = 0; i < length; i++)
        s->name[i] = (char)toupper((unsigned char)name[i]);
    s->name[length] = 0;
}

static int take_environment(struct options *o)
{
    int err = 0;
    for (char **entry = environ; entry && *entry && !err; entry++) {
        const char *equals = strchr(*entry, '=');
        if (!equals || strncmp(*entry, PREFIX, strlen(PREFIX)) != 0)
            continue;
        struct setting s = {.text = equals + 1};
        const char *name = *entry + strlen(PREFIX);
        set_name(&s, name, (size_t)(equals - name));
        err = take(o, &s);
    }
    return err;
}

static bool ends_entry(char c)
{
    return c == ';' || c == '\n' || c == 0;
}

static int conf_error(const char *what, const char *entry)
{
    return error_set(-TERRACE_ECONFIG,
                     "in the configuration string, %s at \"%.60s\"; accepted are entries "
                     "key=value separated by newlines or ';', values double-quoted where they "
                     "contain one of these, with \\\" and \\\\ as the only escapes",
                     what, entry);
}

/* Copies a quoted value, from behind its opening quote; returns where it goes
 * on behind the closing one, NULL if it does not end or escapes wrongly. */
static const char *read_quoted(const char *c, char *value)
{
    for (; *c && *c != '"'; c++) {
        if (*c == '\\' && *++c != '"' && *c != '\\')
            return NULL;
        *value++ = *c;
    }
    *value = 0;
    return *c ? c + 1 : NULL;
}

/* Copies a bare value up to the end of its entry, without blanks around it. */
static const char *read_bare(const char *c, char *value)
{
    size_t length = 0;
    while (!ends_entry(c[length]))
        length++;
    const char *end = c + length;
    while (length && isspace((unsigned char)c[length - 1]))
        length--;
    memcpy(value, c, length);
    value[length] = 0;
    return end;
}

static const char *skip_blanks(const char *c)
{
    while (*c == ' ' || *c == '\t' || *c == '\r')
        c++;
    return c;
}

/* Reads one entry at *at and moves *at to its end. `value` is room for a copy
 * of all that remains. */
static int take_entry(struct options *o, const char **at, char *value)
{
    const char *entry = *at, *c = entry;
    while (isalnum((unsigned char)*c) || *c == '_')
        c++;
    struct setting s = {.text = value, .from_conf = true};
    set_name(&s, entry, (size_t)(c - entry));
    c = skip_blanks(c);
    if (!*s.name || *c != '=')
        return conf_error("a key=value entry is missing", entry);
    c = skip_blanks(c + 1);
    c = *c == '"' ? read_quoted(c + 1, value) : read_bare(c, value);
    if (!c)
        return conf_error("a quoted value does not end or has another escape", entry);
    c = skip_blanks(c);
    if (!ends_entry(*c))
        return conf_error("there is text behind the closing quote", entry);
    *at = c;
    return take(o, &s);
}

static int take_conf(struct options *o, const char *conf)
{
    char *value = malloc(strlen(conf) + 1);
    if (!value)
        return error_set(-TERRACE_ENOMEM, "no memory for the configuration; free host memory");
    int err = 0;
    for (const char *c = skip_blanks(conf); *c && !err; c = skip_blanks(c)) {
        if (ends_entry(*c))
            c++;
        else
            err = take_entry(o, &c, value);
    }
    free(value);
    return err;
}

/* ---- the interface ------------------------------------------------------- */

int options_parse(struct options *o, const char *conf)
{
    memset(o, 0, sizeof *o);
    int err = 0;
    for (int id = 0; id < OPT_COUNT && !err; id++)
        err = set_default(&table[id], &o->value[id]);
    if (!err)
        err = take_environment(o);
    if (!err && conf)
        err = take_conf(o, conf);
    if (err)
        options_free(o);
    return err;
}

void options_free(struct options *o)
{
    for (int id = 0; id < OPT_COUNT; id++)
        free(o->value[id].text);
    for (unsigned i = 0; i < o->unknowns; i++)
        free(o->unknown[i]);
    memset(o, 0, sizeof *o);
}

const char *options_text(const struct options *o, const char *name)
{
    for (int id = 0; id < OPT_COUNT; id++)
        if (!strcmp(table[id].name, name))
            return o->value[id].text;
    return NULL;
}

bool options_limit(const struct options *o, const char *kind, int index, struct option_limit *out)
{
    char exact[NAME_MAX_LENGTH + 1], whole[NAME_MAX_LENGTH + 1];
    snprintf(whole, sizeof whole, "%s", kind);
    if (index < 0)
        snprintf(exact, sizeof exact, "%s", kind);
    else
        snprintf(exact, sizeof exact, "%s_%d", kind, index);
    const char *const names[] = {exact, whole};
    for (int n = 0; n < 2; n++)
        for (unsigned i = 0; i < o->limits; i++)
            if (!strcasecmp(o->limit[i].name, names[n])) {
                *out = o->limit[i];
                return true;
            }
    return false;
}
