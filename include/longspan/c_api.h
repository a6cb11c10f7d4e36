/* SPDX-License-Identifier: Apache-2.0
 * Part of longspan. See LICENSE.
 *
 * The library from C. What functions compute, their shapes, errors, threads and memory are those of
 * the C++ function of the same name (attention.h, lsh_attention.h, partial.h, kv_cache.h).
 *
 * Every function that can fail returns a status; longspan_last_error() then has one line with what,
 * expected, found. No exception leaves a function. Structs that may grow begin with struct_size,
 * which the caller sets to sizeof: what an older caller's struct does not have takes its default,
 * and what a newer caller's has in addition must be 0. Each has a function that sets struct_size
 * and all defaults. Pointers to options, execution and tensors may be NULL where they are said to
 * be absent or default. */
#ifndef LONGSPAN_C_API_H_
#define LONGSPAN_C_API_H_

/* This is C. NOLINTBEGIN(modernize-*) */
#include <stddef.h>
#include <stdint.h>

#ifdef __cplusplus
extern "C" {
#endif

typedef enum longspan_status {
  LONGSPAN_OK = 0,
  LONGSPAN_INVALID_ARGUMENT = 1, /* an option or a shape that the caller can correct */
  LONGSPAN_UNSUPPORTED = 2,      /* what this build or machine cannot do */
  LONGSPAN_OUT_OF_MEMORY = 3,    /* no plan fits the memory limit, or an allocation failed */
  LONGSPAN_CANCELLED = 4,        /* stopped on request; outputs are unspecified */
  LONGSPAN_FILE = 5,
  LONGSPAN_INTERNAL = 6 /* a defect of longspan itself */
} longspan_status;

/* Of the last function on this thread that failed: one line, and what to do or "". Valid until the
 * next call on this thread. */
const char* longspan_last_error(void);
const char* longspan_last_hint(void);

const char* longspan_version(void);       /* "0.1.0" */
int32_t longspan_available_threads(void); /* what threads = 0 stands for */

typedef enum longspan_dtype {
  LONGSPAN_FLOAT32 = 0,
  LONGSPAN_FLOAT64 = 1,
  LONGSPAN_FLOAT16 = 2,
  LONGSPAN_BFLOAT16 = 3,
  LONGSPAN_INT32 = 4,
  LONGSPAN_INT64 = 5,
  LONGSPAN_BOOL = 6 /* one byte; nonzero is true */
} longspan_dtype;

#define LONGSPAN_MAX_RANK 4

/* A view: strides count elements, may be 0 or negative. All zeros: absent. The data of inputs is
 * only read. This struct will not change. */
typedef struct longspan_tensor {
  void* data;
  int32_t dtype; /* longspan_dtype */
  int32_t rank;
  int64_t shape[LONGSPAN_MAX_RANK];
  int64_t strides[LONGSPAN_MAX_RANK];
} longspan_tensor;

/* Row-major; 0 <= rank <= 4, shape has rank entries. */
longspan_tensor longspan_row_major(const void* data, longspan_dtype dtype, int32_t rank,
                                   const int64_t* shape);

/* Output and log-sum-exp; lse may be absent where the function says so. */
typedef struct longspan_partial {
  longspan_tensor output;
  longspan_tensor lse;
} longspan_partial;

/* Where query 0 sits among the keys. */
typedef enum longspan_offset_kind {
  LONGSPAN_OFFSET_UNSET = 0, /* 0 for equal lengths, else an error where positions are compared */
  LONGSPAN_OFFSET_NUMBER = 1,
  LONGSPAN_OFFSET_END = 2,      /* the last query sits at the last key */
  LONGSPAN_OFFSET_PER_BATCH = 3 /* tensor [batch], int32 or int64 */
} longspan_offset_kind;

typedef struct longspan_query_offset {
  int32_t kind;
  int64_t number;
  longspan_tensor per_batch;
} longspan_query_offset;

typedef enum longspan_mask_kind {
  LONGSPAN_CAUSAL = 0,
  LONGSPAN_WINDOW = 1,      /* integers: left, right; -1 is open */
  LONGSPAN_KEY_LENGTHS = 2, /* tensor [batch] */
  LONGSPAN_DOCUMENTS = 3,   /* tensor, tensor_k: cu_seqlens of queries and keys */
  LONGSPAN_PREFIX = 4,      /* integers: length */
  LONGSPAN_KEY_RANGE = 5,   /* integers: first, last */
  LONGSPAN_DENSE = 6,       /* tensor: boolean, broadcastable */
  LONGSPAN_PREDICATE = 7
} longspan_mask_kind;

/* Nonzero when query may see key. Called from several threads at once. */
typedef int32_t (*longspan_predicate)(void* context, int64_t batch, int64_t head, int64_t query,
                                      int64_t key);

/* Terms of a mask are joined by AND. All of an array have the struct_size of the first. */
typedef struct longspan_mask_term {
  size_t struct_size;
  int32_t kind; /* longspan_mask_kind */
  int64_t integers[2];
  longspan_tensor tensor;
  longspan_tensor tensor_k;
  longspan_query_offset query_offset; /* overrides the call's when set */
  longspan_predicate predicate;
  void* context; /* handed to the predicate */
} longspan_mask_term;
void longspan_mask_term_init(longspan_mask_term* term);

typedef struct longspan_attention_options {
  size_t struct_size;
  int32_t has_scale; /* 0: scale is 1 / sqrt(head_dim) */
  double scale;
  double softcap; /* 0: off */
  longspan_query_offset query_offset;
  const longspan_mask_term* mask_terms; /* may be NULL when there are none */
  size_t mask_term_count;
  longspan_tensor bias;
  longspan_tensor alibi_slopes;
  longspan_tensor sinks;
  double dropout_probability; /* 0: off */
  uint64_t dropout_seed;
} longspan_attention_options;
void longspan_attention_options_init(longspan_attention_options* options);

typedef enum longspan_dedup {
  LONGSPAN_DEDUP_EXACT = 0,
  LONGSPAN_DEDUP_LOG_COUNT = 1,
  LONGSPAN_DEDUP_NONE = 2
} longspan_dedup;
typedef enum longspan_wrap {
  LONGSPAN_WRAP_NONE = 0,
  LONGSPAN_WRAP_ROUND = 1,
  LONGSPAN_WRAP_ALL = 2
} longspan_wrap;
typedef enum longspan_key_norm { LONGSPAN_NORM_RMS = 0, LONGSPAN_NORM_L2 = 1 } longspan_key_norm;
typedef enum longspan_self_rule {
  LONGSPAN_SELF_ADDED = 0,
  LONGSPAN_SELF_ASSIGNED = 1
} longspan_self_rule;
typedef enum longspan_lsh_preset {
  LONGSPAN_PRESET_NONE = 0,
  LONGSPAN_PRESET_HF_REFORMER = 1,
  LONGSPAN_PRESET_LUCIDRAINS = 2,
  LONGSPAN_PRESET_LAB = 3
} longspan_lsh_preset;

typedef struct longspan_lsh_options {
  size_t struct_size;
  int64_t num_hashes;
  const int64_t* num_buckets; /* factors; NULL: chosen */
  size_t num_bucket_factors;
  int64_t chunk_len;
  int64_t chunks_before;
  int64_t chunks_after;
  int32_t dedup;
  int32_t wrap;
  int32_t key_norm;
  int32_t self_rule;
  double self_score;
  int32_t self_overrides_padding;
  int32_t whole_buckets;
  uint64_t seed;
  int32_t has_local_window;
  int64_t local_window[2]; /* left, right */
  longspan_tensor rotations;
  longspan_tensor buckets;
  longspan_tensor query_buckets;
  longspan_tensor key_buckets;
} longspan_lsh_options;
void longspan_lsh_options_init(longspan_lsh_options* options, longspan_lsh_preset preset);

/* A request to stop, made from any thread, that calls poll. */
typedef struct longspan_stop longspan_stop;
longspan_status longspan_stop_create(longspan_stop** stop);
void longspan_stop_request(longspan_stop* stop);
void longspan_stop_destroy(longspan_stop* stop); /* NULL: nothing; no call may be using it */

typedef struct longspan_execution {
  size_t struct_size;
  int32_t threads;     /* 0: all that the process may use */
  size_t memory_limit; /* bytes of workspace; 0: no limit */
  int64_t query_chunk; /* 0: chosen */
  int64_t key_chunk;   /* 0: chosen */
  const char* kernel;  /* NULL or "": the best that runs here */
  longspan_stop* stop; /* NULL: none */
} longspan_execution;
void longspan_execution_init(longspan_execution* execution);

/* Where gradients go: absent tensors are not computed. */
typedef struct longspan_gradients {
  size_t struct_size;
  longspan_tensor query;
  longspan_tensor key;
  longspan_tensor value;
  longspan_tensor bias;
  longspan_tensor sinks;
} longspan_gradients;
void longspan_gradients_init(longspan_gradients* gradients);

/* What a call would do. The caller sets struct_size; fields past it are not written. */
typedef struct longspan_plan {
  size_t struct_size;
  char kernel[32];
  int32_t threads;
  int64_t tasks;
  size_t workspace_bytes; /* allocated at the entry, all threads together */
  double flop;
} longspan_plan;

longspan_status longspan_attention(const longspan_tensor* query, const longspan_tensor* key,
                                   const longspan_tensor* value, const longspan_partial* result,
                                   const longspan_attention_options* options,
                                   const longspan_execution* execution);
longspan_status longspan_plan_attention(const longspan_tensor* query, const longspan_tensor* key,
                                        const longspan_tensor* value,
                                        const longspan_attention_options* options,
                                        const longspan_execution* execution, longspan_plan* plan);
longspan_status longspan_attention_backward(
    const longspan_tensor* query, const longspan_tensor* key, const longspan_tensor* value,
    const longspan_partial* result, const longspan_partial* dresult, const longspan_gradients* into,
    const longspan_attention_options* options, const longspan_execution* execution);
longspan_status longspan_plan_attention_backward(const longspan_tensor* query,
                                                 const longspan_tensor* key,
                                                 const longspan_tensor* value,
                                                 const longspan_attention_options* options,
                                                 const longspan_execution* execution,
                                                 longspan_plan* plan);

/* key: NULL or absent for shared query and key. */
longspan_status longspan_lsh_attention(const longspan_tensor* query, const longspan_tensor* key,
                                       const longspan_tensor* value, const longspan_partial* result,
                                       const longspan_lsh_options* lsh,
                                       const longspan_attention_options* options,
                                       const longspan_execution* execution);
longspan_status longspan_plan_lsh_attention(
    const longspan_tensor* query, const longspan_tensor* key, const longspan_tensor* value,
    const longspan_lsh_options* lsh, const longspan_attention_options* options,
    const longspan_execution* execution, longspan_plan* plan);
longspan_status longspan_lsh_attention_backward(
    const longspan_tensor* query, const longspan_tensor* key, const longspan_tensor* value,
    const longspan_partial* result, const longspan_partial* dresult, const longspan_gradients* into,
    const longspan_lsh_options* lsh, const longspan_attention_options* options,
    const longspan_execution* execution);
longspan_status longspan_plan_lsh_attention_backward(
    const longspan_tensor* query, const longspan_tensor* key, const longspan_tensor* value,
    const longspan_lsh_options* lsh, const longspan_attention_options* options,
    const longspan_execution* execution, longspan_plan* plan);

/* into <- into merged with parts[0 .. count); its identity is written by longspan_clear. */
longspan_status longspan_clear(const longspan_partial* into);
longspan_status longspan_merge(const longspan_partial* into, const longspan_partial* parts,
                               size_t count, const longspan_execution* execution);

/* Keys and values of the tokens so far. A call that fails leaves the cache as it was. */
typedef struct longspan_kv_cache longspan_kv_cache;
longspan_status longspan_kv_cache_create(int64_t batch, int64_t num_heads_kv, int64_t head_dim,
                                         int64_t head_dim_v, longspan_dtype dtype, int64_t capacity,
                                         longspan_kv_cache** cache);
void longspan_kv_cache_destroy(longspan_kv_cache* cache); /* NULL: nothing */
longspan_status longspan_kv_cache_append(longspan_kv_cache* cache, const longspan_tensor* key,
                                         const longspan_tensor* value);
longspan_status longspan_kv_cache_attend(const longspan_kv_cache* cache,
                                         const longspan_tensor* query,
                                         const longspan_partial* result,
                                         const longspan_attention_options* options,
                                         const longspan_execution* execution);
longspan_status longspan_kv_cache_truncate(longspan_kv_cache* cache, int64_t length);
longspan_status longspan_kv_cache_reorder(longspan_kv_cache* cache, const int64_t* indices,
                                          size_t count);
int64_t longspan_kv_cache_length(const longspan_kv_cache* cache);
int64_t longspan_kv_cache_capacity(const longspan_kv_cache* cache);
/* [batch, length, num_heads_kv, dim], valid until append, reorder or destroy. */
longspan_tensor longspan_kv_cache_key(const longspan_kv_cache* cache);
longspan_tensor longspan_kv_cache_value(const longspan_kv_cache* cache);

#ifdef __cplusplus
} /* extern "C" */
#endif

/* NOLINTEND(modernize-*) */

#endif /* LONGSPAN_C_API_H_ */
