/* table.c - which addresses are large blocks.
 *
 * Two levels of arrays over the address space, an entry for each 2 MiB. Reading
 * takes no lock: entries of a block are written before its address is given out
 * and after it is given back. Leaves, once there, stay.
 *
 * May call: mapping.c's real_mmap. */
#include <sys/mman.h>

#include "preload.h"

enum { ADDRESS_BITS = 47, SLOT_BITS = 21, LEAF_BITS = 13, LEAF = 1 << LEAF_BITS,
       LEAVES = 1 << (ADDRESS_BITS - SLOT_BITS - LEAF_BITS) };

typedef _Atomic(struct block *) entry;

static _Atomic(entry *) leaf[LEAVES];
atomic_size_t table_count;

static entry *leaf_new(size_t i)
{
    entry *new = real_mmap(NULL, LEAF * sizeof *new, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    entry *old = NULL;
    if (new == MAP_FAILED)
        return NULL;
    if (atomic_compare_exchange_strong(&leaf[i], &old, new))
        return new;
    real_munmap(new, LEAF * sizeof *new);
    return old;
}

static bool put(const struct block *b, struct block *value)
{
    size_t from = (uintptr_t)b->base / SLOT, to = ((uintptr_t)b->base + b->reserved + SLOT - 1) / SLOT;
    for (size_t i = from; i < to; i++) {
        entry *l = atomic_load(&leaf[i / LEAF]);
        if (!l && value)
            l = leaf_new(i / LEAF);
        if (l)
            atomic_store_explicit(&l[i % LEAF], value, memory_order_release);
        else if (value)
            return false;
    }
    return true;
}

bool table_add(struct block *b)
{
    if (((uintptr_t)b->base + b->reserved) >> ADDRESS_BITS)
        return false;
    if (!put(b, b)) {
        put(b, NULL);
        return false;
    }
    table_count++;
    return true;
}

void table_remove(struct block *b)
{
    table_count--;
    put(b, NULL);
}

static struct block *slot_block(size_t i)
{
    entry *l = i / LEAF < LEAVES ? atomic_load_explicit(&leaf[i / LEAF], memory_order_acquire) : NULL;
    return l ? atomic_load_explicit(&l[i % LEAF], memory_order_acquire) : NULL;
}

struct block *table_at(const void *p)
{
    struct block *b = slot_block((uintptr_t)p / SLOT);
    return b && (size_t)((const char *)p - b->base) < b->reserved ? b : NULL;
}

struct block *table_next(const char *from, const char *to)
{
    size_t i = (uintptr_t)from / SLOT, end = ((uintptr_t)to - 1) / SLOT;
    while (table_count && i <= end && i / LEAF < LEAVES) {
        if (!atomic_load_explicit(&leaf[i / LEAF], memory_order_acquire)) {
            i = (i / LEAF + 1) * LEAF;
            continue;
        }
        struct block *b = slot_block(i++);
        if (b && b->base < to && b->base + b->reserved > from)
            return b;
    }
    return NULL;
}
