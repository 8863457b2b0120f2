// Matrix products of bf16 operands by cuBLASLt, on memory as it lies: both operands, the sum that is continued and the result have
// leading dimensions of their own and are turned where they lie across. Sums are fp32, and so may be the result. Sizes whose rows do not
// begin at multiples of sixteen bytes go to kernels of our own, and so do the few rows of decode steps, unless
// BATON_CUDA_PRODUCTS=cublas asks for all.
#include <array>
#include <map>

#include "../blas.h"
#include "kernel.cuh"

namespace baton {
namespace {

constexpr size_t MOST_PLANS = 4096;
constexpr long FEW = 16;  // rows that a kernel of our own streams weights for

// What a product is made of, as far as it decides how it is done. Of both operands and the result: leading dimension and alignment.
struct Side {
  const void* p;
  long ld;
  bool turned;
  long alignment() const {
    uintptr_t lowest = reinterpret_cast<uintptr_t>(p) & (~reinterpret_cast<uintptr_t>(p) + 1);
    return lowest == 0 || lowest > 256 ? 256 : long(lowest);
  }
};
typedef std::array<long, 14> Key;

// What was made for one kind of product.
struct Plan {
  Blas::Handle product = nullptr, a = nullptr, b = nullptr, c = nullptr;
  BlasAlgorithm algorithm{};
  bool usable = false;
};

// Of a device's worker thread; lives as long as the process.
class Plans {
 public:
  const Blas* const blas = open_blas();
  Blas::Handle handle = nullptr;

  Plans() {
    if (blas && blas->Create(&handle) != Blas::SUCCESS) handle = nullptr;
  }

  // Column-major, as cuBLASLt has matrices: out (n × m) = right (n × k) · left (k × m).
  const Plan& plan(const Key& key) {
    if (all_.size() >= MOST_PLANS) clear();
    Plan& p = all_[key];
    if (p.product) return p;
    auto [m, n, k, ld_right, ld_left, ld_out, right_turned, left_turned, half, biased, of_right, of_left, of_prior, of_out] = key;
    int type = half ? Blas::BF16 : Blas::F32, turned = Blas::TURNED, epilogue = Blas::EPILOGUE_BIAS, bias_type = Blas::BF16, count = 0;
    uint64_t workspace = PRODUCT_BYTES;
    Blas::Handle preference = nullptr;
    BlasFound found{};
    auto ok = [](int status) { return status == Blas::SUCCESS; };
    auto set = [&](int what, const int& value) { return ok(blas->MatmulDescSetAttribute(p.product, what, &value, sizeof value)); };
    auto prefer = [&](int what, uint32_t value) {
      return ok(blas->MatmulPreferenceSetAttribute(preference, what, &value, sizeof value));
    };
    auto layout = [&](Blas::Handle& out, int type, long rows, long columns, long ld, bool turned) {
      return ok(blas->MatrixLayoutCreate(&out, type, uint64_t(turned ? columns : rows), uint64_t(turned ? rows : columns), ld));
    };
    p.usable = ok(blas->MatmulDescCreate(&p.product, Blas::COMPUTE_F32, Blas::F32)) &&
               (!right_turned || set(Blas::TURN_A, turned)) && (!left_turned || set(Blas::TURN_B, turned)) &&
               (!biased || (set(Blas::EPILOGUE, epilogue) && set(Blas::BIAS_TYPE, bias_type))) &&
               layout(p.a, Blas::BF16, n, k, ld_right, right_turned) && layout(p.b, Blas::BF16, k, m, ld_left, left_turned) &&
               layout(p.c, type, n, m, ld_out, false) && ok(blas->MatmulPreferenceCreate(&preference)) &&
               ok(blas->MatmulPreferenceSetAttribute(preference, Blas::WORKSPACE, &workspace, sizeof workspace)) &&
               prefer(Blas::ALIGNMENT_A, uint32_t(of_right)) && prefer(Blas::ALIGNMENT_B, uint32_t(of_left)) &&
               prefer(Blas::ALIGNMENT_C, uint32_t(of_prior)) && prefer(Blas::ALIGNMENT_D, uint32_t(of_out)) &&
               ok(blas->MatmulAlgoGetHeuristic(handle, p.product, p.a, p.b, p.c, p.c, preference, 1, &found, &count)) && count == 1;
    if (preference) blas->MatmulPreferenceDestroy(preference);
    p.algorithm = found.algorithm;
    return p;
  }

 private:
  void clear() {
    for (auto& entry : all_) {
      const Plan& p = entry.second;
      if (p.product) blas->MatmulDescDestroy(p.product);
      for (Blas::Handle layout : {p.a, p.b, p.c})
        if (layout) blas->MatrixLayoutDestroy(layout);
    }
    all_.clear();
  }

  std::map<Key, Plan> all_;
};

Plans& plans() {
  thread_local Plans& one = *new Plans;
  return one;
}

enum class Choice { usual, all, none };
Choice choice() {
  static const Choice chosen = [] {
    const char* value = getenv("BATON_CUDA_PRODUCTS");
    return !value ? Choice::usual : !strcmp(value, "cublas") ? Choice::all : !strcmp(value, "own") ? Choice::none : Choice::usual;
  }();
  return chosen;
}

bool in_sixteens(const void* p, long ld, bool half) { return reinterpret_cast<uintptr_t>(p) % 16 == 0 && ld * (half ? 2 : 4) % 16 == 0; }

}  // namespace

bool few_before_blas(long m) { return choice() == Choice::none || (choice() == Choice::usual && m <= FEW); }
bool blas_is_there() { return choice() != Choice::none && plans().handle; }

bool multiply_blas(Call& c, Left left, Right right, Target target, Numbers prior, long m, long n, long k) {
  if (choice() == Choice::none || !left.p.half || !right.p.half || target.panels) return false;
  if (m == 0 || n == 0 || k == 0 || (right.form != Right::rows && right.form != Right::columns)) return false;
  // A matrix of rows is, column by column, the turned one.
  Side a{right.p.p, right.ld, right.form == Right::columns};
  Side b{left.p.p, left.column == 1 ? left.row : left.column, left.column != 1};
  if (left.column != 1 && left.row != 1) return false;
  if (!in_sixteens(a.p, a.ld, true) || !in_sixteens(b.p, b.ld, true) || !in_sixteens(target.p.p, target.ld, target.p.half)) return false;
  if (prior.p && (prior.half != target.p.half || !in_sixteens(prior.p, target.ld, prior.half))) return false;
  if (target.bias.p && !target.bias.half) return false;
  Plans& all = plans();
  if (!all.handle) return false;
  const void* from = prior.p ? prior.p : target.p.p;
  const Plan& p = all.plan({m, n, k, a.ld, b.ld, target.ld, a.turned, b.turned, target.p.half, target.bias.p != nullptr, a.alignment(),
                            b.alignment(), Side{from, 0, false}.alignment(), Side{target.p.p, 0, false}.alignment()});
  if (!p.usable) return false;
  if (c.error[0]) return true;
  if (target.bias.p) all.blas->MatmulDescSetAttribute(p.product, Blas::BIAS, &target.bias.p, sizeof target.bias.p);
  float one = 1, carry = prior.p ? 1.f : 0.f;
  int status = all.blas->Matmul(all.handle, p.product, &one, a.p, p.a, b.p, p.b, &carry, from, p.c, target.p.p, p.c, &p.algorithm,
                                c.scratch + SCRATCH_BYTES, PRODUCT_BYTES, c.stream);
  if (status != Blas::SUCCESS) fail(c, "cuBLASLt gave status %d", status);
  return true;
}

}  // namespace baton
