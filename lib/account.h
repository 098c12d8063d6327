/* account.h - host memory that several processes share one budget of.
 * May call: error.h, libc. */
#ifndef TERRACE_LIB_ACCOUNT_H
#define TERRACE_LIB_ACCOUNT_H

#include <stdbool.h>
#include <stdint.h>

struct account;

/* Joins the account that a file holds; makes one, of `limit` bytes, where there is none
 * yet. It is left by account_leave(), or when the calling thread ends, be it that its
 * process is killed. Errors: ECONFIG (the file is something else), EPERM (somebody
 * else's), EBUDGET (too many have joined), ENOMEM, ESYSTEM. */
int  account_join(const char *path, uint64_t limit, struct account **out);
/* By the thread that has joined. The last one removes the file. */
void account_leave(struct account *a);
/* The process ends: removes the file where nobody else has joined. What is charged
 * stays so until then. By any thread. */
void account_end(struct account *a);

uint64_t account_limit(const struct account *a);
const char *account_path(const struct account *a);

/* Charges bytes, or gives them back. Charging asks the others for what they have more
 * than their share of, where this process has less than its own; waits for that for a
 * quarter of a second, and then is refused, unless this process has next to nothing. */
bool account_take(struct account *a, uint64_t bytes);
void account_give(struct account *a, uint64_t bytes);
/* The same at once, or not at all. */
bool account_try(struct account *a, uint64_t bytes);

/* Bytes that nobody has. */
uint64_t account_free(struct account *a);
/* Bytes that this process has, and how many processes there are. */
uint64_t account_held(const struct account *a);
unsigned account_members(struct account *a);

/* Waits until others ask, from `seen` on, which account_wait() has returned last (0 at
 * first), or account_wake() was called. */
uint32_t account_wait(struct account *a, uint32_t seen);
void account_wake(struct account *a);
/* How many bytes this process is to give now, as others ask for them and it has more
 * than its share. */
uint64_t account_asked(struct account *a);

/* Removes the account in a file that nobody has joined any more. */
void account_sweep(const char *path);

#endif
