/* cuda_forks.c - a program that knows nothing of terrace: it has large blocks of host
 * memory, and forks before anybody uses the CUDA driver, which is then its child's. */
#include <dlfcn.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/wait.h>
#include <unistd.h>

static int child(void)
{
    void *library = dlopen("libcuda.so.1", RTLD_NOW);
    int (*init)(unsigned) = NULL;
    if (library)
        *(void **)&init = dlsym(library, "cuInit");
    return init ? init(0) : 1;
}

int main(void)
{
    size_t bytes = 32 << 20;
    char *block = malloc(bytes);
    if (!block)
        return 2;
    memset(block, 7, bytes);
    pid_t pid = fork();
    if (pid == 0)
        _exit(child());
    int status = -1;
    if (pid < 0 || waitpid(pid, &status, 0) != pid || block[bytes - 1] != 7)
        return 2;
    printf("the child's driver: %d\n", WEXITSTATUS(status));
    free(block);
    return status != 0;
}
