/* test_opencl.c - the OpenCL tier by itself: the conformance suite on the device
 * that is here (PoCL computes on the CPU), what is said where there is none, and what
 * becomes of OpenCL's failures, which the test makes in the table of its functions. */
#define _GNU_SOURCE
#include <dlfcn.h>
#include <stdatomic.h>
#include <sys/wait.h>

#include "conformance.h"
#include "opencl_here.h"

static void name_opencl(void)
{
    opencl_needed();
    stub_tiers = "opencl";
}

CONFORMANCE(opencl, .backend = "opencl", .prepare = name_opencl)

/* As on a device whose queues work in order, by OpenCL 1.2. */
static opencl_int (*true_device_info)(opencl_device, opencl_uint, size_t, void *, size_t *);

static opencl_int in_order_info(opencl_device device, opencl_uint what, size_t size, void *value, size_t *got)
{
    opencl_int r = true_device_info(device, what, size, value, got);
    if (r == 0 && what == OPENCL_DEVICE_QUEUE_PROPERTIES)
        *(opencl_bits *)value &= ~(opencl_bits)OPENCL_QUEUE_OUT_OF_ORDER_EXEC_MODE_ENABLE;
    return r;
}

static void name_opencl_in_order(void)
{
    name_opencl();
    true_device_info = opencl.device_info;
    opencl.device_info = in_order_info;
    opencl.queue_create_with = NULL;
}

CONFORMANCE(opencl_in_order, .backend = "opencl", .prepare = name_opencl_in_order)

static void unit_open(void)
{
    name_opencl();
    t.b = backend_named("opencl");
    t.info = (terrace_unit_info){.size = sizeof t.info, .node = -1};
    cr_assert_eq(t.b->open(&stub_host, 0, &t.info, &t.unit), 0, "%s", stub.sentence);
}

/* ---- what is there ------------------------------------------------------- */

Test(opencl_found, a_device_that_computes_on_the_cpu_is_named)
{
    struct opencl_found list[OPENCL_MOST];
    char why[300];
    opencl_needed();
    t.b = backend_named("opencl");
    int n = opencl_find(list, why, sizeof why);
    for (int i = 0; i < n; i++)
        if (!list[i].aside)
            cr_skip_test("not run: there is a device that is a tier by itself");
    cr_assert_eq(t.b->count(&stub_host), 0);
    cr_assert(strstr(stub.sentence, "TERRACE_TIERS"), "%s", stub.sentence);
    static const char *const named[] = {"opencl", "numa:0,opencl:0", "opencl:0, numa:0", "opencl,nvme"};
    for (size_t i = 0; i < sizeof named / sizeof *named; i++) {
        stub_tiers = named[i];
        cr_assert_eq(t.b->count(&stub_host), n, "%s", named[i]);
    }
    stub_tiers = "openclx:0,numa";
    cr_assert_eq(t.b->count(&stub_host), 0);
}

Test(opencl_found, says_what_it_is)
{
    unit_open();
    cr_assert(strstr(t.info.location, ", of ") && strstr(t.info.location, "driver"), "%s", t.info.location);
    cr_assert_eq(strncmp(t.info.engine, "OpenCL ", 7), 0, "%s", t.info.engine);
    cr_assert(t.info.capacity > 0 && t.info.capacity_reason[0]);
    t.b->close(t.unit);
}

/* Nobody is to see anything of it, whatever the loader thinks. */
static int count_silently(void)
{
    int pipes[2], n;
    char text[100];
    cr_assert_eq(pipe(pipes), 0);
    int out = dup(1), err = dup(2);
    dup2(pipes[1], 1);
    dup2(pipes[1], 2);
    n = backend_named("opencl")->count(&stub_host);
    fflush(NULL);
    dup2(out, 1);
    dup2(err, 2);
    close(pipes[1]);
    cr_assert_eq(read(pipes[0], text, sizeof text), 0, "it prints");
    return n;
}

Test(opencl_found, no_platform)
{
    char folder[] = "/tmp/terrace-vendors.XXXXXX";
    stub_tiers = "opencl:0";
    if (!dlopen("libOpenCL.so.1", RTLD_NOW))
        cr_skip_test("not run: there is no libOpenCL.so.1 (Debian's ocl-icd-libopencl1 has it)");
    cr_assert_not_null(mkdtemp(folder));
    setenv("OCL_ICD_VENDORS", folder, 1);
    cr_assert_eq(count_silently(), 0);
    cr_assert(strstr(stub.sentence, "platform"), "%s", stub.sentence);
    rmdir(folder);
}

/* This program's dlopen() goes before the C library's. */
static const char *library_hidden;

void *dlopen(const char *name, int flags)
{
    static void *(*real)(const char *, int);
    if (!real)
        *(void **)&real = dlsym(RTLD_NEXT, "dlopen");
    return real(library_hidden && name && !strcmp(name, library_hidden) ? "/nonexistent/libOpenCL.so.1" : name, flags);
}

