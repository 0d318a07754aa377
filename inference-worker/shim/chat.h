// llama.cpp's chat templates and output parsers, for Rust.
//
// llama.cpp knows the tool syntax and reasoning of every model family, but says so in C++ only
// (`common/chat.h`). This is the smallest C surface over it: JSON in, JSON out, no exception
// leaves it. Calls on one handle may come from several threads at once; nothing is written to
// a handle after it was made.

#pragma once

#include <stddef.h>

#ifdef __cplusplus
extern "C" {
#endif

// Text that the caller keeps.
typedef struct {
    const char * data;
    size_t       size;
} bodhi_text;

// An answer, or the words of an error. Its text is given back with bodhi_answer_free.
typedef struct {
    char * data;
    size_t size;
    int    failed;
} bodhi_answer;

typedef struct bodhi_template bodhi_template;
typedef struct bodhi_parser   bodhi_parser;

// Makes llama.cpp's `common` library silent: it would log what models say.
void bodhi_chat_silence(void);

// Reads a chat template; `bos` and `eos` are the texts of those tokens. Sets *made on success.
bodhi_answer bodhi_template_new(bodhi_text source, bodhi_text bos, bodhi_text eos, bodhi_template ** made);
void         bodhi_template_free(bodhi_template * made);

// Renders a request (the JSON that template/request.rs writes) into the JSON that
// template/llama.rs reads. Sets *made to the parser of the model's answer.
bodhi_answer bodhi_template_render(const bodhi_template * with, bodhi_text request, bodhi_parser ** made);

// Parses what the model has said so far into {reasoning, content, calls}. Fails if it is not of
// the syntax; that it is incomplete is no failure.
bodhi_answer bodhi_parser_parse(const bodhi_parser * with, bodhi_text said);
void         bodhi_parser_free(bodhi_parser * made);

// The GBNF grammar of a JSON Schema.
bodhi_answer bodhi_schema_to_grammar(bodhi_text schema);

// Whether a GBNF grammar with a rule `root` can be compiled; one that names tokens by their text
// cannot, for want of a vocabulary. The answer's text is empty.
bodhi_answer bodhi_grammar_check(bodhi_text grammar);

void bodhi_answer_free(bodhi_answer answer);

#ifdef __cplusplus
}
#endif
