/*
 * Counts the calls of a program that change a file, and at a chosen one kills the program or lets the call fail.
 *
 * Loaded with LD_PRELOAD. The file named by FAULT_PLAN is shared by every program of one verb, so that calls are counted
 * through. strace cannot do this: it counts for each thread and each call by itself, and QEMU writes from many threads.
 */
#define _GNU_SOURCE
#include <dlfcn.h>
#include <errno.h>
#include <fcntl.h>
#include <signal.h>
#include <stdarg.h>
#include <stdatomic.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <sys/uio.h>
#include <unistd.h>

enum { NAMES = 4096, NAME = 16 };
enum { NOTHING = 0, KILL = 1, EIO_ONCE = 2, NO_SPACE_FROM = 3, TORN = 4 };

struct plan {
    _Atomic long count; /* calls so far */
    long at;            /* the call to act at, from 1 */
    long action;
    char names[NAMES][NAME];
};

static struct plan *plan;

__attribute__((constructor)) static void begin(void)
{
    const char *path = getenv("FAULT_PLAN");
    int handle = path ? open(path, O_RDWR | O_CLOEXEC) : -1;
    if (handle < 0)
        return;
    void *found = mmap(NULL, sizeof(struct plan), PROT_READ | PROT_WRITE, MAP_SHARED, handle, 0);
    close(handle);
    if (found != MAP_FAILED)
        plan = found;
}

/* Returns what is to be done: NOTHING, TORN for a write that has a part to lose, or -1 with errno set. */
static int fault(int handle, const char *name, int writes)
{
    struct stat found;
    if (!plan || (handle >= 0 && (fstat(handle, &found) != 0 || !S_ISREG(found.st_mode))))
        return NOTHING;
    long number = atomic_fetch_add(&plan->count, 1) + 1;
    if (number <= NAMES)
        strncpy(plan->names[number - 1], name, NAME - 1);
    if (plan->action == NO_SPACE_FROM && number >= plan->at && writes) {
        errno = ENOSPC;
        return -1;
    }
    if (number != plan->at)
        return NOTHING;
    if (plan->action == TORN && writes == 2)
        return TORN;
    if (plan->action == KILL || plan->action == TORN)
        kill(getpid(), SIGKILL);
    if (plan->action == EIO_ONCE) {
        errno = EIO;
        return -1;
    }
    return NOTHING;
}

#define REAL(type, name, ...) ((type(*)(__VA_ARGS__))dlsym(RTLD_NEXT, name))

static ssize_t positioned(const char *name, int handle, const void *data, size_t length, off_t at)
{
    int what = fault(handle, "pwrite", length > 512 ? 2 : 1);
    if (what < 0)
        return -1;
    ssize_t (*real)(int, const void *, size_t, off_t) = REAL(ssize_t, name, int, const void *, size_t, off_t);
    if (what == TORN) {
        real(handle, data, length / 2 / 512 * 512, at);
        kill(getpid(), SIGKILL);
    }
    return real(handle, data, length, at);
}

ssize_t pwrite(int handle, const void *data, size_t length, off_t at) { return positioned("pwrite", handle, data, length, at); }
ssize_t pwrite64(int handle, const void *data, size_t length, off_t at) { return positioned("pwrite64", handle, data, length, at); }

static ssize_t vectored(const char *name, int handle, const struct iovec *pieces, int count, off_t at)
{
    int what = fault(handle, "pwritev", count > 1 ? 2 : 1);
    if (what < 0)
        return -1;
    ssize_t (*real)(int, const struct iovec *, int, off_t) = REAL(ssize_t, name, int, const struct iovec *, int, off_t);
    if (what == TORN) {
        real(handle, pieces, count / 2, at);
        kill(getpid(), SIGKILL);
    }
    return real(handle, pieces, count, at);
}

ssize_t pwritev(int handle, const struct iovec *pieces, int count, off_t at) { return vectored("pwritev", handle, pieces, count, at); }
ssize_t pwritev64(int handle, const struct iovec *pieces, int count, off_t at) { return vectored("pwritev64", handle, pieces, count, at); }

ssize_t write(int handle, const void *data, size_t length)
{
    return fault(handle, "write", 1) < 0 ? -1 : REAL(ssize_t, "write", int, const void *, size_t)(handle, data, length);
}

static int truncated(const char *name, int handle, off_t length)
{
    return fault(handle, "ftruncate", 1) < 0 ? -1 : REAL(int, name, int, off_t)(handle, length);
}

int ftruncate(int handle, off_t length) { return truncated("ftruncate", handle, length); }
int ftruncate64(int handle, off_t length) { return truncated("ftruncate64", handle, length); }

static int allocated(const char *name, int handle, int mode, off_t at, off_t length)
{
    return fault(handle, "fallocate", 1) < 0 ? -1 : REAL(int, name, int, int, off_t, off_t)(handle, mode, at, length);
}

int fallocate(int handle, int mode, off_t at, off_t length) { return allocated("fallocate", handle, mode, at, length); }
int fallocate64(int handle, int mode, off_t at, off_t length) { return allocated("fallocate64", handle, mode, at, length); }

ssize_t copy_file_range(int from, off_t *at, int to, off_t *where, size_t length, unsigned flags)
{
    if (fault(to, "copy_file_range", 1) < 0)
        return -1;
    return REAL(ssize_t, "copy_file_range", int, off_t *, int, off_t *, size_t, unsigned)(from, at, to, where, length, flags);
}

int fdatasync(int handle) { return fault(handle, "fdatasync", 0) < 0 ? -1 : REAL(int, "fdatasync", int)(handle); }
int fsync(int handle) { return fault(handle, "fsync", 0) < 0 ? -1 : REAL(int, "fsync", int)(handle); }
int unlink(const char *path) { return fault(-1, "unlink", 0) < 0 ? -1 : REAL(int, "unlink", const char *)(path); }

int rename(const char *old, const char *new)
{
    return fault(-1, "rename", 0) < 0 ? -1 : REAL(int, "rename", const char *, const char *)(old, new);
}

int link(const char *old, const char *new)
{
    return fault(-1, "link", 0) < 0 ? -1 : REAL(int, "link", const char *, const char *)(old, new);
}
