/* test_rules_random.c - random operations under random placement rules: after each of
 * them, no byte of a tensor is where its rules forbid.
 *
 * The rules are made up as data, written as text for terrace, and judged here by a
 * few lines of their own. The tiers themselves are asked whose bytes they hold: see
 * ruled.h.
 *
 * TERRACE_TEST_SEED repeats a run as far as threads can be repeated;
 * TERRACE_TEST_SCALE is the per cent of operations to do: 10000 for millions. */
#include <time.h>

#include "ruled.h"

#if defined(__SANITIZE_THREAD__) || defined(__SANITIZE_ADDRESS__)
enum { SLOWER = 20 };
#else
enum { SLOWER = 1 };
#endif

enum { SLOTS = 70, LABELS = 6, ROLES = 6, MOST_RULES = 6, PLACES = 8, HELD = 3 };

/* Bytes that nobody checks may change while they are copied: the copy is then
 * discarded. Only reading them for that is excused. */
__attribute__((visibility("default"))) const char *__tsan_default_suppressions(void);
const char *__tsan_default_suppressions(void)
{
    return "race:^simnode_copy$\nrace:^ruled_stray$\n";
}

/* ---- rules as data ----------------------------------------------------- */

struct made {
    unsigned labels, roles; /* bit per label and role that it matches; 0: any */
    size_t least;           /* bytes; 0: any */
    bool deny;
    unsigned tiers;
    char places[120];
};

struct slot {
    terrace_tensor *tensor;
    uint32_t id, version; /* 0: it reads as zeros */
    size_t bytes;
    unsigned label;
    int role;
    unsigned denied;
};

static struct world {
    terrace *m;
    uint64_t random;
    struct made rule[MOST_RULES];
    unsigned rules;
    struct slot slot[SLOTS];
    struct {
        struct slot *slot;
        void *at;
    } held[HELD];
    uint32_t ids;
    unsigned tiers;  /* in memory, the first ones */
    unsigned here;   /* bit per tier */
    size_t most;     /* bytes of a tensor */
    bool files, changes;
    unsigned long done, refused, forbidden, nowhere, changed;
} w;

static uint64_t draw(uint64_t below)
{
    w.random ^= w.random << 13;
    w.random ^= w.random >> 7;
    w.random ^= w.random << 17;
    return (w.random >> 16) % below;
}

/* A tier, kind, vendor or class by name, and the tiers that it means. */
static unsigned random_place(char *buf, size_t len)
{
    unsigned t = (unsigned)draw(RULED_TIERS), how = (unsigned)draw(8), tiers;
    while (!(w.here >> t & 1))
        t = (unsigned)draw(RULED_TIERS);
    tiers = 1u << t;
    const char *name = ruled_kind[t].kind;
    if (how == 0 && *ruled_kind[t].vendor)
        name = ruled_kind[t].vendor;
    if (how == 1) {
        name = ruled_kind[t].tier_class;
        tiers = 3u << t / 2 * 2;
    }
    snprintf(buf, len, "%s%s", name, how > 5 ? ":0" : "");
    return tiers;
}

static void random_rule(struct made *r)
{
    *r = (struct made){.labels = draw(3) ? 1u << draw(LABELS) | 1u << draw(LABELS) : 0,
                       .roles = draw(4) ? 0 : 1u << draw(ROLES), .least = draw(4) ? 0 : draw(w.most),
                       .deny = draw(4) > 0};
    unsigned places = 1 + (unsigned)draw(r->deny ? 2 : 3);
    if (!r->deny) {
        places = 2;
        snprintf(r->places, sizeof r->places, "host%s", draw(2) ? "|device" : ""); /* else little could be created */
        r->tiers = strstr(r->places, "device") ? 0xf : 0xc;
    }
    for (unsigned i = r->deny ? 0 : 1; i < places; i++) {
        char name[20];
        size_t used = strlen(r->places);
        r->tiers |= random_place(name, sizeof name);
        snprintf(r->places + used, sizeof r->places - used, "%s%s", i ? "|" : "", name);
    }
}

