#include "chat.h"  // ours, found first: the build script names this folder before llama.cpp's

#include "common/chat-auto-parser.h"
#include "common/chat.h"
#include "common/json-schema-to-grammar.h"
#include "common/json.h"
#include "common/log.h"
#include "src/llama-grammar.h"

#include <cctype>
#include <cstdlib>
#include <cstring>
#include <ctime>
#include <exception>
#include <memory>
#include <stdexcept>
#include <string>
#include <utility>
#include <vector>

struct bodhi_template {
    common_chat_templates_ptr templates;

    // What llama.cpp would derive again for each request, at up to sixty renderings of the
    // template: its syntax. Only templates that llama.cpp has no handwritten code for have one.
    std::unique_ptr<common_chat_template>     generic;
    std::unique_ptr<autoparser::autoparser>   syntax;
};

struct bodhi_parser {
    common_chat_parser_params params;
};

static std::string text_of(bodhi_text text) {
    return std::string(text.data, text.size);
}

static bodhi_answer answer_of(const std::string & text, int failed) {
    auto * copy = static_cast<char *>(std::malloc(text.size() + 1));
    if (copy == nullptr) {
        return { nullptr, 0, 1 };
    }
    std::memcpy(copy, text.c_str(), text.size() + 1);
    return { copy, text.size(), failed };
}

// Runs what may throw. An exception must not reach Rust.
template <typename Work> static bodhi_answer guarded(Work && work) {
    try {
        return answer_of(work(), 0);
    } catch (const std::exception & error) {
        return answer_of(error.what(), 1);
    } catch (...) {
        return answer_of("an exception without words", 1);
    }
}

static void remove_all(std::string & text, const std::string & what) {
    if (what.empty()) {
        return;
    }
    size_t at = 0;
    while ((at = text.find(what, at)) != std::string::npos) {
        text.erase(at, what.size());
    }
}

static std::string trimmed(const std::string & text) {
    const char * const space = " \t\r\n\v\f";
    const auto         begin = text.find_first_not_of(space);
    return begin == std::string::npos ? "" : text.substr(begin, text.find_last_not_of(space) - begin + 1);
}

static common_chat_templates_inputs inputs_of(const common_json & request) {
    common_chat_templates_inputs inputs;
    inputs.messages            = common_chat_msgs_parse_oaicompat(request.at("messages"));
    inputs.tools               = common_chat_tools_parse_oaicompat(request.at("tools"));
    inputs.tool_choice         = common_chat_tool_choice_parse_oaicompat(request.at("tool_choice").get<std::string>());
    inputs.parallel_tool_calls = request.at("parallel_tool_calls").get<bool>();
    inputs.enable_thinking     = request.at("enable_thinking").get<bool>();
    inputs.reasoning_format    = COMMON_REASONING_FORMAT_DEEPSEEK;
    inputs.json_schema         = request.at("json_schema").get<std::string>();
    if (request.at("continue").get<bool>()) {
        inputs.continue_final_message = COMMON_CHAT_CONTINUATION_AUTO;
        inputs.add_generation_prompt  = false;
    }
    for (const auto & [key, value] : request.at("arguments").items()) {
        inputs.chat_template_kwargs[key] = value.dump();
    }
    return inputs;
}

// llama.cpp trims the messages of such templates, which only its own entry does.
static bool wants_trimming(const std::string & source) {
    return source.find("You have access to the following functions in JSONSchema format") != std::string::npos;
}

static std::string today(const char * format) {
    const std::time_t now = std::time(nullptr);
    std::tm           local {};
    localtime_r(&now, &local);
    char text[32];
    return std::string(text, std::strftime(text, sizeof(text), format, &local));
}

// The messages as the template can take them: what common_chat_templates_apply does first.
static common_json messages_for(const common_chat_template & with, const std::vector<common_chat_msg> & messages) {
    const auto caps   = with.original_caps();
    auto       result = common_json::array();
    for (const auto & message : messages) {
        auto json = message.to_json_oaicompat();
        if (caps.supports_object_arguments && json.contains("tool_calls")) {
            for (auto & call : json["tool_calls"]) {
                auto & arguments = call["function"]["arguments"];
                arguments        = common_json::parse(arguments.get<std::string>());
            }
        }
        result.push_back(std::move(json));
    }
    if (!caps.supports_system_role && !result.empty() && messages.front().role == "system") {
        if (result.size() > 1) {
            auto & next     = result[1];
            next["content"] = messages[0].render_content() + "\n" + messages[1].render_content();
        }
        result.erase(0);
    }
    return result;
}

