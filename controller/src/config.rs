//! The controller's settings: flags and environment as given, and what they mean once judged.

use std::num::NonZeroU32;
use std::path::PathBuf;
use std::sync::Arc;

use bodhi_proto::names::{ModelName, TokenId};
use bodhi_proto::secret::Secret;
use bodhi_proto::snapshot::{
    Globs, ModelCap, Policy, ResponsesIsolation, Scope, Token, TokenHash, TokenLimits,
};
use clap::Args;

/// Flags of policy, shared by `bodhi-controller` and `bodhi up`.
#[derive(Debug, Clone, Default, Args)]
pub struct PolicyFlags {
    /// Models that any token may call, as globs; without it all that tokens allow
    #[arg(long, value_name = "GLOB,…", value_delimiter = ',')]
    pub allowed_models: Vec<String>,
    /// Most output tokens of a model's answers; may be given several times
    #[arg(long, value_name = "MODEL=N")]
    pub max_output_tokens: Vec<String>,
    /// What becomes of a response id that no record names
    #[arg(long, value_name = "HOW", default_value = "shared")]
    pub responses_isolation: Isolation,
    /// Keys of scope `user` that work besides tokens, separated by commas
    #[arg(
        long,
        env = "API_KEYS",
        value_name = "KEY,…",
        hide_env_values = true,
        hide = true
    )]
    pub api_keys: Option<String>,
}

/// `--responses-isolation`.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, clap::ValueEnum)]
pub enum Isolation {
    /// Providers are asked for it.
    #[default]
    Shared,
    /// It is not found.
    Strict,
}

/// Flags that cannot be served with; the text names the flag and what to write instead.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum ConfigError {
    /// Not `MODEL=N`.
    #[error(
        "--max-output-tokens must read MODEL=N with N at least 1, such as gpt-4o=4096; it reads '{0}'"
    )]
    Cap(String),
    /// A key that anybody could guess.
    #[error(
        "API_KEYS: key number {0} is shorter than 16 characters; use longer ones, such as `openssl rand -hex 32` prints"
    )]
    ShortKey(usize),
}

impl PolicyFlags {
    /// The gateway-wide policy.
    ///
    /// # Errors
    /// [`ConfigError::Cap`].
    pub fn policy(&self) -> Result<Policy, ConfigError> {
        let cap = |text: &String| {
            let fault = || ConfigError::Cap(text.clone());
            // Model names may hold '=' themselves.
            let (model, limit) = text.rsplit_once('=').ok_or_else(fault)?;
            Ok(ModelCap {
                model: ModelName::parse(model).map_err(|_| fault())?,
                limit: limit.parse::<NonZeroU32>().map_err(|_| fault())?,
            })
        };
        let globs = || Globs::new(self.allowed_models.iter().map(String::as_str));
        Ok(Policy {
            allowed_models: (!self.allowed_models.is_empty()).then(globs),
            output_caps: self
                .max_output_tokens
                .iter()
                .map(cap)
                .collect::<Result<_, _>>()?,
            responses_isolation: match self.responses_isolation {
                Isolation::Shared => ResponsesIsolation::Shared,
                Isolation::Strict => ResponsesIsolation::Strict,
            },
        })
    }

    /// `API_KEYS` as tokens of scope `user`, which the store does not know.
    ///
    /// # Errors
    /// [`ConfigError::ShortKey`].
    pub fn static_tokens(&self) -> Result<Vec<Arc<Token>>, ConfigError> {
        let keys = self.api_keys.as_deref().unwrap_or("").split(',');
        let keys = keys.map(str::trim).filter(|key| !key.is_empty());
        keys.enumerate()
            .map(|(i, key)| static_token(i + 1, &Secret::new(key)))
            .collect()
    }
}

fn static_token(number: usize, key: &Secret) -> Result<Arc<Token>, ConfigError> {
    if key.expose().len() < 16 {
        return Err(ConfigError::ShortKey(number));
    }
    let id = format!("static-{number}");
    Ok(Arc::new(Token {
        owner: id.as_str().into(),
        id: TokenId::parse(&id).expect("letters, a dash and digits"),
        hash: TokenHash::of(key.expose().as_bytes()),
        scope: Scope::User,
        expires: None,
        models: None,
        output_caps: Vec::new(),
        limits: TokenLimits::default(),
    }))
}

/// What a controller on one machine is told, judged.
pub struct Config {
    /// Folder of the store, the master key and the admin token; made if missing (mode 0700).
    pub data: PathBuf,
    /// Folder of manifests; made if missing.
    pub manifests: PathBuf,
    /// Documents that the program brings itself.
    pub built_in: Vec<crate::source::BuiltIn>,
    /// Where objects without a namespace belong.
    pub namespace: String,
    /// Gateway-wide lists and caps.
    pub policy: Policy,
    /// Tokens that the environment sets.
    pub static_tokens: Vec<Arc<Token>>,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn caps_may_name_models_with_an_equals_sign() {
        let flags = PolicyFlags {
            max_output_tokens: vec!["a=b=7".into()],
            allowed_models: vec!["gpt-*".into()],
            ..PolicyFlags::default()
        };
        let policy = flags.policy().unwrap();
        assert_eq!(policy.output_caps[0].model.as_str(), "a=b");
        assert_eq!(policy.output_caps[0].limit.get(), 7);
        assert!(policy.allowed_models.unwrap().matches("gpt-4o"));
    }

    #[test]
    fn caps_that_are_none_are_refused_by_name() {
        for bad in ["gpt-4o", "gpt-4o=", "gpt-4o=0", "gpt-4o=-1", "=5"] {
            let flags = PolicyFlags {
                max_output_tokens: vec![bad.into()],
                ..PolicyFlags::default()
            };
            assert_eq!(flags.policy(), Err(ConfigError::Cap(bad.into())));
        }
    }

    #[test]
    fn static_keys_become_tokens_that_hold_no_key() {
        let flags = |keys: &str| PolicyFlags {
            api_keys: Some(keys.into()),
            ..PolicyFlags::default()
        };
        let tokens = flags("first-key-0123456, second-key-0123456,")
            .static_tokens()
            .unwrap();
        assert_eq!(tokens.len(), 2);
        assert_eq!(tokens[1].hash, TokenHash::of(b"second-key-0123456"));
        assert_eq!(
            flags("short").static_tokens(),
            Err(ConfigError::ShortKey(1))
        );
    }
}
