//! The parameters of a choice, with every default filled in.

use bodhi_proto::chat::{Mirostat, Sampling, Xtc};

use super::SamplerError;

/// Parameters as llama.cpp takes them. The defaults are those of its `common_params_sampling`.
#[derive(Debug, Clone, PartialEq)]
pub struct Params {
    /// 0 or less: always the likeliest.
    pub temperature: f32,
    /// Around the temperature; 0: none.
    pub dynatemp_range: f32,
    /// Of dynamic temperature.
    pub dynatemp_exponent: f32,
    /// 0: all.
    pub top_k: u32,
    /// 1: off.
    pub top_p: f32,
    /// 0: off.
    pub min_p: f32,
    /// 1: off.
    pub typical_p: f32,
    /// Negative: off.
    pub top_n_sigma: f32,
    /// 0: off.
    pub presence_penalty: f32,
    /// 0: off.
    pub frequency_penalty: f32,
    /// 1: off.
    pub repeat_penalty: f32,
    /// In tokens.
    pub repeat_last_n: u32,
    /// `None`: off.
    pub dry: Option<Dry>,
    /// `None`: off.
    pub xtc: Option<Xtc>,
    /// `None`: off.
    pub mirostat: Option<Mirostat>,
    /// `None`: another one each time.
    pub seed: Option<u32>,
    /// Candidates that every filter leaves at least.
    pub min_keep: usize,
    /// By token.
    pub logit_bias: Vec<(u32, f32)>,
    /// Whether end tokens are passed over.
    pub ignore_eos: bool,
}

/// DRY sampling.
#[derive(Debug, Clone, PartialEq)]
pub struct Dry {
    /// More than 0.
    pub multiplier: f32,
    /// Of the penalty's growth.
    pub base: f32,
    /// Sequences up to this long are free.
    pub allowed_length: u32,
    /// In tokens.
    pub last_n: u32,
    /// Where a sequence is broken.
    pub breakers: Vec<String>,
}

impl Params {
    /// Fills in defaults for one of several answers, which get seeds one after another. `context`:
    /// tokens that -1 stands for. Errors name the parameter that no filter can work with; ranges that
    /// are a matter of taste are checked where requests enter.
    pub fn resolve(sampling: &Sampling, choice: u32, context: usize) -> Result<Self, SamplerError> {
        let last_n = |tokens: i32| {
            u32::try_from(tokens).unwrap_or_else(|_| u32::try_from(context).unwrap_or(u32::MAX))
        };
        let params = Self {
            temperature: finite("temperature", sampling.temperature, 0.8)?,
            dynatemp_range: finite("dynatemp_range", sampling.dynatemp_range, 0.0)?,
            dynatemp_exponent: finite("dynatemp_exponent", sampling.dynatemp_exponent, 1.0)?,
            top_k: sampling.top_k.unwrap_or(40),
            top_p: finite("top_p", sampling.top_p, 0.95)?,
            min_p: finite("min_p", sampling.min_p, 0.05)?,
            typical_p: finite("typical_p", sampling.typical_p, 1.0)?,
            top_n_sigma: finite("top_n_sigma", sampling.top_n_sigma, -1.0)?,
            presence_penalty: finite("presence_penalty", sampling.presence_penalty, 0.0)?,
            frequency_penalty: finite("frequency_penalty", sampling.frequency_penalty, 0.0)?,
            repeat_penalty: finite("repeat_penalty", sampling.repeat_penalty, 1.0)?,
            repeat_last_n: last_n(sampling.repeat_last_n.unwrap_or(64)),
            dry: match &sampling.dry {
                Some(dry) if dry.multiplier != 0.0 => Some(Dry {
                    multiplier: finite("dry_multiplier", Some(dry.multiplier), 0.0)?,
                    base: finite("dry_base", Some(dry.base), 0.0)?,
                    allowed_length: dry.allowed_length,
                    last_n: last_n(dry.penalty_last_n),
                    breakers: dry
                        .sequence_breakers
                        .clone()
                        .unwrap_or_else(|| ["\n", ":", "\"", "*"].map(str::to_owned).into()),
                }),
                _ => None,
            },
            xtc: match sampling.xtc {
                Some(xtc) if xtc.probability > 0.0 => {
                    finite("xtc_threshold", Some(xtc.threshold), 0.0)?;
                    Some(xtc)
                }
                _ => None,
            },
            mirostat: match sampling.mirostat {
                Some(mirostat @ Mirostat { version: 1 | 2, .. }) => {
                    finite("mirostat_tau", Some(mirostat.tau), 0.0)?;
                    finite("mirostat_eta", Some(mirostat.eta), 0.0)?;
                    Some(mirostat)
                }
                Some(Mirostat { version: 0, .. }) | None => None,
                Some(Mirostat { version, .. }) => {
                    return Err(refused("mirostat", &version));
                }
            },
            seed: sampling.seed.map(|seed| seed.wrapping_add(choice)),
            min_keep: sampling.min_keep.unwrap_or(0) as usize,
            logit_bias: sampling.logit_bias.clone(),
            ignore_eos: sampling.ignore_eos,
        };
        if params.repeat_penalty <= 0.0 || !(1.0 / params.repeat_penalty).is_finite() {
            return Err(refused("repeat_penalty", &params.repeat_penalty));
        }
        if let Some(dry) = &params.dry
            && let Some(breaker) = dry.breakers.iter().find(|it| it.contains('\0'))
        {
            return Err(refused("dry_sequence_breakers", &breaker.escape_debug()));
        }
        if let Some((_, bias)) = params.logit_bias.iter().find(|(_, bias)| bias.is_nan()) {
            return Err(refused("logit_bias", bias));
        }
        Ok(params)
    }

