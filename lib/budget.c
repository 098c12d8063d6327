/* budget.c - how much host memory this process may take.
 *
 * Every source (the whole machine, each memory cgroup from our own to the
 * root) yields bytes that are still free; the tightest one counts. A process
 * in a container sees its cgroup's path as the host does, but the cgroup file
 * system from its own root on: where the path does not exist below the mount,
 * the mount itself is the container's cgroup. */
#include "budget.h"

#include <fcntl.h>
#include <limits.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "error.h"

#define MARGIN_LEAST ((uint64_t)128 << 20)
#define UNLIMITED ((uint64_t)1 << 62) /* v1 writes LONG_MAX in whole pages for "none" */

/* The file names of one cgroup version. The second limit is v1's least limit
 * of all ancestors, also those out of our sight, or v2's point of throttling. */
static const struct version {
    const char *name, *fstype, *limit, *usage, *inactive, *second_file, *second_key;
} versions[] = {
    {"v1", "cgroup", "memory.limit_in_bytes", "memory.usage_in_bytes", "total_inactive_file",
     "memory.stat", "hierarchical_memory_limit"},
    {"v2", "cgroup2", "memory.max", "memory.current", "inactive_file", "memory.high", NULL},
};

/* The tightest source so far. */
struct tightest {
    uint64_t available; /* UINT64_MAX: none yet */
    char text[128];
};

/* ---- reading ------------------------------------------------------------- */

static FILE *open_at(const char *dir, const char *name)
{
    char path[PATH_MAX];
    int length = snprintf(path, sizeof path, "%s/%s", dir, name);
    return length > 0 && (size_t)length < sizeof path ? fopen(path, "re") : NULL;
}

/* "max" is UINT64_MAX. */
static bool parse_number(const char *text, uint64_t *out)
{
    char *end = NULL;
    bool max = !strncmp(text, "max", 3);
    unsigned long long value = max ? UINT64_MAX : strtoull(text, &end, 10);
    if (!max && (end == text || *text == '-'))
        return false;
    *out = value;
    return true;
}

/* Reads the number behind `key` at the start of a line, or the file's first
 * number with key NULL. */
static bool read_number(const char *dir, const char *name, const char *key, uint64_t *out)
{
    FILE *file = open_at(dir, name);
    if (!file)
        return false;
    char line[256];
    size_t skip = key ? strlen(key) : 0;
    bool found = false;
    while (!found && fgets(line, sizeof line, file)) {
        const char *value = line + skip;
        if (key && (strncmp(line, key, skip) != 0 || !strchr(" :\t", *value)))
            continue;
        found = parse_number(value + strspn(value, " :\t"), out);
    }
    fclose(file);
    return found;
}

/* ---- one memory cgroup --------------------------------------------------- */

static void consider(struct tightest *t, const struct version *v, const char *group,
                     uint64_t limit, uint64_t used)
{
    uint64_t available = limit > used ? limit - used : 0;
    if (limit >= UNLIMITED || available >= t->available)
        return;
    char a[BYTES_TEXT], b[BYTES_TEXT];
    t->available = available;
    snprintf(t->text, sizeof t->text, "cgroup %s %.48s: limit %s, %s in use", v->name,
             *group ? group : "/", bytes_text(limit, a), bytes_text(used, b));
}

/* `group` is the part of dir below the mount. Without the usage nothing is
 * known to be taken. The inactive page cache goes before anything hurts. */
static void consider_group(struct tightest *t, const struct version *v, const char *dir,
                           const char *group)
{
    uint64_t limit, second, usage = 0, inactive = 0;
    if (!read_number(dir, v->limit, NULL, &limit))
        return;
    read_number(dir, v->usage, NULL, &usage);
    read_number(dir, "memory.stat", v->inactive, &inactive);
    usage -= inactive < usage ? inactive : usage;
    consider(t, v, group, limit, usage);
    if (read_number(dir, v->second_file, v->second_key, &second))
        consider(t, v, group, second, usage);
}