// Whether llama.cpp has code for this very template.
static bool is_specialized(const common_chat_template & with) {
    common_chat_msg greeting;
    greeting.role    = "user";
    greeting.content = "Hello";

    autoparser::generation_params params;
    params.messages              = common_json::array({ greeting.to_json_oaicompat() });
    params.add_generation_prompt = true;
    params.extra_context         = common_json::object();
    return common_chat_try_specialized_template(with, with.source(), params).has_value();
}

// common_chat_templates_apply for a template whose syntax is known.
static common_chat_params apply(const bodhi_template & with, const common_chat_templates_inputs & inputs) {
    const auto & generic = *with.generic;
    const auto & syntax  = *with.syntax;

    autoparser::generation_params params;
    params.messages               = messages_for(generic, inputs.messages);
    params.tools                  = common_chat_tools_to_json_oaicompat(inputs.tools);
    params.tool_choice            = inputs.tool_choice;
    params.parallel_tool_calls    = inputs.parallel_tool_calls;
    params.reasoning_format       = inputs.reasoning_format;
    params.enable_thinking        = inputs.enable_thinking;
    params.add_generation_prompt  = inputs.add_generation_prompt;
    params.continue_final_message = inputs.continue_final_message;
    if (inputs.continue_final_message != COMMON_CHAT_CONTINUATION_NONE) {
        params.continue_msg           = inputs.messages.back();
        params.continue_final_message = params.continue_msg.render_content().empty() &&
                                                !params.continue_msg.reasoning_content.empty() ?
                                            COMMON_CHAT_CONTINUATION_REASONING :
                                            COMMON_CHAT_CONTINUATION_CONTENT;
        params.messages.erase(params.messages.size() - 1);
    }
    params.extra_context                = common_json::object();
    params.extra_context["datetime"]    = today("%b %d %Y");
    params.extra_context["date_string"] = today("%d %b %Y");
    for (const auto & [key, value] : inputs.chat_template_kwargs) {
        params.extra_context[key] = common_json::parse(value);
    }
    if (!inputs.json_schema.empty()) {
        params.json_schema = common_json::parse(inputs.json_schema);
    }

    auto rendered              = autoparser::peg_generator::generate_parser(generic, params, syntax);
    rendered.supports_thinking = syntax.reasoning.mode != autoparser::reasoning_mode::NONE;
    if (rendered.supports_thinking) {
        rendered.thinking_start_tag = trimmed(syntax.reasoning.start);
        const auto end              = trimmed(syntax.reasoning.end);
        if (!end.empty()) {
            rendered.thinking_end_tags = { end };
        }
    }
    return rendered;
}

extern "C" void bodhi_chat_silence(void) {
    common_log_set_verbosity_thold(-1);
}

extern "C" bodhi_answer bodhi_template_new(bodhi_text source, bodhi_text bos, bodhi_text eos, bodhi_template ** made) {
    return guarded([&] {
        auto owned       = std::make_unique<bodhi_template>();
        owned->templates = common_chat_templates_init(nullptr, text_of(source), text_of(bos), text_of(eos));

        // llama.cpp mends some sources, so its own is the one to use.
        const auto mended  = common_chat_templates_source(owned->templates.get());
        auto       generic = std::make_unique<common_chat_template>(mended, text_of(bos), text_of(eos));
        if (!is_specialized(*generic) && !wants_trimming(mended)) {
            // An answer's text never holds EOS, which would pass for a part of the syntax where
            // the template writes it (as Mistral's do after each call).
            owned->syntax = std::make_unique<autoparser::autoparser>();
            owned->syntax->analyze_template(common_chat_template(mended, "", ""));
            owned->generic = std::move(generic);
        }
        *made = owned.release();
        return std::string();
    });
}

extern "C" void bodhi_template_free(bodhi_template * made) {
    delete made;
}

