// SPDX-License-Identifier: Apache-2.0
// Part of longspan. See LICENSE.
//
// LSH attention of the Reformer (Kitaev, Kaiser, Levskaya 2020, arXiv 2001.04451), and its stages
// one by one: normalise keys, draw rotations, hash, sort, cut chunks, attend.
//
// Queries and keys are one tensor (`query_key`), or two that are hashed by the same rotations.
// Tensors of vectors are [batch, seqlen, num_heads, head_dim]; those that hold a number for each
// position and hash round are [batch, num_heads, num_hashes, seqlen]. Where the vectors have rank 3
// (no batch) or 2 (no batch, one head), the others lack the same axes.
//
// All functions: any strides; the results must not overlap the inputs or each other; any extent but
// that of vectors may be 0. Bitwise the same for any number of threads and for a batch entry alone
// or in any batch; the stages on every machine and kernel, too. Errors: Error(kInvalidArgument),
// one line with what, expected, found. Functions that take an Execution run on its threads, stop
// when it is asked to and allocate what they say; outputs are unspecified after an error.
#pragma once

#include <array>
#include <cstdint>
#include <optional>
#include <vector>

#include "longspan/attention.h"
#include "longspan/error.h"
#include "longspan/execution.h"
#include "longspan/mask.h"
#include "longspan/partial.h"
#include "longspan/tensor.h"

namespace longspan {

// A pair of positions that stands in the windows of several rounds, or twice in one window.
enum class Dedup : std::uint8_t {
  kExact,     // counts once, in the first round whose window holds it
  kLogCount,  // ln(how often it is found) is subtracted from its score: the paper's N_ij (section
              // 3)
  kNone,      // counts each time
};

// Chunks beyond the edge of a round.
enum class Wrap : std::uint8_t {
  kNone,   // there are none
  kRound,  // cyclic inside the round
  kAll,    // cyclic in the list of the chunks of all rounds: round 0's, round 1's, ...
};

enum class KeyNorm : std::uint8_t {
  kRms,  // q / sqrt(mean(q^2) + 1e-6) / sqrt(head_dim); scores are query . key
  kL2,   // q / max(norm(q), 1e-12); scores are query . key / sqrt(head_dim)
};

// What happens to the score of a position with itself (shared query and key).
enum class SelfRule : std::uint8_t {
  kAdded,     // self_score is added
  kAssigned,  // self_score is put in its place
};

// Views may be absent (is_given).
struct LshOptions {
  std::int64_t num_hashes = 4;  // rounds, at least 1
  // Even factors, at least 2; their product is the number of buckets of a round and at most
  // 2^31 - 2. Empty: choose_num_buckets().
  std::vector<std::int64_t> num_buckets;
  std::int64_t chunk_len = 64;     // at least 1; the last chunk of a round may be short
  std::int64_t chunks_before = 1;  // chunks that a chunk attends to besides itself, not negative
  std::int64_t chunks_after = 0;
  Dedup dedup = Dedup::kExact;
  Wrap wrap = Wrap::kNone;
  KeyNorm key_norm = KeyNorm::kRms;
  SelfRule self_rule = SelfRule::kAdded;
  double self_score = -1e5;  // finite: a position attends to itself when it sees nothing else
  bool self_overrides_padding = false;  // an excluded position still sees itself
  std::uint64_t seed = 0;               // of the rotations
  bool whole_buckets = false;           // a window is the whole bucket, in place of chunks
  // {left, right} as in window(): these keys are attended exactly, the rounds add the rest.
  std::optional<std::array<std::int64_t, 2>> local_window;

