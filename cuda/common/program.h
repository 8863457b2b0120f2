// A decoded device program (format: docs/program-format.md).
#pragma once
#include <stdint.h>

#include <string>
#include <vector>

namespace baton {

// A constant, or `times` × the live value of a symbol.
struct Attribute {
  bool is_size;
  uint32_t symbol, times;
  double value;
};

struct Operand {
  uint32_t segment;
  uint64_t offset, bytes;  // bytes at the largest symbols
};

struct Operation {
  uint16_t code;
  std::vector<Operand> operands;
  std::vector<Attribute> attributes;
};

struct Program {
  std::vector<uint64_t> segment_bytes;  // what each segment slot must have
  std::vector<uint32_t> maxima;         // largest live value of each symbol
  std::vector<Operation> operations;

  // Decodes and checks; returns why it cannot, or an empty text. A program that passes touches no byte outside its
  // operands as long as the integers that it reads (ids, ends, page tables) are in range, which kernels check.
  std::string decode(const void* bytes, uint64_t length);
};

}  // namespace baton