extern "C" bodhi_answer bodhi_template_render(const bodhi_template * with, bodhi_text request, bodhi_parser ** made) {
    return guarded([&] {
        const auto json     = common_json::parse(text_of(request));
        const auto inputs   = inputs_of(json);
        const bool known    = with->syntax != nullptr && !json.at("analyze").get<bool>();
        auto       rendered = known ? apply(*with, inputs) : common_chat_templates_apply(with->templates.get(), inputs);

        // The guard's mark belongs into the prompt only (template/guard.rs).
        const auto mark = json.at("mark").get<std::string>();
        remove_all(rendered.grammar, mark);
        remove_all(rendered.generation_prompt, mark);
        remove_all(rendered.parser, mark);

        auto words    = common_json::array();
        auto patterns = common_json::array();
        for (const auto & trigger : rendered.grammar_triggers) {
            switch (trigger.type) {
                case COMMON_GRAMMAR_TRIGGER_TYPE_WORD:
                case COMMON_GRAMMAR_TRIGGER_TYPE_TOKEN:
                    words.push_back(trigger.value);
                    break;
                case COMMON_GRAMMAR_TRIGGER_TYPE_PATTERN:
                    patterns.push_back(trigger.value);
                    break;
                case COMMON_GRAMMAR_TRIGGER_TYPE_PATTERN_FULL:
                    patterns.push_back("^" + trigger.value + "$");
                    break;
            }
        }

        auto parser    = std::make_unique<bodhi_parser>();
        parser->params = common_chat_parser_params(rendered);
        parser->params.reasoning_format = COMMON_REASONING_FORMAT_DEEPSEEK;
        if (!rendered.parser.empty()) {
            parser->params.parser.load(rendered.parser);
        }

        const common_json answer = {
            { "prompt",            rendered.prompt                         },
            { "grammar",           rendered.grammar                        },
            { "grammar_lazy",      rendered.grammar_lazy                   },
            { "trigger_words",     words                                   },
            { "trigger_patterns",  patterns                                },
            { "generation_prompt", rendered.generation_prompt              },
            { "preserved_tokens",  rendered.preserved_tokens               },
            { "stops",             rendered.additional_stops               },
            { "thinks",            rendered.supports_thinking              },
            { "thinking_start",    rendered.thinking_start_tag             },
            { "thinking_ends",     rendered.thinking_end_tags              },
        };
        const auto text = answer.dump_safe();
        *made           = parser.release();
        return text;
    });
}

extern "C" bodhi_answer bodhi_parser_parse(const bodhi_parser * with, bodhi_text said) {
    return guarded([&] {
        // Incomplete input is accepted either way; "partial" would also accept mistakes.
        const auto message = common_chat_parse(text_of(said), /* is_partial = */ false, with->params);
        auto       calls   = common_json::array();
        for (const auto & call : message.tool_calls) {
            calls.push_back({
                { "id",        call.id        },
                { "name",      call.name      },
                { "arguments", call.arguments },
            });
        }
        const common_json answer = {
            { "reasoning", message.reasoning_content },
            { "content",   message.render_content()  },
            { "calls",     calls                     },
        };
        return answer.dump_safe();
    });
}

extern "C" void bodhi_parser_free(bodhi_parser * made) {
    delete made;
}

extern "C" bodhi_answer bodhi_schema_to_grammar(bodhi_text schema) {
    return guarded([&] { return json_schema_to_grammar(common_json::parse(text_of(schema))); });
}

// Reads a grammar as llama.cpp does, but by the rule: its own loop prints a faulty grammar to
// stderr, and grammars are a request's.
static void read_rules(const std::string & grammar) {
    llama_grammar_parser parser;
    const char *         at = grammar.c_str();
    while (*at != 0) {
        if (std::isspace(static_cast<unsigned char>(*at))) {
            at++;
        } else if (*at == '#') {
            at += std::strcspn(at, "\r\n");
        } else {
            at = parser.parse_rule(at);
        }
    }
    for (const auto & [name, id] : parser.symbol_ids) {
        if (id >= parser.rules.size() || parser.rules[id].empty()) {
            throw std::invalid_argument("there is no rule `" + name + "`");
        }
    }
    if (parser.symbol_ids.count("root") == 0) {
        throw std::invalid_argument("there is no rule `root`");
    }
}

extern "C" bodhi_answer bodhi_grammar_check(bodhi_text grammar) {
    return guarded([&] {
        const auto text = text_of(grammar);
        read_rules(text);
        auto * compiled = llama_grammar_init_impl(nullptr, text.c_str(), "root", false, nullptr, 0, nullptr, 0);
        if (compiled == nullptr) {
            throw std::invalid_argument("a rule begins with itself");
        }
        llama_grammar_free_impl(compiled);
        return std::string();
    });
}

extern "C" void bodhi_answer_free(bodhi_answer answer) {
    std::free(answer.data);
}