  // From outside: rotations instead of drawn ones, floating, [num_heads of the keys, head_dim,
  // num_hashes, sum of the factors / 2]; or buckets instead of hashing, int32 or int64, in
  // [0, product of num_buckets). Those of separate queries and keys come together.
  ConstTensorView rotations;
  ConstTensorView buckets;  // shared query and key
  ConstTensorView query_buckets;
  ConstTensorView key_buckets;
};

// The choices of other implementations; what is not named keeps the default above.
// Hugging Face's LSHSelfAttention: dedup none, wrap all, key norm rms; -1e5 is written over the
// score of a position with itself, and that over padding, too.
LshOptions hf_reformer();
// reformer-pytorch's LSHAttention: dedup none, wrap all, key norm l2; -5e4 is written likewise. It
// takes seqlen / chunk_len buckets, which has to be said in num_buckets.
LshOptions lucidrains();
// The Reformer lab (Trax): dedup none, wrap all, key norm rms; 1e5 is subtracted.
LshOptions lab();

// Attention of every query to the keys that some round puts into its window. The rounds are partial
// results over sets of keys and are merged as they come (partial.h); none is kept.
//
// Shared query and key (`key` absent): query is [batch, seqlen, num_heads, head_dim], keys are its
// rows normalised (options.key_norm), value is [batch, seqlen, num_heads, head_dim_v]. The score of
// a position with itself is self_score added to what it would be (or is self_score), so that it
// counts only where nothing else is visible; a mask that excludes it excludes it. seqlen <=
// chunk_len: every position meets every other, once, whatever num_hashes is.
// Separate query and key: shapes, head groups, scale and query_offset as in attention() (the offset
// must be said when seqlen_q != seqlen_k, since windows follow positions); both are hashed by the
// same rotations, and no pair is special.
// Ranks 3 and 2 lack batch and heads. query, key and value share one dtype; result and types as in
// attention(): float32 sums, float64 for float64.
//
// Masks act by the positions of the tensors: key lengths (and a dense mask with one row for all
// queries) are padding, which is hashed behind the last bucket; all other terms act inside the
// windows. softcap, ALiBi and sinks act as in attention(), a sink once. A bias, dropout, and a
// scale for shared query and key are refused. Dedup::kExact and kLogCount differ only in which
// round a pair is counted in, so their results are the same bits here.
//
// execution.query_chunk and key_chunk have no meaning here.
// A row that sees nothing gets output 0 and lse -inf. Bitwise the same for any number of threads,
// and for a batch entry alone or in any batch. Workspace: that of hash_vectors(); 12 bytes a round
// for each position and head of the keys, and of separate queries; O(threads); and for the heads
// that are at work at a time (one of a long sequence, several of short ones) 16 bytes a position
// (float64: 32) and copies of vectors, values and output, where rows of a head are not side by
// side, the output is narrower than float32, or a head's rows take 8 MiB and more (these are not
// copied where memory_limit is too small for it).
void lsh_attention(ConstTensorView query, ConstTensorView key, ConstTensorView value,
                   Partial result, const LshOptions& options = {},
                   const AttentionOptions& attention = {}, const Execution& execution = {});

// What lsh_attention() would do, without doing it.
struct LshPlan {
  std::string kernel;                     // name from kernels()
  int threads = 1;                        // threads that will work
  std::int64_t num_hashes = 1;            // rounds: 1 where there is one chunk
  std::vector<std::int64_t> num_buckets;  // factors
  std::int64_t num_chunks = 0;            // of a round
  std::int64_t tasks = 0;                 // of a round
  std::size_t workspace_bytes = 0;        // allocated at the entry, all threads together
  // 2 (head_dim + head_dim_v) for each pair of a query and a key of its windows, whole buckets and
  // local windows taken as large as on average.
  double flop = 0;
};
LshPlan plan_lsh_attention(ConstTensorView query, ConstTensorView key, ConstTensorView value,
                           const LshOptions& options = {}, const AttentionOptions& attention = {},
                           const Execution& execution = {});

// The gradients of sum(output * dresult.output) + sum(lse * dresult.lse), where result is what
// lsh_attention() gave for the same inputs and options (its lse is required); dresult.lse may be
// absent (0). Buckets, and how often a pair is found, are constants. They are found again from the
// seed (or given, options.buckets): nothing of the forward pass is kept but its result, and the
// rounds together are the backward pass of exact attention over the found pairs,
//   P = exp(score - lse), D_i = doutput_i . output_i - dlse_i, dS = P * (dP - D),
// with the lse of all rounds. into.query, into.key and into.value may each be absent; for shared
// query and key into.query is the whole gradient of query_key, that of the normalisation included,
// and into.key must be absent; into.sinks as in attention_backward().
// Sums are taken in float32 (float64 for float64). A row that sees nothing gives zero gradients;
// excluded pairs contribute nothing, even where they hold NaN or inf. Bitwise the same for any
// number of threads. Workspace: that of lsh_attention() before the heads at work, for each position
// and head 4 bytes more (float64: 8), and for the heads at work 8 bytes a position (float64: 16)
// and copies of vectors, values, doutput and gradients, as in lsh_attention().
void lsh_attention_backward(ConstTensorView query, ConstTensorView key, ConstTensorView value,
                            ConstPartial result, ConstPartial dresult, Gradients into,
                            const LshOptions& options = {}, const AttentionOptions& attention = {},
                            const Execution& execution = {});

// The same as plan_lsh_attention(), with all gradients in the query's dtype; flop counts the five
// products: 2 (3 head_dim + 2 head_dim_v) for each pair; tasks are those of one turn of a round.
LshPlan plan_lsh_attention_backward(ConstTensorView query, ConstTensorView key,
                                    ConstTensorView value, const LshOptions& options = {},
                                    const AttentionOptions& attention = {},
                                    const Execution& execution = {});

// Stage 1. Keys from shared vectors, of the same shape and dtype (section 2, "Shared-QK
// Transformer"). A row of zeros stays zeros. Squares are summed in float64. Allocates nothing.
void normalize_keys(ConstTensorView query_key, TensorView key, KeyNorm key_norm,
                    const Execution& execution = {});
// The factor of query . key that goes with these keys: 1 (rms) or 1 / sqrt(head_dim) (l2).
double score_scale(KeyNorm key_norm, std::int64_t head_dim);

// The automatic factors for so many keys: 2^p buckets, the largest power of two that is at most
// 2 max(1, seqlen / chunk_len), so that a chunk holds about two average buckets. Past 32 as powers
// of two as equal as can be, none above 32, smaller ones first: 128 = 8 x 16, 2048 = 8 x 16 x 16
// (hashing costs the sum of the factors, not their product).
std::vector<std::int64_t> choose_num_buckets(std::int64_t seqlen, std::int64_t chunk_len);

// Stage 2a. Random directions, N(0, 1): [num_heads, head_dim, num_hashes, columns], float32 or
// float64 (rounded once from the same float64 numbers). The number at (head, d, round, column) is a
// function of these four and the seed alone: Philox 4x32-10 with key = seed and counter
// (column / 4, d, head, 2^31 + round); words 0 and 1 of a block give columns 0 and 1 of its four by
// Box and Muller's transform (1958), words 2 and 3 the other two. Logarithm, sine and cosine are
// series of our own, since those of libm differ between machines. Allocates nothing.
void draw_rotations(TensorView rotations, std::uint64_t seed);

// Stage 2b. h(x) = argmax([xR, -xR]) for every factor of num_buckets, the first maximum wins; a
// bucket is the mixed radix of them, the first factor the least significant digit (section 2,
// "Locality sensitive hashing"). Factors take consecutive columns of the rotations. Sums are taken
// in float32 (float64 for float64) with float32 rotations, without fused multiply-adds, whose bits
// not every machine has. A row with a NaN gets bucket 0 from products that are all NaN. seqlen <=
// chunk_len: all buckets are 0, since nothing is divided.
// Padding (key lengths of the mask, and its dense terms whose query axis has length 1 or is absent)
// gets one more bucket behind the last; other terms have no meaning here.
// options.buckets, when given, are checked and copied, padding moved to the last bucket.
// Workspace: the rotations in the type of the sums, and O(threads).
void hash_vectors(ConstTensorView query_key, TensorView buckets, const LshOptions& options = {},
                  const Mask& mask = {}, const Execution& execution = {});
// Separate queries [batch, seqlen_q, num_heads, head_dim] and keys [batch, seqlen_k, num_heads_kv,
// head_dim]: head h of the queries meets the rotations of head h / (num_heads / num_heads_kv) of
// the keys. The number of buckets is chosen for seqlen_k; padding is that of keys. Vectors need not
// be normalised: a positive factor changes no argmax.
void hash_vectors(ConstTensorView query, ConstTensorView key, TensorView query_buckets,
                  TensorView key_buckets, const LshOptions& options = {}, const Mask& mask = {},
                  const Execution& execution = {});

// Stage 3. Positions along the last axis sorted by (bucket, position); the lab's `sticker`. Both
// are int32 or int64 of one shape, rank 1 to 4; buckets are not negative. Time O(seqlen) for each
// 11 bits of the largest bucket; allocates O(seqlen) a thread.
void sort_by_bucket(ConstTensorView buckets, TensorView sorted_positions,
                    const Execution& execution = {});
// Its inverse: places[sorted_positions[n]] = n; the lab's `undo_sort`. What is sorted goes back by
// x[p] = sorted_x[places[p]]. Allocates nothing.
void undo_sort(ConstTensorView sorted_positions, TensorView places,
               const Execution& execution = {});

// Stage 4. Chunk c of a round holds sorted places c chunk_len ... up to (c + 1) chunk_len.
std::int64_t count_chunks(std::int64_t seqlen, std::int64_t chunk_len);

struct ChunkPlace {
  std::int64_t round = 0;
  std::int64_t chunk = 0;
  bool operator==(const ChunkPlace&) const = default;
};

// The chunks that a chunk attends to, chunks_before before it up to chunks_after behind it, in this
// order. One that is met again by wrapping around is listed again.
class ChunkWindow {
 public:
  // 0 <= at.round < num_hashes, 0 <= at.chunk < chunks (of a round).
  ChunkWindow(const LshOptions& options, std::int64_t chunks, ChunkPlace at);
  std::int64_t size() const noexcept { return size_; }
  ChunkPlace operator[](std::int64_t n) const noexcept;

