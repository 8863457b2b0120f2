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

// What an element is: DTYPES of ir/op.ts. The upper half of an f32 is a bf16.
enum class Type : uint16_t { f32, i32, bf16 };
constexpr uint32_t TYPES = 3;
constexpr uint64_t bytes_of(Type type) { return type == Type::bf16 ? 2 : 4; }

struct Operand {
  uint32_t segment;
  Type type;
  uint64_t offset, bytes;  // bytes at the largest symbols
  bool written = false;
};

struct Operation {
  uint16_t code;
  std::vector<Operand> operands;
  std::vector<Attribute> attributes;

  bool has(Type type) const {
    for (const Operand& o : operands)
      if (o.type == type) return true;
    return false;
  }
};

// Bytes of a segment from … to; none when `to` is not above `from`.
struct Hull {
  uint64_t from = UINT64_MAX, to = 0;
};

struct Program {
  std::vector<uint64_t> segment_bytes;  // what each segment slot must have
  std::vector<Hull> reads, writes;      // between the first and the last byte of each that operations read, and write
  std::vector<uint32_t> maxima;         // largest live value of each symbol
  std::vector<Operation> operations;

  // Decodes and checks; returns why it cannot, or an empty text. A program that passes touches no byte outside its
  // operands as long as the integers that it reads (ids, ends, page tables) are in range, which kernels check.
  std::string decode(const void* bytes, uint64_t length);
};

}  // namespace baton
