/* objects.c - handles of the simulated runtime's objects: numbers that are no
 * addresses and are given once only. */
#include <stdio.h>
#include <stdlib.h>

#include "engine.h"

#define PREFIX 0x5100000000000000ull /* what dereferences a handle faults */

static struct object {
    void *object; /* NULL: destroyed */
    unsigned char kind;
    uint64_t next, before; /* of the same kind, by number; 0: none */
} *objects; /* by number, from 1 on */
static uint64_t newest[8]; /* of each kind */
static uint64_t n_objects, room;

uint64_t object_add_locked(enum object_kind kind, void *object)
{
    if (n_objects + 1 >= room) {
        uint64_t more = room ? room * 2 : 256;
        struct object *bigger = realloc(objects, more * sizeof *objects);
        if (!bigger) {
            fprintf(stderr, "simulated runtime: no memory for %llu handles\n", (unsigned long long)more);
            abort();
        }
        objects = bigger;
        room = more;
    }
    uint64_t number = ++n_objects, next = newest[kind];
    objects[number] = (struct object){object, (unsigned char)kind, next, 0};
    if (next)
        objects[next].before = number;
    newest[kind] = number;
    return PREFIX + ((uint64_t)kind << 48) + 16 * number;
}

static struct object *object_of(uint64_t handle)
{
    uint64_t number = (handle & 0xffffffffffffull) / 16;
    if (handle >> 56 != PREFIX >> 56 || handle % 16 || !number || number > n_objects)
        return NULL;
    struct object *object = &objects[number];
    return object->object && object->kind == (handle >> 48 & 0xff) ? object : NULL;
}

void *object_find_locked(enum object_kind kind, uint64_t handle)
{
    const struct object *object = object_of(handle);
    return object && object->kind == kind ? object->object : NULL;
}

void object_remove_locked(uint64_t handle)
{
    struct object *object = object_of(handle);
    if (!object)
        return;
    object->object = NULL;
    *(object->before ? &objects[object->before].next : &newest[object->kind]) = object->next;
    if (object->next)
        objects[object->next].before = object->before;
}

void object_each_locked(enum object_kind kind, void (*each)(void *object, void *arg), void *arg)
{
    for (uint64_t number = newest[kind], next; number; number = next) {
        next = objects[number].next;
        each(objects[number].object, arg);
    }
}
