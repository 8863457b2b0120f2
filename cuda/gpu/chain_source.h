// A fused chain of element-by-element operations as the source of a kernel.
#pragma once
#include <stdint.h>

#include <string>
#include <vector>

namespace baton {

// Most inputs and outputs of a chain that is compiled.
constexpr int CHAIN_PORTS = 64;

// What its kernel gets: addresses of inputs, then of outputs.
struct ChainPorts {
  void* at[CHAIN_PORTS];
};

struct ChainShape {
  struct Port {
    bool half, one;  // bf16; one number for all elements
  };
  struct Step {
    int op, a, b, c;
    uint32_t constant;  // bits
  };
  std::vector<Port> inputs, outputs;
  std::vector<Step> steps;
  std::vector<int> results;  // register of each output

  // Whether eight elements go through it at a time: short chains, whose registers are few.
  bool packed() const;
  // Defines `extern "C" chain`: for a GPU a kernel over (ChainPorts, long long n), for the host a function that takes every step-th
  // pack or element from the first one on. Every port that is not one number begins on a boundary of sixteen bytes.
  std::string source(bool host) const;
};

const char* math_text();

}  // namespace baton
