/* test_tiers.c - managers and their tiers: names, order, budgets, settings,
 * statistics and the report; and that a manager leaves nothing behind. */
#include <dirent.h>
#include <fcntl.h>
#include <pthread.h>
#include <stddef.h>
#include <sys/stat.h>

#include "core.h"
#include "manager.h"
#include "simdisk.h"

enum { SIZE = 1 * MIB, HOST_TIER = 0, DISK_TIER = 1 };

/* ---- a folder, and what a process holds -------------------------------------- */

static char folder[64];

static void make_folder(void)
{
    snprintf(folder, sizeof folder, "/var/tmp/terrace-test.XXXXXX");
    cr_assert_not_null(mkdtemp(folder));
}

static void remove_folder(void)
{
    DIR *d = opendir(folder);
    for (struct dirent *e; d && (e = readdir(d));)
        unlinkat(dirfd(d), e->d_name, 0);
    if (d)
        closedir(d);
    rmdir(folder);
}

TestSuite(tiers, .init = make_folder, .fini = remove_folder, .timeout = 60);

static const char *in_folder(const char *name)
{
    static char path[96];
    snprintf(path, sizeof path, "%s/%s", folder, name);
    return path;
}

/* The file's text, "" where there is none. */
static const char *text_of(const char *name)
{
    static char text[16384];
    FILE *f = fopen(in_folder(name), "r");
    text[f ? fread(text, 1, sizeof text - 1, f) : 0] = '\0';
    if (f)
        fclose(f);
    return text;
}

static unsigned count_of(const char *text, const char *part)
{
    unsigned n = 0;
    while ((text = strstr(text, part)) != NULL) {
        n++;
        text += strlen(part);
    }
    return n;
}

static unsigned entries_in(const char *path)
{
    unsigned n = 0;
    DIR *d = opendir(path);
    while (d && readdir(d))
        n++;
    closedir(d);
    return n;
}

/* A ring's workers in the kernel end a little after it. */
static void await_threads(unsigned n)
{
#ifdef __SANITIZE_THREAD__
    n++; /* the sanitizer's own */
#endif
    eventually(entries_in("/proc/self/task") <= n);
}

static bool sentence_has(const char *part)
{
    return strstr(terrace_last_error(), part) != NULL;
}

#define assert_sentence(part) cr_assert(sentence_has(part), "no %s: %s", part, terrace_last_error())

/* ---- backends ------------------------------------------------------------- */

Test(tiers, an_older_table_is_taken_without_its_last_functions)
{
    terrace_backend old = simdisk_backend, copy;
    old.size = offsetof(terrace_backend, attach);
    memset(&old.attach, 0x5a, sizeof old.attach); /* lies behind its end */
    assert_ok(backend_copy(&old, &copy));
    cr_assert(!copy.attach && !copy.detach);
    cr_assert_eq(copy.size, sizeof copy);
    cr_assert_eq(copy.explain, old.explain);
}

Test(tiers, a_newer_table_is_taken_as_far_as_it_is_known)
{
    struct {
        terrace_backend known;
        void (*later)(void);
    } new = {.known = simdisk_backend};
    struct {
        terrace_backend copy;
        void *behind;
    } out = {.behind = &out};
    new.known.size = sizeof new;
    assert_ok(backend_copy(&new.known, &out.copy));
    cr_assert_eq(out.copy.size, sizeof out.copy);
    cr_assert_eq(out.behind, &out);
}

Test(tiers, a_table_of_another_abi_is_refused)
{
    terrace_backend bad = simdisk_backend, copy;
    bad.abi = TERRACE_BACKEND_ABI + 1;
    assert_fails(backend_copy(&bad, &copy), TERRACE_EINVAL);
    bad = simdisk_backend;
    bad.size = offsetof(terrace_backend, explain);
    assert_fails(backend_copy(&bad, &copy), TERRACE_EINVAL);
}

