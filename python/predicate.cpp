// SPDX-License-Identifier: Apache-2.0
// Part of longspan. See LICENSE.
//
// The tiles that each thread remembers: two, since a panel of queries may lie across an edge of
// tiles and is asked about key by key.
#include "predicate.h"

#include <algorithm>
#include <array>
#include <atomic>
#include <cstring>
#include <tuple>

#include "array.h"

namespace longspan::python {
namespace {

struct Tile {
  using Place = std::tuple<std::uint64_t, std::int64_t, std::int64_t, std::int64_t, std::int64_t>;
  Place place{};  // of which call; batch, head, first query, first key
  std::int64_t keys = 0;
  std::vector<char> visible;
};

// longspan._masks.evaluate(...) -> bool [queries, keys], C-contiguous.
void ask(const std::vector<nb::object>& predicates, std::int64_t batch, std::int64_t head,
         std::int64_t query, std::int64_t queries, std::int64_t key, Tile& tile) {
  const nb::gil_scoped_acquire acquire;
  nb::list functions;
  for (const nb::object& predicate : predicates) functions.append(predicate);
  const nb::object answer =
      nb::module_::import_("longspan._masks")
          .attr("evaluate")(functions, batch, head, query, query + queries, key, key + tile.keys);
  const Array array(answer, "predicate", Numbers::kBool);
  tile.visible.resize(static_cast<std::size_t>(queries * tile.keys));
  std::memcpy(tile.visible.data(), array.view().data, tile.visible.size());
}

}  // namespace

MaskPredicate tiled_predicate(const std::vector<nb::object>& predicates, TileShape shape) {
  static std::atomic<std::uint64_t> calls{0};
  const std::uint64_t call = ++calls;
  return [call, shape, &predicates](std::int64_t batch, std::int64_t head, std::int64_t query,
                                    std::int64_t key) {
    thread_local std::array<Tile, 2> tiles;
    const std::int64_t first_query = query - query % shape.queries;
    const std::int64_t first_key = key - key % shape.keys;
    Tile& tile = tiles[static_cast<std::size_t>(first_query / shape.queries % 2)];
    const Tile::Place place{call, batch, head, first_query, first_key};
    if (tile.place != place) {
      tile.place = {};  // nothing, should the predicate throw
      tile.keys = std::min(shape.keys, shape.seqlen_k - first_key);
      ask(predicates, batch, head, first_query,
          std::min(shape.queries, shape.seqlen_q - first_query), first_key, tile);
      tile.place = place;
    }
    const std::int64_t at = (query - first_query) * tile.keys + key - first_key;
    return tile.visible[static_cast<std::size_t>(at)] != 0;
  };
}

}  // namespace longspan::python