static void write_rule(const struct made *r, char *buf, size_t len)
{
    static const char *const roles[] = {"other", "weight", "gradient", "optimizer", "activation", "kvcache"};
    size_t n = 0;
    *buf = '\0';
    for (unsigned i = 0, first = 1; i < LABELS; i++)
        if (r->labels >> i & 1) {
            n += (size_t)snprintf(buf + n, len - n, "%sl%u/*", first ? "label=" : "|", i);
            first = 0;
        }
    for (unsigned i = 0; i < ROLES; i++)
        if (r->roles >> i & 1)
            n += (size_t)snprintf(buf + n, len - n, "%srole=%s", n ? " & " : "", roles[i]);
    if (r->least)
        n += (size_t)snprintf(buf + n, len - n, "%ssize>=%zu", n ? " & " : "", r->least);
    snprintf(buf + n, len - n, "%s:%s%s", n ? "" : "*", r->deny ? "!" : "", r->places);
}

static bool says(const struct made *r, const struct slot *s)
{
    return (!r->labels || r->labels >> s->label & 1) && (!r->roles || r->roles >> s->role & 1) && s->bytes >= r->least;
}

static unsigned judge(const struct made *rule, unsigned n, const struct slot *s)
{
    unsigned denied = 0;
    for (unsigned i = 0; i < n; i++)
        if (says(&rule[i], s))
            denied |= rule[i].deny ? rule[i].tiers : 0x3f & ~rule[i].tiers;
    return denied;
}

/* Whether a good part of all tensors could be created. */
static bool useful(const struct made *rule, unsigned n)
{
    unsigned good = 0, memory = (1u << w.tiers) - 1;
    for (unsigned label = 0; label < LABELS; label++)
        for (int r = 0; r < ROLES; r++) {
            struct slot s = {.label = label, .role = r, .bytes = w.most / 4};
            good += (judge(rule, n, &s) & memory) != memory;
        }
    return good > LABELS * ROLES / 2;
}

/* New rules, and their text. An order of choice is a wish: it changes no verdict. */
static unsigned make_rules(struct made *rule, char *text, size_t len)
{
    static const char *const orders[] = {"*:devb>host", "role=other:devb>hosta, *: deva>devb", "*:disk>device"};
    static const char *const more[] = {"*:devb>hostb>hosta", "role=other:hostb>hosta, *: deva>devb", "*:diskb>diska"};
    unsigned n = 1 + (unsigned)draw(MOST_RULES - 1);
    size_t used = (size_t)snprintf(text, len, "# made up\n");
    do
        for (unsigned i = 0; i < n; i++)
            random_rule(&rule[i]);
    while (!useful(rule, n));
    for (unsigned i = 0; i < n; i++) {
        char one[300];
        write_rule(&rule[i], one, sizeof one);
        used += (size_t)snprintf(text + used, len - used, "%s%s", one, draw(2) ? "\n" : ", ");
    }
    if (draw(2))
        snprintf(text + used, len - used, "%s\n", (w.tiers > HOSTB ? more : orders)[draw(3)]);
    return n;
}

/* ---- tensors ----------------------------------------------------------- */

static void deny(const struct slot *s, unsigned tiers)
{
    ruled_denied[s->id] = (unsigned char)tiers;
}

/* A tensor that begins as a file. */
static int open_file(struct slot *s, const terrace_tensor_attr *attr)
{
    char path[80];
    snprintf(path, sizeof path, "/var/tmp/terrace-ruled.%d", (int)getpid());
    char *p = calloc(1, s->bytes);
    ruled_fill(p, s->bytes, s->id, s->version = 1);
    int fd = open(path, O_WRONLY | O_CREAT | O_TRUNC, 0600);
    cr_assert(fd >= 0 && write(fd, p, s->bytes) == (ssize_t)s->bytes);
    close(fd);
    free(p);
    int r = terrace_tensor_open(w.m, path, 0, s->bytes, attr, &s->tensor);
    unlink(path); /* the tier has read it */
    return r;
}

