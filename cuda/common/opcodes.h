// The operations of a device program: codes, attributes and operands, as in ir/op.ts.
//
// Attributes are names: `T:` is a size that may scale with a symbol, `eps~` a real number, `layer@` an index (counted from
// 0, so a size needs one more), anything else a whole constant. Operands are name[least elements]; `*` multiplies, `V?H`
// is a weight of V outputs and H inputs, in panels when the attribute `panels` is 1 and of V·H elements otherwise. `(flag)prior[...]` is present when the attribute `flag` is not 0. `>` marks what is written, and other marks say what
// no output may lie over: `#` integers that address memory, and `!` what other ranks read: no output at all; `=` the output may
// have the same place; `@` the output may hold it, or lie inside, where kernels check at which rows. [0] is a size that depends
// on the rank: kernels check it. `:a` marks what may be bf16; operands with one letter have one type, and those without are four
// bytes wide. The loader derives from this table its counts, its bounds checks, and
// that nothing is written over another output or over what is marked.
#pragma once
#include <stdint.h>

namespace baton {

struct Opcode {
  uint16_t code;
  const char* name;
  const char* attributes;
  const char* operands;
};

constexpr uint16_t ROPE = 11, POINTWISE = 20, SQUARE_SUMS = 30, ALL_GATHER_COLUMNS = 43, ROPES = 60, ROPE_KV_WRITE = 61;  // checked by more than the table says
constexpr uint16_t SHARD_LOGPROB = 38, ALL_REDUCE = 39, ALL_GATHER_ROWS = 40, REDUCE_SCATTER_ROWS = 41, OWN_ROWS = 42,
                   SUM_DOUBLES = 44, REDUCE_OWN_ROWS = 63;
constexpr int OPCODES = 64;  // slots of a table by opcode
constexpr int AXES = 5;      // of ir/op.ts

// "matmul" for 3; "unknown" for what is not an opcode.
const char* opcode_name(uint16_t code);

// What the scratch of a kernel is made for; the loader refuses more.
constexpr int MAX_HEAD_DIM = 512, MAX_INSTRUCTIONS = 1024;

// The counts of `pointwise` and `squareSums` depend on their attributes: program.cpp has rules of their own.
constexpr Opcode opcodes[] = {
    {1, "embedding", "T: V H panels first total", "#ids[T] w[V?H]:a >x[T*H]:a"},
    {2, "embeddingGrad", "T: V H panels flag first total", "#ids[T] dx[T*H]:a (flag)prior[V?H]:g >dw[V?H]:g"},
    {3, "matmul", "M: N K panels biasFlag", "x[M*K]:a w[N?K]:a (biasFlag)bias[N]:a >y[M*N]:y"},
    {4, "matmulDx", "M: N K flag panels", "dy[M*N]:y w[N?K]:a (flag)prior[M*K]:a >dx[M*K]:a"},
    {5, "matmulDw", "M: N K flag panels", "dy[M*N]:y x[M*K]:a (flag)prior[N?K]:g >dw[N?K]:g"},
    {6, "addBias", "M: N", "x[M*N]:a b[N]:a >y[M*N]:a"},
    {7, "columnSum", "M: N flag", "dy[M*N]:a (flag)prior[N]:g >db[N]:g"},
    {8, "rmsnorm", "R: H eps~", "x[R*H]:a w[H]:a >y[R*H]:a >rstd[R]"},
    {9, "rmsnormDx", "R: H flag", "dy[R*H]:a x[R*H]:a w[H]:a rstd[R] (flag)prior[R*H]:a >dx[R*H]:a"},
    {10, "rmsnormDw", "R: H flag", "dy[R*H]:a x[R*H]:a rstd[R] (flag)prior[H]:g >dw[H]:g"},
    {11, "rope", "T: heads D direction~", "x[T*heads*D]:a #positions[T] table[D] >y[T*heads*D]:a"},
    {12, "attention", "T: S: heads kv D window scale~",
     "q[T*heads*D]:a k[T*kv*D]:a v[T*kv*D]:a #ends[S] >o[T*heads*D]:a >lse[T*heads]"},
    {13, "attentionGrad", "T: S: heads kv D window scale~",
     "dO[T*heads*D]:a q[T*heads*D]:a k[T*kv*D]:a v[T*kv*D]:a o[T*heads*D]:a lse[T*heads] #ends[S] >dq[T*heads*D]:a "
     ">dk[T*kv*D]:a >dv[T*kv*D]:a"},
    {14, "swiglu", "n:", "gate[n]:a up[n]:a >y[n]:a"},
    {15, "swigluGrad", "n:", "dy[n]:a gate[n]:a up[n]:a >dgate[n]:a >dup[n]:a"},
    {16, "linearLogprob", "A: H V entropyFlag step panels",
     "x[A*H]:a w[V?H]:a #targets[A] invT[] >logprob[A] >lse[A] (entropyFlag)>entropy[A] (step)>logits[A*step]"},
    {17, "linearLogprobGrad", "A: H V flag entropyFlag first total step panels",
     "dlogprob[A] x[A*H]:a w[V?H]:a #targets[A] invT[] lse[A] (entropyFlag)dentropy[A] (entropyFlag)entropy[A] "
     "(step)logits[A*step] (flag)prior[V?H]:g >dx[A*H]:a >dw[V?H]:g"},
    {18, "gatherRows", "A: H T:", "x[T*H]:t #rows[A] >y[A*H]:t"},
    {19, "scatterRows", "A: H T: flag", "dy[A*H]:a #rows[A] (flag)prior[T*H]:a >dx[T*H]:a"},
    {20, "pointwise", "n: inputs instructions outputs", ""},
    {21, "segmentSum", "N: M:", "x[N] #ends[M] >y[M]"},
    {22, "segmentSpread", "N: M:", "y[M] #ends[M] >x[N]"},
    {23, "segmentLast", "N: M:", "x[N] #ends[M] >y[M]"},
    {24, "segmentAtEnd", "N: M:", "y[M] #ends[M] >x[N]"},
    {25, "segmentLength", "M:", "#ends[M] >y[M]"},
    {26, "total", "N: flag", "x[N] (flag)prior[] >y[]"},
    {27, "strideGather", "P: stride phase@", "x[P*stride] >y[P]"},
    {28, "strideScatter", "P: stride phase@", "y[P] >x[P*stride]"},
    {29, "gae", "A: S: gamma~ lambda~", "rewards[A] values[A] finals[S] #ends[S] >advantages[A]"},
    {30, "squareSums", "count", ""},
    {31, "adamw", "n beta1~ beta2~ eps~ decay~ clip~ roundedFlag",
     "p[n] g[n]:g m[n] v[n] hyper[3] norm[] >p[n] >m[n] >v[n] (roundedFlag)>rounded[n]:r"},
    {32, "copy", "n:", "x[n]:t >y[n]:t"},
    {33, "fill", "n: value~", ">y[n]"},
    {34, "kvWrite", "T: kv D layer@ pages maxPages",
     "k[T*kv*D]:a v[T*kv*D]:a #slots[T] #positions[T] #pageTable[maxPages] #finished[] >kv[layer*pages*kv*D*32]:a"},
    {35, "pagedAttention", "T: heads kv D window scale~ layer@ pages maxPages",
     "q[T*heads*D]:a kv[layer*pages*kv*D*32]:a #slots[T] #positions[T] #pageTable[maxPages] >o[T*heads*D]:a"},
    {36, "sample", "R: V temperature~ topK topP~ stops maxNew",
     "logits[R*V] #slots[R] >token[] >position[] >finished[] >count[] #sampler[] #stops[stops] >outTokens[maxNew] "
     ">outLogprobs[maxNew]"},
    {37, "copyPages", "n: kv D layers pages", "kv[layers*pages*kv*D*32]:t #from[n] #to[n] >kv[layers*pages*kv*D*32]:t"},
    {38, "shardLogprob", "A: H V entropyFlag first total axis step panels",
     "!x[A*H]:a !w[V?H]:a #targets[A] !invT[] >logprob[A] >lse[A] (entropyFlag)>entropy[A] (step)>logits[A*step] >work[A*3]"},
    {39, "allReduce", "n: axis", "=x[n]:a >y[n]:a"},
    {40, "allGatherRows", "T: H axis", "@x[0]:t >y[T*H]:t"},
    {41, "reduceScatterRows", "T: H axis", "@x[T*H]:a >y[0]:a"},
    {42, "ownRows", "T: H axis", "@x[T*H]:t >y[0]:t"},
    {43, "allGatherColumns", "R: W from to axis", "!x[0]:t >y[R*W]:t"},
    {44, "sumDoubles", "n axis", "=x[n*2] >y[n*2]"},
    {45, "norm", "n", "!sums[n*2] >norm[]"},
    {46, "sampleKept", "R: V temperature~ topK topP~ stops maxNew",
     "logits[R*V] #slots[R] >token[] >position[] >finished[] >count[] #sampler[] #stops[stops] >outTokens[maxNew] "
     ">outLogprobs[maxNew] >outKept[maxNew*topK]"},
    {47, "keptLogits", "A: H V K first total panels", "x[A*H]:a w[V?H]:a #kept[A*K] >z[A*K]"},
    {48, "keptLogitsDx", "A: H V K first total panels", "dz[A*K] w[V?H]:a #kept[A*K] >dx[A*H]:a"},
    {49, "keptLogitsDw", "A: H V K flag first total panels", "dz[A*K] x[A*H]:a #kept[A*K] (flag)prior[V?H]:g >dw[V?H]:g"},
    {50, "keptLogprob", "A: K entropyFlag",
     "z[A*K] #kept[A*K] #targets[A] invT[] >logprob[A] >lse[A] (entropyFlag)>entropy[A]"},
    {51, "keptLogprobGrad", "A: K entropyFlag",
     "dlogprob[A] z[A*K] #kept[A*K] #targets[A] invT[] lse[A] (entropyFlag)dentropy[A] (entropyFlag)entropy[A] >dz[A*K]"},
    {52, "linearLogprobDx", "A: H V entropyFlag first total step panels",
     "dlogprob[A] x[A*H]:a w[V?H]:a #targets[A] invT[] lse[A] (entropyFlag)dentropy[A] (entropyFlag)entropy[A] "
     "(step)logits[A*step] >dx[A*H]:a"},
    {53, "matmul3", "M: N1 N2 N3 K panels biasFlag",
     "x[M*K]:a w1[N1?K]:a w2[N2?K]:a w3[N3?K]:a (biasFlag)bias1[N1]:a (biasFlag)bias2[N2]:a (biasFlag)bias3[N3]:a >y1[M*N1]:y "
     ">y2[M*N2]:y >y3[M*N3]:y"},
    {54, "matmul2", "M: N1 N2 K panels biasFlag",
     "x[M*K]:a w1[N1?K]:a w2[N2?K]:a (biasFlag)bias1[N1]:a (biasFlag)bias2[N2]:a >y1[M*N1]:y >y2[M*N2]:y"},
    {55, "gatedMatmul", "M: N K panels", "x[M*K]:a wg[N?K]:a wu[N?K]:a >y[M*N]:a"},
    {59, "addRmsnorm", "R: H eps~", "x[R*H]:a r[R*H]:a w[H]:a >s[R*H]:a >y[R*H]:a >rstd[R]"},
    {60, "ropes", "T: heads kv D direction~ eps~ norm",
     "q[T*heads*D]:a k[T*kv*D]:a #positions[T] table[D] (norm)qw[D]:a (norm)kw[D]:a >qr[T*heads*D]:a >kr[T*kv*D]:a "
     "(norm)>qrstd[T*heads] (norm)>krstd[T*kv]"},
    {61, "ropeKvWrite", "T: heads kv D layer@ pages maxPages eps~ norm keep",
     "q[T*heads*D]:a k[T*kv*D]:a v[T*kv*D]:a #positions[T] table[D] #slots[T] #pageTable[maxPages] #finished[] (norm)qw[D]:a "
     "(norm)kw[D]:a >qr[T*heads*D]:a (keep)>kr[T*kv*D]:a >kv[layer*pages*kv*D*32]:a"},
    {62, "rmsnormGrad", "R: H flag dwFlag",
     "dy[R*H]:a x[R*H]:a w[H]:a rstd[R] (flag)prior[R*H]:a (dwFlag)dwPrior[H]:g >dx[R*H]:a >dw[H]:g"},
    {63, "reduceOwnRows", "R H from total axis", "=x[R*H]:a >y[R*H]:a"},
};

// Register instructions of `pointwise`, [op, a, b, c].
enum Instruction {
  CONSTANT, ADD, SUB, MUL, DIV, MIN, MAX, NEG, EXP, LOG, SIGMOID, LT, GE, WHERE, ABS, SQRT, LOG_SIGMOID, SIGN,
  INSTRUCTIONS
};

}  // namespace baton
