/* peer_cases.h - from one device to another of the same make, on a simulated runtime or
 * driver: straight where that works, else through the host, and never other bytes.
 *
 * A program has what runtime_tier_cases.h has; PEER_COPY is the name of the
 * function that copies between devices, where that is one of its own. */
#ifndef TERRACE_TESTS_PEER_CASES_H
#define TERRACE_TESTS_PEER_CASES_H

static terrace_tier twin[2];

static void open_two(const char *more)
{
    char conf[200];
    sim_set("DEVICES", 2);
    prepare_kind();
    snprintf(conf, sizeof conf, "limit_device=64M;%s", more);
    d.m = open_with(KIND ":0," KIND ":1,numa:0,simdisk:0", 64 * MIB, conf);
    assert_ok(terrace_tier_find(d.m, KIND ":0", &twin[0]));
    assert_ok(terrace_tier_find(d.m, KIND ":1", &twin[1]));
    d.host = host_of(d.m);
}

static void carry(terrace_tensor *t, size_t bytes, unsigned from, uint64_t seed)
{
    d.dev = twin[from];
    device_write(t, bytes, seed, TERRACE_OVERWRITE);
    d.dev = twin[!from];
    device_expect(t, bytes, seed);
}

/* Whether bytes go that way, which is what is told. */
static void goes(bool straight)
{
    char way[80];
    struct sim_counts before, after;
    enum { BYTES = 5 * MIB + 4096 };
    terrace_tensor *t = tensor_of(d.m, BYTES, "t");
    for (unsigned from = 0; from < 2; from++) {
        assert_ok(terrace_route(d.m, twin[from], twin[!from], way, sizeof way));
        cr_assert_str_eq(way, straight ? "direct, device to device" : "through staging memory of numa:0");
        sim_count(&before);
        carry(t, BYTES, from, 100 + from);
        sim_count(&after);
        cr_assert_eq(after.bytes[SIM_DTOD] - before.bytes[SIM_DTOD] >= BYTES, straight);
        cr_assert_eq(after.bytes[SIM_DTOH] - before.bytes[SIM_DTOH] < BYTES, straight);
    }
    terrace_tensor_destroy(t);
}

Test(peers, devices_of_one_make_copy_straight, .timeout = 60)
{
    open_two("");
    goes(true);
    close_device();
}

Test(peers, devices_that_do_not_reach_each_other, .timeout = 60)
{
    sim_set("PEER", 0);
    open_two("");
    goes(false);
    close_device();
}

Test(peers, devices_that_are_not_to_copy_straight, .timeout = 60)
{
    open_two("peer=off");
    goes(false);
    close_device();
}

Test(peers, devices_between_which_bytes_change, .timeout = 60)
{
    sim_set("CORRUPT", 2);
    open_two("");
    goes(false);
    close_device();
}

#ifdef PEER_COPY
/* What was begun straight goes on through the host, and so does all that follows. */
static bool is_straight(unsigned from)
{
    char way[80];
    assert_ok(terrace_route(d.m, twin[from], twin[!from], way, sizeof way));
    return strstr(way, "direct");
}

/* A way that has been found slower is tried only now and then. */
Test(peers, copies_between_devices_that_begin_to_fail, .timeout = 60)
{
    open_two("");
    terrace_tensor *t = tensor_of(d.m, 6 * MIB, "t");
    carry(t, 6 * MIB, 0, 1);
    sim_fail(PEER_COPY, 2, 0, INVALID);
    for (uint64_t i = 2; i < 8 || (i < 1000 && (is_straight(0) || is_straight(1))); i++)
        carry(t, 6 * MIB, i % 2, i);
    sim_fail(PEER_COPY, 0, 0, 0);
    goes(false);
    close_device();
}
#endif

/* Kernels of both devices, one after the other, as the bytes go to and fro. */
struct twin_kernel {
    uint64_t address;
    size_t bytes;
    uint64_t before, after;
};
static atomic_uint twin_wrong;

static void twin_run(void *arg)
{
    struct twin_kernel *k = arg;
    void *p = sim_memory(k->address, k->bytes);
    if (!p || !pattern_is(p, k->bytes, k->before))
        atomic_fetch_add(&twin_wrong, 1);
    else
        pattern_fill(p, k->bytes, k->after);
    free(k);
}

Test(peers, kernels_of_two_devices_take_turns, .timeout = 120)
{
    enum { BYTES = 3 * MIB, TURNS = 60 };
    open_two("");
    terrace_tensor *t[2] = {tensor_of(d.m, BYTES, "a"), tensor_of(d.m, BYTES, "b")};
    void *p;
    for (int i = 0; i < 2; i++)
        write_pattern(t[i], d.host, BYTES, 1);
    for (uint64_t turn = 1; turn <= TURNS; turn++)
        for (unsigned i = 0; i < 2; i++) {
            unsigned on = (turn + i) % 2;
            struct twin_kernel *k = malloc(sizeof *k);
            device_set((int)on);
            assert_ok(terrace_acquire(t[i], twin[on], TERRACE_WRITE | TERRACE_WAIT, NULL, &p, NULL));
            *k = (struct twin_kernel){(uintptr_t)p, BYTES, turn, turn + 1};
            cr_assert_eq(sim_launch(NULL, twin_run, k, 20000), 0);
            assert_ok(terrace_release(t[i], p, NULL));
        }
    for (int i = 0; i < 2; i++)
        expect_pattern(t[i], d.host, BYTES, TURNS + 1);
    cr_assert_eq(twin_wrong, 0);
    close_device();
}

#endif
