/* gpt_mixed_engine.h - what computes in the memory of a tier, for gpt_mixed.c.
 *
 * An engine is a table of functions. gpt_mixed.c has that of the host's processors,
 * gpt_mixed_opencl.c that of OpenCL devices. For another vendor's device a file is
 * linked in that defines `engine_linked`: it runs the kernels of gpt_mixed.cl there.
 * What is called an array is what terrace_acquire() gave, or memory of take(). */
#ifndef GPT_MIXED_ENGINE_H
#define GPT_MIXED_ENGINE_H

#include <stddef.h>
#include <sys/types.h>

#include "gpt_mixed.cl" /* the types of a kernel's numbers */

/* The kernels. */
#define KERNELS(X)                                                                               \
    X(product_tile) X(gelu_element) X(gelu_back_element) X(moments_element) X(subtract_element)  \
    X(embed_element) X(table_element) X(norm_row) X(norm_back_row) X(norm_gain_column)           \
    X(cross_entropy_row) X(attend_row) X(attend_back_row)

enum {
#define NUMBER(name) KERNEL_##name,
    KERNELS(NUMBER)
#undef NUMBER
    KERNEL_COUNT
};

enum { ARRAYS = 5 };

/* One kernel on some items. */
typedef struct work {
    int kernel;
    size_t items;
    void *array[ARRAYS];
    numbers n;
} work;

typedef struct engine {
    const char *kind; /* of tiers; NULL: all of the class "host" */
    /* Begins to compute in a tier, of which `array` is memory, and gives the stream that
     * work is put into: for terrace_acquire(). NULL, or why that cannot be. */
    const char *(*open)(void *array, void **stream);
    void (*close)(void);
    void (*run)(const work *w); /* in order; may return before it is done */

    /* Without these it computes Adam only. */
    void *(*take)(size_t bytes); /* NULL: there is no more */
    void (*give)(void *array);
    void (*put)(void *to, const void *from, size_t bytes);
    void (*get)(void *to, const void *from, size_t bytes); /* when all work is done */
    void (*copy)(void *to, const void *from, size_t bytes);
    void (*zero)(void *to, size_t bytes);
} engine;

extern const engine engine_opencl;
extern const engine engine_linked __attribute__((weak));

/* Does a part of the work here, in arrays that the CPU can use. */
void work_do(const work *w, size_t first, size_t last);

__attribute__((format(printf, 1, 2), noreturn)) void engine_fail(const char *format, ...);

#endif /* GPT_MIXED_ENGINE_H */
