#include "program.h"

#include <stdlib.h>
#include <string.h>

#include <algorithm>

#include "opcodes.h"

namespace baton {
namespace {

constexpr uint32_t MAGIC = 0x4e544142, VERSION = 5;
constexpr double MAX_ATTRIBUTE = 4294967296., MAX_ELEMENTS = 1e15;  // counts stay exact in a double, and loops end

// ---- the table of opcodes.h, parsed ------------------------------------------------------------------------------

struct AttributeRule {
  std::string name;
  char kind;  // ':' size, '~' real, '@' index, ' ' whole constant
};
struct Factor {
  int attribute;   // -1: a literal
  double literal;
  int panels_if;  // the attribute that says whether it is rounded up to whole panels, or -1
};
struct OperandRule {
  std::string name;
  char role;  // '>' output; input: ' ', or '#', '!', '=', '@' for what an output may not do to it
  int flag;   // attribute that says whether it is present, or -1
  char type;  // operands with one letter have one type; ' ': four bytes wide
  std::vector<Factor> factors;
};
struct Rule {
  const char* name = nullptr;
  std::vector<AttributeRule> attributes;
  std::vector<OperandRule> operands;

  int find(const std::string& attribute) const {
    for (size_t i = 0; i < attributes.size(); i++)
      if (attributes[i].name == attribute) return int(i);
    return -1;
  }
};

std::vector<std::string> words(const char* text, char separator) {
  std::vector<std::string> all;
  std::string word;
  for (; *text; text++) {
    if (*text != separator) word += *text;
    else if (!word.empty()) all.push_back(word), word.clear();
  }
  if (!word.empty()) all.push_back(word);
  return all;
}

Factor factor(const Rule& rule, const std::string& word) {
  int attribute = rule.find(word);
  return {attribute, attribute < 0 ? atof(word.c_str()) : 1, -1};
}

OperandRule operand_rule(const Rule& rule, std::string word) {
  OperandRule out{"", ' ', -1, ' ', {}};
  size_t colon = word.rfind(':');
  if (colon != std::string::npos) out.type = word[colon + 1], word.resize(colon);
  if (word[0] == '(') {
    size_t close = word.find(')');
    out.flag = rule.find(word.substr(1, close - 1));
    word = word.substr(close + 1);
  }
  if (strchr("#>!=@", word[0])) out.role = word[0], word = word.substr(1);
  size_t bracket = word.find('[');
  out.name = word.substr(0, bracket);
  for (std::string part : words(word.substr(bracket + 1, word.size() - bracket - 2).c_str(), '*')) {
    size_t panel = part.find('?');
    if (panel == std::string::npos) {
      out.factors.push_back(factor(rule, part));
    } else {
      Factor outputs = factor(rule, part.substr(0, panel));
      outputs.panels_if = rule.find("panels");
      out.factors.push_back(outputs);
      out.factors.push_back(factor(rule, part.substr(panel + 1)));
    }
  }
  return out;
}

const std::vector<Rule>& rules() {
  static const std::vector<Rule>& all = *[] {
    auto* table = new std::vector<Rule>(OPCODES);
    for (const Opcode& o : opcodes) {
      Rule& rule = (*table)[o.code];
      rule.name = o.name;
      for (std::string word : words(o.attributes, ' ')) {
        char kind = strchr(":~@", word.back()) ? word.back() : ' ';
        if (kind != ' ') word.pop_back();
        rule.attributes.push_back({word, kind});
      }
      for (const std::string& word : words(o.operands, ' ')) rule.operands.push_back(operand_rule(rule, word));
    }
    return table;
  }();
  return all;
}

// Constants of pointwise chains are real whatever their position says; the only place where a value is not a count.
bool is_constant_of_pointwise(const Operation& op, size_t attribute) {
  if (op.code != POINTWISE || op.attributes.size() < 4) return false;
  double inputs = op.attributes[1].value, instructions = op.attributes[2].value;
  double place = double(attribute) - 4 - inputs;  // counts come before: they are none, whatever `inputs` says
  return inputs >= 0 && place >= 1 && place < 4 * instructions && long(place) % 4 == 1 &&
         op.attributes[attribute - 1].value == CONSTANT;
}

// ---- checks of one operation -------------------------------------------------------------------------------------

struct Checker {
  const Program& program;
  const Operation& op;
  const Rule& rule;

  // The value at the largest symbols.
  double at(int attribute) const {
    const Attribute& a = op.attributes[size_t(attribute)];
    return a.is_size ? double(a.times) * program.maxima[a.symbol] : a.value;
  }
  double named(const char* name) const { return at(rule.find(name)); }
  bool has(const char* name) const { return rule.find(name) >= 0; }

