/* Sees every operation by which a process changes files below one folder, and ends or fails it at the N-th.
 *
 * Preloaded (LD_PRELOAD), it stands between Python, HDF5 and all other libraries and the C library: opening for
 * writing, write, fsync, rename, unlink, mkdir, rmdir, link, truncate and copies inside the kernel. `arm` starts the
 * count. At the N-th operation, before it happens:
 *   mode 'k'  the process is killed (SIGKILL);
 *   mode 't'  half of a write happens, then it is killed (other operations: as 'k');
 *   mode 'l'  it is killed, and the inodes of files that were written and not synced are listed in `lost`;
 *   mode 'f'  this and every later operation that needs space fails with ENOSPC (the disk is full).
 * `trace` gets a line for each operation. Changes of metadata alone (utime, chmod) and mmap are not seen.
 */
#define _GNU_SOURCE
#include <dlfcn.h>
#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <pthread.h>
#include <signal.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/sendfile.h>
#include <sys/stat.h>
#include <sys/types.h>
#include <sys/uio.h>
#include <unistd.h>

#define MOST_DIRTY 4096
#define REAL(type, name, ...) \
    static type (*real)(__VA_ARGS__); \
    if (!real) real = (type(*)(__VA_ARGS__))dlsym(RTLD_NEXT, #name)

static pthread_mutex_t lock = PTHREAD_MUTEX_INITIALIZER;
static volatile int armed = 0, full = 0;
static long count = 0, target = 0;
static char mode = 'k', root[PATH_MAX] = "", lost[PATH_MAX] = "";
static int trace_fd = -1;
static struct { dev_t device; ino_t inode; } dirty[MOST_DIRTY];
static int n_dirty = 0;

static ssize_t (*write_real(void))(int, const void *, size_t) {
    static ssize_t (*real)(int, const void *, size_t);
    if (!real) real = (ssize_t(*)(int, const void *, size_t))dlsym(RTLD_NEXT, "write");
    return real;
}

void arm(const char *folder, const char *trace, const char *lost_file, char how, long at) {
    REAL(int, open, const char *, int, ...);
    snprintf(root, sizeof root, "%s/", folder);
    snprintf(lost, sizeof lost, "%s", lost_file);
    trace_fd = trace[0] ? real(trace, O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC, 0644) : -1;
    mode = how, target = at, count = 0, full = 0, n_dirty = 0, armed = 1;
}

long disarm(void) {
    armed = 0;
    return count;
}

static int inside(const char *path) { return strncmp(path, root, strlen(root)) == 0; }

/* The absolute path of a name below a folder's descriptor; 0 when it is not below the root. */
static int resolve(int folder, const char *name, char *out) {
    if (!armed || !name) return 0;
    if (name[0] == '/') {
        snprintf(out, PATH_MAX, "%s", name);
        return inside(out);
    }
    char base[PATH_MAX], link[64];
    if (folder == AT_FDCWD) {
        if (!getcwd(base, sizeof base)) return 0;
    } else {
        snprintf(link, sizeof link, "/proc/self/fd/%d", folder);
        ssize_t n = readlink(link, base, sizeof base - 1);
        if (n < 0) return 0;
        base[n] = 0;
    }
    if (snprintf(out, PATH_MAX, "%s/%s", base, name) >= PATH_MAX) return 0;
    return inside(out);
}

static int of_descriptor(int fd, char *out) {
    char link[64];
    if (!armed) return 0;
    snprintf(link, sizeof link, "/proc/self/fd/%d", fd);
    ssize_t n = readlink(link, out, PATH_MAX - 1);
    if (n < 0) return 0;
    out[n] = 0;
    return inside(out);
}

static void mark(int fd, int written) {
    struct stat found;
    if (!armed || fstat(fd, &found)) return;
    pthread_mutex_lock(&lock);
    int i = 0;
    while (i < n_dirty && !(dirty[i].device == found.st_dev && dirty[i].inode == found.st_ino)) i++;
    if (written && i == n_dirty && n_dirty < MOST_DIRTY) {
        dirty[n_dirty].device = found.st_dev;
        dirty[n_dirty++].inode = found.st_ino;
    } else if (!written && i < n_dirty) {
        dirty[i] = dirty[--n_dirty];
    }
    pthread_mutex_unlock(&lock);
}

static void die(void) {
    if (mode == 'l' && lost[0]) {
        REAL(int, open, const char *, int, ...);
        int fd = real(lost, O_WRONLY | O_CREAT | O_TRUNC, 0644);
        char line[64];
        for (int i = 0; i < n_dirty; i++) {
            int n = snprintf(line, sizeof line, "%lu\n", (unsigned long)dirty[i].inode);
            if (write_real()(fd, line, n) != n) abort();
        }
        close(fd);
    }
    kill(getpid(), SIGKILL);
    for (;;) pause();
}

/* Counts one operation; 1 when it must fail for lack of space, 2 when half of it is to happen before the end. */
static int boundary(const char *kind, const char *path, int needs_space) {
    char line[PATH_MAX + 64];
    pthread_mutex_lock(&lock);
    long now = ++count;
    int n = snprintf(line, sizeof line, "%ld %s %s\n", now, kind, path + strlen(root));
    if (trace_fd >= 0 && write_real()(trace_fd, line, n) != n) abort();
    if (now == target && mode == 'f') full = 1;
    if (now == target && mode != 'f' && !(mode == 't' && strcmp(kind, "write") == 0)) die();
    pthread_mutex_unlock(&lock);
    if (now == target && mode == 't') return 2;
    return full && needs_space;
}

#define NO_SPACE do { errno = ENOSPC; return -1; } while (0)

/* ---------------------------------------------------------------------------------------- opening */

static int opens(int folder, const char *path, int flags) {
    char full_path[PATH_MAX];
    if (!(flags & (O_WRONLY | O_RDWR | O_CREAT | O_TRUNC)) || !resolve(folder, path, full_path)) return 0;
    return boundary("open", full_path, flags & O_CREAT && access(full_path, F_OK) != 0) == 1;
}

#define OPEN(name)                                                             \
    int name(const char *path, int flags, ...) {                               \
        REAL(int, name, const char *, int, ...);                               \
        va_list rest;                                                          \
        va_start(rest, flags);                                                 \
        mode_t rights = flags & (O_CREAT | O_TMPFILE) ? va_arg(rest, mode_t) : 0; \
        va_end(rest);                                                          \
        if (armed && opens(AT_FDCWD, path, flags)) NO_SPACE;                   \
        int fd = real(path, flags, rights);                                    \
        if (armed && fd >= 0 && flags & O_TRUNC) { char p[PATH_MAX]; if (of_descriptor(fd, p)) mark(fd, 1); } \
        return fd;                                                             \
    }
OPEN(open)
OPEN(open64)

#define OPENAT(name)                                                           \
    int name(int folder, const char *path, int flags, ...) {                   \
        REAL(int, name, int, const char *, int, ...);                          \
        va_list rest;                                                          \
        va_start(rest, flags);                                                 \
        mode_t rights = flags & (O_CREAT | O_TMPFILE) ? va_arg(rest, mode_t) : 0; \
        va_end(rest);                                                          \
        if (armed && opens(folder, path, flags)) NO_SPACE;                     \
        return real(folder, path, flags, rights);                              \
    }
OPENAT(openat)
OPENAT(openat64)

/* ---------------------------------------------------------------------------------------- writing */

static int writes(int fd) {
    char path[PATH_MAX];
    if (!of_descriptor(fd, path)) return 0;
    mark(fd, 1);
    return boundary("write", path, 1);
}

ssize_t write(int fd, const void *data, size_t n) {
    int what = armed ? writes(fd) : 0;
    if (what == 1) NO_SPACE;
    if (what == 2) { if (write_real()(fd, data, n / 2) < 0) abort(); die(); }
    return write_real()(fd, data, n);
}

#define PWRITE(name, offset_type)                                              \
    ssize_t name(int fd, const void *data, size_t n, offset_type at) {         \
        REAL(ssize_t, name, int, const void *, size_t, offset_type);           \
        int what = armed ? writes(fd) : 0;                                     \
        if (what == 1) NO_SPACE;                                               \
        if (what == 2) { if (real(fd, data, n / 2, at) < 0) abort(); die(); }  \
        return real(fd, data, n, at);                                          \
    }
PWRITE(pwrite, off_t)
PWRITE(pwrite64, off64_t)

ssize_t writev(int fd, const struct iovec *pieces, int n) {
    REAL(ssize_t, writev, int, const struct iovec *, int);
    int what = armed ? writes(fd) : 0;
    if (what == 1) NO_SPACE;
    if (what == 2) { if (real(fd, pieces, n / 2) < 0) abort(); die(); }
    return real(fd, pieces, n);
}

#define SENDFILE(name, offset_type)                                            \
    ssize_t name(int to, int from, offset_type *at, size_t n) {                \
        REAL(ssize_t, name, int, int, offset_type *, size_t);                  \
        int what = armed ? writes(to) : 0;                                     \
        if (what == 1) NO_SPACE;                                               \
        if (what == 2) die();                                                  \
        return real(to, from, at, n);                                          \
    }
SENDFILE(sendfile, off_t)
SENDFILE(sendfile64, off64_t)

ssize_t copy_file_range(int from, off64_t *in, int to, off64_t *out, size_t n, unsigned flags) {
    REAL(ssize_t, copy_file_range, int, off64_t *, int, off64_t *, size_t, unsigned);
    int what = armed ? writes(to) : 0;
    if (what == 1) NO_SPACE;
    if (what == 2) die();
    return real(from, in, to, out, n, flags);
}

#define TRUNCATE(name, offset_type)                                            \
    int name(int fd, offset_type n) {                                          \
        REAL(int, name, int, offset_type);                                     \
        char path[PATH_MAX];                                                   \
        if (armed && of_descriptor(fd, path)) {                                \
            mark(fd, 1);                                                       \
            if (boundary("truncate", path, 0) == 1) NO_SPACE;                  \
        }                                                                      \
        return real(fd, n);                                                    \
    }
TRUNCATE(ftruncate, off_t)
TRUNCATE(ftruncate64, off64_t)

#define SYNC(name)                                                             \
    int name(int fd) {                                                         \
        REAL(int, name, int);                                                  \
        char path[PATH_MAX];                                                   \
        int seen = armed && of_descriptor(fd, path);                           \
        if (seen) boundary("fsync", path, 0);                                  \
        int result = real(fd);                                                 \
        if (seen) mark(fd, 0);                                                 \
        return result;                                                         \
    }
SYNC(fsync)
SYNC(fdatasync)

/* ------------------------------------------------------------------------------------------ names */

#define NAME_AT(name, kind, space, parameters, arguments, folder, path)        \
    int name parameters {                                                      \
        REAL(int, name, NAME_TYPES);                                           \
        char at[PATH_MAX];                                                     \
        if (armed && resolve(folder, path, at) && boundary(kind, at, space) == 1) NO_SPACE; \
        return real arguments;                                                 \
    }

#define NAME_TYPES const char *
NAME_AT(unlink, "unlink", 0, (const char *path), (path), AT_FDCWD, path)
NAME_AT(rmdir, "rmdir", 0, (const char *path), (path), AT_FDCWD, path)
#undef NAME_TYPES
#define NAME_TYPES int, const char *, int
NAME_AT(unlinkat, "unlink", 0, (int folder, const char *path, int flags), (folder, path, flags), folder, path)
#undef NAME_TYPES
#define NAME_TYPES const char *, mode_t
NAME_AT(mkdir, "mkdir", 1, (const char *path, mode_t rights), (path, rights), AT_FDCWD, path)
#undef NAME_TYPES
#define NAME_TYPES int, const char *, mode_t
NAME_AT(mkdirat, "mkdir", 1, (int folder, const char *path, mode_t rights), (folder, path, rights), folder, path)
#undef NAME_TYPES
#define NAME_TYPES const char *, const char *
NAME_AT(rename, "rename", 0, (const char *old, const char *path), (old, path), AT_FDCWD, path)
NAME_AT(link, "link", 1, (const char *old, const char *path), (old, path), AT_FDCWD, path)
NAME_AT(symlink, "link", 1, (const char *old, const char *path), (old, path), AT_FDCWD, path)
#undef NAME_TYPES
#define NAME_TYPES int, const char *, int, const char *
NAME_AT(renameat, "rename", 0, (int a, const char *old, int b, const char *path), (a, old, b, path), b, path)
#undef NAME_TYPES
#define NAME_TYPES int, const char *, int, const char *, unsigned
NAME_AT(renameat2, "rename", 0, (int a, const char *old, int b, const char *path, unsigned f), (a, old, b, path, f), b, path)
#undef NAME_TYPES
#define NAME_TYPES int, const char *, int, const char *, int
NAME_AT(linkat, "link", 1, (int a, const char *old, int b, const char *path, int f), (a, old, b, path, f), b, path)
