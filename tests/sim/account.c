/* account.c - how much of the simulated devices' memory is taken.
 *
 * By this process alone, or, where SIM_..._ACCOUNT names one, by all processes
 * that name the same: then the figures lie in shared memory ("/dev/shm/NAME"),
 * a slot for each process. What a process had taken that has ended is free. */
#include <errno.h>
#include <fcntl.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

#include "engine.h"

enum { SLOTS = 64 };

struct slot {
    pid_t process;
    uint64_t used[MAX_DEVICES];
};

static struct account {
    pthread_mutex_t lock;
    int ready; /* the lock is */
    struct slot slots[SLOTS];
} own = {.lock = PTHREAD_MUTEX_INITIALIZER, .ready = 1}, *account = &own;
static struct slot *mine = &own.slots[0];
static pthread_once_t opened = PTHREAD_ONCE_INIT;

static void account_lock(void)
{
    if (pthread_mutex_lock(&account->lock) == EOWNERDEAD)
        pthread_mutex_consistent(&account->lock);
}

static void account_unlock(void)
{
    pthread_mutex_unlock(&account->lock);
}

static void make_lock(struct account *a)
{
    pthread_mutexattr_t attr;
    pthread_mutexattr_init(&attr);
    pthread_mutexattr_setpshared(&attr, PTHREAD_PROCESS_SHARED);
    pthread_mutexattr_setrobust(&attr, PTHREAD_MUTEX_ROBUST);
    pthread_mutex_init(&a->lock, &attr);
    pthread_mutexattr_destroy(&attr);
    __atomic_store_n(&a->ready, 1, __ATOMIC_RELEASE);
}

/* The one who creates the file makes the lock; the others wait for that. */
static struct account *share(const char *name)
{
    int fd = shm_open(name, O_RDWR | O_CREAT | O_EXCL | O_CLOEXEC, 0600);
    bool first = fd >= 0;
    if (!first)
        fd = shm_open(name, O_RDWR | O_CLOEXEC, 0600);
    struct stat st = {0};
    if (fd < 0 || (first && ftruncate(fd, sizeof(struct account))))
        return NULL;
    while (!fstat(fd, &st) && st.st_size < (off_t)sizeof(struct account))
        usleep(1000);
    struct account *a = mmap(NULL, sizeof *a, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);
    close(fd);
    if (a == MAP_FAILED)
        return NULL;
    if (first)
        make_lock(a);
    while (!__atomic_load_n(&a->ready, __ATOMIC_ACQUIRE))
        usleep(1000);
    return a;
}

static void clear_the_dead(void)
{
    for (int i = 0; account != &own && i < SLOTS; i++)
        if (account->slots[i].process && kill(account->slots[i].process, 0) && errno == ESRCH)
            memset(&account->slots[i], 0, sizeof account->slots[i]);
}

static void take_slot(void)
{
    account_lock();
    clear_the_dead();
    mine = NULL;
    for (int i = 0; i < SLOTS && !mine; i++)
        if (!account->slots[i].process)
            mine = &account->slots[i];
    if (mine)
        mine->process = getpid();
    account_unlock();
}

static void open_account(void)
{
    char variable[64];
    snprintf(variable, sizeof variable, "%sACCOUNT", vendor.prefix);
    const char *name = getenv(variable);
    if (!name)
        return;
    struct account *shared = share(name);
    if (shared) {
        account = shared;
        take_slot();
    }
    if (!shared || !mine) {
        fprintf(stderr, "%s=%s cannot be shared: it is to be a name such as /terrace-sim\n", variable, name);
        abort();
    }
}

static uint64_t sum(int device)
{
    uint64_t bytes = 0;
    for (int i = 0; i < SLOTS; i++)
        bytes += account->slots[i].used[device];
    return bytes;
}

bool account_take(int device, uint64_t bytes)
{
    pthread_once(&opened, open_account);
    uint64_t capacity = (uint64_t)engine.settings.capacity;
    account_lock();
    bool fits = bytes <= capacity && sum(device) <= capacity - bytes;
    if (!fits) {
        clear_the_dead();
        fits = bytes <= capacity && sum(device) <= capacity - bytes;
    }
    mine->used[device] += fits ? bytes : 0;
    account_unlock();
    return fits;
}

void account_give(int device, uint64_t bytes)
{
    pthread_once(&opened, open_account);
    account_lock();
    mine->used[device] -= bytes;
    account_unlock();
}

uint64_t account_used(int device)
{
    pthread_once(&opened, open_account);
    account_lock();
    clear_the_dead();
    uint64_t bytes = sum(device);
    account_unlock();
    return bytes;
}
