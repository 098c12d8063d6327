/* cuda_place.c - memory at addresses that stay while what is behind them moves.
 *
 * A granule of such a range has physical memory of the device, or of the host, which
 * kernels use at the same address through the bus. To move some, memory of the other
 * kind is made and mapped at a window of addresses, the bytes are copied there by a
 * stream of our own, and then the mappings change places, one granule after the other.
 * Nothing uses them meanwhile: the core sees to that.
 *
 * Until a granule's own mapping goes, any failure leaves it as it was. If the new one
 * then fails, even when tried again, its memory, which has the bytes, is kept without
 * an address: it is adrift, and the next who asks for the granule puts it right first.
 *
 * May call: cuda_unit.h. */
#include <stdlib.h>
#include <unistd.h>

#include "cuda_unit.h"

/* The result of a call that is repeated where it fails: errors may pass. */
#define CUDA_TWICE(r, call) (((r) = (call)) == CUDA_OK ? CUDA_OK : ((r) = (call)))

/* Unmapped memory of a granule. One that is CUDA_ADRIFT and has none of these is
 * mapped, and the device may not use it yet. */
struct cuda_adrift {
    struct cuda_adrift *next;
    cuda_address at;
    cuda_memory memory;
};

/* Granules that get memory together: new, with a handle until that is mapped. */
struct batch {
    struct cuda_unit *u;
    struct cuda_range *range;
    uint64_t first;
    unsigned n;
    bool in_host;
    cuda_memory memory[CUDA_WINDOW];
    struct cuda_adrift **spare; /* for one that comes adrift */
};

static cuda_address address_of(const struct batch *b, unsigned i)
{
    return b->range->base + (b->first + i) * b->u->granule;
}

/* ---- new memory ---------------------------------------------------------- */

static bool room_for(struct cuda_unit *u, uint64_t more)
{
    pthread_mutex_lock(&u->mapping);
    bool room = u->host_room == 0 || u->in_device + more <= u->device_room;
    pthread_mutex_unlock(&u->mapping);
    return room;
}

/* Makes memory for as many granules of the batch as there is, which it then has. */
static cuda_result create_all(struct batch *b)
{
    const cuda_property p = cuda_property_of(b->u, b->in_host);
    cuda_result r = CUDA_OK;
    unsigned i = 0;
    for (; i < b->n; i++) {
        r = b->in_host || room_for(b->u, (i + 1) * b->u->granule) ? cuda.create(&b->memory[i], b->u->granule, &p, 0)
                                                                 : CUDA_OUT_OF_MEMORY;
        if (r)
            break;
    }
    b->n = i;
    return r;
}

static void release_all(const struct batch *b, unsigned n)
{
    for (unsigned i = 0; i < n; i++)
        if (b->memory[i])
            (void)CUDA_UNDO(cuda.release(b->memory[i]));
}

static cuda_result allow(const struct cuda_unit *u, cuda_address at, uint64_t bytes)
{
    const cuda_access access = {{CUDA_ON_DEVICE, u->device}, CUDA_READ_WRITE};
    cuda_result r;
    return CUDA_TWICE(r, cuda.set_access(at, bytes, &access, 1));
}

static void unmap_all(const struct batch *b, cuda_address at, unsigned n)
{
    struct cuda_unit *u = b->u;
    bool done = true;
    for (unsigned i = 0; i < n; i++)
        done &= CUDA_UNDO(cuda.unmap(at + i * u->granule, u->granule));
    if (done)
        return;
    u->host->log(u->host->context, TERRACE_LOG_DEBUG, "cuda:%d keeps granules of memory", u->index);
    u->window = at == u->window ? 0 : u->window; /* the next is another */
}

/* Maps the new memory from an address on, all of it or none. */
static cuda_result map_all(const struct batch *b, cuda_address at)
{
    cuda_result r = CUDA_OK;
    unsigned i = 0;
    while (i < b->n && CUDA_TWICE(r, cuda.map(at + i * b->u->granule, b->u->granule, 0, b->memory[i], 0)) == CUDA_OK)
        i++;
    if (r == CUDA_OK)
        r = allow(b->u, at, b->n * b->u->granule);
    if (r)
        unmap_all(b, at, i);
    return r;
}

/* An error is believed when it comes twice: nothing is given back that the device may
 * still write to. */
static cuda_result settle(const struct cuda_unit *u)
{
    cuda_result r;
    return CUDA_TWICE(r, cuda.stream_synchronize(u->mover));
}

/* The granule has the new memory now. */
static void publish(const struct batch *b, unsigned i, uint32_t how)
{
    struct cuda_unit *u = b->u;
    cuda_granule *granule = &b->range->granule[b->first + i];
    pthread_mutex_lock(&u->mapping);
    if (*granule & CUDA_PAGES_MASK)
        *cuda_books_of(u, *granule) -= u->granule;
    *granule = (uint32_t)(u->granule / CUDA_PAGE) | CUDA_PLACED | (b->in_host ? CUDA_IN_HOST : 0) | how;
    *cuda_books_of(u, *granule) += u->granule;
    pthread_mutex_unlock(&u->mapping);
}