Test(tiers, a_table_that_lacks_something_is_refused)
{
    static const size_t required[] = {
        offsetof(terrace_backend, name),    offsetof(terrace_backend, count),
        offsetof(terrace_backend, open),    offsetof(terrace_backend, close),
        offsetof(terrace_backend, reserve), offsetof(terrace_backend, release),
        offsetof(terrace_backend, commit),  offsetof(terrace_backend, decommit),
        offsetof(terrace_backend, submit),  offsetof(terrace_backend, wait),
        offsetof(terrace_backend, wake),    offsetof(terrace_backend, explain)};
    terrace_backend bad, copy;
    for (size_t i = 0; i < sizeof required / sizeof required[0]; i++) {
        bad = simdisk_backend;
        memset((char *)&bad + required[i], 0, sizeof(void *));
        assert_fails(backend_copy(&bad, &copy), TERRACE_EINVAL);
        if (i)
            assert_sentence("simdisk");
    }
    for (int class = 0; class <= TERRACE_CLASS_DISK + 1; class += TERRACE_CLASS_DISK + 1) {
        bad = simdisk_backend;
        bad.tier_class = class;
        assert_fails(backend_copy(&bad, &copy), TERRACE_EINVAL);
    }
}

/* ---- names ---------------------------------------------------------------- */

Test(tiers, names_of_tiers_kinds_and_classes)
{
    static const char *const names[] = {"numa:0", "simdisk:0", "numa", "simdisk", "host", "disk"};
    terrace *m = open_sim(4 * MIB, NULL);
    terrace_tier found[6];
    char name[16];
    for (int i = 0; i < 6; i++) {
        assert_ok(terrace_tier_find(m, names[i], &found[i]));
        assert_ok(terrace_tier_name(m, found[i], name, sizeof name));
        cr_assert_str_eq(name, names[i]);
        for (int j = 0; j < i; j++)
            cr_assert_neq(found[i], found[j]);
        assert_fails(terrace_tier_name(m, found[i], name, strlen(names[i])), TERRACE_EINVAL);
    }
    cr_assert(found[0] == 0 && found[1] == 1);
    terrace_close(m);
}

Test(tiers, a_name_that_is_not_there_lists_what_is)
{
    static const char *const names[] = {"cuda:0", "device", "numa:7", "num", "numa:", ""};
    terrace *m = open_sim(4 * MIB, NULL);
    terrace_tier out = 99;
    char name[16];
    for (size_t i = 0; i < sizeof names / sizeof names[0]; i++) {
        assert_fails(terrace_tier_find(m, names[i], &out), TERRACE_ENOENT);
        assert_sentence("numa:0, simdisk:0");
    }
    assert_fails(terrace_tier_find(m, NULL, &out), TERRACE_EINVAL);
    assert_fails(terrace_tier_find(m, "numa", NULL), TERRACE_EINVAL);
    cr_assert_eq(out, 99);
    static const terrace_tier bad[] = {-1, 2, TIER_KIND - 1, TIER_KIND + 2, TIER_CLASS,
                                       TIER_CLASS + TERRACE_CLASS_DEVICE, INT32_MAX, INT32_MIN};
    for (size_t i = 0; i < sizeof bad / sizeof bad[0]; i++)
        assert_fails(terrace_tier_name(m, bad[i], name, sizeof name), TERRACE_EINVAL);
    assert_fails(terrace_tier_name(m, 0, NULL, 16), TERRACE_EINVAL);
    terrace_close(m);
}

/* ---- which tiers, in which order -------------------------------------------- */

static void expect_tiers(const char *conf, const char *want)
{
    terrace *m;
    char all[128] = "", name[NAME_TEXT];
    assert_ok(terrace_open(&m, conf));
    for (terrace_tier i = 0; terrace_tier_name(m, i, name, sizeof name) == 0; i++)
        snprintf(all + strlen(all), sizeof all - strlen(all), "%s ", name);
    cr_assert_str_eq(all, want);
    terrace_close(m);
}

Test(tiers, are_in_the_order_asked_for)
{
    char conf[256];
    expect_tiers("tiers=numa:0,simdisk:0", "numa:0 simdisk:0 ");
    expect_tiers("tiers=simdisk:0, numa:0", "simdisk:0 numa:0 ");
    expect_tiers("tiers=simdisk,numa", "simdisk:0 numa:0 ");
    expect_tiers("tiers=numa:0", "numa:0 ");
    snprintf(conf, sizeof conf, "tiers=nvme:0,simdisk:0,numa:0;nvme_path=%s", folder);
    expect_tiers(conf, "nvme:0 simdisk:0 numa:0 ");
}

