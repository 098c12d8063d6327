/* plugin.c - is loaded and unloaded; allocates while that happens, and stays in the
 * way of nobody. */
#include <stdlib.h>
#include <string.h>

static char *kept;

__attribute__((constructor)) static void begin(void)
{
    kept = malloc(3 << 20);
    memset(kept, 4, 3 << 20);
}

__attribute__((destructor)) static void end(void)
{
    free(kept);
}

char *plugin_new(size_t bytes)
{
    char *p = malloc(bytes);
    if (p)
        memset(p, kept[2 << 20], bytes);
    return p;
}
