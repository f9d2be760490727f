// SPDX-License-Identifier: MIT
//
// The switch of Boost.Context, there and back; it keeps MXCSR and the x87 control word. See perf/rivals/README.
#include "../rival.h"

#include <boost/context/continuation.hpp>
#include <boost/version.hpp>

namespace context = boost::context;

// The value goes along as a reference that both sides know, as Boost's own measurement has it.
static uint64_t there_and_back(uint64_t n, int)
{
    uint64_t value = 0;
    context::continuation other = context::callcc([&](context::continuation &&back) {
        for (;;) {
            value++;
            back = back.resume();
        }
        return std::move(back);
    });

    for (uint64_t i = 1; i < n; i++)
        other = other.resume();
    return value;
}

int main(int argc, char **argv)
{
    static const rival_case cases[] = {
        {"switch there and back with the FP environment", there_and_back, RIVAL_EIGHTH}};

    return rival_main(argc, argv, "Boost " BOOST_LIB_VERSION, cases, 1);
}