/* Memory that reads as zeros, where nothing is. */
static cuda_result fill_all(struct batch *b)
{
    cuda_address at = address_of(b, 0);
    cuda_result lacking = create_all(b), r = b->n ? map_all(b, at) : CUDA_OK;
    unsigned made = b->n;
    if (r == CUDA_OK && b->n) {
        r = cuda.fill(at, 0, b->n * b->u->granule, b->u->mover);
        cuda_result settled = settle(b->u);
        r = r ? r : settled;
        if (r)
            unmap_all(b, at, b->n);
    }
    release_all(b, made);
    if (r)
        b->n = 0;
    for (unsigned i = 0; i < b->n; i++)
        publish(b, i, 0);
    return r ? r : lacking;
}

/* ---- moving -------------------------------------------------------------- */

/* Copies the granules' bytes to the window, where the new memory is. */
static cuda_result copy_all(const struct batch *b)
{
    struct cuda_unit *u = b->u;
    cuda_result r = CUDA_OK;
    for (unsigned i = 0; r == CUDA_OK && i < b->n; i++)
        r = cuda.copy_any(u->window + i * u->granule, address_of(b, i), u->granule, u->mover);
    cuda_result settled = settle(u);
    return r ? r : settled;
}

/* Puts the new memory in the place of the old one, which goes. */
static cuda_result exchange(struct batch *b, unsigned i)
{
    struct cuda_unit *u = b->u;
    cuda_address at = address_of(b, i);
    cuda_result r;
    if (CUDA_TWICE(r, cuda.unmap(at, u->granule)))
        return r;
    if (CUDA_TWICE(r, cuda.map(at, u->granule, 0, b->memory[i], 0)) == CUDA_OK)
        return CUDA_OK;
    **b->spare = (struct cuda_adrift){u->adrift, at, b->memory[i]};
    publish(b, i, CUDA_ADRIFT);
    pthread_mutex_lock(&u->mapping);
    u->adrift = *b->spare;
    pthread_mutex_unlock(&u->mapping);
    *b->spare = NULL;
    b->memory[i] = 0;
    return r;
}

/* Lets the device use the first n, which have been exchanged; `n` is how many it can
 * before one that it cannot. */
static cuda_result open_all(struct batch *b, unsigned *n)
{
    struct cuda_unit *u = b->u;
    cuda_result all = *n ? allow(u, address_of(b, 0), *n * u->granule) : CUDA_OK, r = CUDA_OK;
    unsigned first = *n;
    for (unsigned i = 0; i < *n; i++) {
        cuda_result one = all ? allow(u, address_of(b, i), u->granule) : CUDA_OK;
        publish(b, i, one ? CUDA_ADRIFT : 0);
        first = one && r == CUDA_OK ? i : first;
        r = r ? r : one;
    }
    *n = first;
    return r;
}

static cuda_result move_all(struct batch *b)
{
    struct cuda_unit *u = b->u;
    cuda_result lacking = create_all(b), r = CUDA_OK;
    unsigned made = b->n, moved = 0;
    if (made && (r = map_all(b, u->window)) == CUDA_OK) {
        r = copy_all(b);
        while (r == CUDA_OK && moved < made && (r = exchange(b, moved)) == CUDA_OK)
            moved++;
        cuda_result opened = open_all(b, &moved);
        r = r ? r : opened;
        unmap_all(b, u->window, made);
    }
    release_all(b, made);
    b->n = moved;
    return r ? r : lacking;
}

/* ---- what is adrift ------------------------------------------------------- */

static struct cuda_adrift *adrift_take_locked(struct cuda_unit *u, cuda_address at)
{
    struct cuda_adrift **link = &u->adrift, *a;
    while (*link && (*link)->at != at)
        link = &(*link)->next;
    a = *link;
    if (a)
        *link = a->next;
    return a;
}

bool cuda_adrift_drop(struct cuda_unit *u, uint64_t address)
{
    struct cuda_adrift *a = adrift_take_locked(u, address);
    bool done = a ? CUDA_UNDO(cuda.release(a->memory)) : CUDA_UNDO(cuda.unmap(address, u->granule));
    free(a);
    return done;
}

/* Gives the granule its memory back at its address. */
static cuda_result put_right(struct cuda_unit *u, struct cuda_range *range, uint64_t g)
{
    cuda_address at = range->base + g * u->granule;
    cuda_result r = CUDA_OK;
    pthread_mutex_lock(&u->mapping);
    struct cuda_adrift *a = adrift_take_locked(u, at);
    if (a && CUDA_TWICE(r, cuda.map(at, u->granule, 0, a->memory, 0))) {
        a->next = u->adrift;
        u->adrift = a;
    }
    pthread_mutex_unlock(&u->mapping);
    if (r)
        return r;
    if (a)
        (void)CUDA_UNDO(cuda.release(a->memory));
    free(a);
    r = allow(u, at, u->granule);
    if (r == CUDA_OK) {
        pthread_mutex_lock(&u->mapping);
        range->granule[g] &= ~CUDA_ADRIFT;
        pthread_mutex_unlock(&u->mapping);
    }
    return r;
}