Test(tiers, are_all_that_there_are_by_default_memory_first)
{
    char conf[256];
    snprintf(conf, sizeof conf, "nvme_path=%s;limit_nvme=64M", folder);
    terrace *m;
    terrace_tier tier;
    assert_ok(terrace_open(&m, conf));
    static const char *const names[] = {"numa:0", "nvme:0", "simdisk:0"};
    for (int i = 0; i < 3; i++)
        assert_ok(terrace_tier_find(m, names[i], &tier));
    int last = 0;
    for (unsigned i = 0; i < m->tiers; i++) {
        cr_assert_leq(last, m->tier[i].backend->tier_class);
        last = m->tier[i].backend->tier_class;
    }
    terrace_close(m);
}

Test(tiers, asked_for_in_vain_is_an_error)
{
    terrace *m = NULL;
    static const struct {
        const char *conf, *named;
    } bad[] = {{"tiers=numa:0,cuda:0", "cuda:0"}, {"tiers=numa:0 simdisk:3", "simdisk:3"},
               {"tiers=nume", "nume"},           {"tiers=numa:00", "numa:00"}};
    for (size_t i = 0; i < sizeof bad / sizeof bad[0]; i++) {
        assert_fails(terrace_open(&m, bad[i].conf), TERRACE_ENOENT);
        assert_sentence(bad[i].named);
        assert_sentence("TERRACE_TIERS");
    }
    cr_assert_null(m);
    assert_fails(terrace_open(NULL, NULL), TERRACE_EINVAL);
}

Test(tiers, the_disk_may_be_the_first)
{
    terrace *m;
    assert_ok(terrace_open(&m, "tiers=simdisk:0,numa:0;limit_numa=2M"));
    terrace_tensor *t[4];
    for (uint64_t i = 0; i < 4; i++) {
        t[i] = tensor_of(m, SIZE, "t");
        write_pattern(t[i], host_of(m), SIZE, i);
    }
    for (uint64_t i = 0; i < 4; i++)
        expect_pattern(t[i], host_of(m), SIZE, i);
    terrace_close(m);
}

Test(tiers, without_a_disk_nothing_is_evicted)
{
    static const char *const confs[] = {"tiers=numa:0;limit_numa=2M",
                                        "tiers=numa:0,simdisk:0;limit_numa=2M;limit_simdisk=1"};
    for (int i = 0; i < 2; i++) {
        terrace *m;
        void *p;
        assert_ok(terrace_open(&m, confs[i]));
        terrace_tensor *t[3] = {tensor_of(m, SIZE, "a"), tensor_of(m, SIZE, "b"), tensor_of(m, SIZE, "c")};
        write_pattern(t[0], 0, SIZE, 0);
        write_pattern(t[1], 0, SIZE, 1);
        assert_fails(terrace_acquire(t[2], 0, TERRACE_READ, NULL, &p, NULL), TERRACE_EBUDGET);
        expect_pattern(t[0], 0, SIZE, 0);
        terrace_tensor_destroy(t[1]);
        write_pattern(t[2], 0, SIZE, 2);
        expect_pattern(t[0], 0, SIZE, 0);
        terrace_close(m);
    }
}

/* ---- budgets ---------------------------------------------------------------- */

