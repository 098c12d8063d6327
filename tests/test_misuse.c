/* test_misuse.c - arguments that cannot be meant: each is an error that says what
 * is wrong, and changes nothing. */
#include "manager.h"
#include "simdisk.h"

enum { BUDGET = 32 * MIB };

static void expect_sentence(const char *part)
{
    cr_assert(strstr(terrace_last_error(), part), "\"%s\" does not say \"%s\"", terrace_last_error(), part);
}

Test(misuse, sizes)
{
    static const size_t sizes[] = {0, SIZE_MAX, SIZE_MAX / 2, SIZE_MAX - 4095};
    terrace *m = open_sim(BUDGET, NULL);
    terrace_tensor *t = NULL;
    for (unsigned i = 0; i < sizeof sizes / sizeof *sizes; i++) {
        char text[32];
        snprintf(text, sizeof text, "%zu bytes", sizes[i]);
        assert_fails(terrace_tensor_create(m, sizes[i], NULL, &t), TERRACE_EINVAL);
        expect_sentence(text);
        cr_assert_null(t);
        cr_assert_null(terrace_malloc(m, sizes[i], 0, NULL));
    }
    assert_fails(terrace_tensor_create(m, 4096, NULL, NULL), TERRACE_EINVAL);
    assert_fails(terrace_tensor_create(NULL, 4096, NULL, &t), TERRACE_EINVAL);
    cr_assert_eq(stats_of(m).tensors, 0);
    terrace_close(m);
}

Test(misuse, what_fits_no_budget_is_told_when_it_is_acquired)
{
    terrace *m = open_sim(BUDGET, NULL);
    terrace_tensor *t = tensor_of(m, SIZE_MAX / 8, "huge");
    void *p = NULL;
    assert_fails(terrace_acquire(t, 0, TERRACE_OVERWRITE, NULL, &p, NULL), TERRACE_EBUDGET);
    expect_sentence("'huge'");
    expect_sentence("TERRACE_LIMIT_NUMA");
    cr_assert_null(p);
    terrace_close(m);
}

Test(misuse, alignments)
{
    static const size_t alignments[] = {3, 48, 4 * MIB, SIZE_MAX, (SIZE_MAX >> 1) + 1};
    terrace *m = open_sim(BUDGET, NULL);
    terrace_tensor *t = NULL;
    for (unsigned i = 0; i < sizeof alignments / sizeof *alignments; i++) {
        terrace_tensor_attr attr = {.size = sizeof attr, .alignment = alignments[i]};
        assert_fails(terrace_tensor_create(m, 100, &attr, &t), TERRACE_EINVAL);
        expect_sentence("power of two");
        cr_assert_null(t);
    }
    terrace_close(m);
}

Test(misuse, addresses)
{
    terrace *m = open_sim(BUDGET, NULL);
    static const size_t sizes[] = {100, 4096, 3 * MIB};
    for (unsigned i = 0; i < 3; i++) {
        terrace_tensor *t = tensor_of(m, sizes[i], "t");
        char *p;
        assert_ok(terrace_acquire(t, 0, TERRACE_OVERWRITE, NULL, (void **)&p, NULL));
        assert_fails(terrace_release(t, p + 1, NULL), TERRACE_EINVAL);
        expect_sentence("'t' is not acquired at");
        assert_fails(terrace_release(t, NULL, NULL), TERRACE_EINVAL);
        assert_ok(terrace_release(t, p, NULL));
        assert_fails(terrace_release(t, p, NULL), TERRACE_EINVAL);
    }
    terrace_close(m);
}

Test(misuse, tiers)
{
    static const terrace_tier none[] = {-1, 2, 999, 0x10000 + 2, 0x10000 + 999, 0x20000, 0x20000 + 9, INT32_MIN,
                                        INT32_MAX};
    terrace *m = open_sim(BUDGET, NULL);
    terrace_tier tier;
    terrace_tier_statistics s = {.size = sizeof s};
    for (unsigned small = 0; small < 2; small++) {
        terrace_tensor *t = tensor_of(m, small ? 100 : MIB, "t");
        for (unsigned i = 0; i < sizeof none / sizeof *none; i++) {
            void *p = NULL;
            assert_fails(terrace_acquire(t, none[i], TERRACE_WRITE, NULL, &p, NULL), TERRACE_EINVAL);
            expect_sentence("is not a tier of this manager");
            assert_fails(terrace_prefetch(t, none[i]), TERRACE_EINVAL);
            assert_fails(terrace_demote(t, none[i]), TERRACE_EINVAL);
            assert_fails(terrace_tier_stats(m, none[i], &s), TERRACE_EINVAL);
            cr_assert_null(p);
        }
    }
    assert_fails(terrace_tier_find(m, "numa:7", &tier), TERRACE_ENOENT); /* an absent node */
    expect_sentence("numa:0");
    terrace_close(m);
    assert_fails(terrace_open(&m, "tiers=numa:7,simdisk:0"), TERRACE_ENOENT);
    expect_sentence("numa:7");
}

#ifdef NDEBUG
enum { ASSERTIONS = 0 };
#else
enum { ASSERTIONS = 1 };
#endif

static void expect_destroyed(terrace_tensor *t)
{
    terrace_access access = {.size = sizeof access, .tensor = t, .mode = TERRACE_READ};
    void *p;
    terrace_tensor_destroy(t);
    expect_sentence("has been destroyed");
    assert_fails(terrace_acquire(t, 0, TERRACE_READ, NULL, &p, NULL), TERRACE_EINVAL);
    expect_sentence("has been destroyed");
    assert_fails(terrace_acquire_all(&access, 1, NULL), TERRACE_EINVAL);
    assert_fails(terrace_release(t, p, NULL), TERRACE_EINVAL);
    assert_fails(terrace_prefetch(t, 0), TERRACE_EINVAL);
    assert_fails(terrace_demote(t, 1), TERRACE_EINVAL);
    assert_fails(terrace_wait(t), TERRACE_EINVAL);
}

Test(misuse, destroyed_twice)
{
    if (!ASSERTIONS)
        cr_skip_test("built without assertions");
    static const size_t sizes[] = {100, 4096, 3 * MIB};
    terrace *m = open_sim(BUDGET, NULL);
    terrace_tensor *other = tensor_of(m, 100, "other"), *left = tensor_of(m, MIB, "left");
    write_pattern(other, 0, 100, 1);
    for (unsigned i = 0; i < 3; i++) {
        terrace_tensor *t = tensor_of(m, sizes[i], "t");
        write_pattern(t, 0, sizes[i], 2);
        terrace_tensor_destroy(t);
        expect_destroyed(t);
    }
    cr_assert_eq(stats_of(m).tensors, 2);
    expect_pattern(other, 0, 100, 1);
    terrace_close(m);
    expect_destroyed(left); /* with its manager */
}

Test(misuse, destroyed_twice_while_acquired)
{
    static const size_t sizes[] = {100, 3 * MIB};
    terrace *m = open_sim(BUDGET, NULL);
    for (unsigned i = 0; i < 2; i++) {
        terrace_tensor *t = tensor_of(m, sizes[i], "t");
        void *p;
        assert_ok(terrace_acquire(t, 0, TERRACE_OVERWRITE, NULL, &p, NULL));
        terrace_tensor_destroy(t);
        terrace_tensor_destroy(t);
        memset(p, 1, sizes[i]);
        assert_ok(terrace_release(t, p, NULL));
    }
    cr_assert_eq(stats_of(m).tensors, 0);
    cr_assert_eq(tier_stats_of(m, 0).extents, 0);
    terrace_close(m);
}