  std::string counts(size_t operands, size_t attributes) const {
    if (op.operands.size() != operands)
      return "it has " + std::to_string(op.operands.size()) + " operands and needs " + std::to_string(operands);
    if (op.attributes.size() != attributes)
      return "it has " + std::to_string(op.attributes.size()) + " attributes and needs " + std::to_string(attributes);
    return "";
  }
  std::string whole() const {
    for (size_t i = 0; i < op.attributes.size(); i++) {
      bool real = (i < rule.attributes.size() && rule.attributes[i].kind == '~') || is_constant_of_pointwise(op, i);
      double v = at(int(i));
      if (!real && !(v >= 0 && v <= MAX_ATTRIBUTE && v == double(uint64_t(v))))
        return "attribute " + std::to_string(i) + " is not a whole number, or too large";
    }
    return "";
  }
  // What says whether an operand is there, or how it lies: kernels look for operands where a 1 puts them.
  std::string flags() const {
    for (size_t i = 0; i < rule.attributes.size(); i++) {
      bool flag = rule.attributes[i].name == "panels", counts = false;
      for (const OperandRule& o : rule.operands) {
        flag = flag || o.flag == int(i);
        for (const Factor& f : o.factors) counts = counts || f.attribute == int(i);
      }
      if (flag && !counts && at(int(i)) > 1) return rule.attributes[i].name + " is neither 0 nor 1";
    }
    return "";
  }
  std::string room(size_t operand, const std::string& name, double elements) const {
    if (!(elements <= MAX_ELEMENTS)) return name + " is too large";
    double bytes = elements * double(bytes_of(op.operands[operand].type));
    if (double(op.operands[operand].bytes) < bytes)
      return name + " has " + std::to_string(op.operands[operand].bytes) + " bytes and needs " + std::to_string(uint64_t(bytes));
    return "";
  }
  std::string types(const std::vector<const OperandRule*>& present) const {
    for (size_t i = 0; i < present.size(); i++) {
      uint64_t width = bytes_of(op.operands[i].type);
      if (present[i]->type == ' ' && width != 4) return present[i]->name + " is bf16, which it cannot be";
      for (size_t j = 0; j < i; j++)
        if (present[i]->type != ' ' && present[j]->type == present[i]->type && bytes_of(op.operands[j].type) != width)
          return present[i]->name + " is not of the type of " + present[j]->name;
    }
    return "";
  }

  std::string shapes() const {
    size_t operands = 0;
    std::string error = counts(op.operands.size(), rule.attributes.size());
    if (error.empty()) error = whole();
    if (error.empty()) error = flags();
    if (!error.empty()) return error;
    for (const OperandRule& o : rule.operands) operands += o.flag < 0 || at(o.flag) != 0;
    error = counts(operands, rule.attributes.size());
    size_t next = 0;
    std::vector<const OperandRule*> present;
    for (const OperandRule& o : rule.operands) {
      if (!error.empty()) return error;
      if (o.flag >= 0 && at(o.flag) == 0) continue;
      present.push_back(&o);
      double elements = 1;
      for (const Factor& f : o.factors) {
        double v = f.attribute < 0 ? f.literal : at(f.attribute);
        if (f.attribute >= 0 && rule.attributes[size_t(f.attribute)].kind == '@') v += 1;
        if (f.panels_if >= 0 && at(f.panels_if) == 1) v = double((uint64_t(v) + 15) / 16 * 16);
        elements *= v;
      }
      error = room(next++, o.name, elements);
    }
    if (error.empty()) error = types(present);
    for (size_t i = 0; error.empty() && i < present.size(); i++)
      for (size_t j = 0; j < present.size(); j++)
        if (i != j && present[i]->role == '>' && !may_lie(op.operands[i], op.operands[j], present[j]->role))
          error = present[i]->name + " lies over " + present[j]->name;
    return error;
  }
  // Whether an output may lie where it does, beside an operand of this role.
  static bool may_lie(const Operand& out, const Operand& other, char role) {
    uint64_t a = out.offset, b = other.offset, a_end = a + out.bytes, b_end = b + other.bytes;
    if (role == ' ' || out.segment != other.segment || a >= b_end || b >= a_end) return true;
    if (role == '=') return a == b && a_end == b_end;
    return role == '@' && ((a <= b && b_end <= a_end) || (b <= a && a_end <= b_end));
  }