/* ---- finding our own ----------------------------------------------------- */

/* Whether `word` is in a list separated by commas. */
static bool in_list(const char *list, const char *word)
{
    size_t length = strlen(word);
    for (const char *c = list; c; c = strchr(c, ','), c = c ? c + 1 : NULL)
        if (!strncmp(c, word, length) && (c[length] == ',' || c[length] == 0))
            return true;
    return false;
}

/* The process's cgroup from /proc/self/cgroup: "4:memory:/a/b" in v1,
 * "0::/a/b" in v2. */
static bool own_group(const char *root, const struct version *v, char path[PATH_MAX])
{
    char proc[PATH_MAX];
    snprintf(proc, sizeof proc, "%s/proc/self", root);
    FILE *file = open_at(proc, "cgroup");
    if (!file)
        return false;
    char *line = NULL;
    size_t room = 0;
    bool v1 = v == &versions[0], found = false;
    while (!found && getline(&line, &room, file) > 0) {
        line[strcspn(line, "\n")] = 0;
        char *controllers = strchr(line, ':');
        char *group = controllers ? strchr(controllers + 1, ':') : NULL;
        if (!group)
            continue;
        *group++ = 0;
        controllers++;
        found = v1 ? in_list(controllers, "memory") : !*controllers;
        if (found)
            snprintf(path, PATH_MAX, "%s", group);
    }
    free(line);
    fclose(file);
    return found;
}

/* mountinfo writes blanks and the like as \040. */
static void unescape(char *text)
{
    char *to = text;
    for (const char *c = text; *c; c++) {
        bool octal = *c == '\\' && strspn(c + 1, "01234567") >= 3;
        *to++ = octal ? (char)((c[1] - '0') * 64 + (c[2] - '0') * 8 + c[3] - '0') : *c;
        c += octal ? 3 : 0;
    }
    *to = 0;
}

/* A line of mountinfo: "36 35 98:0 ROOT POINT options [tags] - TYPE source
 * OPTIONS". True if it is this version's hierarchy with memory. */
static bool parse_mount(char *line, const struct version *v, char **mount_root, char **point)
{
    char *rest = strstr(line, " - "), *save, *type, *super;
    if (!rest)
        return false;
    *rest = 0;
    type = strtok_r(rest + 3, " \n", &save);
    strtok_r(NULL, " \n", &save);
    super = strtok_r(NULL, " \n", &save);
    if (!type || strcmp(type, v->fstype) != 0)
        return false;
    if (v == &versions[0] && (!super || !in_list(super, "memory")))
        return false;
    strtok_r(line, " ", &save);
    strtok_r(NULL, " ", &save);
    strtok_r(NULL, " ", &save);
    *mount_root = strtok_r(NULL, " ", &save);
    *point = strtok_r(NULL, " ", &save);
    if (!*mount_root || !*point)
        return false;
    unescape(*mount_root);
    unescape(*point);
    return true;
}

/* The part of `group` below the mount's root; NULL if it is not below. A group
 * above our cgroup namespace reads "/../..". */
static const char *below(const char *group, const char *mount_root)
{
    size_t length = strcmp(mount_root, "/") ? strlen(mount_root) : 0;
    if (strncmp(group, mount_root, length) != 0 || strstr(group, "/.."))
        return NULL;
    group += length;
    if (!strcmp(group, "/"))
        return "";
    return !*group || *group == '/' ? group : NULL;
}

/* Writes the folder that stands for our cgroup and the length of its part that
 * is the mount point. A mount in which the group exists goes over one in which
 * it does not, a later mount over an earlier one, which it may cover. */