Test(tiers, limits_and_where_they_come_from)
{
    static const struct {
        const char *conf;
        terrace_tier tier;
        uint64_t limit;
        const char *reason;
    } cases[] = {
        {"limit_numa=8M", HOST_TIER, 8 * MIB, "TERRACE_LIMIT_NUMA ("},
        {"limit_numa=8M;limit_numa_0=4M", HOST_TIER, 4 * MIB, "TERRACE_LIMIT_NUMA_0 ("},
        {"limit_numa=8M;limit_numa_1=4M", HOST_TIER, 8 * MIB, "TERRACE_LIMIT_NUMA ("},
        {"limit_host=4M", HOST_TIER, 4 * MIB, "TERRACE_LIMIT_HOST ("},
        {"limit_host=4M;limit_numa=8M", HOST_TIER, 4 * MIB, "TERRACE_LIMIT_HOST ("},
        {"limit_host=8M;limit_numa=4M", HOST_TIER, 4 * MIB, "TERRACE_LIMIT_NUMA ("},
        {"limit_numa=4M", DISK_TIER, UINT64_C(4) << 30, "simulated"},
        {"limit_simdisk=50%", DISK_TIER, UINT64_C(2) << 30, "TERRACE_LIMIT_SIMDISK ("},
        {"limit_disk=25%", DISK_TIER, UINT64_C(1) << 30, "TERRACE_LIMIT_DISK ("},
        {"limit_simdisk=1G;limit_host=1M", DISK_TIER, UINT64_C(1) << 30, "default: 4.0 GiB; simulated"},
        {"limit_simdisk=4095", DISK_TIER, 0, "TERRACE_LIMIT_SIMDISK ("}, /* not a page */
    };
    for (size_t i = 0; i < sizeof cases / sizeof cases[0]; i++) {
        char conf[128];
        terrace *m;
        snprintf(conf, sizeof conf, "tiers=numa:0,simdisk:0;%s", cases[i].conf);
        assert_ok(terrace_open(&m, conf));
        terrace_tier_statistics s = tier_stats_of(m, cases[i].tier);
        cr_assert_eq(s.limit, cases[i].limit, "%s: %llu", conf, (unsigned long long)s.limit);
        cr_assert(strstr(s.limit_reason, cases[i].reason), "%s: %s", conf, s.limit_reason);
        terrace_close(m);
    }
}

Test(tiers, a_limit_of_the_real_disk)
{
    char more[128];
    snprintf(more, sizeof more, "nvme_path=%s;limit_nvme=64M", folder);
    terrace *m = open_with("numa:0,nvme:0", 2 * MIB, more);
    terrace_tier_statistics s = tier_stats_of(m, DISK_TIER);
    cr_assert_eq(s.limit, 64 * MIB);
    cr_assert(strstr(s.limit_reason, "TERRACE_LIMIT_NVME ("), "%s", s.limit_reason);
    cr_assert(strstr(s.location, folder), "%s", s.location);
    cr_assert(*s.engine && *s.engine_reason);
    terrace_close(m);
}

Test(tiers, the_default_host_budget_says_what_it_was_made_of)
{
    terrace *m;
    assert_ok(terrace_open(&m, "tiers=numa:0"));
    terrace_tier_statistics all = tier_stats_of(m, 0);
    cr_assert(all.limit > 0 && *all.limit_reason);
    terrace_close(m);
    assert_ok(terrace_open(&m, "tiers=numa:0;limit_numa=10%"));
    terrace_tier_statistics tenth = tier_stats_of(m, 0);
    terrace_close(m);
    cr_assert(tenth.limit > all.limit / 20 && tenth.limit < all.limit / 5);
}

Test(tiers, the_environment_sets_limits_and_conf_goes_over_it)
{
    terrace *m;
    setenv("TERRACE_TIERS", "numa:0", 1);
    setenv("TERRACE_LIMIT_NUMA", "8M", 1);
    assert_ok(terrace_open(&m, NULL));
    cr_assert_eq(tier_stats_of(m, 0).limit, 8 * MIB);
    terrace_close(m);
    assert_ok(terrace_open(&m, "limit_numa=4M"));
    cr_assert_eq(tier_stats_of(m, 0).limit, 4 * MIB);
    terrace_close(m);
}

Test(tiers, a_limit_beyond_all_addresses_is_an_error)
{
    static const char *const limits[] = {"4E", "1E", "200T", "15E"};
    terrace *m = NULL;
    for (int i = 0; i < 4; i++) {
        char conf[64];
        snprintf(conf, sizeof conf, "tiers=numa:0;limit_numa=%s", limits[i]);
        assert_fails(terrace_open(&m, conf), TERRACE_ENOMEM);
        assert_sentence("numa:0");
        assert_sentence("TERRACE_LIMIT_");
    }
    cr_assert_null(m);
}

/* ---- settings through terrace_open ------------------------------------------- */

enum kind { CHOICE, BOOL, SIZED, TEXT, PATHS };
#define SIZE SIZED /* as options.def says it */
enum status { HERE, LATER };

static const struct row {
    const char *name, *example;
    enum kind kind;
    enum status status;
} rows[] = {
#define OPTION(id, name, kind, fallback, choices, example, meaning, status) \
    {name, example, kind, status},
#include "options.def"
#undef OPTION
};
#undef SIZE
enum { ROWS = sizeof rows / sizeof rows[0] };

