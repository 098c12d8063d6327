/* runtime_test.c - a device is tried out before anything is entrusted to it.
 *
 * A table of a vendor's functions may be wrong for the runtime that is installed. So
 * memory is taken, filled, copied there, within and back, each in every direction, and
 * the bytes are compared. A device that gives others than it should is not opened, and
 * the sentence says what it gave.
 *
 * May call: runtime.h, libc. */
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

static int compare(const struct runtime_unit *u, const unsigned char *host)
{
    for (size_t i = 0; i < BYTES; i++)
        if (host[i] != expected(i))
            return u->host->fail(u->host->context, -TERRACE_EDEVICE, "%s stays off: tried out, the device gave %#x where "
                                 "%#x was %s (byte %zu); its %s runtime is not as terrace takes it to be", u->name,
                                 host[i], expected(i), i < PART || i >= 3 * PART ? "filled in" : "copied to", i,
                                 u->rt->api);
    return 0;
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

int runtime_test(struct runtime_unit *u)
{
    const struct runtime_calls *call = u->rt->call;
    unsigned char *host = malloc(BYTES);
    void *there = NULL, *stream = NULL;
    if (!host)
        return u->host->fail(u->host->context, -TERRACE_ENOMEM, "no host memory to open %s", u->name);
    for (size_t i = 0; i < PART; i++)
        host[i] = byte_at(i);
    int code = call->allocate(u->rt, &there, BYTES);
    if (code)
        there = NULL;
    else if ((code = call->stream_create(u->rt, &stream)))
        stream = NULL;
    if (code == 0)
        code = put(u, there, host, stream);
    int error = code ? runtime_fail(u, code, "trying the device out; TERRACE_TIERS can leave it out") : compare(u, host);
    if (stream) {
        (void)RUNTIME_UNDO(call->stream_synchronize(u->rt, stream)); /* before the memory goes */
        (void)RUNTIME_UNDO(call->stream_destroy(u->rt, stream));
    }
    if (there)
        (void)RUNTIME_UNDO(call->release(u->rt, there));
    free(host);
    return error;
}