  // What the table cannot say.
  std::string meaning() const {
    if (has("kv")) {
      double heads = has("heads") ? named("heads") : named("kv"), kv = named("kv");
      if (kv < 1 || heads < kv || uint64_t(heads) % uint64_t(kv)) return "heads is not a multiple of kv";
      if (named("D") < 1 || named("D") > MAX_HEAD_DIM) return "D is not between 1 and " + std::to_string(MAX_HEAD_DIM);
    }
    bool rotates = op.code == ROPE || op.code == ROPES || op.code == ROPE_KV_WRITE;
    if (rotates && (named("D") < 2 || uint64_t(named("D")) % 2)) return "D is not even";
    if (has("stride") && named("phase") >= named("stride")) return "phase is not below stride";
    if (has("first") && named("first") + named("V") > named("total")) return "first + V is more than total";
    if (has("roundedFlag") && named("roundedFlag") == 1 && op.operands.back().type != Type::bf16) return "rounded is not bf16";
    if (op.code == REDUCE_OWN_ROWS && named("from") + named("R") > named("total")) return "from + R is more than total";
    if (has("axis") && named("axis") >= AXES) return "axis is not one of " + std::to_string(AXES);
    if (op.code == ALL_GATHER_COLUMNS) {
      if (named("from") > named("to") || named("to") > named("W")) return "columns from … to are not inside W";
      return room(0, "x", named("R") * (named("to") - named("from")));
    }
    return "";
  }

  std::string pointwise() const {
    if (op.attributes.size() < 4) return "it ends early";
    std::string error = whole();
    double inputs = at(1), instructions = at(2), outputs = at(3);
    if (error.empty() && (inputs > 255 || outputs > 255 || instructions > MAX_INSTRUCTIONS)) error = "it is too long";
    if (!error.empty()) return error;
    size_t i = size_t(inputs), c = size_t(instructions), o = size_t(outputs);
    error = counts(i + o, 4 + i + 4 * c + o);
    for (size_t k = 0; error.empty() && k < i; k++) {
      if (at(int(4 + k)) > 1) return "a stride is neither 0 nor 1";
      error = room(k, "input " + std::to_string(k), at(int(4 + k)) == 0 ? 1 : at(0));
    }
    for (size_t k = 0; error.empty() && k < c; k++) {
      int base = int(4 + i + 4 * k);
      bool constant = at(base) == CONSTANT;
      if (at(base) >= INSTRUCTIONS) return "instruction " + std::to_string(k) + " is unknown";
      for (int arg = 1; arg <= 3; arg++)
        if (!constant && at(base + arg) >= double(i + k)) return "instruction " + std::to_string(k) + " reads a later register";
    }
    for (size_t k = 0; error.empty() && k < o; k++) {
      if (at(int(4 + i + 4 * c + k)) >= double(i + c)) return "output " + std::to_string(k) + " is not a register";
      error = room(i + k, "output " + std::to_string(k), at(0));
      // A chain reads what it needs of an element before it writes it, and nobody else's elements.
      for (size_t j = 0; error.empty() && j < i + o; j++) {
        char role = j < i && at(int(4 + j)) == 1 ? '=' : '!';
        if (j != i + k && !may_lie(op.operands[i + k], op.operands[j], role))
          error = "output " + std::to_string(k) + " lies over " + (j < i ? "input " : "output ") + std::to_string(j < i ? j : j - i);
      }
    }
    return error;
  }

  std::string square_sums() const {
    if (op.attributes.empty()) return "it ends early";
    size_t n = (op.attributes.size() - 1) / 2;
    std::string error = counts(n + 1, 2 * n + 1);
    if (error.empty()) error = whole();
    if (error.empty() && op.operands[n].type == Type::bf16) error = "sums is bf16, which it cannot be";
    if (error.empty()) error = room(n, "sums", 2 * at(0));
    for (size_t k = 0; error.empty() && k < n; k++) {
      std::string name = "gradient " + std::to_string(k);
      if (at(int(2 + 2 * k)) >= at(0)) error = "the index of " + name + " is not below count";
      else if (!may_lie(op.operands[n], op.operands[k], '!')) error = "sums lies over " + name;
      else error = room(k, name, at(int(1 + 2 * k)));
    }
    return error;
  }

  // Positions of what the operation writes; of one that passed the checks.
  std::vector<size_t> outputs() const {
    std::vector<size_t> all;
    size_t n = op.operands.size(), next = 0;
    if (op.code == POINTWISE) {
      for (size_t i = size_t(at(1)); i < n; i++) all.push_back(i);
    } else if (op.code == SQUARE_SUMS) {
      all.push_back(n - 1);
    } else {
      for (const OperandRule& o : rule.operands) {
        if (o.flag >= 0 && at(o.flag) == 0) continue;
        if (o.role == '>') all.push_back(next);
        next++;
      }
    }
    return all;
  }