/* A value that `row` cannot take, and the error; 0: it takes any. */
static int bad_value(const struct row *row, const char **value)
{
    *value = row->kind == SIZED ? "lots" : "nonsense";
    if (row->status == LATER) {
        *value = row->example;
        return TERRACE_ENOTSUP;
    }
    if (row->kind != TEXT && row->kind != PATHS)
        return TERRACE_ECONFIG;
    *value = "/proc/nonsense/x";
    if (!strcmp(row->name, "TIERS") || !strcmp(row->name, "BACKENDS") || !strcmp(row->name, "SHARED"))
        return TERRACE_ENOENT;
    return !strcmp(row->name, "REPORT") || !strcmp(row->name, "SCHEDULE") || !strcmp(row->name, "TRACE") ? 0 : TERRACE_ECONFIG;
}

Test(tiers, a_bad_value_of_any_setting_leaves_nothing_behind)
{
    char conf[256], name[64];
    terrace *m = NULL;
    snprintf(conf, sizeof conf, "nvme_path=%s;limit_numa=4M", folder);
    assert_ok(terrace_open(&m, conf));
    terrace_close(m);
    m = NULL;
    unsigned files = entries_in("/proc/self/fd"), threads = entries_in("/proc/self/task");
    unsigned checked = 0;
    for (int i = 0; i < ROWS; i++) {
        const char *value;
        int error = bad_value(&rows[i], &value);
        if (!error)
            continue;
        checked++;
        snprintf(name, sizeof name, "TERRACE_%s", rows[i].name);
        setenv(name, value, 1);
        bool path = !strcmp(rows[i].name, "NVME_PATH");
        snprintf(conf, sizeof conf, "limit_numa=4M;nvme_path=%s", path ? value : folder);
        int r = terrace_open(&m, conf);
        cr_assert_eq(r, -error, "%s=%s gave %s: %s", name, value, terrace_strerror(r),
                     terrace_last_error());
        assert_sentence(value);
        cr_assert_null(m);
        cr_assert_eq(entries_in("/proc/self/fd"), files, "%s=%s leaves a file open", name, value);
        await_threads(threads);
        unsetenv(name);
    }
    cr_assert_geq(checked, ROWS - 3);
    cr_assert_eq(entries_in(folder), 2, "a file is left");
}

Test(tiers, an_unknown_variable_is_warned_about_once_with_the_nearest)
{
    char conf[160];
    terrace *m;
    setenv("TERRACE_POLICI", "lru", 1);
    snprintf(conf, sizeof conf, "tiers=numa:0;limit_numa=4M;log_file=%s", in_folder("log"));
    assert_ok(terrace_open(&m, conf));
    terrace_close(m);
    const char *log = text_of("log");
    cr_assert_eq(count_of(log, "\n"), 1, "%s", log);
    cr_assert_eq(count_of(log, "TERRACE_POLICI"), 1, "%s", log);
    cr_assert_eq(count_of(log, "TERRACE_POLICY"), 1, "%s", log);
    snprintf(conf, sizeof conf, "tiers=numa:0;limit_numa=4M;polici=lru");
    assert_fails(terrace_open(&m, conf), TERRACE_ECONFIG);
    assert_sentence("policy");
}

Test(tiers, the_log_tells_each_tier_at_info)
{
    char more[160];
    snprintf(more, sizeof more, "log=info;log_file=%s", in_folder("log"));
    terrace_close(open_sim(4 * MIB, more));
    const char *log = text_of("log");
    cr_assert(strstr(log, "numa:0: ") && strstr(log, "simdisk:0: ") && strstr(log, "TERRACE_LIMIT_NUMA"),
              "%s", log);
}

/* ---- nothing is left behind -------------------------------------------------- */

/* Four tensors of a megabyte through the budget, which is smaller. */
static void use_a_little(terrace *m)
{
    terrace_tensor *t[4];
    for (uint64_t i = 0; i < 4; i++) {
        t[i] = tensor_of(m, SIZE, "t");
        write_pattern(t[i], host_of(m), SIZE, i);
    }
    for (uint64_t i = 0; i < 4; i++)
        expect_pattern(t[i], host_of(m), SIZE, i);
}

