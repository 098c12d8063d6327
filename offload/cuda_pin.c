/* cuda_pin.c - host memory that the driver knows, for copies at the bus's full speed.
 *
 * Registered memory is known to all devices, so a range that several of them are
 * told of is registered once, and goes with the last. A copy must not reach from
 * one registration into another, or out of it: hence the ranges, by address. While
 * a copy is cut by them and given to the driver they do not change. */
#include <stdlib.h>
#include <string.h>

#include "cuda_unit.h"

struct pin {
    uintptr_t address;
    uint64_t bytes;
    unsigned users;
};

static struct pin *pins; /* by address; none reaches into another */
static size_t count, room;
static pthread_rwlock_t lock = PTHREAD_RWLOCK_INITIALIZER; /* held while the driver registers */

/* The first that ends after an address. */
static size_t find_locked(uintptr_t address)
{
    size_t low = 0, high = count;
    while (low < high) {
        size_t middle = low + (high - low) / 2;
        if (pins[middle].address + pins[middle].bytes <= address)
            low = middle + 1;
        else
            high = middle;
    }
    return low;
}

void cuda_pins_hold(void)
{
    pthread_rwlock_rdlock(&lock);
}

void cuda_pins_let_go(void)
{
    pthread_rwlock_unlock(&lock);
}

uint64_t cuda_pins_run(const void *address, uint64_t bytes)
{
    uintptr_t at = (uintptr_t)address;
    size_t i = find_locked(at);
    uint64_t run = bytes;
    if (i < count && pins[i].address <= at)
        run = pins[i].address + pins[i].bytes - at;
    else if (i < count)
        run = pins[i].address - at;
    return run < bytes ? run : bytes;
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

static bool make_room_locked(void)
{
    size_t more = room ? 2 * room : 64;
    struct pin *list = count < room ? pins : realloc(pins, more * sizeof *pins);
    if (!list)
        return false;
    room = count < room ? room : more;
    pins = list;
    return true;
}

/* The range itself, NULL: it is not known. */
static struct pin *same_locked(uintptr_t address, uint64_t bytes)
{
    size_t i = find_locked(address);
    return i < count && pins[i].address == address && pins[i].bytes == bytes ? &pins[i] : NULL;
}

static int pin_locked(const struct cuda_unit *u, void *address, uint64_t bytes)
{
    uintptr_t at = (uintptr_t)address;
    struct pin *known = same_locked(at, bytes);
    if (known) {
        known->users++;
        return 0;
    }
    if (!make_room_locked())
        return -TERRACE_ENOMEM;
    cuda_result r = enter_and_register(u, address, bytes);
    if (r) /* It is host memory that the driver lacks then. */
        return r == CUDA_OUT_OF_MEMORY ? -TERRACE_ENOMEM : cuda_error(r);
    size_t i = find_locked(at);
    memmove(&pins[i + 1], &pins[i], (count - i) * sizeof *pins);
    pins[i] = (struct pin){at, bytes, 1};
    count++;
    return 0;
}

int cuda_pin(void *unit, void *address, uint64_t bytes)
{
    pthread_rwlock_wrlock(&lock);
    int r = pin_locked(unit, address, bytes);
    pthread_rwlock_unlock(&lock);
    return r;
}

void cuda_unpin(void *unit, void *address, uint64_t bytes)
{
    pthread_rwlock_wrlock(&lock);
    struct pin *p = same_locked((uintptr_t)address, bytes);
    if (p && --p->users == 0) {
        enter_and_unregister(unit, address);
        count--;
        memmove(p, p + 1, (size_t)(&pins[count] - p) * sizeof *pins);
        if (count == 0) { /* nothing is kept when all is over */
            free(pins);
            pins = NULL;
            room = 0;
        }
    }
    pthread_rwlock_unlock(&lock);
}
