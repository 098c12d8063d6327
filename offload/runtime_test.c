/* runtime_test.c - a device is tried out before anything is entrusted to it.
 *
 * A table of a vendor's functions may be wrong for the runtime that is installed. So
 * memory is taken, filled, copied there, within and back, each in every direction, and
 * the bytes are compared. A device that gives others than it should is not opened, and
 * the sentence says what it gave.
 *
 * May call: runtime.h, libc. */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "runtime.h"

enum { BYTES = 256 << 10, PART = 64 << 10, FILL = 0xa5 };

/* Bytes that differ by place. */
static unsigned char byte_at(size_t i)
{
    return (unsigned char)(i * 7 + (i >> 8) * 13 + 1);
}

/* What is expected: the first part filled, the second copied there, the third copied
 * within, the last filled with zeros. */
static unsigned char expected(size_t i)
{
    return i < PART ? FILL : i < 3 * PART ? byte_at(i % PART) : 0;
}

/* The place of the first byte that is wrong, or BYTES. */
static size_t wrong_byte(const unsigned char *host)
{
    size_t i = 0;
    while (i < BYTES && host[i] == expected(i))
        i++;
    return i;
}

static int wrong_fail(const struct runtime_unit *u, const unsigned char *host, size_t i)
{
    return u->host->fail(u->host->context, -TERRACE_EDEVICE, "%s stays off: tried out, the device gave %#x where %#x was "
                         "%s (byte %zu); its %s runtime is not as terrace takes it to be", u->name, host[i],
                         expected(i), i < PART || i >= 3 * PART ? "filled in" : "copied to", i, u->rt->api);
}

/* Puts all of it into the stream. */
static int put(const struct runtime_unit *u, char *there, unsigned char *host, void *stream)
{
    const struct runtime_calls *call = u->rt->call;
    int code = call->fill(u->rt, there, 0, BYTES, stream);
    if (code == 0)
        code = call->fill(u->rt, there, FILL, PART, stream);
    if (code == 0)
        code = call->copy(u->rt, there + PART, host, PART, RUNTIME_IN, stream);
    if (code == 0)
        code = call->copy(u->rt, there + 2 * PART, there + PART, PART, RUNTIME_WITHIN, stream);
    if (code == 0)
        code = call->stream_synchronize(u->rt, stream);
    if (code)
        return code;
    memset(host, 0x5a, BYTES);
    code = call->copy(u->rt, host, there, BYTES, RUNTIME_OUT, stream);
    return code ? code : call->stream_synchronize(u->rt, stream);
}

/* Memory in either way, while something is done with it. */
static int put_in_memory(const struct runtime_unit *u, unsigned char *host, void *stream)
{
    void *there = NULL;
    int code = u->rt->call->allocate(u->rt, &there, BYTES);
    if (code)
        return code;
    code = put(u, there, host, stream);
    if (code)
        (void)RUNTIME_UNDO(u->rt->call->stream_synchronize(u->rt, stream)); /* before the memory goes */
    (void)RUNTIME_UNDO(u->rt->call->release(u->rt, there));
    return code;
}

static int put_in_pages(const struct runtime_unit *u, unsigned char *host, void *stream)
{
    const struct runtime_calls *call = u->rt->call;
    void *given = NULL, *memory = NULL;
    int code = call->reserve(u->rt, &given, 2 * RUNTIME_GRANULE);
    if (code)
        return code;
    char *there = (char *)given + (-(uintptr_t)given & (RUNTIME_GRANULE - 1));
    code = call->map(u->rt, u->index, there, RUNTIME_GRANULE, &memory);
    if (code == 0) {
        code = put(u, there, host, stream);
        if (code)
            (void)RUNTIME_UNDO(call->stream_synchronize(u->rt, stream));
        (void)call->unmap(u->rt, there, memory);
    }
    (void)RUNTIME_UNDO(call->unreserve(u->rt, given));
    return code;
}

/* Memory that cannot be mapped, or not rightly, is allocated instead. */
static void try_pages(struct runtime_unit *u, unsigned char *host, void *stream)
{
    char text[80];
    int code = put_in_pages(u, host, stream);
    u->maps = code == 0 && wrong_byte(host) == BYTES;
    if (code)
        u->rt->call->text(u->rt, code, text, sizeof text);
    if (!u->maps)
        snprintf(u->maps_not, sizeof u->maps_not, ", for virtual memory %s", code ? text : "gave other bytes");
}

static int try_out(struct runtime_unit *u, unsigned char *host, void *stream)
{
    for (size_t i = 0; i < PART; i++)
        host[i] = byte_at(i);
    int code = put_in_memory(u, host, stream);
    if (code)
        return runtime_fail(u, code, "trying the device out; TERRACE_TIERS can leave it out");
    size_t wrong = wrong_byte(host);
    if (wrong < BYTES)
        return wrong_fail(u, host, wrong);
    for (size_t i = 0; i < PART; i++)
        host[i] = byte_at(i);
    if (u->rt->maps)
        try_pages(u, host, stream);
    return 0;
}

int runtime_test(struct runtime_unit *u)
{
    unsigned char *host = malloc(BYTES);
    void *stream = NULL;
    if (!host)
        return u->host->fail(u->host->context, -TERRACE_ENOMEM, "no host memory to open %s", u->name);
    int code = u->rt->call->stream_create(u->rt, &stream);
    int error = code ? runtime_fail(u, code, "trying the device out; TERRACE_TIERS can leave it out")
                     : try_out(u, host, stream);
    if (code == 0)
        (void)RUNTIME_UNDO(u->rt->call->stream_destroy(u->rt, stream));
    free(host);
    return error;
}