Test(tiers, opening_and_closing_leaks_nothing)
{
    static const char *const more[] = {"io=threads", "io=auto", "verify=all", "encrypt=1"};
    unsigned files = 0, threads = entries_in("/proc/self/task");
    for (int i = 0; i < 40; i++) {
        char conf[300];
        snprintf(conf, sizeof conf, "%s;nvme_path=%s;limit_nvme=64M;report=%s/report;log_file=%s/log",
                 more[i % 4], folder, folder, folder);
        bool staging = strstr(conf, "encrypt") != NULL; /* takes a piece of the budget */
        terrace *m = open_with("numa:0,nvme:0", staging ? 5 * MIB : 2 * MIB, conf);
        use_a_little(m); /* its tensors are left to terrace_close() */
        terrace_close(m);
        if (i == 3) /* libraries have opened what they keep */
            files = entries_in("/proc/self/fd");
    }
    cr_assert_eq(entries_in("/proc/self/fd"), files);
    await_threads(threads);
    cr_assert_eq(entries_in(folder), 2 + 2, "a spill file is left");
    terrace_close(NULL);
}

struct job {
    terrace *m;
    uint64_t seed;
    pthread_t thread;
};

static void *job_main(void *arg)
{
    struct job *job = arg;
    enum { N = 8 };
    terrace_tensor *t[N];
    for (uint64_t i = 0; i < N; i++)
        t[i] = tensor_of(job->m, SIZE, "t");
    for (int round = 0; round < 5; round++) {
        for (uint64_t i = 0; i < N; i++)
            write_pattern(t[i], 0, SIZE, job->seed + i);
        for (uint64_t i = 0; i < N; i++)
            expect_pattern(t[i], 0, SIZE, job->seed + i);
    }
    return NULL;
}

Test(tiers, several_managers_do_not_mind_each_other, .timeout = 120)
{
    enum { N = 4 };
    struct job job[N];
    char more[128];
    snprintf(more, sizeof more, "nvme_path=%s;limit_nvme=64M", folder);
    for (uint64_t i = 0; i < N; i++)
        job[i] = (struct job){.m = open_with("numa:0,nvme:0", 3 * MIB, more), .seed = 100 * i};
    for (int i = 0; i < N; i++)
        pthread_create(&job[i].thread, NULL, job_main, &job[i]);
    for (int i = 0; i < N; i++)
        pthread_join(job[i].thread, NULL);
    terrace_access list[2];
    for (int i = 0; i < 2; i++)
        list[i] = (terrace_access){.size = sizeof list[i], .tensor = tensor_of(job[i].m, SIZE, "t"),
                                   .mode = TERRACE_READ};
    assert_fails(terrace_acquire_all(list, 2, NULL), TERRACE_EINVAL);
    assert_sentence("another manager");
    for (int i = 0; i < N; i++) {
        cr_assert_leq(tier_stats_of(job[i].m, 0).peak, 3 * MIB);
        cr_assert_eq(stats_of(job[i].m).tensors, i < 2 ? 9 : 8);
        terrace_close(job[i].m);
    }
}

/* ---- statistics -------------------------------------------------------------- */

Test(tiers, stats_fill_as_much_as_the_caller_knows)
{
    struct {
        terrace_statistics s;
        unsigned char behind[64];
    } out;
    terrace *m = open_sim(2 * MIB, NULL);
    use_a_little(m);
    terrace_statistics all = stats_of(m);
    memset(&out, 0x5a, sizeof out);
    out.s.size = offsetof(terrace_statistics, hits);
    assert_ok(terrace_stats(m, &out.s));
    cr_assert_eq(out.s.size, offsetof(terrace_statistics, hits));
    cr_assert_eq(out.s.tensors, 4);
    cr_assert_eq(out.s.acquires, all.acquires);
    cr_assert_eq(out.s.hits, UINT64_C(0x5a5a5a5a5a5a5a5a), "more was written than there is");
    out.s.size = sizeof out;
    assert_ok(terrace_stats(m, &out.s));
    cr_assert_eq(out.s.corrupt, 0);
    cr_assert_eq(out.s.fill_bytes, all.fill_bytes);
    for (size_t i = 0; i < sizeof out.behind; i++)
        cr_assert_eq(out.behind[i], 0x5a);
    out.s.size = 0;
    assert_fails(terrace_stats(m, &out.s), TERRACE_EINVAL);
    assert_fails(terrace_stats(m, NULL), TERRACE_EINVAL);
    assert_fails(terrace_stats(NULL, &out.s), TERRACE_EINVAL);
    terrace_close(m);
}