/* ---- placing -------------------------------------------------------------- */

static bool is_like(const struct cuda_range *range, uint64_t g, uint32_t other)
{
    uint32_t is = range->granule[g];
    if (!(is & CUDA_PAGES_MASK) || !(other & CUDA_PAGES_MASK))
        return !(is & CUDA_PAGES_MASK) && !(other & CUDA_PAGES_MASK);
    return !(is & CUDA_ADRIFT) && (is & CUDA_IN_HOST) == (other & CUDA_IN_HOST);
}

/* From granule b->first on, as many as can be done at once; b->n is how many. */
static cuda_result step(struct batch *b, uint64_t end)
{
    struct cuda_range *range = b->range;
    uint32_t is = range->granule[b->first];
    b->n = 0;
    if (is & CUDA_ADRIFT) {
        cuda_result r = put_right(b->u, range, b->first);
        if (r)
            return r;
        is = range->granule[b->first];
    }
    bool there = is & CUDA_PAGES_MASK, stays = there && !(is & CUDA_IN_HOST) == !b->in_host;
    for (uint64_t g = b->first; g < end && b->n < CUDA_WINDOW && is_like(range, g, is); g++)
        b->n++;
    return stays ? CUDA_OK : there ? move_all(b) : fill_all(b);
}

/* What is needed to move bytes, made when it is needed first. */
static cuda_result prepare(struct cuda_unit *u)
{
    cuda_result r = CUDA_OK;
    if (!u->mover) {
        r = cuda.stream_create(&u->mover, CUDA_STREAM_NON_BLOCKING);
        u->mover = r ? NULL : u->mover;
    }
    if (r == CUDA_OK && !u->window) {
        r = cuda.reserve(&u->window, CUDA_WINDOW * u->granule, u->granule, 0, 0);
        u->window = r ? 0 : u->window;
    }
    return r;
}

void cuda_places_close(struct cuda_unit *u)
{
    bool child = u->pid != getpid();
    while (u->adrift) {
        struct cuda_adrift *a = u->adrift;
        u->adrift = a->next;
        if (!child)
            (void)CUDA_UNDO(cuda.release(a->memory));
        free(a);
    }
    if (u->mover && !child)
        (void)CUDA_UNDO(cuda.stream_destroy(u->mover));
    if (u->window && !child)
        (void)CUDA_UNDO(cuda.unreserve(u->window, CUDA_WINDOW * u->granule));
    u->mover = NULL;
    u->window = 0;
}

static int refuse(const struct cuda_unit *u, const char *what, const char *why)
{
    return u->host->fail(u->host->context, -TERRACE_ENOTSUP, "%s: %s cannot be put behind addresses that stay, as %s",
                         u->name, what, why);
}

static int place_fail(const struct cuda_unit *u, cuda_result r, uint64_t bytes, bool in_host)
{
    if (r == CUDA_OUT_OF_MEMORY && in_host)
        return u->host->fail(u->host->context, -TERRACE_ENOMEM, "%s: the driver has no host memory for %llu bytes; "
                             "lower TERRACE_LIMIT_HOST, or end what else uses memory", u->name,
                             (unsigned long long)bytes);
    return cuda_fail(u, r, "moving %llu bytes to %s", (unsigned long long)bytes,
                     in_host ? "host memory" : "its own memory");
}

int cuda_place(void *unit, uint64_t address, uint64_t bytes, int where, uint64_t *done)
{
    struct cuda_unit *u = unit;
    struct cuda_scope scope;
    struct cuda_range *range = cuda_range_find(u, address, bytes);
    *done = 0;
    if (!range || bytes == 0 || (address - range->base) % u->granule || bytes % u->granule)
        return u->host->fail(u->host->context, -TERRACE_EINVAL, "not whole granules of cuda:%d", u->index);
    if (!u->virtual_memory || !cuda.copy_any || !cuda.fill)
        return refuse(u, "memory", "there is no virtual memory management");
    if (where == TERRACE_PLACE_HOST && !u->host_kind)
        return refuse(u, "host memory", "device and driver do not map it for kernels (CUDA 12.2 or later is needed)");
    struct cuda_adrift *spare = malloc(sizeof *spare);
    if (!spare)
        return u->host->fail(u->host->context, -TERRACE_ENOMEM, "no host memory to manage that of cuda:%d", u->index);
    cuda_result r = cuda_enter(u->context, &scope);
    if (r == CUDA_OK) {
        pthread_mutex_lock(&u->placing);
        r = prepare(u);
        while (r == CUDA_OK && *done < bytes) {
            struct batch b = {.u = u, .range = range, .first = (address + *done - range->base) / u->granule,
                              .in_host = where == TERRACE_PLACE_HOST, .spare = &spare};
            r = step(&b, (address + bytes - range->base) / u->granule);
            *done += b.n * u->granule;
        }
        pthread_mutex_unlock(&u->placing);
        cuda_leave(&scope);
    }
    free(spare);
    return r ? place_fail(u, r, bytes - *done, where == TERRACE_PLACE_HOST) : 0;
}
