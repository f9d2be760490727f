/* SPDX-License-Identifier: MIT
 *
 * A depth-first walk that holds, per level of depth, one open directory and one
 * batch of its names: memory and descriptors grow with the depth of the tree,
 * never with the number of its files. Each batch is one call on a helper.
 *
 * Subdirectories are opened relative to their parent's descriptor and with
 * O_NOFOLLOW, so one that turns into a link meanwhile is an error, not a way out. */
#include "walk.h"

#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <flowcoro.h>
#include <limits.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#define LONGEST_NAME 1024 /* the kernel's own limit is 255, that of FUSE 1024 */
#define BATCH_BYTES  8192

enum { A_FILE = 'f', A_DIRECTORY = 'd', ANOTHER_KIND = '-' };

struct level {
    struct level *parent;
    DIR *dir;           /* NULL until the first batch is read */
    int parent_fd;      /* what open_name is relative to */
    const char *open_name;
    size_t path_length; /* of this directory's path within walk.path */
    size_t used;        /* bytes of the batch */
    size_t next;        /* first byte not yet visited */
    bool at_end;        /* no further batch */
    int error;          /* why it ended early, or 0 */
    char batch[BATCH_BYTES]; /* per entry: kind, name, '\0' */
};

struct walk {
    walk_visit visit;
    void *context;
    struct level *deepest;
    char path[PATH_MAX];
};

static int kind_of_mode(mode_t mode)
{
    if (S_ISREG(mode))
        return A_FILE;
    return S_ISDIR(mode) ? A_DIRECTORY : ANOTHER_KIND;
}

/* Some file systems do not store the type in the directory. An entry that has
 * vanished meanwhile is called a file: the attempt to open it tells the reason. */
static int kind_of_entry(int dir_fd, const struct dirent *entry)
{
    struct stat status;
    if (entry->d_type == DT_REG)
        return A_FILE;
    if (entry->d_type == DT_DIR)
        return A_DIRECTORY;
    if (entry->d_type != DT_UNKNOWN)
        return ANOTHER_KIND;
    if (fstatat(dir_fd, entry->d_name, &status, AT_SYMLINK_NOFOLLOW))
        return A_FILE;
    return kind_of_mode(status.st_mode);
}

static bool is_dot(const char *name)
{
    return name[0] == '.' && (!name[1] || (name[1] == '.' && !name[2]));
}

/* On a helper thread. */
static int open_level(struct level *level)
{
    int fd = openat(level->parent_fd, level->open_name,
                    O_RDONLY | O_DIRECTORY | O_NOFOLLOW | O_CLOEXEC);
    if (fd < 0)
        return -errno;
    level->dir = fdopendir(fd);
    if (level->dir)
        return 0;
    int error = -errno;
    close(fd);
    return error;
}

static void end_level(struct level *level, int error)
{
    level->at_end = true;
    level->error = error;
}

/* On a helper thread: the next batch of names. An error ends the level but does
 * not lose the names that came before it, so it is kept there, not returned. */
static flow_result read_batch(void *arg)
{
    struct level *level = arg;
    int error = level->dir ? 0 : open_level(level);
    level->used = level->next = 0;
    if (error) {
        end_level(level, error);
        return flow_ok(NULL);
    }
    while (level->used + LONGEST_NAME + 2 <= BATCH_BYTES) {
        errno = 0;
        struct dirent *entry = readdir(level->dir);
        if (!entry) {
            end_level(level, -errno);
            break;
        }
        if (is_dot(entry->d_name))
            continue;
        int kind = kind_of_entry(dirfd(level->dir), entry);
        if (kind == ANOTHER_KIND)
            continue;
        size_t length = strlen(entry->d_name);
        if (length > LONGEST_NAME) {
            end_level(level, -ENAMETOOLONG);
            break;
        }
        level->batch[level->used] = (char)kind;
        memcpy(level->batch + level->used + 1, entry->d_name, length + 1);
        level->used += length + 2;
    }
    return flow_ok(NULL);
}

/* Steps down into the directory whose path is walk->path. */
static int enter(struct walk *walk, int parent_fd, const char *open_name)
{
    struct level *level = malloc(sizeof *level);
    if (!level)
        return walk->visit(walk->context, walk->path, -ENOMEM);
    level->parent = walk->deepest;
    level->dir = NULL;
    level->parent_fd = parent_fd;
    level->open_name = open_name;
    level->path_length = strlen(walk->path);
    level->used = level->next = 0;
    level->at_end = false;
    level->error = 0;
    walk->deepest = level;
    return 0;
}

/* Steps back up. Closing a directory never waits for a device, so it needs no helper. */
static void leave(struct walk *walk)
{
    struct level *level = walk->deepest;
    walk->deepest = level->parent;
    if (level->dir)
        closedir(level->dir);
    free(level);
}

static int finish_level(struct walk *walk)
{
    struct level *level = walk->deepest;
    int error = level->error;
    walk->path[level->path_length] = '\0';
    leave(walk);
    return error ? walk->visit(walk->context, walk->path, error) : 0;
}

static int visit_next(struct walk *walk, struct level *level)
{
    char kind = level->batch[level->next];
    const char *name = level->batch + level->next + 1;
    size_t length = strlen(name);
    char *end = walk->path + level->path_length;

    level->next += length + 2;
    bool slash = end[-1] != '/';
    if (level->path_length + slash + length >= sizeof walk->path) {
        *end = '\0';
        return walk->visit(walk->context, walk->path, -ENAMETOOLONG);
    }
    if (slash)
        *end++ = '/';
    memcpy(end, name, length + 1);
    if (kind == A_DIRECTORY)
        return enter(walk, dirfd(level->dir), end);
    return walk->visit(walk->context, walk->path, 0);
}

static int walk_levels(struct walk *walk)
{
    int error = 0;
    while (!error && walk->deepest) {
        struct level *level = walk->deepest;
        if (level->next < level->used)
            error = visit_next(walk, level);
        else if (level->at_end)
            error = finish_level(walk);
        else
            error = flow_offload(FLOW_LANE_FILE, read_batch, level, FLOW_FOREVER).error;
    }
    return error;
}

/* On a helper thread. */
static flow_result classify_root(void *path)
{
    struct stat status;
    if (lstat(path, &status))
        return flow_ok_i64(-errno);
    if (S_ISLNK(status.st_mode))
        return flow_ok_i64(-ELOOP);
    int kind = kind_of_mode(status.st_mode);
    return flow_ok_i64(kind == ANOTHER_KIND ? -EMEDIUMTYPE : kind);
}

int walk_tree(const char *root, walk_visit visit, void *context)
{
    size_t length = strlen(root);
    if (length == 0 || length >= PATH_MAX)
        return visit(context, root, length ? -ENAMETOOLONG : -ENOENT);

    struct walk *walk = malloc(sizeof *walk);
    if (!walk)
        return visit(context, root, -ENOMEM);
    walk->visit = visit;
    walk->context = context;
    walk->deepest = NULL;
    memcpy(walk->path, root, length + 1);

    flow_result kind = flow_offload(FLOW_LANE_FILE, classify_root, walk->path, FLOW_FOREVER);
    int error = kind.error;
    if (!error && kind.i64 == A_DIRECTORY)
        error = enter(walk, AT_FDCWD, root);
    else if (!error)
        error = visit(context, root, kind.i64 == A_FILE ? 0 : (int)kind.i64);
    if (!error)
        error = walk_levels(walk);
    while (walk->deepest)
        leave(walk);
    free(walk);
    return error;
}
