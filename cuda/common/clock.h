// Time, and what a thread does while it waits for very little of it.
#pragma once
#include <stdint.h>

namespace baton {

// Nanoseconds of the monotonic clock.
uint64_t clock_ns();

// Tells the core that the thread only waits.
void spin_pause();

}  // namespace baton
