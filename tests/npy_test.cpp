// SPDX-License-Identifier: Apache-2.0
// Part of longspan. See LICENSE.
//
// npy: NumPy's own bytes are written, what is written is read back, broken copies of good files are
// refused.
#include "io/npy.h"

#include <cstdint>

#include "io_testing.h"

namespace longspan::io {
namespace {

TEST(Npy, WritesTheBytesThatNumPyWrites) {
  const TemporaryFolder folder;
  const float values[] = {1, 2, 3, 4, 5, 6};
  const auto header = [](const std::string& dictionary) {
    return std::string("\x93NUMPY\x01\0\x76\0", 10) + dictionary +
           std::string(117 - dictionary.size(), ' ') + '\n';
  };
  const auto expect = [&](const ConstTensorView& view, const std::string& dictionary) {
    write_npy(folder / "x.npy", view);
    EXPECT_EQ(contents(folder / "x.npy").substr(0, 128), header(dictionary));
  };
  expect(tensor(values, {2, 3}), "{'descr': '<f4', 'fortran_order': False, 'shape': (2, 3), }");
  expect(tensor(values, {6}), "{'descr': '<f4', 'fortran_order': False, 'shape': (6,), }");
  expect(tensor(values, {}), "{'descr': '<f4', 'fortran_order': False, 'shape': (), }");
  expect(tensor(values, DType::kBool, {0, 4}),
         "{'descr': '|b1', 'fortran_order': False, 'shape': (0, 4), }");
}

TEST(Npy, EveryDTypeAndRankIsReadBackBitForBit) {
  const TemporaryFolder folder;
  std::string data(8 * 24, '\0');
  for (std::size_t i = 0; i < data.size(); ++i) data[i] = static_cast<char>(i * 37 + 1);
  for (const DType dtype : {DType::kFloat32, DType::kFloat64, DType::kFloat16, DType::kInt32,
                            DType::kInt64, DType::kBool}) {
    const ConstTensorView views[] = {
        tensor(data.data(), dtype, {}),           tensor(data.data(), dtype, {24}),
        tensor(data.data(), dtype, {4, 6}),       tensor(data.data(), dtype, {2, 3, 4}),
        tensor(data.data(), dtype, {1, 2, 3, 4}), tensor(data.data(), dtype, {3, 0})};
    for (const ConstTensorView& view : views) {
      SCOPED_TRACE(name_of(dtype) + shape_string(view));
      write_npy(folder / "x.npy", view);
      const StoredTensor stored = read_npy(folder / "x.npy");
      EXPECT_EQ(stored.entry().begin % 64, 0u);
      EXPECT_EQ(stored.view().dtype, dtype);
      EXPECT_EQ(shape_string(stored.view()), shape_string(view));
      const auto bytes = static_cast<std::size_t>(element_count(view)) * size_of(dtype);
      EXPECT_EQ(bytes_of(stored), data.substr(0, bytes));
    }
  }
}

TEST(Npy, StridedViewsAreWrittenRowMajor) {
  const TemporaryFolder folder;
  const float values[] = {1, 2, 3, 4, 5, 6};
  write_npy(folder / "x.npy", transpose(tensor(values, {2, 3}), 0, 1));
  const StoredTensor stored = read_npy(folder / "x.npy");
  const float expected[] = {1, 4, 2, 5, 3, 6};
  EXPECT_EQ(stored.entry().shape, (std::vector<std::int64_t>{3, 2}));
  ASSERT_EQ(stored.byte_size(), sizeof expected);
  EXPECT_EQ(std::memcmp(stored.bytes(), expected, sizeof expected), 0);
}

TEST(Npy, BFloat16IsRefusedWithAHint) {
  const TemporaryFolder folder;
  const std::uint16_t bits = 0;
  try {
    write_npy(folder / "x.npy", tensor(&bits, DType::kBFloat16, {1}));
    FAIL();
  } catch (const Error& error) {
    EXPECT_EQ(error.code(), ErrorCode::kUnsupported);
    EXPECT_NE(error.hint(), "");
  }
  EXPECT_EQ(folder.files(), 0u);
}

TEST(Npy, RefusalsThatTheUserCanMendCarryAHint) {
  for (const std::string name : {"fortran", "descr_big_endian", "descr_object", "magic"}) {
    const std::string path = std::string(LONGSPAN_GOLDEN_DIR) + "/files/npy_bad_" + name + ".npy";
    try {
      read_npy_header(path);
      ADD_FAILURE() << name;
    } catch (const Error& error) {
      EXPECT_NE(error.hint(), "") << name;
    }
  }
}

TEST(Npy, EveryTruncationAndFlippedHeaderBitIsReadOrRefusedCleanly) {
  const TemporaryFolder folder;
  const float values[] = {1, 2, 3, 4, 5, 6};
  write_npy(folder / "good.npy", tensor(values, {2, 3}));
  const std::string file = contents(folder / "good.npy");
  EXPECT_TRUE(accepts(folder / "good.npy"));
  for (std::size_t bytes = 0; bytes < file.size(); ++bytes) {
    put(folder / "bad.npy", file.substr(0, bytes));
    EXPECT_FALSE(accepts(folder / "bad.npy")) << bytes;
  }
  std::size_t refused = 0;
  const std::size_t bits = 8 * read_npy_header(folder / "good.npy").begin;
  for (std::size_t bit = 0; bit < bits; ++bit) {
    std::string flipped = file;
    flipped[bit / 8] = static_cast<char>(flipped[bit / 8] ^ (1 << (bit % 8)));
    put(folder / "bad.npy", flipped);
    refused += !accepts(folder / "bad.npy");
  }
  EXPECT_GT(refused, bits * 3 / 4);
}

}  // namespace
}  // namespace longspan::io
