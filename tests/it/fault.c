/* Makes a process fail, or kills it, at its n-th write, sync, truncation or deletion.
 *
 *   FAULT_AT=n      the number of the operation, counted from one
 *   FAULT_HOW=how   kill: SIGKILL before the operation; eio: only this operation fails;
 *                   enospc: this operation and every later write fail
 *   FAULT_LIMIT=bytes  no file can become larger than this: a write behind it fails as on a full disk
 *   FAULT_MARK=file created when the fault happens; without it, a test knows that there were fewer operations
 *
 * The tests compile this with the system's C compiler and preload it. Standard output and error never fail. */
#define _GNU_SOURCE
#include <dlfcn.h>
#include <errno.h>
#include <fcntl.h>
#include <signal.h>
#include <stdatomic.h>
#include <stdlib.h>
#include <string.h>
#include <sys/types.h>
#include <unistd.h>

static atomic_long count;

enum operation { WRITE, OTHER };

/* Returns whether this operation fails, and then sets errno. */
static int faulty(enum operation operation) {
    const char *at = getenv("FAULT_AT"), *how = getenv("FAULT_HOW"), *mark = getenv("FAULT_MARK");
    if (!at || !how || !mark) return 0;
    long number = atomic_fetch_add(&count, 1) + 1, target = atol(at);
    int full = strcmp(how, "enospc") == 0;
    if (number < target || (number > target && !(full && operation == WRITE))) return 0;
    close(open(mark, O_WRONLY | O_CREAT | O_CLOEXEC, 0600));
    if (strcmp(how, "kill") == 0) kill(getpid(), SIGKILL);
    errno = full ? ENOSPC : EIO;
    return 1;
}

/* Returns whether a write would make a file larger than it may be, and then sets errno. */
static int too_large(off64_t offset, size_t size) {
    const char *limit = getenv("FAULT_LIMIT");
    if (!limit || offset + (off64_t)size <= atoll(limit)) return 0;
    errno = ENOSPC;
    return 1;
}

#define REAL(name) ((__typeof__(&name))dlsym(RTLD_NEXT, #name))

ssize_t pwrite64(int fd, const void *data, size_t size, off64_t offset) {
    return too_large(offset, size) || faulty(WRITE) ? -1 : REAL(pwrite64)(fd, data, size, offset);
}
ssize_t pwrite(int fd, const void *data, size_t size, off_t offset) {
    return too_large(offset, size) || faulty(WRITE) ? -1 : REAL(pwrite)(fd, data, size, offset);
}
ssize_t write(int fd, const void *data, size_t size) {
    return fd > 2 && faulty(WRITE) ? -1 : REAL(write)(fd, data, size);
}
int fsync(int fd) { return faulty(OTHER) ? -1 : REAL(fsync)(fd); }
int fdatasync(int fd) { return faulty(OTHER) ? -1 : REAL(fdatasync)(fd); }
int ftruncate64(int fd, off64_t size) { return faulty(OTHER) ? -1 : REAL(ftruncate64)(fd, size); }
int ftruncate(int fd, off_t size) { return faulty(OTHER) ? -1 : REAL(ftruncate)(fd, size); }
int unlink(const char *path) { return faulty(OTHER) ? -1 : REAL(unlink)(path); }