Test(tiers, tier_stats_fill_as_much_as_the_caller_knows)
{
    struct {
        terrace_tier_statistics s;
        unsigned char behind[64];
    } out;
    terrace *m = open_sim(2 * MIB, NULL);
    memset(&out, 0x5a, sizeof out);
    out.s.size = offsetof(terrace_tier_statistics, limit);
    assert_ok(terrace_tier_stats(m, 0, &out.s));
    cr_assert_str_eq(out.s.name, "numa:0");
    cr_assert_eq(out.s.limit, UINT64_C(0x5a5a5a5a5a5a5a5a));
    out.s.size = sizeof out;
    assert_ok(terrace_tier_stats(m, 1, &out.s));
    cr_assert_str_eq(out.s.kind, "simdisk");
    cr_assert_str_eq(out.s.tier_class, "disk");
    cr_assert_eq(out.s.io_chunk, SIMDISK_CHUNK);
    cr_assert_eq(out.s.io_depth, SIMDISK_DEPTH);
    cr_assert_eq(out.behind[0], 0x5a);
    static const terrace_tier bad[] = {-1, 2, TIER_KIND, TIER_CLASS + TERRACE_CLASS_HOST};
    for (size_t i = 0; i < sizeof bad / sizeof bad[0]; i++)
        assert_fails(terrace_tier_stats(m, bad[i], &out.s), TERRACE_EINVAL);
    out.s.size = 8;
    assert_fails(terrace_tier_stats(m, 0, &out.s), TERRACE_EINVAL);
    assert_fails(terrace_tier_stats(m, 0, NULL), TERRACE_EINVAL);
    terrace_close(m);
}

Test(tiers, stats_tell_where_the_bytes_are)
{
    terrace *m = open_sim(4 * MIB, NULL);
    terrace_tensor *t[3];
    void *p;
    for (uint64_t i = 0; i < 3; i++) {
        t[i] = tensor_of(m, SIZE, "t");
        write_pattern(t[i], 0, SIZE, i);
    }
    push_down(t[0], m);
    assert_ok(terrace_acquire(t[1], 0, TERRACE_WRITE, NULL, &p, NULL));
    terrace_tier_statistics host = tier_stats_of(m, 0), disk = tier_stats_of(m, 1);
    cr_assert(host.tensors == 2 && host.pinned == SIZE && host.dirty == 2 * SIZE);
    cr_assert(host.out_bytes == SIZE && host.in_bytes == 0 && host.peak == 3 * SIZE);
    cr_assert(disk.tensors == 1 && disk.in_bytes == SIZE && disk.out_bytes == 0 && disk.pinned == 0);
    expect_pattern(t[0], 0, SIZE, 0);
    host = tier_stats_of(m, 0), disk = tier_stats_of(m, 1);
    cr_assert(host.tensors == 3 && host.in_bytes == SIZE && host.dirty == 2 * SIZE);
    cr_assert_eq(disk.out_bytes, SIZE);
    terrace_statistics s = stats_of(m);
    cr_assert(s.tensors == 3 && s.tensor_bytes == 3 * SIZE && s.acquires == 5 && s.hits == 4);
    cr_assert(s.writeback_bytes == SIZE && s.fill_bytes == SIZE && s.stall_ns > 0);
    terrace_close(m);
}

/* ---- the report, and silence ------------------------------------------------- */

Test(tiers, a_report_is_appended_to_its_file)
{
    char more[160];
    struct stat is;
    snprintf(more, sizeof more, "report=%s", in_folder("report"));
    for (unsigned i = 1; i <= 2; i++) {
        terrace *m = open_sim(2 * MIB, more);
        use_a_little(m);
        terrace_close(m);
        const char *report = text_of("report");
        cr_assert_eq(count_of(report, "terrace " TERRACE_VERSION " report"), i, "%s", report);
        cr_assert_eq(count_of(report, "numa:0   node"), i, "%s", report);
        cr_assert(strstr(report, "simdisk:0") && strstr(report, "acquires 8") &&
                  strstr(report, "read back 4.0 MiB"), "%s", report);
    }
    cr_assert_eq(stat(in_folder("report"), &is), 0);
    cr_assert_eq(is.st_mode & 0777, 0600);
}

