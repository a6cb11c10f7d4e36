// SPDX-License-Identifier: Apache-2.0
// Part of longspan. See LICENSE.
//
// safetensors: what is written is read back bit for bit; broken copies of good files are refused.
#include "io/safetensors.h"

#include <sys/stat.h>

#include <cstdint>
#include <map>

#include "io_testing.h"

namespace longspan::io {
namespace {

constexpr DType kDTypes[] = {DType::kFloat32, DType::kFloat64, DType::kFloat16, DType::kBFloat16,
                             DType::kInt32,   DType::kInt64,   DType::kBool};

std::string pattern(std::size_t bytes) {
  std::string result(bytes, '\0');
  for (std::size_t i = 0; i < bytes; ++i) result[i] = static_cast<char>(i * 37 + (i >> 8) + 1);
  return result;
}

std::uint64_t header_length(const std::string& file) {
  std::uint64_t length = 0;
  std::memcpy(&length, file.data(), 8);
  return length;
}

// The elements of a view in row-major order, one by one.
std::string row_major_bytes(const ConstTensorView& view) {
  const std::size_t size = size_of(view.dtype);
  std::string result;
  for (std::int64_t i = 0; i < element_count(view); ++i) {
    std::int64_t rest = i, offset = 0;
    for (int axis = view.rank - 1; axis >= 0; --axis) {
      offset += rest % view.shape[axis] * view.strides[axis];
      rest /= view.shape[axis];
    }
    result.append(static_cast<const char*>(view.data) + offset * static_cast<std::int64_t>(size),
                  size);
  }
  return result;
}

void expect_round_trip(const ConstTensorView& view) {
  const TemporaryFolder folder;
  const std::string path = folder / "t.safetensors";
  const NamedTensor named{"t", view};
  write_safetensors(path, {&named, 1});
  const SafetensorsReader reader(path);
  ASSERT_EQ(reader.entries().size(), 1u);
  const StoredTensor stored = reader.read(reader.entries()[0]);
  EXPECT_EQ(bytes_of(stored), row_major_bytes(view));
  const ConstTensorView back = stored.view();
  EXPECT_EQ(shape_string(back), shape_string(view));
  EXPECT_EQ(back.dtype, view.dtype);
  EXPECT_TRUE(is_given(back));
  EXPECT_EQ(row_major_bytes(back), row_major_bytes(view));
}

TEST(Safetensors, EveryDTypeAndRankIsReadBackBitForBit) {
  const std::string data = pattern(8 * 120);
  for (const DType dtype : kDTypes) {
    SCOPED_TRACE(name_of(dtype));
    expect_round_trip(tensor(data.data(), dtype, {}));
    expect_round_trip(tensor(data.data(), dtype, {7}));
    expect_round_trip(tensor(data.data(), dtype, {3, 5}));
    expect_round_trip(tensor(data.data(), dtype, {2, 3, 4}));
    expect_round_trip(tensor(data.data(), dtype, {2, 3, 4, 5}));
    expect_round_trip(tensor(data.data(), dtype, {0}));
    expect_round_trip(tensor(data.data(), dtype, {2, 0, 4}));
  }
}

TEST(Safetensors, StridedViewsAreWrittenRowMajor) {
  const std::string data = pattern(8 * 300);
  for (const DType dtype : kDTypes) {
    SCOPED_TRACE(name_of(dtype));
    const ConstTensorView dense = tensor(data.data(), dtype, {2, 3, 4, 5});
    expect_round_trip(transpose(dense, 1, 2));
    expect_round_trip(transpose(dense, 0, 3));
    ConstTensorView broadcast = dense;
    broadcast.strides = {0, 5, 0, 1};
    expect_round_trip(broadcast);
    ConstTensorView skipping = dense;
    skipping.strides = {120, 40, 10, 2};
    expect_round_trip(skipping);
    ConstTensorView backwards = dense;
    backwards.data = data.data() + 119 * size_of(dtype);
    backwards.strides = {-60, -20, -5, -1};
    expect_round_trip(backwards);
    ConstTensorView padded =
        tensor(data.data(), dtype, {4, 1, 3});  // the stride of an axis of 1 is free
    padded.strides = {7, 1000, 1};
    expect_round_trip(padded);
  }
}

TEST(Safetensors, TensorsLargerThanTheBufferAreWhole) {
  const std::string data = pattern(1 << 20);
  const ConstTensorView dense = tensor(data.data(), DType::kFloat32, {512, 512});
  expect_round_trip(dense);
  expect_round_trip(transpose(dense, 0, 1));
  expect_round_trip(tensor(data.data() + 1, DType::kBool, {(1 << 20) - 1}));  // misaligned
}

TEST(Safetensors, MetadataAndNamesBeyondAsciiComeBack) {
  const TemporaryFolder folder;
  const std::string path = folder / "m.safetensors";
  const std::map<std::string, std::string> metadata = {
      {"", ""},
      {"gr\xc3\xb6\xc3\x9f"
       "e",
       "\xe2\x88\x91 \xf0\x9f\x98\x80"},
      {"quote\"\\", std::string("line\nzero\0end", 13)}};
  const float value = 1;
  const NamedTensor tensors[] = {{"\xc3\xbc\"\n", tensor(&value, {})}, {"", tensor(&value, {1})}};
  write_safetensors(path, tensors, metadata);
  const SafetensorsReader reader(path);
  EXPECT_EQ(reader.metadata(), metadata);
  EXPECT_NE(reader.find("\xc3\xbc\"\n"), nullptr);
  EXPECT_NE(reader.find(""), nullptr);
  EXPECT_EQ(reader.find("absent"), nullptr);
}

TEST(Safetensors, NoTensorsAtAll) {
  const TemporaryFolder folder;
  write_safetensors(folder / "e.safetensors", {});
  EXPECT_TRUE(SafetensorsReader(folder / "e.safetensors").entries().empty());
}

TEST(Safetensors, BytesAreDeterministicAndAligned) {
  const TemporaryFolder folder;
  const std::string data = pattern(64);
  const NamedTensor tensors[] = {{"flag", tensor(data.data(), DType::kBool, {3})},
                                 {"half", tensor(data.data(), DType::kFloat16, {5})},
                                 {"second", tensor(data.data(), DType::kFloat64, {1})},
                                 {"first", tensor(data.data(), DType::kInt64, {2})}};
  write_safetensors(folder / "a", tensors, {{"b", "2"}, {"a", "1"}});
  write_safetensors(folder / "b", tensors, {{"a", "1"}, {"b", "2"}});
  const std::string file = contents(folder / "a");
  EXPECT_EQ(file, contents(folder / "b"));
  EXPECT_EQ(header_length(file) % 8, 0u);
  const SafetensorsReader reader(folder / "a");
  std::vector<std::string> order;
  for (const TensorEntry& entry : reader.entries()) {
    order.push_back(entry.name);
    EXPECT_EQ(entry.begin % size_of(entry.type), 0u) << entry.name;
  }
  EXPECT_EQ(order, (std::vector<std::string>{"second", "first", "half", "flag"}));

  const NamedTensor one{"a", tensor(data.data(), DType::kBool, {1})};
  write_safetensors(folder / "c", {&one, 1}, {{"k", "v"}});
  EXPECT_EQ(contents(folder / "c").substr(8),
            R"({"__metadata__":{"k":"v"},"a":{"dtype":"BOOL","shape":[1],"data_offsets":[0,1]}})" +
                std::string("\x01", 1));
}

template <class Call>
ErrorCode code_of(Call call) {
  try {
    call();
  } catch (const Error& error) {
    return error.code();
  }
  ADD_FAILURE() << "nothing was thrown";
  return ErrorCode::kInternal;
}

TEST(Safetensors, WhatCannotBeWrittenIsRefusedAndLeavesNothing) {
  const TemporaryFolder folder;
  const float value = 1;
  const ConstTensorView one = tensor(&value, {1});
  ConstTensorView huge = tensor(&value, {4});
  huge.shape[0] = std::int64_t{1} << 61;
  huge.strides[0] = 0;
  ConstTensorView missing = one;
  missing.data = nullptr;
  const std::vector<std::vector<NamedTensor>> bad = {{{"a", one}, {"b", one}, {"a", one}},
                                                     {{"__metadata__", one}},
                                                     {{"\xff", one}},
                                                     {{"a", huge}},
                                                     {{"a", missing}}};
  for (const auto& tensors : bad) {
    SCOPED_TRACE(tensors[0].name);
    EXPECT_EQ(code_of([&] { write_safetensors(folder / "x", tensors); }),
              ErrorCode::kInvalidArgument);
  }
  EXPECT_EQ(code_of([&] {
              write_safetensors(folder / "x", {}, {{"k", "\xc3"}});
            }),
            ErrorCode::kInvalidArgument);
  EXPECT_EQ(folder.files(), 0u);
}

std::string small_file(const TemporaryFolder& folder) {
  const std::string data = pattern(24);
  const NamedTensor tensors[] = {{"a", tensor(data.data(), DType::kFloat32, {2, 2})},
                                 {"b", tensor(data.data(), DType::kInt64, {1})}};
  write_safetensors(folder / "good.safetensors", tensors, {{"k", "v"}});
  return contents(folder / "good.safetensors");
}

TEST(Safetensors, EveryTruncationIsRefused) {
  const TemporaryFolder folder;
  const std::string file = small_file(folder);
  EXPECT_TRUE(accepts(folder / "good.safetensors"));
  for (std::size_t bytes = 0; bytes < file.size(); ++bytes) {
    put(folder / "cut.safetensors", file.substr(0, bytes));
    EXPECT_FALSE(accepts(folder / "cut.safetensors")) << bytes;
  }
  put(folder / "cut.safetensors", file + '\0');
  EXPECT_FALSE(accepts(folder / "cut.safetensors"));
}

TEST(Safetensors, EveryFlippedBitOfTheHeaderIsReadOrRefusedCleanly) {
  const TemporaryFolder folder;
  const std::string file = small_file(folder);
  const std::size_t bits = 8 * (8 + header_length(file));
  std::size_t refused = 0;
  for (std::size_t bit = 0; bit < bits; ++bit) {
    std::string flipped = file;
    flipped[bit / 8] = static_cast<char>(flipped[bit / 8] ^ (1 << (bit % 8)));
    put(folder / "flipped.safetensors", flipped);
    refused += !accepts(folder / "flipped.safetensors");
  }
  EXPECT_GT(refused, bits * 3 / 4);  // what is left: other names, F32 for I32, padding
}

TEST(Safetensors, OnlyRegularFilesAreRead) {
  const TemporaryFolder folder;
  ASSERT_EQ(::mkfifo((folder / "pipe").c_str(), 0600), 0);
  for (const std::string& path :
       {folder / "missing", folder.path(), folder / "pipe", std::string("/dev/zero")}) {
    try {
      SafetensorsReader reader(path);
      ADD_FAILURE() << path;
    } catch (const Error& error) {
      EXPECT_EQ(error.code(), ErrorCode::kFile);
      EXPECT_TRUE(std::string(error.what()).starts_with(path + ": ")) << error.what();
    }
  }
}

TEST(Safetensors, AFileThatShrinksWhileOpenIsAnError) {
  const TemporaryFolder folder;
  small_file(folder);
  const SafetensorsReader reader(folder / "good.safetensors");
  std::filesystem::resize_file(folder / "good.safetensors", 20);
  EXPECT_EQ(code_of([&] { reader.read(reader.entries()[0]); }), ErrorCode::kFile);
}

TEST(Safetensors, AReplacedFileIsReadAsItWasOpened) {
  const TemporaryFolder folder;
  const std::string file = small_file(folder);
  const SafetensorsReader reader(folder / "good.safetensors");
  const float value = 7;
  const NamedTensor other{"other", tensor(&value, {1})};
  write_safetensors(folder / "good.safetensors", {&other, 1});
  const TensorEntry& entry = reader.entries()[1];
  EXPECT_EQ(bytes_of(reader.read(entry)), file.substr(entry.begin, entry.end - entry.begin));
}

TEST(Safetensors, AnEntryOutsideTheFileIsRefusedBeforeItIsAllocated) {
  const TemporaryFolder folder;
  small_file(folder);
  const SafetensorsReader reader(folder / "good.safetensors");
  TensorEntry entry = reader.entries()[0];
  entry.end = std::uint64_t{1} << 60;
  EXPECT_EQ(code_of([&] { reader.read(entry); }), ErrorCode::kFile);
}

TEST(StoredTensor, ViewsOfWhatAttentionCannotUseNameTheTensor) {
  const std::string files = std::string(LONGSPAN_GOLDEN_DIR) + "/files/st_ok_";
  for (const std::string name : {"dtype_i16", "dtype_u64", "dtype_f8_e4m3", "rank_8"}) {
    const SafetensorsReader reader(files + name + ".safetensors");
    const StoredTensor stored = reader.read(reader.entries()[0]);
    try {
      stored.view();
      ADD_FAILURE() << name;
    } catch (const Error& error) {
      EXPECT_EQ(error.code(), ErrorCode::kFile);
      EXPECT_NE(std::string(error.what()).find('\'' + stored.entry().name + '\''),
                std::string::npos)
          << error.what();
    }
  }
  const SafetensorsReader reader(files + "zero_with_large_dim.safetensors");
  EXPECT_EQ(element_count(reader.read(reader.entries()[0]).view()), 0);
}

TEST(StoredTypes, NamesSizesAndDTypesAgree) {
  for (const DType dtype : kDTypes) {
    const StoredType type = stored_type_of(dtype);
    EXPECT_EQ(size_of(type), size_of(dtype));
    EXPECT_EQ(dtype_of(type), dtype);
    EXPECT_EQ(stored_type_named(name_of(type)), type);
  }
  EXPECT_EQ(dtype_of(StoredType::kU8), DType::kBool);
  EXPECT_EQ(dtype_of(StoredType::kI16), std::nullopt);
  EXPECT_EQ(stored_type_named("f32"), std::nullopt);
}

}  // namespace
}  // namespace longspan::io
