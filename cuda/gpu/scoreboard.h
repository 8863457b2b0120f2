// Which memory jobs and operations touch. Work on one stream of a device waits for earlier work on the other one where both touch
// the same bytes and one of them writes.
#pragma once
#include <stdint.h>

#include <memory>
#include <vector>

#include "../common/device.h"

namespace baton {

// Addresses from … to.
struct Touched {
  uintptr_t from, to;
  bool written;
};
typedef std::vector<Touched> Footprint;

// Whether an order between the two matters.
bool clash(const Footprint& a, const Footprint& b);

// Of a whole job: of every segment all that lies between the first and the last byte.
Footprint footprint_of(const Job& job);
// Of one operation of a job that is bound to it.
Footprint footprint_of(const Operation& operation, const Operands& operands);

}  // namespace baton
