/* SPDX-License-Identifier: MIT
 *
 * Finds the regular files of a tree, from within a coroutine. */
#ifndef EXAMPLES_SUPPORT_WALK_H
#define EXAMPLES_SUPPORT_WALK_H

/* Called on the caller's task, and may suspend it. error 0: path is a regular file.
 * Otherwise path could not be looked into: a negative errno, among them
 *   -ELOOP        the root is a symbolic link
 *   -EMEDIUMTYPE  the root is neither a regular file nor a directory
 * path is valid until visit returns. Anything but 0 ends the walk. */
typedef int (*walk_visit)(void *context, const char *path, int error);

/* Visits every regular file at or below root, depth first. Symbolic links are
 * never followed; what is neither a file nor a directory is passed over.
 * Directories are read on helper threads. Returns 0, what visit returned, or
 * -ECANCELED. From a coroutine; suspends. */
int walk_tree(const char *root, walk_visit visit, void *context);

#endif
