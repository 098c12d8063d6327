/* behind.c - a library that stands before another function of the same name, which it
 * finds by RTLD_NEXT: that is what lies behind itself, whoever else looks. */
#include <dlfcn.h>
#include <unistd.h>

pid_t getppid(void)
{
    static int depth;
    pid_t (*next)(void);
    *(void **)&next = dlsym(RTLD_NEXT, "getppid");
    if (!next || next == getppid || depth)
        return -1;
    depth++;
    pid_t parent = next();
    depth--;
    return parent;
}