static bool own_folder(const char *root, const struct version *v, const char *group,
                       char folder[PATH_MAX], size_t *mount_length)
{
    char proc[PATH_MAX];
    snprintf(proc, sizeof proc, "%s/proc/self", root);
    FILE *file = open_at(proc, "mountinfo");
    if (!file)
        return false;
    char *line = NULL, *mount_root, *point;
    size_t room = 0;
    bool found = false, exact = false;
    while (getline(&line, &room, file) > 0) {
        if (!parse_mount(line, v, &mount_root, &point))
            continue;
        char path[PATH_MAX];
        const char *inside = below(group, mount_root);
        int length = snprintf(path, sizeof path, "%s%s%s", root, point, inside ? inside : "");
        bool here = inside && (size_t)length < sizeof path && !access(path, F_OK);
        if (exact && !here)
            continue;
        found = true;
        exact = here;
        *mount_length = strlen(root) + strlen(point);
        snprintf(folder, PATH_MAX, "%.*s", (int)(here ? (size_t)length : *mount_length), path);
    }
    free(line);
    fclose(file);
    return found;
}

/* From our own cgroup up to the mount's root. */
static void consider_chain(struct tightest *t, const struct version *v, const char *root)
{
    char group[PATH_MAX], folder[PATH_MAX];
    size_t mount_length;
    if (!own_group(root, v, group) || !own_folder(root, v, group, folder, &mount_length))
        return;
    for (;;) {
        consider_group(t, v, folder, folder + mount_length);
        char *slash = strrchr(folder + mount_length, '/');
        if (!slash)
            return;
        *slash = 0;
    }
}

/* ---- the answer ---------------------------------------------------------- */

static void consider_machine(struct tightest *t, const char *root)
{
    char proc[PATH_MAX], text[BYTES_TEXT];
    uint64_t kib;
    snprintf(proc, sizeof proc, "%s/proc", root);
    if (!read_number(proc, "meminfo", "MemAvailable", &kib) || kib >= UNLIMITED >> 10)
        return;
    t->available = kib << 10;
    snprintf(t->text, sizeof t->text, "MemAvailable %s", bytes_text(t->available, text));
}

static uint64_t half_of_physical(char *reason, size_t len)
{
    uint64_t half = (uint64_t)sysconf(_SC_PHYS_PAGES) / 2 * (uint64_t)sysconf(_SC_PAGESIZE);
    snprintf(reason, len, "half of physical memory, as what is available cannot be read");
    return half;
}

static uint64_t margin(uint64_t available)
{
    uint64_t wanted = available / 20 > MARGIN_LEAST ? available / 20 : MARGIN_LEAST;
    return wanted > available / 2 ? available / 10 : wanted;
}

uint64_t budget_host_available(const struct budget_root *where, char *reason, size_t len)
{
    struct tightest t = {.available = UINT64_MAX};
    consider_machine(&t, where->root);
    for (size_t i = 0; i < sizeof versions / sizeof *versions; i++)
        consider_chain(&t, &versions[i], where->root);
    if (t.available == UINT64_MAX)
        return half_of_physical(reason, len);
    char text[BYTES_TEXT];
    uint64_t less = margin(t.available);
    snprintf(reason, len, "%s, less a margin of %s", t.text, bytes_text(less, text));
    return t.available - less;
}

/* ---- several tiers ------------------------------------------------------- */

static uint64_t portion(uint64_t of, uint64_t part, uint64_t whole)
{
    return whole ? (uint64_t)((unsigned __int128)of * part / whole) : 0;
}

void budget_divide(uint64_t *budget, const bool *fixed, size_t n, uint64_t sum)
{
    uint64_t kept = 0, open = 0;
    for (size_t i = 0; i < n; i++) {
        uint64_t *total = fixed[i] ? &kept : &open;
        *total = *total + budget[i] < *total ? UINT64_MAX : *total + budget[i];
    }
    for (size_t i = 0; i < n; i++) {
        if (!fixed[i])
            budget[i] = portion(budget[i], sum > kept ? sum - kept : 0, open);
        else if (kept > sum)
            budget[i] = portion(budget[i], sum, kept);
    }
}
