// SPDX-License-Identifier: MIT
//
// As consumer.c, in C++: tasks are captureless lambdas and plain functions.
#include <flowcoro.h>

#include <cstdio>
#include <vector>

static flow_result sum_of_squares(void *)
{
    std::vector<flow_task> tasks(100);
    std::vector<flow_result> results(tasks.size());

    for (size_t i = 0; i < tasks.size(); i++) {
        int error = flow_spawn(
            &tasks[i],
            [](void *arg) {
                auto n = static_cast<int64_t>(reinterpret_cast<intptr_t>(arg));
                int cancelled = flow_sleep(FLOW_US(100));
                return cancelled ? flow_err(cancelled) : flow_ok_i64(n * n);
            },
            reinterpret_cast<void *>(i));
        if (error)
            return flow_err(error);
    }
    int error = flow_when_all(tasks.data(), tasks.size(), results.data(), FLOW_FOREVER);
    if (error)
        return flow_err(error);

    int64_t sum = 0;
    for (flow_result r : results)
        sum += flow_unwrap_i64(r);
    return flow_ok_i64(sum);
}

int main()
{
    flow_options options = FLOW_OPTIONS_INIT;
    options.workers = 2;

    flow_result result;
    int error = flow_run(&options, sum_of_squares, nullptr, &result);
    if (error || flow_is_err(result) || result.i64 != 328350) {
        std::fprintf(stderr, "flow_run %d (%s), result %d\n", error, flow_start_error(), result.error);
        return 1;
    }
    std::printf("%s: %lld\n", flow_version(), static_cast<long long>(result.i64));
    return 0;
}