Test(tiers, a_report_that_cannot_be_written_is_logged)
{
    char more[192];
    snprintf(more, sizeof more, "report=/proc/nonsense/report;log_file=%s", in_folder("log"));
    terrace_close(open_sim(2 * MIB, more));
    const char *log = text_of("log");
    cr_assert(strstr(log, "TERRACE_REPORT=/proc/nonsense/report") && count_of(log, "\n") == 1, "%s", log);
    snprintf(more, sizeof more, "report=/dev/full;log_file=%s", in_folder("log"));
    terrace_close(open_sim(2 * MIB, more));
    cr_assert(strstr(text_of("log"), "TERRACE_REPORT=/dev/full"), "%s", text_of("log"));
}

/* What a job prints, by descriptor: standard output and error go to a file. */
static const char *printed_by(const char *more)
{
    int kept[2] = {dup(1), dup(2)};
    int file = open(in_folder("printed"), O_WRONLY | O_CREAT | O_TRUNC | O_APPEND, 0600);
    fflush(NULL);
    dup2(file, 1), dup2(file, 2);
    terrace *m = open_sim(2 * MIB, more);
    use_a_little(m);
    terrace_close(m);
    fflush(NULL);
    dup2(kept[0], 1), dup2(kept[1], 2);
    close(file), close(kept[0]), close(kept[1]);
    return text_of("printed");
}

Test(tiers, a_job_that_goes_well_prints_nothing)
{
    cr_assert_str_eq(printed_by(NULL), "");
    cr_assert_str_eq(printed_by("report=0;verify=spill"), "");
    cr_assert_neq(access("0", F_OK), 0);
    cr_assert(strstr(printed_by("report=1"), "terrace " TERRACE_VERSION " report"));
}

Test(tiers, a_list_that_names_none_is_refused)
{
    terrace *m;
    assert_fails(terrace_open(&m, "tiers=,"), TERRACE_ENOENT);
    cr_assert(strstr(terrace_last_error(), "TERRACE_TIERS"), "%s", terrace_last_error());
}

/* 2 MiB each: the second and the fourth are free, between those in use. */
Test(tiers, what_an_arena_holds_is_told)
{
    enum { N = 5 };
    terrace *m = open_sim(N * 2 * MIB, NULL);
    terrace_tensor *t[N];
    for (int i = 0; i < N; i++) {
        t[i] = tensor_of(m, 2 * MIB, "t");
        write_pattern(t[i], 0, 2 * MIB, 1);
    }
    terrace_tier_statistics s = tier_stats_of(m, 0);
    cr_assert(s.extents == N && s.cached == 0 && s.cached_pieces == 0 && s.largest_cached == 0);
    terrace_tensor_destroy(t[1]);
    terrace_tensor_destroy(t[3]);
    s = tier_stats_of(m, 0);
    cr_assert(s.extents == N - 2 && s.cached == 4 * MIB && s.used == N * 2 * MIB);
    cr_assert(s.cached_pieces == 2 && s.largest_cached == 2 * MIB, "%llu pieces, the largest %llu",
              (unsigned long long)s.cached_pieces, (unsigned long long)s.largest_cached);
    terrace_tensor_destroy(t[2]);
    s = tier_stats_of(m, 0);
    cr_assert(s.extents == N - 3 && s.cached_pieces == 1 && s.largest_cached == 6 * MIB);
    cr_assert_eq(tier_stats_of(m, 1).extents, 0, "the disk's is another");
    terrace_close(m);
}

Test(tiers, memory_that_is_not_needed_goes_back)
{
    terrace *m = open_sim(32 * MIB, NULL);
    terrace_tensor *t = tensor_of(m, 16 * MIB, "t");
    write_pattern(t, 0, 16 * MIB, 1);
    terrace_tensor_destroy(t);
    for (int i = 0; i < 100 && tier_stats_of(m, 0).used; i++) {
        usleep(100000);
        assert_ok(terrace_step(m));
    }
    cr_assert_eq(tier_stats_of(m, 0).used, 0);
    cr_assert_eq(tier_stats_of(m, 0).cached, 0);
    cr_assert_eq(tier_stats_of(m, 0).peak, 16 * MIB);
    terrace_close(m);
}