 private:
  std::int64_t size_ = 0;
  std::int64_t first_ = 0;        // on the cycle
  std::int64_t cycle_ = 1;        // its length in chunks
  std::int64_t first_round_ = 0;  // of the cycle
  std::int64_t chunks_ = 1;       // of a round
};

// Separate queries and keys: where a query stands among the sorted keys of its round. ranks[i] is
// the number of keys with (bucket, position) <= (its bucket, its key position), 0 to seqlen_k.
// query_buckets, ranks: [batch, num_heads, num_hashes, seqlen_q]; key_buckets, sorted_positions:
// [batch, num_heads_kv, num_hashes, seqlen_k]; query_positions: [seqlen_q] or [batch, seqlen_q],
// any whole numbers; absent: 0, 1, 2, ... All int32 or int64. O(log seqlen_k) a query, O(seqlen_k)
// a row; allocates nothing.
void rank_queries(ConstTensorView query_buckets, ConstTensorView key_buckets,
                  ConstTensorView sorted_positions, ConstTensorView query_positions,
                  TensorView ranks, const Execution& execution = {});

struct ChunkRange {  // [begin, end)
  std::int64_t begin = 0;
  std::int64_t end = 0;
  bool operator==(const ChunkRange&) const = default;
};
// The chunks of its round that such a query attends to: floor((rank - 1) / chunk_len) -
// chunks_before up to ... + chunks_after, both clamped to the round (rank 0: its first chunk).
// Empty when there are no keys.
ChunkRange chunks_of_rank(const LshOptions& options, std::int64_t seqlen_k, std::int64_t rank);

}  // namespace longspan
