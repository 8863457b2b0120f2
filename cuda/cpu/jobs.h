// Jobs, and the ledger that knows which have ended, which wait for which, and why some failed.
#pragma once
#include <stdint.h>

#include <atomic>
#include <condition_variable>
#include <deque>
#include <map>
#include <memory>
#include <mutex>
#include <string>
#include <unordered_map>
#include <vector>

#include "../baton.h"
#include "../common/program.h"
#include "group.h"
#include "memory.h"

namespace baton {

class Device;

struct Member {
  std::shared_ptr<Group> group;  // null for none
  uint32_t rank;
};

// One piece of work of a device: an execution of a program, or copies. It keeps what it uses alive, so a handle may be
// destroyed while its job is still queued.
struct Job {
  uint32_t ticket;
  std::shared_ptr<const Program> program;  // null for copies
  std::vector<std::shared_ptr<Segment>> segments;
  std::vector<uint32_t> dims;
  std::vector<Member> members;  // by axis
  std::vector<Move> moves;
  double weight = 1;

  std::atomic<bool> cancelled{false};

  // Of the ledger: how many jobs it still waits for, and the text of one that failed, written before `doomed`.
  std::atomic<uint32_t> waiting{0};
  std::atomic<bool> doomed{false};
  std::string cause;
  std::weak_ptr<Device> device;
  std::vector<std::shared_ptr<Job>> successors;

  // Ends every group that it is in.
  void abort(const std::string& why) const;
};

// All jobs of the process.
class Ledger {
 public:
  // Enters a job; false when its ticket is in use. The device is woken up when it may begin.
  bool open(const std::shared_ptr<Job>& job, const uint32_t* after, uint32_t count);
  void close(const std::shared_ptr<Job>& job, const baton_completion& completion, const std::string& error);
  int32_t wait(baton_completion* out, uint32_t capacity, uint32_t timeout_ms);
  bool error(uint32_t ticket, std::string& text);

 private:
  typedef std::vector<std::shared_ptr<Device>> Devices;
  void doom(Job& first, const std::string& error, Devices& ready);

  std::mutex mutex_;
  std::condition_variable ended_;
  std::unordered_map<uint32_t, std::shared_ptr<Job>> open_;
  std::unordered_map<uint32_t, std::string> errors_;
  std::deque<uint32_t> failed_;  // tickets of errors_, oldest first
  std::deque<baton_completion> completions_;
};
Ledger& ledger();

}  // namespace baton
