/* cuda_pin.c - host memory that the driver knows, for copies at the bus's full speed.
 *
 * Registered memory is known to all devices, so a range that several of them are
 * told of is registered once, and goes with the last. A copy must not reach from
 * one registration into another, or out of it: hence the list. */
#include <stdlib.h>

#include "cuda_unit.h"

struct pin {
    struct pin *next;
    uintptr_t address;
    uint64_t bytes;
    unsigned users;
};

static struct pin *pins;
static pthread_mutex_t lock = PTHREAD_MUTEX_INITIALIZER; /* held while the driver registers */

static struct pin **find_locked(uintptr_t address, uint64_t bytes)
{
    struct pin **link = &pins;
    while (*link && ((*link)->address != address || (*link)->bytes != bytes))
        link = &(*link)->next;
    return link;
}

uint64_t cuda_pinned(const void *address, uint64_t bytes)
{
    uint64_t found = 0;
    pthread_mutex_lock(&lock);
    for (const struct pin *p = pins; p && !found; p = p->next)
        if ((uintptr_t)address - p->address < p->bytes && bytes <= p->bytes - ((uintptr_t)address - p->address))
            found = p->address;
    pthread_mutex_unlock(&lock);
    return found;
}

static cuda_result enter_and_register(const struct cuda_unit *u, void *address, uint64_t bytes)
{
    struct cuda_scope scope;
    cuda_result r = cuda_enter(u->context, &scope);
    if (r)
        return r;
    r = cuda.host_register(address, bytes, CUDA_REGISTER_PORTABLE);
    cuda_leave(&scope);
    return r;
}

static void enter_and_unregister(const struct cuda_unit *u, void *address)
{
    struct cuda_scope scope;
    if (cuda_enter_again(u->context, &scope))
        return;
    cuda_result r = cuda.host_unregister(address);
    if (r && r != CUDA_NOT_REGISTERED) /* as it is where all contexts have gone since */
        (void)cuda.host_unregister(address);
    cuda_leave(&scope);
}

int cuda_pin(void *unit, void *address, uint64_t bytes)
{
    struct cuda_unit *u = unit;
    struct pin *new = calloc(1, sizeof *new);
    if (!new)
        return -TERRACE_ENOMEM;
    *new = (struct pin){.address = (uintptr_t)address, .bytes = bytes, .users = 1};
    cuda_result r = CUDA_OK;
    pthread_mutex_lock(&lock);
    struct pin *known = *find_locked(new->address, bytes);
    if (known)
        known->users++;
    else
        r = enter_and_register(u, address, bytes);
    if (!known && r == CUDA_OK) {
        new->next = pins;
        pins = new;
        new = NULL;
    }
    pthread_mutex_unlock(&lock);
    free(new);
    /* It is host memory that the driver lacks then. */
    return r == CUDA_OUT_OF_MEMORY ? -TERRACE_ENOMEM : cuda_error(r);
}

void cuda_unpin(void *unit, void *address, uint64_t bytes)
{
    struct cuda_unit *u = unit;
    pthread_mutex_lock(&lock);
    struct pin **link = find_locked((uintptr_t)address, bytes), *p = *link;
    bool last = p && --p->users == 0;
    if (last) {
        *link = p->next;
        enter_and_unregister(u, address);
    }
    pthread_mutex_unlock(&lock);
    if (last)
        free(p);
}
