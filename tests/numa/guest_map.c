/* SPDX-License-Identifier: MIT
 *
 * In the guest: numa_map, as a user would run it. Its output goes into the log. */
#include "tests/numa/guest.h"

#include <string.h>

CASE(numa_map_shows_local_pages_and_busy_workers)
{
    FILE *f = popen("/examples/numa_map --tasks 4000 --work 100 2>&1", "re");
    bool local = false, busy = false;
    char line[512];

    REQUIRE(f != NULL);
    while (fgets(line, sizeof line, f)) {
        line[strcspn(line, "\n")] = 0;
        child_note("%s", line);
        local |= !strncmp(line, "local pages: 100.0 %", strlen("local pages: 100.0 %"));
        busy |= !strncmp(line, "every worker was busy", strlen("every worker was busy"));
    }
    REQUIRE_EQUAL(pclose(f), 0);
    REQUIRE(local);
    REQUIRE(busy);
}

int main(int argc, char **argv)
{
    return cases_main(argc, argv);
}
