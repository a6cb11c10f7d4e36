// SPDX-License-Identifier: Apache-2.0
// Part of longspan. See LICENSE.
//
// Reads golden files and turns the option string and the tensors of a case into the options of a
// call.
#include "support/golden.h"

#include <algorithm>
#include <filesystem>
#include <functional>
#include <sstream>
#include <stdexcept>

#include "reference/attention_reference.h"

namespace longspan::test {
namespace {

constexpr const char* kEnding = ".safetensors";

Mask window_of(const std::string& text) {
  const std::size_t comma = text.find(',');
  if (comma == std::string::npos) throw std::invalid_argument("--window " + text);
  return window(std::stoll(text.substr(0, comma)), std::stoll(text.substr(comma + 1)));
}

// One of the choices by its word.
template <class Choice>
Choice choice_of(const std::string& text,
                 std::initializer_list<std::pair<const char*, Choice>> choices) {
  for (const auto& [word, choice] : choices) {
    if (text == word) return choice;
  }
  throw std::invalid_argument(text);
}

// False when the word is no option of LSH attention.
bool parse_lsh(const std::string& word, const std::function<std::string()>& argument,
               LshOptions& lsh) {
  if (word == "--preset") {
    lsh = choice_of<LshOptions (*)()>(
        argument(), {{"hf-reformer", hf_reformer}, {"lucidrains", lucidrains}, {"lab", lab}})();
  } else if (word == "--num-hashes") {
    lsh.num_hashes = std::stoll(argument());
  } else if (word == "--num-buckets") {
    lsh.num_buckets.clear();
    std::istringstream factors(argument());
    for (std::string factor; std::getline(factors, factor, ',');) {
      lsh.num_buckets.push_back(std::stoll(factor));
    }
  } else if (word == "--chunk-len") {
    lsh.chunk_len = std::stoll(argument());
  } else if (word == "--chunks-before") {
    lsh.chunks_before = std::stoll(argument());
  } else if (word == "--chunks-after") {
    lsh.chunks_after = std::stoll(argument());
  } else if (word == "--dedup") {
    lsh.dedup = choice_of<Dedup>(
        argument(),
        {{"exact", Dedup::kExact}, {"log-count", Dedup::kLogCount}, {"none", Dedup::kNone}});
  } else if (word == "--wrap") {
    lsh.wrap = choice_of<Wrap>(
        argument(), {{"none", Wrap::kNone}, {"round", Wrap::kRound}, {"all", Wrap::kAll}});
  } else if (word == "--key-norm") {
    lsh.key_norm = choice_of<KeyNorm>(argument(), {{"rms", KeyNorm::kRms}, {"l2", KeyNorm::kL2}});
  } else {
    return false;
  }
  return true;
}

Mask documents_of(const ConstTensorView& cu_seqlens_q, const ConstTensorView& cu_seqlens_k) {
  if (!is_given(cu_seqlens_q)) return documents(cu_seqlens_k);
  return documents(cu_seqlens_q, cu_seqlens_k);
}

}  // namespace

ConstTensorView GoldenCase::find(const std::string& tensor) const {
  const auto found = tensors.find(tensor);
  return found == tensors.end() ? ConstTensorView{} : found->second.view();
}

std::vector<double> GoldenCase::numbers(const std::string& tensor) const {
  const io::StoredTensor& stored = tensors.at(tensor);
  std::int64_t count = 1;
  for (const std::int64_t extent : stored.entry().shape) count *= extent;
  const DType dtype = io::dtype_of(stored.entry().type).value();
  return reference::read_all(
      longspan::tensor(static_cast<const void*>(stored.bytes()), dtype, {count}));
}

GoldenCase load_golden(const std::string& path) {
  const io::SafetensorsReader reader(path);
  GoldenCase golden;
  golden.name = std::filesystem::path(path).stem().string();
  golden.metadata = reader.metadata();
  for (const io::TensorEntry& entry : reader.entries()) {
    golden.tensors.emplace(entry.name, reader.read(entry));
  }
  return golden;
}

GoldenCase load_golden(const std::string& folder, const std::string& name) {
  return load_golden(std::string(LONGSPAN_GOLDEN_DIR) + "/" + folder + "/" + name + kEnding);
}

std::vector<std::string> golden_names(const std::string& folder) {
  std::vector<std::string> names;
  for (const auto& entry :
       std::filesystem::directory_iterator(std::string(LONGSPAN_GOLDEN_DIR) + "/" + folder)) {
    if (entry.path().extension() == kEnding) names.push_back(entry.path().stem().string());
  }
  std::sort(names.begin(), names.end());
  return names;
}

std::vector<std::string> golden_names_with_gradients() {
  std::vector<std::string> names = golden_names("exact");
  std::erase_if(names, [](const std::string& name) {
    return !is_given(load_golden("exact", name).find("dquery"));
  });
  return names;
}

GoldenOptions parse_options(const GoldenCase& golden) {
  GoldenOptions options;
  AttentionOptions& attention = options.attention;
  std::istringstream words(golden.metadata.at("options"));
  std::string word;
  const auto argument = [&] {
    std::string text;
    if (!(words >> text)) throw std::invalid_argument(word + " without its value");
    return text;
  };
  while (words >> word) {
    if (word == "--backward" || parse_lsh(word, argument, options.lsh)) continue;
    if (word == "--method") {
      argument();
    } else if (word == "--causal") {
      attention.mask = attention.mask & causal();
    } else if (word == "--window") {
      attention.mask = attention.mask & window_of(argument());
    } else if (word == "--query-offset") {
      const std::string text = argument();
      attention.query_offset = text == "end" ? QueryOffset::end() : QueryOffset(std::stoll(text));
    } else if (word == "--scale") {
      attention.scale = std::stod(argument());
    } else if (word == "--softcap") {
      attention.softcap = std::stod(argument());
    } else if (word == "--dropout") {
      attention.dropout.probability = std::stod(argument());
    } else if (word == "--seed") {
      attention.dropout.seed = std::stoull(argument());
    } else if (word == "--layout") {
      options.heads_first = argument() == "bhsd";
    } else if (word == "--query-chunk") {
      options.execution.query_chunk = std::stoll(argument());
    } else if (word == "--key-chunk") {
      options.execution.key_chunk = std::stoll(argument());
    } else {
      throw std::invalid_argument("unknown option " + word + " in " + golden.name);
    }
  }

  options.lsh.rotations = golden.find("rotations");
  options.lsh.buckets = golden.find("buckets");
  attention.bias = golden.find("bias");
  attention.alibi_slopes = golden.find("alibi_slopes");
  attention.sinks = golden.find("sinks");
  const ConstTensorView visible = golden.find("mask"), lengths = golden.find("key_lengths");
  const ConstTensorView cu_q = golden.find("cu_seqlens_q"), cu_k = golden.find("cu_seqlens_k");
  if (is_given(visible)) attention.mask = attention.mask & dense(visible);
  if (is_given(lengths)) attention.mask = attention.mask & key_lengths(lengths);
  if (is_given(cu_q) || is_given(cu_k)) attention.mask = attention.mask & documents_of(cu_q, cu_k);
  return options;
}

}  // namespace longspan::test