static void create(struct slot *s)
{
    char label[20];
    for (;;) {
        size_t bytes = draw(4) ? 1 + draw(w.most / 4) : 1 + draw(w.most);
        if (!ruled_lines || draw(3) == 0)
            bytes = (bytes + RULED_PAGE - 1) / RULED_PAGE * RULED_PAGE;
        *s = (struct slot){.id = 1 + w.ids++ % (RULED_MOST - 1), .bytes = bytes < 64 ? 64 : bytes / 16 * 16,
                           .label = (unsigned)draw(LABELS), .role = (int)draw(ROLES)};
        s->denied = judge(w.rule, w.rules, s);
        deny(s, s->denied);
        snprintf(label, sizeof label, "l%u/%u", s->label, s->id);
        terrace_tensor_attr attr = {.size = sizeof attr, .label = label, .role = s->role};
        bool file = w.files && draw(5) == 0 && s->bytes % RULED_PAGE == 0;
        int r = file ? open_file(s, &attr)
                     : terrace_tensor_create(w.m, s->bytes, &attr, &s->tensor);
        unsigned memory = (1u << w.tiers) - 1;
        bool nowhere = (s->denied & memory) == memory;
        cr_assert_eq(r, nowhere ? -TERRACE_ERULE : 0, "%s, denied 0x%x: %s", label, s->denied, terrace_last_error());
        if (!nowhere)
            return;
        w.nowhere++;
    }
}

static void destroy(struct slot *s)
{
    terrace_tensor_destroy(s->tensor);
    deny(s, 0);
}

/* ---- operations -------------------------------------------------------- */

static terrace_tier random_tier(void)
{
    terrace_tier tier;
    unsigned t = (unsigned)draw(w.tiers);
    const char *name = draw(2) ? ruled_kind[t].kind : ruled_kind[t].tier_class;
    assert_ok(terrace_tier_find(w.m, name, &tier));
    return draw(3) ? tier : (terrace_tier)t;
}

/* Which memory tiers that means. */
static unsigned meant(terrace_tier tier)
{
    char name[20];
    unsigned tiers = 0;
    cr_assert_eq(terrace_tier_name(w.m, tier, name, sizeof name), 0);
    name[strcspn(name, ":")] = '\0';
    for (unsigned t = 0; t < w.tiers; t++)
        if (strcmp(name, ruled_kind[t].kind) == 0 || strcmp(name, ruled_kind[t].tier_class) == 0)
            tiers |= 1u << t;
    return tiers;
}

/* Whether the call succeeded; how it failed is one of the ways it may. */
static bool allowed(int r, const struct slot *s, terrace_tier tier, const char *what)
{
    bool forbidden = !(meant(tier) & ~s->denied);
    if (r == 0) {
        cr_assert(!forbidden, "%s of tensor %u, denied 0x%x, where 0x%x is meant", what, s->id, s->denied, meant(tier));
        return true;
    }
    cr_assert(r == -TERRACE_ERULE || r == -TERRACE_EBUDGET || r == -TERRACE_EBUSY || r == -TERRACE_EAGAIN, "%s: %d: %s",
              what, r, terrace_last_error());
    cr_assert(!forbidden || r == -TERRACE_ERULE || r == -TERRACE_EBUSY, "%s: %s", what, terrace_last_error());
    w.refused++;
    w.forbidden += r == -TERRACE_ERULE;
    return false;
}

static void use(struct slot *s, void *at, unsigned mode)
{
    void *p = ruled_seen(at);
    if (!(mode & TERRACE_OVERWRITE))
        cr_assert(ruled_is(p, s->bytes, s->id, s->version), "tensor %u of %zu bytes is not as it was written", s->id,
                  s->bytes);
    if (mode & (TERRACE_WRITE | TERRACE_OVERWRITE)) {
        s->version++;
        ruled_fill(p, s->bytes, s->id, s->version);
    }
}

static bool is_held(const struct slot *s)
{
    for (unsigned i = 0; i < HELD; i++)
        if (w.held[i].slot == s)
            return true;
    return false;
}

static struct slot *random_slot(void)
{
    struct slot *s = &w.slot[draw(SLOTS)];
    while (is_held(s))
        s = &w.slot[draw(SLOTS)];
    return s;
}

static unsigned random_mode(void)
{
    static const unsigned modes[] = {TERRACE_READ, TERRACE_READ, TERRACE_WRITE, TERRACE_OVERWRITE};
    return modes[draw(4)] | (draw(8) ? 0 : TERRACE_NOWAIT) ;
}

/* Tiers in memory have the same numbers here and there. */
static void check_where(const struct slot *s, terrace_tier where)
{
    cr_assert(!(s->denied >> where & 1), "tensor %u is on %s", s->id, ruled_kind[where].kind);
}

