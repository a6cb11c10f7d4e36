// SPDX-License-Identifier: Apache-2.0
// Part of longspan. See LICENSE.
//
// Reading and checking offsets.
#include "mask/offset.h"

#include "base/check.h"
#include "mask/integers.h"

namespace longspan::mask {

namespace {

// An unset offset is 0 where both sides are equally long, and nothing that could be guessed
// elsewhere.
void require_equal_lengths(const Documents& documents, const CallShape& shape,
                           const std::string& user) {
  for (std::int64_t d = 0; d < documents.count(); ++d) {
    const std::int64_t queries = documents.queries(d).size(), keys = documents.keys(d).size();
    if (queries == keys) continue;
    const std::string needs = shape.where() + user + " needs query_offset when ";
    base::fail(ErrorCode::kInvalidArgument,
               documents.packed()
                   ? needs + "the lengths of a document differ; document " + std::to_string(d) +
                         " has " + std::to_string(queries) + " queries, " + std::to_string(keys) +
                         " keys"
                   : needs + "seqlen_q != seqlen_k; query has " + std::to_string(shape.seqlen_q) +
                         ", key has " + std::to_string(shape.seqlen_k),
               "say query_offset = 0 (aligned at the first key) or end (aligned at the last)");
  }
}

}  // namespace

Offset::Offset(const QueryOffset& own, const QueryOffset& call, const Documents& documents,
               const CallShape& shape, const std::string& user) {
  const QueryOffset& offset = own.kind != QueryOffset::Kind::kUnset ? own : call;
  switch (offset.kind) {
    case QueryOffset::Kind::kUnset:
      require_equal_lengths(documents, shape, user);
      return;
    case QueryOffset::Kind::kNumber:
      numbers_ = {offset.number};
      return;
    case QueryOffset::Kind::kEnd:
      end_ = true;
      return;
    case QueryOffset::Kind::kPerBatch:
      numbers_ =
          read_integers(offset.per_batch, shape.where() + "query_offset of " + user, shape.batch);
      return;
  }
  base::fail(ErrorCode::kInvalidArgument, shape.where() + "query_offset of " + user +
                                              " must be unset, a number, end or per batch; " +
                                              "found kind " +
                                              std::to_string(static_cast<int>(offset.kind)));
}

}  // namespace longspan::mask
