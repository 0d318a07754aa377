//! llama.cpp's filters, one after another, as llama-server strings them together.

use llama_cpp_2::model::LlamaModel;
use llama_cpp_2::sampling::LlamaSampler;
use llama_cpp_2::token::LlamaToken;
use llama_cpp_2::token::data::LlamaTokenData;
use llama_cpp_2::token::data_array::LlamaTokenDataArray;
use llama_cpp_2::token::logit_bias::LlamaLogitBias;

use super::{Grammar, Params, SamplerError, Trigger, argmax, likeliest};
use crate::engine::{Sampler, Token};

/// llama.cpp takes this for a seed of its own choice.
const ANY_SEED: u32 = u32::MAX;

/// Chooses by llama.cpp's filters, and by a grammar where there is one.
pub(crate) struct ChainSampler {
    params: Params,
    /// `None`: the likeliest token is chosen.
    chain: Option<LlamaSampler>,
    grammar: Option<LlamaSampler>,
    ends: &'static [Token],
    candidates: LlamaTokenDataArray,
    top: Vec<(Token, f32)>,
}

impl ChainSampler {
    /// For an answer to `prompt`. `ends`: the tokens that end an answer.
    pub(crate) fn new(
        model: &'static LlamaModel,
        ends: &'static [Token],
        mut params: Params,
        grammar: Option<&Grammar>,
        prompt: &[Token],
    ) -> Result<Self, SamplerError> {
        let vocab = model.vocab();
        params.logit_bias.extend(
            vocab
                .suppress_tokens()
                .iter()
                .map(|token| (token.0 as u32, f32::NEG_INFINITY)),
        );
        if params.ignore_eos {
            params
                .logit_bias
                .extend(ends.iter().map(|token| (*token, f32::NEG_INFINITY)));
        }
        let grammar = grammar
            .map(|grammar| constraint(model, ends, grammar))
            .transpose()?;
        let mut chain = (!params.is_greedy()).then(|| filters(model, &params));
        if let Some(chain) = &mut chain
            && params.looks_back()
        {
            chain.accept_many(prompt.iter().map(|token| llama(*token)));
        }
        Ok(Self {
            params,
            chain,
            grammar,
            ends,
            candidates: LlamaTokenDataArray::new(Vec::new(), false),
            top: Vec::new(),
        })
    }

    fn choose_freely(&mut self, logits: &[f32]) -> Result<Token, SamplerError> {
        let Some(chain) = &mut self.chain else {
            return argmax(logits).ok_or(SamplerError::NotANumber);
        };
        match self.params.only_likeliest() {
            Some(k) => {
                likeliest(logits, k, &mut self.top);
                fill(&mut self.candidates, self.top.iter().copied(), true);
            }
            None => fill(
                &mut self.candidates,
                (0..).zip(logits.iter().copied()),
                false,
            ),
        }
        chain.apply(&mut self.candidates);
        chosen(&self.candidates).ok_or(SamplerError::NotANumber)
    }

    /// Among the tokens that the grammar allows. Dear: every token of the vocabulary is tried.
    fn choose_allowed(&mut self, logits: &[f32]) -> Result<Token, SamplerError> {
        let grammar = self.grammar.as_mut().ok_or(SamplerError::DeadEnd)?;
        fill(
            &mut self.candidates,
            (0..).zip(logits.iter().copied()),
            false,
        );
        grammar.apply(&mut self.candidates);
        let likeliest = self
            .candidates
            .data
            .iter()
            .filter(|candidate| candidate.logit() > f32::NEG_INFINITY)
            .max_by(|a, b| a.logit().total_cmp(&b.logit()))
            .ok_or(SamplerError::DeadEnd)?
            .id();
        let token = match &mut self.chain {
            Some(chain) => {
                chain.apply(&mut self.candidates);
                chosen(&self.candidates).ok_or(SamplerError::DeadEnd)?
            }
            None => likeliest.0 as Token,
        };
        // A filter may have left only what the grammar had ruled out.
        if self.allows(token) {
            Ok(token)
        } else {
            Err(SamplerError::DeadEnd)
        }
    }

    fn allows(&mut self, token: Token) -> bool {
        let Some(grammar) = &mut self.grammar else {
            return true;
        };
        fill(&mut self.candidates, [(token, 1.0)], false);
        grammar.apply(&mut self.candidates);
        self.candidates.data[0].logit() > f32::NEG_INFINITY
    }

    fn accept(&mut self, token: Token) -> Result<(), SamplerError> {
        // Nothing comes after an end, and llama.cpp aborts when a grammar meets one too early.
        if let Some(grammar) = &mut self.grammar
            && !self.ends.contains(&token)
        {
            grammar
                .try_accept(llama(token))
                .map_err(|_| SamplerError::DeadEnd)?;
        }
        if let Some(chain) = &mut self.chain
            && self.params.looks_back()
        {
            chain.accept(llama(token));
        }
        Ok(())
    }
}

impl Sampler for ChainSampler {
    fn choose(&mut self, logits: &[f32]) -> Result<Token, SamplerError> {
        let mut token = self.choose_freely(logits)?;
        if !self.allows(token) {
            token = self.choose_allowed(logits)?;
        }
        self.accept(token)?;
        Ok(token)
    }
}

