/* SPDX-License-Identifier: Apache-2.0
 * Part of longspan. See LICENSE.
 *
 * Causal attention from C: 1000 tokens, 4 heads of 32 numbers. */
#include <longspan/c_api.h>
#include <stdio.h>

enum { kTokens = 1000, kHeads = 4, kDim = 32 };
static float x[kTokens * kHeads * kDim], output[kTokens * kHeads * kDim], lse[kHeads * kTokens];

int main(void) {
  for (int i = 0; i < kTokens * kHeads * kDim; ++i) x[i] = (float)(i % 13) / 13;
  const int64_t rows[] = {1, kTokens, kHeads, kDim}, numbers[] = {1, kHeads, kTokens};
  const longspan_tensor qkv = longspan_row_major(x, LONGSPAN_FLOAT32, 4, rows);
  const longspan_partial result = {longspan_row_major(output, LONGSPAN_FLOAT32, 4, rows),
                                   longspan_row_major(lse, LONGSPAN_FLOAT32, 3, numbers)};
  longspan_mask_term causal;
  longspan_mask_term_init(&causal);
  causal.kind = LONGSPAN_CAUSAL;
  longspan_attention_options options;
  longspan_attention_options_init(&options);
  options.mask_terms = &causal;
  options.mask_term_count = 1;
  if (longspan_attention(&qkv, &qkv, &qkv, &result, &options, NULL) != LONGSPAN_OK) {
    fprintf(stderr, "%s\n", longspan_last_error());
    return 1;
  }
  printf("first token: output %g %g ..., lse %g\n", output[0], output[1], lse[0]);
  return output[0] == x[0] ? 0 : 1; /* the first token sees itself alone */
}
