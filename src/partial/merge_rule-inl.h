// SPDX-License-Identifier: Apache-2.0
// Part of longspan. See LICENSE.
//
// THE merge rule, written once. Included inside a namespace (no guard, no includes): by merge.cpp
// for scalars and by the kernels once per instruction set for vectors, because a template
// instantiated outside the region that sets the instruction set would lose it.
//
// Attention over a set of keys A, with scores s_j, is summarised per query by a reference m(A), a
// sum and a numerator:
//   sum(A)       = sum_{j in A} exp(s_j - m(A))
//   numerator(A) = sum_{j in A} exp(s_j - m(A)) v_j
// so that lse(A) = m(A) + log sum(A) and output(A) = numerator(A) / sum(A). A normalised partial
// (output, lse) is the same thing with m = lse and sum = 1. For disjoint A and B, and X either:
//
//   m(A u B)   = max(m(A), m(B))
//   w_X        = exp(m(X) - m(A u B))
//   sum(A u B) = w_A sum(A) + w_B sum(B), and the numerator likewise
//
// (any m(A u B) that keeps both exponents <= 0 would do). The rule is associative and commutative;
// the empty set (m = -inf, sum = 0, numerator = 0) is its identity. Its weight is 0 by definition,
// since -inf - -inf is NaN. A reference of +inf or NaN gives a NaN weight and so a NaN row.
// Dividing by the sum of the very weights used stays right where |lse| is large (exp(lse(A) - lse(A
// u B)) does not).
//
// Ops is the vocabulary: a type V, max(a, b), sub(a, b), mul(a, b), mul_add(a, b, c) = a b + c,
// exp(x) and zero_where_minus_inf(x, y), which is y but 0 where x is -inf. exp is to any one base;
// references are logarithms to that base.
template <class Ops>
struct MergeRule {
  using V = typename Ops::V;

  struct Weights {
    V into;
    V part;
  };

  static V weight(V reference, V common) {
    return Ops::zero_where_minus_inf(reference, Ops::exp(Ops::sub(reference, common)));
  }

  // (reference, sum) <- (reference, sum) merged with the part's; the weights say how to combine the
  // numerators.
  static Weights merge(V& reference, V& sum, V part_reference, V part_sum) {
    const V common = Ops::max(reference, part_reference);
    const Weights w = {weight(reference, common), weight(part_reference, common)};
    sum = combine(w, sum, part_sum);
    reference = common;
    return w;
  }

  static V combine(Weights w, V into, V part) {
    return Ops::mul_add(w.into, into, Ops::mul(w.part, part));
  }
};
