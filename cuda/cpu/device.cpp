#include <algorithm>
#include <thread>

#include "runtime.h"

namespace baton {

int32_t Device::create(uint32_t threads, std::shared_ptr<Device>& device) {
  if (threads == 0 || threads > 1024) return BATON_BAD_ARGUMENT;
  auto d = std::make_shared<CpuDevice>(int(threads));
  if (!d->ok() || !d->start()) return BATON_OUT_OF_MEMORY;
  device = d;
  return BATON_OK;
}

std::string describe_backend() {
  return std::string("{\"backend\":\"cpu\",\"isa\":\"") + instructions().name + "\",\"cores\":" +
         std::to_string(std::max(1u, std::thread::hardware_concurrency())) +
         ",\"scratchBytesPerThread\":" + std::to_string(SCRATCH_BYTES) + "}";
}

double CpuDevice::product(uint32_t mode, long m, long n, long k, uint32_t reps) {
  uint64_t columns = (uint64_t(n) + 15) / 16 * 16;
  auto segment = [&](uint64_t floats) { return Segment::create(floats * 4, this, false); };
  auto x = segment(uint64_t(m) * k), w = segment(columns * k), y = segment(uint64_t(m) * n + 16384);
  if (!x || !w || !y) return BATON_OUT_OF_MEMORY;
  auto at = [](const std::shared_ptr<Segment>& s) { return reinterpret_cast<float*>(s->base); };
  for (auto& s : {x, w, y}) std::fill(at(s), at(s) + s->bytes / 4, .01f);
  std::vector<double> seconds;
  for (uint32_t i = 0; i < reps; i++) {
    std::lock_guard<std::mutex> lock(kernels_);
    uint64_t start = clock_ns();
    instructions().product(pool_, mode & 7, m, n, k, at(x), at(w), at(y));  // bf16 operands are widened before
    seconds.push_back(double(clock_ns() - start) * 1e-9);
  }
  std::sort(seconds.begin(), seconds.end());
  return seconds[seconds.size() / 2];
}

int32_t CpuDevice::perform(Job& job, std::string& error) {
  std::lock_guard<std::mutex> lock(kernels_);
  count_busy(pool_.threads());
  struct Idle {
    int threads;
    ~Idle() { count_busy(-threads); }
  } idle{pool_.threads()};
  if (job.program) return execute(job, error);
  copy_memory(pool_, job.moves, job.weight, job.cancelled);
  if (!job.cancelled) return BATON_OK;
  error = stop_reason();
  return BATON_CANCELLED;
}

int32_t CpuDevice::execute(Job& job, std::string& error) {
  const Instructions& isa = instructions();
  Operands operands;
  std::vector<Group*> groups;
  std::vector<uint32_t> ranks;
  for (const Member& m : job.members) groups.push_back(m.group.get()), ranks.push_back(m.rank);
  double spent[OPCODES] = {};
  uint64_t start = clock_ns(), last = start;
  int32_t status = BATON_OK;
  size_t index = 0;
  for (const Operation& op : job.program->operations) {
    if (stopped(job)) {
      status = BATON_CANCELLED;
      error = stop_reason();
      break;
    }
    operands.bind(job, op);
    char text[ERROR_BYTES] = "";
    bool narrow = op.has(Type::bf16);
    if (narrow && !widened_.open(pool_, op, operands)) {
      status = failure(job, index, nullptr, stopped(job), "there is no memory for its bf16 operands in f32", error);
      break;
    }
    Call call{operands.at.data(), operands.bytes.data(), operands.attributes.data(), int(operands.at.size()),
              int(operands.attributes.size()), &pool_, groups.data(), ranks.data(), int(groups.size()), nullptr, text};
    isa.kernels[op.code](call);
    if (narrow && !text[0] && !call.stopped) widened_.close(pool_);
    uint64_t t = clock_ns();
    spent[op.code] += double(t - last);
    last = t;
    if (text[0] || call.stopped) {
      status = failure(job, index, call.stopped, stopped(job), text, error);
      break;
    }
    index++;
  }
  spent[0] = double(last - start);
  spend(spent);
  return status;
}

}  // namespace baton
