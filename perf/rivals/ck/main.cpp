// SPDX-License-Identifier: MIT
//
// ck_ring of Concurrency Kit, many producers and consumers. See perf/rivals/README.
#include "../containers.hpp"

extern "C" {
struct ring;
struct ring *ring_create(unsigned n);
bool ring_push(struct ring *r, void *item);
bool ring_pop(struct ring *r, void **item);
}

class ck : public plain_container<ck> {
    struct ring *ring_;

public:
    ck(uint64_t n, uint64_t) : ring_(ring_create((unsigned)n)) {}
    ~ck() { free(ring_); }
    bool push(void *item) { return ring_push(ring_, item); }
    bool pop(void **item) { return ring_pop(ring_, item); }
};

int main(int argc, char **argv)
{
    return container_main<ck>(argc, argv, "Concurrency Kit " RELEASE);
}