    /// Whether the choice depends on what came before.
    pub fn looks_back(&self) -> bool {
        self.penalises() || self.dry.is_some()
    }

    /// Whether repetitions are penalised.
    pub fn penalises(&self) -> bool {
        self.repeat_last_n > 0
            && (self.repeat_penalty != 1.0
                || self.frequency_penalty != 0.0
                || self.presence_penalty != 0.0)
    }

    /// Whether logits are changed before candidates are filtered.
    pub fn changes_logits(&self) -> bool {
        self.looks_back() || !self.logit_bias.is_empty() || self.ignore_eos
    }

    /// Whether the likeliest token is always chosen, whatever else is set.
    pub fn is_greedy(&self) -> bool {
        self.temperature <= 0.0
            && self.dynatemp_range <= 0.0
            && self.typical_p >= 1.0
            && self.xtc.is_none()
            && self.mirostat.is_none()
            && !self.changes_logits()
    }

    /// `Some(k)`: only the `k` likeliest matter, so the others need not be looked at.
    pub fn only_likeliest(&self) -> Option<usize> {
        let first_filter_is_top_k = self.top_n_sigma < 0.0
            && self.mirostat.is_none()
            && !self.changes_logits()
            && (1..=MAX_LIKELIEST).contains(&self.top_k);
        first_filter_is_top_k.then_some(self.top_k as usize)
    }
}

/// Beyond this, sorting all is as good.
const MAX_LIKELIEST: u32 = 256;

fn finite(name: &'static str, value: Option<f32>, default: f32) -> Result<f32, SamplerError> {
    match value {
        Some(value) if !value.is_finite() => Err(refused(name, &value)),
        Some(value) => Ok(value),
        None => Ok(default),
    }
}

fn refused(name: &'static str, value: &dyn std::fmt::Display) -> SamplerError {
    SamplerError::Parameter {
        name,
        value: value.to_string(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn resolve(sampling: Sampling) -> Params {
        Params::resolve(&sampling, 0, 4096).unwrap()
    }

    #[test]
    fn are_llama_servers_where_nothing_was_said() {
        let params = resolve(Sampling::default());
        assert_eq!(
            (params.temperature, params.top_k, params.top_p, params.min_p),
            (0.8, 40, 0.95, 0.05)
        );
        assert_eq!((params.repeat_last_n, params.seed), (64, None));
        assert_eq!(params.only_likeliest(), Some(40));
        assert!(!params.is_greedy() && !params.looks_back());
    }

    #[test]
    fn are_greedy_at_temperature_zero_unless_a_filter_may_drop_the_likeliest() {
        let greedy = Sampling {
            temperature: Some(0.0),
            ..Sampling::default()
        };
        assert!(resolve(greedy.clone()).is_greedy());
        for other in [
            Sampling {
                typical_p: Some(0.5),
                ..greedy.clone()
            },
            Sampling {
                frequency_penalty: Some(0.5),
                ..greedy.clone()
            },
            Sampling {
                logit_bias: vec![(1, 5.0)],
                ..greedy.clone()
            },
            Sampling {
                dynatemp_range: Some(0.5),
                ..greedy.clone()
            },
        ] {
            assert!(!resolve(other.clone()).is_greedy(), "{other:?}");
        }
    }

    #[test]
    fn look_at_all_candidates_when_logits_change_first() {
        let biased = resolve(Sampling {
            logit_bias: vec![(1, 5.0)],
            ..Sampling::default()
        });
        assert_eq!(biased.only_likeliest(), None);
        let all = resolve(Sampling {
            top_k: Some(0),
            ..Sampling::default()
        });
        assert_eq!(all.only_likeliest(), None);
    }

    #[test]
    fn refuse_what_no_filter_can_work_with() {
        for (name, sampling) in [
            (
                "temperature",
                Sampling {
                    temperature: Some(f32::NAN),
                    ..Sampling::default()
                },
            ),
            (
                "repeat_penalty",
                Sampling {
                    repeat_penalty: Some(0.0),
                    ..Sampling::default()
                },
            ),
            (
                "logit_bias",
                Sampling {
                    logit_bias: vec![(1, f32::NAN)],
                    ..Sampling::default()
                },
            ),
        ] {
            let error = Params::resolve(&sampling, 0, 4096).unwrap_err();
            assert!(
                matches!(error, SamplerError::Parameter { name: it, .. } if it == name),
                "{error}"
            );
        }
    }

    #[test]
    fn give_each_answer_its_own_seed() {
        let sampling = Sampling {
            seed: Some(7),
            ..Sampling::default()
        };
        assert_eq!(Params::resolve(&sampling, 2, 4096).unwrap().seed, Some(9));
    }

    #[test]
    fn take_minus_one_for_the_whole_context() {
        let params = resolve(Sampling {
            repeat_last_n: Some(-1),
            ..Sampling::default()
        });
        assert_eq!(params.repeat_last_n, 4096);
    }
}