Test(opencl_found, no_library)
{
    stub_tiers = "opencl:0";
    library_hidden = "libOpenCL.so.1";
    cr_assert_eq(count_silently(), 0);
    cr_assert(strstr(stub.sentence, "no OpenCL library") && strstr(stub.sentence, "No such file"), "%s", stub.sentence);
    cr_assert_eq(backend_named("opencl")->open(&stub_host, 0, &t.info, &t.unit), -TERRACE_ENOENT);
}

/* ---- memory -------------------------------------------------------------- */

static opencl_memory (*true_buffer_create)(opencl_context, opencl_bits, size_t, void *, opencl_int *);
static opencl_int buffer_error;
static int buffers;
static size_t buffer_bytes; /* of the latest */

static opencl_memory counted_buffer_create(opencl_context c, opencl_bits flags, size_t size, void *host, opencl_int *r)
{
    if (buffer_error) {
        *r = buffer_error;
        return NULL;
    }
    buffers++;
    buffer_bytes = size;
    return true_buffer_create(c, flags, size, host, r);
}

static opencl_int small_buffers_info(opencl_device device, opencl_uint what, size_t size, void *value, size_t *got)
{
    opencl_int r = true_device_info(device, what, size, value, got);
    if (r == 0 && what == OPENCL_DEVICE_MAX_MEM_ALLOC_SIZE)
        *(uint64_t *)value = (16 << 20) + 4096;
    return r;
}

/* Buffers are counted, and of at most 16 MiB. */
static void counted_open(void)
{
    opencl_needed();
    true_buffer_create = opencl.buffer_create;
    opencl.buffer_create = counted_buffer_create;
    true_device_info = opencl.device_info;
    opencl.device_info = small_buffers_info;
    unit_open();
}

Test(opencl_memory, buffers_come_with_the_first_commit_and_go_with_the_last)
{
    uint64_t base;
    void *handle;
    counted_open();
    cr_assert_eq(t.info.boundary, 16 << 20);
    cr_assert_eq(t.b->reserve(t.unit, 40 << 20, 0, &base), 0);
    cr_assert_eq(base % t.info.boundary, 0);
    cr_assert_eq(buffers, 0);
    cr_assert_eq(t.b->commit(t.unit, base + 4096, 4096), 0);
    cr_assert_eq(t.b->commit(t.unit, base + (8 << 20), 4096), 0);
    cr_assert(buffers == 1 && buffer_bytes == 16 << 20);
    cr_assert_eq(t.b->commit(t.unit, base + (35 << 20), 5 << 20), 0);
    cr_assert(buffers == 2 && buffer_bytes == 8 << 20, "%zu", buffer_bytes);
    t.b->decommit(t.unit, base + 4096, 4096);
    cr_assert_eq(t.b->view(t.unit, base + (8 << 20), 4096, 0, &handle), 0);
    t.b->unview(t.unit, handle);
    t.b->decommit(t.unit, base + (8 << 20), 4096);
    cr_assert_eq(t.b->view(t.unit, base + (8 << 20), 4096, 0, &handle), -TERRACE_EINVAL);
    cr_assert_eq(t.b->commit(t.unit, base, 40 << 20), 0);
    cr_assert_eq(buffers, 4);
    t.b->release(t.unit, base, 40 << 20);
    t.b->close(t.unit);
}

Test(opencl_memory, handles_are_of_one_buffer)
{
    uint64_t base = 0;
    void *handle;
    counted_open();
    cr_assert_eq(t.b->reserve(t.unit, 40 << 20, 0, &base), 0);
    cr_assert_eq(t.b->commit(t.unit, base, 40 << 20), 0);
    cr_assert_eq(t.b->view(t.unit, base + (15 << 20), 2 << 20, 0, &handle), -TERRACE_EINVAL);
    cr_assert_eq(t.b->view(t.unit, base + (15 << 20), 1 << 20, 0, &handle), 0);
    t.b->unview(t.unit, handle);
    t.b->close(t.unit);
}

