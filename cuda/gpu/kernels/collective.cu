// Operations in which the ranks of a group meet. By copies they read each other's memory, and every sum goes over the ranks in
// their order, one chain per element, as on the CPU. NCCL adds in an order of its own.
#include "collective.cuh"
#include "head.cuh"

namespace baton {
namespace {

using Way = Communicators::Way;

template <class T>
__global__ void sum_ranks_kernel(Peers<T> in, long begin, long end, T* out) {
  for (long i = begin + first_index(); i < end; i += index_step()) {
    auto s = number(in.at[0][i]);
    for (int r = 1; r < in.ranks; r++) s = s + number(in.at[r][i]);
    out[i - begin] = stored<T>(s);
  }
}

template <class T>
__global__ void gather_columns_kernel(Peers<T> in, T* y, long rows, long width) {
  for (long i = first_index(); i < rows * width; i += index_step()) {
    long row = i / width, column = i % width;
    for (int r = 0; r < in.ranks; r++)
      if (column >= in.from[r] && column < in.to[r]) y[i] = in.at[r][row * (in.to[r] - in.from[r]) + column - in.from[r]];
  }
}

template <class T>
void all_reduce_of(Call& c, uint32_t code, long n) {
  Meeting m(c, 1);
  if (!m.valid()) return;
  const T* x = static_cast<const T*>(c.operand[0]);
  T* y = static_cast<T*>(c.operand[1]);
  Way way = m.way();
  if (way == Way::nccl && m.meet(code, n, 1, x, y))
    m.issue([&](const Nccl& nccl, NcclComm* comm) {
      return nccl.AllReduce(x, y, size_t(n), sizeof(T) == 8 ? Nccl::DOUBLE : sizeof(T) == 4 ? Nccl::FLOAT : Nccl::BFLOAT16, Nccl::SUM, comm, c.stream);
    });
  if (way != Way::copies || !m.open(code, n, 1, x, y)) return;
  // Each rank adds up its slice; x of a slice is read by its rank only, so y may be x. Then all fetch the others' slices.
  Rows mine(n, m.rank, m.ranks);
  launch(c, sum_ranks_kernel<T>, dim3(blocks_of(mine.count(), 256)), 256, 0, m.peers<T>(), mine.from, mine.to, y + mine.from);
  if (!m.close()) return;
  // The events of `close` say that the slices are there, and those of the next one that they were fetched.
  Peers<T> made = m.peers<T>(true);
  for (long r = 0; r < m.ranks; r++) {
    Rows s(n, r, m.ranks);
    if (r != m.rank && s.count() > 0)
      succeeded(c, cudaMemcpyAsync(y + s.from, made.at[r] + s.from, size_t(s.count()) * sizeof(T), cudaMemcpyDefault, c.stream));
  }
  m.close();
}

// The rows that a rank owns, of `whole` [rows, width], lie at `own`: inside at their place, or nowhere in it.
bool well_placed(Call& c, const Meeting& m, int own, int whole, long rows, long width) {
  Rows mine(rows, m.rank, m.ranks);
  long n = mine.count() * width, each = long(bytes_of(c.type[own]));
  if (n * each > long(c.bytes[own]))
    return fail(c, "rank %ld of %ld owns %ld rows and its operand has room for %ld bytes", m.rank, m.ranks, mine.count(),
                long(c.bytes[own]));
  const char *a = at<char>(c, own), *b = at<char>(c, whole);
  if (n == 0 || a == b + mine.from * width * each || a + n * each <= b || b + rows * width * each <= a) return true;
  return fail(c, "the rows of rank %ld lie over rows of another rank", m.rank);
}

// One call to NCCL where all ranks own as many rows, else one for each of them, grouped; those without rows are left out.
template <class F>
void each_rank(Meeting& m, long rows, F work) {
  bool equal = rows % m.ranks == 0;
  m.issue([&](const Nccl& n, NcclComm* comm) {
    for (long r = equal ? m.rank : 0; r < m.ranks; r++) {
      Rows s(rows, r, m.ranks);
      int result = s.count() ? work(n, comm, equal, int(r), s) : Nccl::SUCCESS;
      if (equal || (result != Nccl::SUCCESS && result != Nccl::IN_PROGRESS)) return result;
    }
    return Nccl::SUCCESS;
  });
}

void copy_to(Call& c, const char* from, char* to, long bytes) {
  if (bytes > 0 && from != to) succeeded(c, cudaMemcpyAsync(to, from, size_t(bytes), cudaMemcpyDefault, c.stream));
}

}  // namespace

void all_reduce(Call& c) {
  by_type(c, 0, [&](auto type) { all_reduce_of<decltype(type)>(c, ALL_REDUCE, size(c, 0)); });
}
void sum_doubles(Call& c) { all_reduce_of<double>(c, SUM_DOUBLES, size(c, 0)); }

void all_gather_rows(Call& c) {
  long rows = size(c, 0), width = size(c, 1);
  Meeting m(c, 2);
  if (!m.valid() || !well_placed(c, m, 0, 1, rows, width)) return;
  Way way = m.way();
  long each = width * long(bytes_of(c.type[0]));
  if (way == Way::nccl && m.meet(ALL_GATHER_ROWS, rows, width, c.operand[0], nullptr))
    each_rank(m, rows, [&](const Nccl& n, NcclComm* comm, bool equal, int r, Rows s) {
      char *from = at<char>(c, 0), *to = at<char>(c, 1) + s.from * each;
      size_t bytes = size_t(s.count() * each);
      if (equal) return n.AllGather(from, c.operand[1], bytes, Nccl::BYTE, comm, c.stream);
      return n.Broadcast(r == m.rank ? from : to, to, bytes, Nccl::BYTE, r, comm, c.stream);
    });
  if (way != Way::copies || !m.open(ALL_GATHER_ROWS, rows, width, c.operand[0], nullptr)) return;
  Peers<char> in = m.peers<char>();
  for (long k = 0; k < m.ranks; k++) {
    long r = (m.rank + k) % m.ranks;
    Rows s(rows, r, m.ranks);
    copy_to(c, in.at[r], at<char>(c, 1) + s.from * each, s.count() * each);
  }
  m.close();
}

void reduce_scatter_rows(Call& c) {
  long rows = size(c, 0), width = size(c, 1);
  Meeting m(c, 2);
  if (!m.valid() || !well_placed(c, m, 1, 0, rows, width)) return;
  Way way = m.way();
  if (way == Way::nccl && m.meet(REDUCE_SCATTER_ROWS, rows, width, c.operand[0], nullptr))
    each_rank(m, rows, [&](const Nccl& n, NcclComm* comm, bool equal, int r, Rows s) {
      int type = c.type[0] == Type::bf16 ? Nccl::BFLOAT16 : Nccl::FLOAT;
      char* part = at<char>(c, 0) + s.from * width * long(bytes_of(c.type[0]));
      size_t count = size_t(s.count() * width);
      if (equal) return n.ReduceScatter(c.operand[0], c.operand[1], count, type, Nccl::SUM, comm, c.stream);
      return n.Reduce(part, c.operand[1], count, type, Nccl::SUM, r, comm, c.stream);
    });
  if (way != Way::copies || !m.open(REDUCE_SCATTER_ROWS, rows, width, c.operand[0], nullptr)) return;
  Rows mine(rows, m.rank, m.ranks);
  by_type(c, 0, [&](auto type) {
    typedef decltype(type) T;
    launch(c, sum_ranks_kernel<T>, dim3(blocks_of(mine.count() * width, 256)), 256, 0, m.peers<T>(), mine.from * width,
           mine.to * width, at<T>(c, 1));
  });
  m.close();
}

void reduce_own_rows(Call& c) {
  long rows = size(c, 0), width = size(c, 1), first = size(c, 2), total = size(c, 3);
  Meeting m(c, 4);
  if (!m.valid()) return;
  const char* x = at<char>(c, 0);
  char* y = at<char>(c, 1);
  Way way = m.way();
  bool met = way == Way::nccl ? m.meet(REDUCE_OWN_ROWS, rows, width, x, nullptr, first, total)
                              : way == Way::copies && m.open(REDUCE_OWN_ROWS, rows, width, x, nullptr, first, total);
  if (!met || !m.same_rows()) return;
  long each = width * long(bytes_of(c.type[0]));
  // Rows of the operand that a rank owns.
  auto owned = [&](long r) {
    Rows s = Rows(total, r, m.ranks).within(first, first + rows);
    s.from -= first, s.to -= first;
    return s;
  };
  Rows mine = owned(m.rank);
  if (x != y) copy_to(c, x, y, mine.from * each), copy_to(c, x + mine.to * each, y + mine.to * each, (rows - mine.to) * each);
  if (way == Way::nccl)
    return m.issue([&](const Nccl& n, NcclComm* comm) {
      int type = c.type[0] == Type::bf16 ? Nccl::BFLOAT16 : Nccl::FLOAT, result = Nccl::SUCCESS;
      for (long r = 0; r < m.ranks && (result == Nccl::SUCCESS || result == Nccl::IN_PROGRESS); r++) {
        Rows s = owned(r);
        if (s.count()) result = n.Reduce(x + s.from * each, y + s.from * each, size_t(s.count() * width), type, Nccl::SUM, int(r), comm, c.stream);
      }
      return result;
    });
  by_type(c, 0, [&](auto type) {
    typedef decltype(type) T;
    launch(c, sum_ranks_kernel<T>, dim3(blocks_of(mine.count() * width, 256)), 256, 0, m.peers<T>(), mine.from * width, mine.to * width,
           at<T>(c, 1) + mine.from * width);
  });
  m.close();
}

void own_rows(Call& c) {
  long rows = size(c, 0), width = size(c, 1);
  Meeting m(c, 2);
  if (!m.valid() || !well_placed(c, m, 1, 0, rows, width)) return;
  Rows mine(rows, m.rank, m.ranks);
  long each = width * long(bytes_of(c.type[0]));
  copy_to(c, at<char>(c, 0) + mine.from * each, at<char>(c, 1), mine.count() * each);
}

// NCCL brings whole runs: some rows of every rank into scratch, one rank behind the other, and from there to their places.
template <class T>
void columns_by_nccl(Call& c, Meeting& m, long rows, long width) {
  Peers<T> in = m.peers<T>();
  T* all = reinterpret_cast<T*>(c.scratch);
  long most = larger(1, long(SCRATCH_BYTES / sizeof(T)) / width);
  for (long row = 0; row < rows && !c.error[0] && !c.stopped; row += most) {
    long count = smaller(most, rows - row);
    m.issue([&](const Nccl& n, NcclComm* comm) {
      for (long r = 0; r < m.ranks; r++) {
        long columns = in.to[r] - in.from[r];
        T* place = all + count * in.from[r];
        if (columns == 0) continue;
        int result = n.Broadcast(r == m.rank ? at<T>(c, 0) + row * columns : place, place, size_t(count * columns) * sizeof(T), Nccl::BYTE,
                                 int(r), comm, c.stream);
        if (result != Nccl::SUCCESS && result != Nccl::IN_PROGRESS) return result;
      }
      return Nccl::SUCCESS;
    });
    Peers<T> here = in;
    for (long r = 0; r < m.ranks; r++) here.at[r] = all + count * in.from[r];
    if (!c.stopped)
      launch(c, gather_columns_kernel<T>, dim3(blocks_of(count * width, 256)), 256, 0, here, at<T>(c, 1) + row * width, count, width);
  }
}

void all_gather_columns(Call& c) {
  long rows = size(c, 0), width = size(c, 1), from = size(c, 2), to = size(c, 3);
  Meeting m(c, 4);
  if (!m.valid()) return;
  Way way = m.way();
  bool met = way == Way::nccl ? m.meet(ALL_GATHER_COLUMNS, rows, width, c.operand[0], nullptr, from, to)
                              : way == Way::copies && m.open(ALL_GATHER_COLUMNS, rows, width, c.operand[0], nullptr, from, to);
  if (!met) return;
  for (long r = 0, end = 0; r < m.ranks; r++) {
    const Offer& o = m.offer(r);
    if (o.from != end || (end = o.to, r + 1 == m.ranks && end != width)) {
      fail(c, "rank %ld brings columns %ld to %ld of %ld, which leaves a gap or an overlap", r, o.from, o.to, width);
      return;
    }
  }
  by_type(c, 0, [&](auto type) {
    typedef decltype(type) T;
    if (way == Way::nccl) return columns_by_nccl<T>(c, m, rows, width);
    launch(c, gather_columns_kernel<T>, dim3(blocks_of(rows * width, 256)), 256, 0, m.peers<T>(), at<T>(c, 1), rows, width);
    m.close();
  });
}

namespace {

// Combines maximum, sum and weighted sum of the shards in the order of the ranks. The score of a row's target lies in the
// `logprob` of the rank that has it: that one writes its result later.
__global__ void combine_shards_kernel(Peers<float> work, Peers<float> scores, const int* targets, float* logprob, float* lse,
                                      float* entropy, long rows, int rank) {
  for (long i = first_index(); i < rows; i += index_step()) {
    float top = -INF, total = 0, weighted = 0, picked = 0;
    for (int r = 0; r < work.ranks; r++) top = most(work.at[r][3 * i], top);
    for (int r = 0; r < work.ranks; r++) {
      const float* part = work.at[r] + 3 * i;
      float shrink = exp_of(part[0] - top);
      total = total + part[1] * shrink;
      weighted = weighted + part[2] * shrink;
      if (targets[i] >= work.from[r] && targets[i] < work.to[r]) picked = scores.at[r][i];
    }
    lse[i] = top + log_of(total);
    if (entropy) entropy[i] = lse[i] - weighted / total;
    if (targets[i] < work.from[rank] || targets[i] >= work.to[rank]) logprob[i] = picked - lse[i];
  }
}
__global__ void own_targets_kernel(const int* targets, float* logprob, const float* lse, long rows, long from, long to) {
  for (long i = first_index(); i < rows; i += index_step())
    if (targets[i] >= from && targets[i] < to) logprob[i] = logprob[i] - lse[i];
}

}  // namespace

void shard_logprob(Call& c) {
  long rows = size(c, 0), vocabulary = size(c, 2), first = size(c, 4), total = size(c, 5);
  bool entropy = size(c, 3) == 1;
  float *logprob = floats(c, 4), *lse = floats(c, 5), *work = floats(c, c.operands - 1);
  Meeting m(c, 6);
  LogitRows keep;
  if (!m.valid() || !whole_logits(c, 7, vocabulary, c.operands - 2, keep)) return;
  Way way = m.way();
  if (way == Way::stopped) return;
  head_rows(c, first, total, entropy, size(c, 8) == 1, {logprob, lse, lse, work, keep});
  if (c.error[0]) return;
  unsigned blocks = blocks_of(rows, 256);
  auto combine = [&](const Peers<float>& works, const Peers<float>& scores) {
    launch(c, combine_shards_kernel, dim3(blocks), 256, 0, works, scores, ints(c, 2), logprob, lse, entropy ? floats(c, 6) : nullptr,
           rows, int(m.rank));
  };
  if (way == Way::nccl) {
    if (!m.meet(SHARD_LOGPROB, rows, total, work, logprob, first, first + vocabulary)) return;
    if (rows * 4 * m.ranks > long(SCRATCH_BYTES / 4)) {
      fail(c, "%ld rows of %ld ranks are more than there is scratch for, use smaller micro-batches", rows, m.ranks);
      return;
    }
    Peers<float> works = m.peers<float>(), scores = works;
    float *parts = reinterpret_cast<float*>(c.scratch), *picked = parts + 3 * rows * m.ranks;
    m.fetch(work, parts, 3 * rows);
    if (!c.error[0] && !c.stopped) m.fetch(logprob, picked, rows);
    for (long r = 0; r < m.ranks; r++) works.at[r] = parts + 3 * rows * r, scores.at[r] = picked + rows * r;
    if (!c.stopped) combine(works, scores);
  } else {
    if (!m.open(SHARD_LOGPROB, rows, total, work, logprob, first, first + vocabulary)) return;
    combine(m.peers<float>(), m.peers<float>(true));
    if (!m.close()) return;
  }
  if (c.stopped) return;
  launch(c, own_targets_kernel, dim3(blocks), 256, 0, ints(c, 2), logprob, lse, rows, first, first + vocabulary);
}

}  // namespace baton
