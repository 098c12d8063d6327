/* writers.h - threads that write at full speed to memory that comes and goes,
 * and count what is lost.
 *
 * Every thread has one word in every page, and a note of what it must hold. It
 * goes over pages in bursts, many times over a few of them, sequentially, in
 * strides or at random, adds to its words, and checks each first. Meanwhile
 * another has ranges leave memory and come back. Everything follows from the
 * seed, but for the timing. */
#ifndef TERRACE_TESTS_WRITERS_H
#define TERRACE_TESTS_WRITERS_H

#include <pthread.h>
#include <stdatomic.h>
#include <stdint.h>
#include <stdlib.h>
#include <time.h>

#include "terrace.h"

enum { WRITERS = 4, WRITERS_PAGE = 4096 };

struct writer {
    unsigned char *p;
    size_t pages;
    unsigned number;
    uint64_t random;
    uint64_t *note;
    unsigned long lost, writes;
    atomic_bool *stop;
};

struct mover {
    terrace *m;
    unsigned char *p;
    size_t bytes;
    terrace_tier host;
    uint64_t random;
    atomic_bool *stop;
};

static inline uint64_t writers_random(uint64_t *x)
{
    *x ^= *x << 13;
    *x ^= *x >> 7;
    *x ^= *x << 17;
    return *x * 0x2545f4914f6cdd1du >> 11;
}

/* The thread's word in a page; apart, so that no two share what a CPU stores at once. */
static inline volatile uint64_t *writers_word(struct writer *w, size_t page)
{
    return (volatile uint64_t *)(w->p + page * WRITERS_PAGE + 64 * (w->number + page % 7));
}

static inline void writers_touch(struct writer *w, size_t page)
{
    volatile uint64_t *word = writers_word(w, page);
    if (*word != w->note[page]) {
        w->lost++;
        w->note[page] = *word;
    }
    *word = ++w->note[page];
    w->writes++;
}

static inline void *writers_write(void *arg)
{
    static const size_t strides[] = {1, 1, 3, 16, 0};
    struct writer *w = arg;
    while (!atomic_load(w->stop)) {
        size_t at = writers_random(&w->random) % w->pages, n = 16 + writers_random(&w->random) % 240;
        size_t stride = strides[writers_random(&w->random) % 5];
        for (unsigned round = 0; round < 40 && !atomic_load(w->stop); round++) {
            uint64_t again = w->random;
            for (size_t i = 0; i < n; i++)
                writers_touch(w, (at + (stride ? i * stride : writers_random(&again))) % w->pages);
        }
        writers_random(&w->random);
    }
    return NULL;
}

static inline void *writers_move(void *arg)
{
    struct mover *v = arg;
    while (!atomic_load(v->stop)) {
        size_t at = writers_random(&v->random) % v->bytes, most = v->bytes - at;
        size_t bytes = 1 + writers_random(&v->random) % (8u << 20);
        int advice = writers_random(&v->random) % 4 ? TERRACE_ADVISE_DONTNEED : TERRACE_ADVISE_WILLNEED;
        terrace_advise(v->m, v->p + at, bytes < most ? bytes : most, advice, v->host);
        nanosleep(&(struct timespec){.tv_nsec = 2000000}, NULL);
    }
    return NULL;
}

/* How long, in seconds: as TEST_SECONDS says, or `usual`. */
static inline unsigned writers_seconds(unsigned usual)
{
    const char *text = getenv("TEST_SECONDS");
    return text && atoi(text) > 0 ? (unsigned)atoi(text) : usual;
}

/* Runs them; returns the number of lost writes; *writes: of all. */
static inline unsigned long writers_run(terrace *m, terrace_tier host, unsigned char *p, size_t bytes,
                                        uint64_t seed, double seconds, unsigned long *writes)
{
    static struct writer w[WRITERS];
    static atomic_bool stop;
    pthread_t thread[WRITERS], moving;
    struct mover v = {.m = m, .p = p, .bytes = bytes, .host = host, .random = seed * 77 + 5, .stop = &stop};
    unsigned long lost = 0;
    atomic_store(&stop, false);
    *writes = 0;
    for (unsigned i = 0; i < WRITERS; i++) {
        w[i] = (struct writer){.p = p, .pages = bytes / WRITERS_PAGE, .number = i,
                               .random = seed * 1000003 + i + 1, .stop = &stop};
        w[i].note = calloc(w[i].pages, sizeof *w[i].note);
        for (size_t page = 0; page < w[i].pages; page++)
            w[i].note[page] = *writers_word(&w[i], page);
        pthread_create(&thread[i], NULL, writers_write, &w[i]);
    }
    pthread_create(&moving, NULL, writers_move, &v);
    nanosleep(&(struct timespec){.tv_sec = (time_t)seconds,
                                 .tv_nsec = (long)((seconds - (double)(time_t)seconds) * 1e9)}, NULL);
    atomic_store(&stop, true);
    pthread_join(moving, NULL);
    for (unsigned i = 0; i < WRITERS; i++) {
        pthread_join(thread[i], NULL);
        for (size_t page = 0; page < w[i].pages; page++)
            w[i].lost += *writers_word(&w[i], page) != w[i].note[page];
        lost += w[i].lost;
        *writes += w[i].writes;
        free(w[i].note);
    }
    return lost;
}

#endif