Test(opencl_memory, shared_virtual_memory)
{
    uint64_t base = 0;
    void *first, *second, *buffer;
    counted_open();
    char *host = pages(8192);
    cr_assert_eq(t.b->reserve(t.unit, 40 << 20, 0, &base), 0);
    cr_assert_eq(t.b->commit(t.unit, base, 40 << 20), 0);
    cr_assert_eq(t.b->view(t.unit, base, 4096, TERRACE_ATTR_SVM, &first), 0, "%s", stub.sentence);
    cr_assert_eq(t.b->view(t.unit, base + 4096, 4096, TERRACE_ATTR_SVM, &second), 0, "%s", stub.sentence);
    cr_assert_eq((char *)second - (char *)first, 4096);
    cr_assert_eq(t.b->view(t.unit, base, 4096, 0, &buffer), 0);
    cr_assert_neq(buffer, first);
    cr_assert_eq(t.b->view(t.unit, base + (15 << 20), 2 << 20, TERRACE_ATTR_SVM, &second), -TERRACE_ENOTSUP);
    pattern_fill(host, 4096, 5);
    cr_assert_eq(conform_copy(TERRACE_IO_WRITE, base, host, 4096), 0);
    cr_assert(pattern_is(first, 4096, 5), "a device that computes on the CPU has its memory here");
    t.b->unview(t.unit, first);
    t.b->unview(t.unit, second);
    t.b->unview(t.unit, buffer);
    t.b->release(t.unit, base, 40 << 20);
    t.b->close(t.unit);
}

Test(opencl_memory, without_shared_virtual_memory)
{
    uint64_t base = 0;
    void *handle;
    char why[300];
    cr_assert(opencl_load(why, sizeof why));
    opencl.svm_alloc = NULL; /* before OpenCL 2.0 */
    counted_open();
    cr_assert_eq(t.b->reserve(t.unit, 4 << 20, 0, &base), 0);
    cr_assert_eq(t.b->commit(t.unit, base, 4 << 20), 0);
    cr_assert_eq(t.b->view(t.unit, base, 4096, TERRACE_ATTR_SVM, &handle), -TERRACE_ENOTSUP);
    cr_assert(strstr(stub.sentence, "TERRACE_ATTR_SVM"), "%s", stub.sentence);
    cr_assert_eq(t.b->view(t.unit, base, 4096, 0, &handle), 0);
    t.b->unview(t.unit, handle);
    t.b->close(t.unit);
}

Test(opencl_memory, exhaustion_is_told_apart)
{
    static const struct {
        opencl_int code;
        int error;
        const char *text;
    } kind[] = {{OPENCL_MEM_OBJECT_ALLOCATION_FAILURE, -TERRACE_EDEVMEM, "CL_MEM_OBJECT_ALLOCATION_FAILURE (-4)"},
                {OPENCL_OUT_OF_RESOURCES, -TERRACE_EDEVMEM, "CL_OUT_OF_RESOURCES (-5)"},
                {OPENCL_OUT_OF_HOST_MEMORY, -TERRACE_ENOMEM, "CL_OUT_OF_HOST_MEMORY (-6)"},
                {-9999, -TERRACE_EDEVICE, "(-9999)"}};
    uint64_t base;
    counted_open();
    cr_assert_eq(t.b->reserve(t.unit, 40 << 20, 0, &base), 0);
    for (unsigned i = 0; i < 4; i++) {
        buffer_error = kind[i].code;
        cr_assert_eq(t.b->commit(t.unit, base, 40 << 20), kind[i].error);
        cr_assert(strstr(stub.sentence, kind[i].text) && strstr(stub.sentence, "opencl:0"), "%s", stub.sentence);
        cr_assert_eq(!strstr(stub.sentence, "TERRACE_LIMIT_OPENCL"), kind[i].error != -TERRACE_EDEVMEM);
    }
    buffer_error = 0;
    cr_assert_eq(t.b->commit(t.unit, base, 40 << 20), 0);
    t.b->close(t.unit);
}

/* PoCL has no end of memory: the tier has. */
Test(opencl_memory, never_more_than_the_device_has)
{
    uint64_t base[2];
    unit_open();
    uint64_t all = ((struct opencl_unit *)t.unit)->all, most = all / 4096 * 4096;
    cr_assert_eq(t.b->reserve(t.unit, most + t.info.granule, 0, &base[0]), -TERRACE_ENOTSUP);
    cr_assert_eq(t.b->reserve(t.unit, most, 0, &base[0]), 0);
    cr_assert_eq(t.b->reserve(t.unit, most, 0, &base[1]), 0);
    cr_assert_eq(t.b->commit(t.unit, base[0], 4096), 0);
    cr_assert_eq(t.b->commit(t.unit, base[1], most), -TERRACE_EDEVMEM);
    t.b->decommit(t.unit, base[0], 4096);
    t.b->close(t.unit);
}

/* ---- copies that fail ---------------------------------------------------- */

static opencl_int enqueue_error, finish_error, callback_error;
static opencl_int (*true_write)(opencl_queue, opencl_memory, opencl_uint, size_t, size_t, const void *, opencl_uint,
                                const opencl_event *, opencl_event *);
static opencl_int (*true_callback)(opencl_event, opencl_int, opencl_completed, void *);

static opencl_int failing_write(opencl_queue q, opencl_memory m, opencl_uint blocking, size_t offset, size_t bytes,
                                const void *from, opencl_uint n, const opencl_event *list, opencl_event *event)
{
    return enqueue_error ? enqueue_error : true_write(q, m, blocking, offset, bytes, from, n, list, event);
}