static void op_use(void)
{
    struct slot *s = random_slot();
    unsigned mode = random_mode();
    terrace_tier tier = random_tier(), where;
    void *at;
    if (!allowed(terrace_acquire(s->tensor, tier, mode, TERRACE_HOST_SYNC, &at, &where), s, tier, "acquire"))
        return;
    check_where(s, where);
    use(s, at, mode);
    assert_ok(terrace_release(s->tensor, at, TERRACE_HOST_SYNC));
}

static void op_list(void)
{
    struct slot *s[2] = {random_slot(), random_slot()};
    terrace_access list[2];
    unsigned n = s[0] == s[1] ? 1 : 2;
    bool forbidden = false;
    for (unsigned i = 0; i < n; i++) {
        list[i] = (terrace_access){.size = sizeof list[i], .tensor = s[i]->tensor, .tier = random_tier(),
                                   .mode = random_mode() & ~(unsigned)TERRACE_NOWAIT};
        forbidden |= !(meant(list[i].tier) & ~s[i]->denied);
    }
    int r = terrace_acquire_all(list, n, TERRACE_HOST_SYNC);
    cr_assert(r || !forbidden);
    w.refused += r != 0;
    for (unsigned i = 0; r == 0 && i < n; i++) {
        check_where(s[i], list[i].where);
        use(s[i], list[i].address, list[i].mode);
        assert_ok(terrace_release(s[i]->tensor, list[i].address, TERRACE_HOST_SYNC));
    }
}

/* Keeps one acquired over the next operations, or lets it go. */
static void op_hold(void)
{
    unsigned i = (unsigned)draw(HELD);
    if (w.held[i].slot) {
        use(w.held[i].slot, w.held[i].at, TERRACE_READ);
        assert_ok(terrace_release(w.held[i].slot->tensor, w.held[i].at, TERRACE_HOST_SYNC));
        w.held[i].slot = NULL;
        return;
    }
    struct slot *s = random_slot();
    terrace_tier tier = random_tier();
    if (allowed(terrace_acquire(s->tensor, tier, TERRACE_READ, TERRACE_HOST_SYNC, &w.held[i].at, NULL), s, tier, "hold"))
        w.held[i].slot = s;
}

static void op_hint(void)
{
    struct slot *s = random_slot();
    terrace_tier tier = random_tier(), disk;
    assert_ok(terrace_tier_find(w.m, "disk", &disk));
    unsigned kind = (unsigned)draw(8);
    if (kind < 3)
        allowed(terrace_prefetch(s->tensor, tier), s, tier, "prefetch");
    else if (kind < 5)
        allowed(terrace_demote(s->tensor, tier), s, tier, "demote");
    else if (kind < 7)
        w.forbidden += terrace_demote(s->tensor, disk) == -TERRACE_ERULE;
    else
        terrace_wait(s->tensor);
}

static void op_replace(void)
{
    struct slot *s = random_slot();
    destroy(s);
    create(s);
}

/* Other rules. Until they are in force or refused, both may be followed. */
static void op_rules(void)
{
    struct made rule[MOST_RULES];
    char text[3000];
    unsigned n = make_rules(rule, text, sizeof text);
    if (draw(3) == 0) {
        n = 0;
        *text = '\0';
    }
    for (struct slot *s = w.slot; s < w.slot + SLOTS; s++)
        deny(s, s->denied & judge(rule, n, s));
    int r = terrace_rules_set(w.m, text);
    cr_assert(r == 0 || r == -TERRACE_ERULE, "%s: %s", text, terrace_last_error());
    if (r == 0) {
        memcpy(w.rule, rule, sizeof rule);
        w.rules = n;
        w.changed++;
    }
    for (struct slot *s = w.slot; s < w.slot + SLOTS; s++) {
        s->denied = judge(w.rule, w.rules, s);
        deny(s, s->denied);
    }
}

static void operation(void)
{
    unsigned kind = (unsigned)draw(1000);
    if (kind < 600)
        op_use();
    else if (kind < 680)
        op_list();
    else if (kind < 860)
        op_hint();
    else if (kind < 930)
        op_hold();
    else if (kind < 970)
        op_replace();
    else if (kind < 975 && w.changes)
        op_rules();
    else
        terrace_step(w.m);
}

