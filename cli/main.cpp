// SPDX-License-Identifier: Apache-2.0
// Part of longspan. See LICENSE.
//
// The program `longspan`: parsing, help, and the exit code.
#include <fcntl.h>
#include <fmt/format.h>
#include <fmt/ranges.h>
#include <unistd.h>

#include <CLI/CLI.hpp>
#include <algorithm>
#include <string>
#include <utility>
#include <vector>

#include "commands.h"
#include "failure.h"
#include "longspan/execution.h"
#include "options.h"
#include "record.h"
#include "signals.h"

namespace longspan::cli {
namespace {

constexpr const char* kExamples = R"(Examples:
  longspan attend input.safetensors -o result.safetensors --causal
  longspan compare result.safetensors expected.safetensors --tensor output --rel-l2 2e-6
  longspan inspect result.safetensors
  longspan bench --seqlen 1024:8192:x2 --causal
  longspan explain --method lsh
  longspan help attend

Exit codes: 0 ok, 1 failure or difference, 2 usage, 3 bad input, 4 not enough memory, 130 SIGINT, 143 SIGTERM.)";

// Errors are JSON, too, when the record would have been. Parsing may be what failed, so the words
// are looked at.
bool wants_json(const std::vector<std::string>& words) {
  for (std::size_t n = 0; n < words.size(); ++n) {
    const std::string& word = words[n];
    if (word == "--") break;  // what follows is no option
    if (word == "--json" || word == "-ojson" || word == "-ojsonl") return true;
    const bool output = word == "-o" || word == "--output";
    const bool bench = !words.empty() && words.front() == "bench";
    if (bench && output && n + 1 < words.size() && words[n + 1].starts_with("json")) return true;
    if (bench && word.starts_with("--output=json")) return true;
  }
  return false;
}

// The number of a closed stream would go to the next file that is opened, and messages into it.
// Writing to what stands here fails, as it does to a closed stream.
void keep_standard_streams() {
  int opened = 0;
  while (opened >= 0 && opened <= STDERR_FILENO) opened = open("/dev/null", O_RDONLY);
  if (opened > STDERR_FILENO) close(opened);
}

class Program {
 public:
  Program() {
    app_.footer(kExamples);
    app_.set_help_flag("--help,-h", "Print this and exit");
    app_.set_version_flag("--version", [] { return fmt::format("longspan {}", version()); });
    app_.allow_extras();
    app_.require_subcommand(0, 1);  // a further word is an argument, whatever it is
    using Add = Runner (*)(CLI::App&);
    for (const Add add :
         {add_attend, add_merge, add_compare, add_inspect, add_doctor, add_bench, add_explain}) {
      runners_.push_back(add(app_));
    }
    commands_ = app_.get_subcommands([](CLI::App*) { return true; });
    for (CLI::App* command : commands_) command->allow_extras();
    app_.add_subcommand("help", "Prints the help of a command");  // for the list; run() knows it
  }

  int run(std::vector<std::string> words) {
    if (!words.empty() && words.front() == "help") return print_help(words);
    std::reverse(words.begin(), words.end());  // as CLI11 takes them
    try {
      app_.parse(words);
    } catch (const CLI::CallForHelp&) {
      print_out(app_.help());
      return kSuccess;
    } catch (const CLI::CallForVersion& call) {
      print_out(std::string(call.what()) + "\n");
      return kSuccess;
    } catch (const CLI::ParseError& error) {
      throw Failure(kUsage, at_command() + in_our_words(error), see_help());
    }
    if (!app_.remaining().empty()) return refuse_command();
    for (std::size_t n = 0; n < commands_.size(); ++n) {
      if (!commands_[n]->parsed()) continue;
      refuse_extras(*commands_[n]);
      return runners_[n]();
    }
    return refuse_command();
  }

 private:
  const CLI::App* parsed_command() const {
    for (const CLI::App* command : commands_) {
      if (command->parsed()) return command;
    }
    return nullptr;
  }
  std::string at_command() const {
    const CLI::App* command = parsed_command();
    return command != nullptr ? command->get_name() + ": " : "";
  }
  std::string see_help() const {
    const CLI::App* command = parsed_command();
    return command != nullptr
               ? fmt::format("'longspan help {}' shows the options", command->get_name())
               : "'longspan --help' shows the commands";
  }

  std::vector<std::string> command_names() const {
    std::vector<std::string> names = {"help"};
    for (const CLI::App* command : commands_) names.push_back(command->get_name());
    return names;
  }

  // Before parsing: CLI11 would take COMMAND in `help COMMAND` as a second command.
  int print_help(const std::vector<std::string>& words) {
    if (words.size() > 2)
      throw Failure(kUsage, "help: expected one COMMAND, found '" + words[2] + "' as well");
    if (words.size() == 1 || words[1] == "help") {
      print_out(app_.help());
      return kSuccess;
    }
    for (CLI::App* command : commands_) {
      if (command->get_name() != words[1]) continue;
      print_out(command->help("longspan"));
      return kSuccess;
    }
    throw unknown_command(words[1]);
  }

  Failure unknown_command(const std::string& name) const {
    const std::string close = nearest(name, command_names());
    return {kUsage,
            fmt::format("command: expected one of {}, found '{}'", fmt::join(command_names(), ", "),
                        name),
            close.empty() ? see_help() : fmt::format("did you mean '{}'?", close)};
  }

  int refuse_command() {
    const std::vector<std::string> rest = app_.remaining();
    if (const CLI::App* command = parsed_command()) {
      throw Failure(kUsage,
                    fmt::format("command: expected '{}' first and no further argument, found '{}'",
                                command->get_name(), rest.front()),
                    see_help());
    }
    if (rest.empty() || rest.front().starts_with('-')) {
      const std::string found = rest.empty() ? "none" : "'" + rest.front() + "'";
      throw Failure(kUsage, "command: expected a command, found " + found, see_help());
    }
    throw unknown_command(rest.front());
  }

  // An unknown option may be followed by its value: the option is what to speak of.
  void refuse_extras(const CLI::App& command) const {
    std::vector<std::string> rest = command.remaining();
    std::erase(rest, "--");
    if (rest.empty()) return;
    const auto option = std::find_if(rest.begin(), rest.end(),
                                     [](const auto& word) { return word.starts_with('-'); });
    if (option == rest.end()) {
      throw Failure(kUsage,
                    fmt::format("{}: expected no further argument, found '{}'", command.get_name(),
                                rest.front()),
                    see_help());
    }
    std::vector<std::string> known;
    for (const CLI::Option* each : command.get_options()) {
      if (!each->get_group().empty()) known.push_back(each->get_name());
    }
    const std::string name = option->substr(0, option->find('='));
    const std::string close = nearest(name, known);
    throw Failure(kUsage, fmt::format("{}: unknown option {}", command.get_name(), name),
                  close.empty() ? see_help() : fmt::format("did you mean {}?", close));
  }

  CLI::App app_{"longspan: attention over long sequences on CPUs", "longspan"};
  std::vector<Runner> runners_;
  std::vector<CLI::App*> commands_;
};

}  // namespace
}  // namespace longspan::cli

int main(int argc, char** argv) {
  longspan::cli::keep_standard_streams();
  const std::vector<std::string> words(argv + std::min(argc, 1), argv + argc);
  const bool json = longspan::cli::wants_json(words);
  const longspan::cli::SignalThread signals(json);
  try {
    return longspan::cli::Program().run(words);
  } catch (...) {
    return longspan::cli::report_current_exception(json);
  }
}