/// In the order of `common_params_sampling::samplers`; what is off is left out.
fn filters(model: &LlamaModel, params: &Params) -> LlamaSampler {
    let keep = params.min_keep;
    let seed = params.seed.unwrap_or(ANY_SEED);
    let size = model.n_vocab();
    let mut chain = Vec::new();
    if !params.logit_bias.is_empty() {
        let biases: Vec<LlamaLogitBias> = params
            .logit_bias
            .iter()
            .map(|(token, bias)| LlamaLogitBias::new(llama(*token), *bias))
            .collect();
        chain.push(LlamaSampler::logit_bias(size, &biases));
    }
    if let Some(mirostat) = params.mirostat {
        let (tau, eta) = (mirostat.tau, mirostat.eta);
        chain.push(LlamaSampler::temp(params.temperature));
        chain.push(if mirostat.version == 1 {
            LlamaSampler::mirostat(size, seed, tau, eta, 100)
        } else {
            LlamaSampler::mirostat_v2(seed, tau, eta)
        });
        return LlamaSampler::chain(chain, true);
    }
    if params.penalises() {
        chain.push(LlamaSampler::penalties(
            size,
            signed(params.repeat_last_n),
            params.repeat_penalty,
            params.frequency_penalty,
            params.presence_penalty,
        ));
    }
    if let Some(dry) = &params.dry {
        chain.push(LlamaSampler::dry(
            model,
            dry.multiplier,
            dry.base,
            signed(dry.allowed_length),
            signed(dry.last_n),
            &dry.breakers,
        ));
    }
    if params.top_n_sigma >= 0.0 {
        chain.push(LlamaSampler::top_n_sigma(params.top_n_sigma));
    }
    if params.top_k > 0 {
        chain.push(LlamaSampler::top_k(signed(params.top_k)));
    }
    if params.typical_p < 1.0 {
        chain.push(LlamaSampler::typical(params.typical_p, keep));
    }
    if params.top_p < 1.0 {
        chain.push(LlamaSampler::top_p(params.top_p, keep));
    }
    if params.min_p > 0.0 {
        chain.push(LlamaSampler::min_p(params.min_p, keep));
    }
    if let Some(xtc) = params.xtc {
        chain.push(LlamaSampler::xtc(
            xtc.probability,
            xtc.threshold,
            keep,
            seed,
        ));
    }
    chain.push(LlamaSampler::temp_ext(
        params.temperature,
        params.dynatemp_range,
        params.dynatemp_exponent,
    ));
    chain.push(LlamaSampler::dist(seed));
    LlamaSampler::chain(chain, true)
}

/// A grammar that has read the end of the prompt, where it begins there.
fn constraint(
    model: &LlamaModel,
    ends: &[Token],
    grammar: &Grammar,
) -> Result<LlamaSampler, SamplerError> {
    let refused = |error: &dyn std::fmt::Display| SamplerError::Grammar(error.to_string());
    if !grammar.triggers.is_empty() {
        let mut patterns = Vec::new();
        let mut tokens = Vec::new();
        for trigger in &grammar.triggers {
            match trigger {
                Trigger::Word(word) => patterns.push(escape(word)),
                Trigger::Pattern(pattern) => patterns.push(pattern.clone()),
                Trigger::Whole(pattern) => patterns.push(anchor(pattern)),
                Trigger::Token(token) => tokens.push(llama(*token)),
            }
        }
        return LlamaSampler::grammar_lazy_patterns(
            model,
            &grammar.gbnf,
            "root",
            &patterns,
            &tokens,
        )
        .map_err(|error| refused(&error));
    }
    let mut sampler =
        LlamaSampler::grammar(model, &grammar.gbnf, "root").map_err(|error| refused(&error))?;
    let vocab = model.vocab();
    let prefill = vocab.tokenize(grammar.generation_prompt.as_bytes(), false, true);
    for (index, token) in prefill.into_iter().enumerate() {
        let piece = vocab.token_to_piece(token, true, None);
        let begins_blank = |bytes: &[u8]| bytes.first().is_some_and(u8::is_ascii_whitespace);
        // Some tokenizers begin every text with a blank.
        if index == 0 && begins_blank(&piece) && !begins_blank(grammar.generation_prompt.as_bytes())
        {
            continue;
        }
        if ends.contains(&(token.0 as Token)) || sampler.try_accept(token).is_err() {
            return Err(refused(&"it does not allow the end of the prompt"));
        }
    }
    Ok(sampler)
}

fn escape(word: &str) -> String {
    let mut pattern = String::with_capacity(word.len());
    for character in word.chars() {
        if ".^$|()*+?[]{}\\".contains(character) {
            pattern.push('\\');
        }
        pattern.push(character);
    }
    pattern
}

fn anchor(pattern: &str) -> String {
    let start = if pattern.starts_with('^') { "" } else { "^" };
    let end = if pattern.ends_with('$') { "" } else { "$" };
    format!("{start}{pattern}{end}")
}

fn fill(
    candidates: &mut LlamaTokenDataArray,
    from: impl IntoIterator<Item = (Token, f32)>,
    sorted: bool,
) {
    candidates.data.clear();
    candidates.data.extend(
        from.into_iter()
            .map(|(token, logit)| LlamaTokenData::new(llama(token), logit, 0.0)),
    );
    candidates.selected = None;
    candidates.sorted = sorted;
}

fn chosen(candidates: &LlamaTokenDataArray) -> Option<Token> {
    candidates.selected_token().map(|token| token.0 as Token)
}

fn llama(token: Token) -> LlamaToken {
    LlamaToken::new(signed(token))
}

fn signed(value: u32) -> i32 {
    i32::try_from(value).unwrap_or(i32::MAX)
}
