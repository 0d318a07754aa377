#include "chat.h"  // ours, found first: the build script names this folder before llama.cpp's

#include "common/chat.h"
#include "common/json-schema-to-grammar.h"
#include "common/json.h"
#include "common/log.h"
#include "src/llama-grammar.h"

#include <cctype>
#include <cstdlib>
#include <cstring>
#include <exception>
#include <memory>
#include <stdexcept>
#include <string>
#include <utility>

struct bodhi_template {
    common_chat_templates_ptr templates;
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

extern "C" void bodhi_chat_silence(void) {
    common_log_set_verbosity_thold(-1);
}

extern "C" bodhi_answer bodhi_template_new(bodhi_text source, bodhi_text bos, bodhi_text eos, bodhi_template ** made) {
    return guarded([&] {
        auto owned       = std::make_unique<bodhi_template>();
        owned->templates = common_chat_templates_init(nullptr, text_of(source), text_of(bos), text_of(eos));
        *made            = owned.release();
        return std::string();
    });
}

extern "C" void bodhi_template_free(bodhi_template * made) {
    delete made;
}

extern "C" bodhi_answer bodhi_template_render(const bodhi_template * with, bodhi_text request, bodhi_parser ** made) {
    return guarded([&] {
        const auto json     = common_json::parse(text_of(request));
        auto       rendered = common_chat_templates_apply(with->templates.get(), inputs_of(json));

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