static opencl_int failing_callback(opencl_event event, opencl_int type, opencl_completed function, void *user)
{
    if (callback_error)
        return callback_error;
    if (!finish_error)
        return true_callback(event, type, function, user);
    (void)opencl.event_wait(1, &event);
    function(event, finish_error, user);
    return 0;
}

static void failing_open(void)
{
    unit_open();
    true_write = opencl.write;
    opencl.write = failing_write;
    true_callback = opencl.event_callback;
    opencl.event_callback = failing_callback;
}

Test(opencl_copies, failures_come_back_with_their_reason)
{
    char text[300];
    failing_open();
    uint64_t base = conform_range(t.info.granule);
    char *host = pages(4096);
    terrace_io io = conform_io(TERRACE_IO_WRITE, base, host, 4096);
    enqueue_error = OPENCL_OUT_OF_RESOURCES;
    cr_assert_eq(copy_now(t.b, t.unit, &io), -TERRACE_EDEVMEM);
    cr_assert_eq(io.os_error, OPENCL_OUT_OF_RESOURCES);
    t.b->explain(t.unit, &io, text, sizeof text);
    cr_assert(strstr(text, "writing 4096 bytes of opencl:0") && strstr(text, "CL_OUT_OF_RESOURCES (-5)"), "%s", text);
    enqueue_error = 0;
    finish_error = OPENCL_EXEC_STATUS_ERROR_FOR_EVENTS_IN_WAIT_LIST;
    io = conform_io(TERRACE_IO_WRITE, base, host, 4096);
    cr_assert_eq(copy_now(t.b, t.unit, &io), -TERRACE_EDEVICE);
    finish_error = 0;
    io = conform_io(TERRACE_IO_WRITE, base, host, 4096);
    cr_assert_eq(copy_now(t.b, t.unit, &io), 0);
    t.b->close(t.unit);
}

/* Where the implementation does not tell when a copy has ended. */
Test(opencl_copies, without_callbacks_they_are_waited_for)
{
    failing_open();
    uint64_t base = conform_range(t.info.granule);
    char *out = pages(65536), *in = pages(65536);
    callback_error = OPENCL_INVALID_VALUE;
    pattern_fill(out, 65536, 3);
    cr_assert_eq(conform_copy(TERRACE_IO_WRITE, base, out, 65536), 0);
    cr_assert_eq(conform_copy(TERRACE_IO_READ, base, in, 65536), 0);
    cr_assert(pattern_is(in, 65536, 3));
    t.b->close(t.unit);
}

/* ---- streams ------------------------------------------------------------- */

Test(opencl_streams, marks_of_the_units_own_queues_pass)
{
    unit_open();
    void *event;
    for (int i = 0; i < 2; i++) {
        cr_assert_eq(t.b->record(t.unit, i ? TERRACE_STREAM_COPIES : NULL, &event), 0, "%s", stub.sentence);
        int r = 0;
        for (int n = 0; r == 0 && n < 5000; n++, usleep(1000))
            r = t.b->passed(t.unit, event);
        cr_assert_eq(r, 1);
        cr_assert_eq(t.b->follow(t.unit, NULL, event), 0);
        t.b->forget(t.unit, event);
    }
    cr_assert_eq(t.b->follow(t.unit, NULL, NULL), 0);
    t.b->close(t.unit);
}

Test(opencl_streams, queues_of_others_are_refused)
{
    unit_open();
    terrace_unit_info info = {.size = sizeof info};
    void *other, *event = NULL;
    cr_assert_eq(t.b->open(&stub_host, 0, &info, &other), 0);
    void *theirs = ((struct opencl_unit *)other)->queue;
    cr_assert_eq(t.b->follow(t.unit, theirs, NULL), -TERRACE_EINVAL);
    cr_assert(strstr(stub.sentence, "another context") && strstr(stub.sentence, "CL_MEM_CONTEXT"), "%s", stub.sentence);
    cr_assert_eq(t.b->record(t.unit, theirs, &event), -TERRACE_EINVAL);
    cr_assert_null(event);
    t.b->close(other);
    t.b->close(t.unit);
}

/* ---- fork ---------------------------------------------------------------- */

Test(opencl_fork, a_child_may_close)
{
    int status;
    unit_open();
    uint64_t base = conform_range(t.info.granule);
    pid_t pid = fork();
    if (!pid) {
        alarm(20);
        t.b->close(t.unit);
        _exit(0);
    }
    cr_assert_eq(waitpid(pid, &status, 0), pid);
    cr_assert_eq(status, 0);
    char *host = pages(4096);
    cr_assert_eq(conform_copy(TERRACE_IO_WRITE, base, host, 4096), 0);
    t.b->close(t.unit);
}