  std::string check() const {
    if (op.code == POINTWISE) return pointwise();
    if (op.code == SQUARE_SUMS) return square_sums();
    std::string error = shapes();
    return error.empty() ? meaning() : error;
  }
};

// ---- decoding ----------------------------------------------------------------------------------------------------

struct Reader {
  const char *at, *end;
  bool short_ = false;

  template <class T>
  T take() {
    T value{};
    if (end - at < long(sizeof value)) short_ = true;
    else memcpy(&value, at, sizeof value), at += sizeof value;
    return value;
  }
};

}  // namespace

const char* opcode_name(uint16_t code) {
  return code < OPCODES && rules()[code].name ? rules()[code].name : "unknown";
}

std::string Program::decode(const void* bytes, uint64_t length) {
  const char* begin = static_cast<const char*>(bytes);
  Reader r{begin, begin + length};
  if (r.take<uint32_t>() != MAGIC) return "it does not start with BATN";
  uint32_t version = r.take<uint32_t>();
  if (version != VERSION) return "its version is " + std::to_string(version) + ", not " + std::to_string(VERSION);
  uint32_t segments = r.take<uint32_t>(), symbols = r.take<uint32_t>(), count = r.take<uint32_t>();
  r.take<uint32_t>();
  for (uint32_t i = 0; i < segments && !r.short_; i++) segment_bytes.push_back(r.take<uint64_t>());
  for (uint32_t i = 0; i < symbols && !r.short_; i++) maxima.push_back(r.take<uint32_t>());
  if (symbols % 2) r.take<uint32_t>();
  if (!r.short_ && (maxima.empty() || maxima[0] != 1)) return "its first symbol is not `one`";

  for (uint32_t i = 0; i < count && !r.short_; i++) {
    Operation op;
    op.code = r.take<uint16_t>();
    size_t operand_count = r.take<uint16_t>(), attribute_count = r.take<uint16_t>();
    r.take<uint16_t>();
    if (r.short_) break;
    const char* name = opcode_name(op.code);
    auto broken = [&](const std::string& why) { return "operation " + std::to_string(i) + " (" + name + "): " + why; };
    if (op.code >= OPCODES || !rules()[op.code].name) return broken("opcode " + std::to_string(op.code) + " is not known");
    const Rule& rule = rules()[op.code];
    for (size_t k = 0; k < operand_count && !r.short_; k++) {
      uint32_t segment = r.take<uint16_t>(), type = r.take<uint16_t>();
      uint64_t offset = uint64_t(r.take<uint32_t>()) * 64, size = r.take<uint64_t>();
      if (r.short_) break;
      if (segment >= segments) return broken("operand " + std::to_string(k) + " is in segment " + std::to_string(segment));
      if (type >= TYPES) return broken("operand " + std::to_string(k) + " has type " + std::to_string(type));
      if (offset > segment_bytes[segment] || size > segment_bytes[segment] - offset)
        return broken("operand " + std::to_string(k) + " ends past its segment");
      op.operands.push_back({segment, Type(type), offset, size, false});
    }
    for (size_t k = 0; k < attribute_count && !r.short_; k++) {
      bool size = k < rule.attributes.size() && rule.attributes[k].kind == ':';
      Attribute a{size, 0, 0, 0};
      if (size) a.symbol = r.take<uint32_t>(), a.times = r.take<uint32_t>();
      else a.value = r.take<double>();
      if (!r.short_ && a.symbol >= symbols) return broken("attribute " + std::to_string(k) + " has an unknown symbol");
      op.attributes.push_back(a);
    }
    if (r.short_) break;
    std::string error = Checker{*this, op, rule}.check();
    if (!error.empty()) return broken(error);
    for (size_t output : Checker{*this, op, rule}.outputs()) op.operands[output].written = true;
    operations.push_back(std::move(op));
  }
  if (r.short_) return "it ends early";
  if (r.at != r.end) return "bytes follow its last operation";
  reads.resize(segments), writes.resize(segments);
  for (const Operation& op : operations)
    for (const Operand& o : op.operands) {
      Hull& h = (o.written ? writes : reads)[o.segment];
      if (o.bytes) h.from = std::min(h.from, o.offset), h.to = std::max(h.to, o.offset + o.bytes);
    }
  return "";
}

}  // namespace baton