/* ---- running ----------------------------------------------------------- */

static unsigned long setting(const char *name, unsigned long otherwise)
{
    const char *text = getenv(name);
    return text ? strtoul(text, NULL, 0) : otherwise;
}

static void round_of(const char *conf, unsigned long operations)
{
    char text[3000], why[300];
    assert_ok(terrace_open(&w.m, conf));
    w.rules = make_rules(w.rule, text, sizeof text);
    cr_assert_eq(terrace_rules_set(w.m, text), 0, "%s: %s", text, terrace_last_error());
    for (unsigned i = 0; i < SLOTS; i++)
        create(&w.slot[i]);
    for (unsigned long i = 0; i < operations; i++) {
        operation();
        w.done++;
        cr_assert(ruled_clean(why, sizeof why), "after %lu operations: %s, under\n%s", w.done, why, text);
    }
    for (unsigned i = 0; i < HELD; i++)
        if (w.held[i].slot)
            assert_ok(terrace_release(w.held[i].slot->tensor, w.held[i].at, TERRACE_HOST_SYNC));
    memset(w.held, 0, sizeof w.held);
    for (unsigned i = 0; i < SLOTS; i++)
        destroy(&w.slot[i]);
    terrace_close(w.m);
}

/* Rounds, each with a manager and rules of its own. */
static void run(const char *conf, size_t most, unsigned long rounds, unsigned long operations)
{
    unsigned long seed = setting("TERRACE_TEST_SEED", (unsigned long)time(NULL));
    rounds = rounds * setting("TERRACE_TEST_SCALE", 100) / 100 / SLOWER;
    fprintf(stderr, "TERRACE_TEST_SEED=%lu (%s, %lu rounds of %lu operations)\n", seed, conf, rounds, operations);
    w.random = (seed + 1) * 0x9e3779b97f4a7c15u;
    w.most = most;
    w.here = strstr(conf, "hostb:0") ? 0x3f : 0x17;
    w.tiers = w.here >> HOSTB & 1 ? HOSTB + 1 : HOSTA + 1;
    for (unsigned long i = 0; i < (rounds ? rounds : 1); i++)
        round_of(conf, operations);
    fprintf(stderr, "%lu done, %lu refused, %lu of them by a rule; %lu tensors could be nowhere, rules changed %lu times\n",
            w.done, w.refused, w.forbidden, w.nowhere, w.changed);
    if (rounds >= 10) { /* of some rules much is refused, of others nothing */
        cr_assert_gt(w.forbidden, 0);
        cr_assert_lt(w.refused, w.done / 2);
    }
}

#define TIERS "tiers=" RULED_ALL ";log=off;"
#define LARGE TIERS "limit_deva=256K;limit_devb=256K;limit_hosta=384K;limit_hostb=384K;limit_diska=1M;limit_diskb=2M;"
#define SMALL TIERS "limit_deva=1M;limit_devb=1M;limit_hosta=16M;limit_hostb=16M;limit_diska=8M;limit_diskb=8M;"

Test(rules_random, tensors, .timeout = 36000) { run(LARGE, 64 << 10, 40, 1000); }
Test(rules_random, lru, .timeout = 36000) { run(LARGE "policy=lru;prefetch=128K", 64 << 10, 20, 1000); }
Test(rules_random, verified, .timeout = 36000) { run(LARGE "verify=spill", 64 << 10, 20, 1000); }
Test(rules_random, encrypted, .timeout = 36000)
{
    run(LARGE "encrypt=1;limit_hosta=1M", 64 << 10, 20, 1000);
}

Test(rules_random, files, .timeout = 36000)
{
    w.files = true;
    run(LARGE, 64 << 10, 20, 1000);
}

Test(rules_random, changing, .timeout = 36000)
{
    w.changes = w.files = true;
    run(LARGE, 64 << 10, 20, 2000);
}

Test(rules_random, small_tensors, .timeout = 36000)
{
    ruled_lines = true;
    run(SMALL, 24 << 10, 10, 200);
}

Test(rules_random, one_host, .timeout = 36000)
{
    run("tiers=deva:0,devb:0,hosta:0,diska:0;log=off;limit_deva=256K;limit_devb=256K;limit_hosta=384K;limit_diska=2M",
        64 << 10, 20, 1000);
}
