/* loads.c - libraries that come and go, and one that is not there. */
#include <dlfcn.h>

#include "job.h"

int main(int argc, char **argv)
{
    NEED(argc == 2);
    for (int i = 0; i < 100; i++) {
        void *plugin = dlopen(argv[1], i % 2 ? RTLD_NOW : RTLD_LAZY | RTLD_GLOBAL);
        NEED(plugin);
        char *(*plugin_new)(size_t) = (char *(*)(size_t))(uintptr_t)dlsym(plugin, "plugin_new");
        NEED(plugin_new);
        char *p = plugin_new(5 * MIB);
        NEED(dlclose(plugin) == 0);
        NEED(p && p[0] == 4 && p[5 * MIB - 1] == 4);
        free(p);
    }
    NEED(!dlopen("/nowhere/libnothing.so", RTLD_NOW) && dlerror());
    return 0;
}
